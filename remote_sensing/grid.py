"""The map grid on which a pair is compared: CRS, affine transform, size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from affine import Affine
from rasterio.crs import CRS
from rasterio.windows import Window

if TYPE_CHECKING:
    from rasterio.io import DatasetReader
    from shapely.geometry import Polygon

BLOCK = 1024  # rows and columns that are read at a time where nothing else asks for a size


@dataclass(frozen=True)
class MapGrid:
    """Where the pixels lie.

    Attributes:
        crs: coordinate reference system; None for images that are compared pixel by pixel.
        transform: (column, row) of a pixel corner -> map coordinates.
        width: columns.
        height: rows.
    """

    crs: CRS | None
    transform: Affine
    width: int
    height: int

    @classmethod
    def of(cls, dataset: DatasetReader) -> MapGrid:
        """Return the grid of an open raster."""
        return cls(dataset.crs, dataset.transform, dataset.width, dataset.height)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.height, self.width

    def moved(self, rows: float, cols: float) -> MapGrid:
        """Return the grid moved by so many pixels down and to the right."""
        return MapGrid(self.crs, self.transform @ Affine.translation(cols, rows), self.width, self.height)

    def windows(self, size: int = BLOCK) -> list[Window]:
        """Return windows of at most `size` rows and columns that cover the grid once, row by row."""
        return [
            Window(col, row, min(size, self.width - col), min(size, self.height - row))
            for row in range(0, self.height, size)
            for col in range(0, self.width, size)
        ]

    def aligned_with(self, other: MapGrid) -> bool:
        """Whether pixels of the two grids coincide: equal CRS and pixel vectors, and a whole number of pixels apart."""
        if self.crs != other.crs:
            return False
        between = ~self.transform @ other.transform
        linear = np.array([between.a, between.b, between.d, between.e]) - np.array([1.0, 0.0, 0.0, 1.0])
        offset = np.array([between.c, between.f])
        drift = np.abs(linear) * max(self.width, self.height, other.width, other.height)
        return bool(drift.max() < 1e-3 and np.abs(offset - np.rint(offset)).max() < 1e-3)

    def footprint(self, *, points: int = 21) -> Polygon:
        """Return the outline in map coordinates; each side has so many points, so that it survives reprojection."""
        from shapely.geometry import Polygon

        side = np.linspace(0.0, 1.0, points)[:-1]
        columns = np.concatenate([side, np.ones_like(side), 1 - side, np.zeros_like(side)]) * self.width
        rows = np.concatenate([np.zeros_like(side), side, np.ones_like(side), 1 - side]) * self.height
        return Polygon([self.transform @ (column, row) for column, row in zip(columns, rows, strict=True)])

    def footprint_in(self, crs: CRS | None) -> Polygon:
        """Return the outline in another CRS; what cannot be projected there is left out.

        The polygon is empty if nothing is left.
        """
        from shapely.geometry import Polygon

        outline = self.footprint()
        if crs is None or self.crs is None or crs == self.crs:
            return outline
        from pyproj import Transformer

        x, y = np.array(outline.exterior.coords).T
        x, y = Transformer.from_crs(self.crs.to_wkt(), crs.to_wkt(), always_xy=True).transform(x, y)
        kept = np.isfinite(x) & np.isfinite(y)
        return Polygon(np.stack([x[kept], y[kept]], 1)).buffer(0) if kept.sum() > 3 else Polygon()

    def pixel_size(self) -> tuple[float, float]:
        """Return the lengths of a pixel's two sides in map units (along a row, along a column)."""
        a, b, _, d, e, _ = self.transform[:6]
        return float(np.hypot(a, d)), float(np.hypot(b, e))

    def __str__(self) -> str:
        across, down = self.pixel_size()
        unit = "" if self.crs is None else (" m" if self.crs.is_projected else " degrees")
        return f"{self.width} x {self.height} pixels of {across:.6g} x {down:.6g}{unit}, {crs_name(self.crs)}"


def crs_name(crs: CRS | None) -> str:
    """Return the EPSG code of a CRS, else its name."""
    if crs is None:
        return "no CRS"
    code = crs.to_epsg()
    if code is not None:
        return f"EPSG:{code}"
    import pyproj

    return pyproj.CRS(crs.to_wkt()).name
