"""GDAL's warper as it is used here: missing pixels never enter an interpolation, and blocks of a fixed size.

A band of a warped virtual raster that is read in a window makes GDAL warp all bands of every block that the window
touches, once for each band that is read (GDAL 3.10). `WarpedBlocks` warps each block once, all bands together: for six
bands in about a seventh of the time (seen once), with the same numbers within `TOLERANCE`. The blocks lie fixed on the
grid, so a pixel does not depend on the window in which it was read, although the map projection is interpolated in a
block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from remote_sensing.grid import MapGrid

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

TOLERANCE = 0.05  # pixels by which GDAL may interpolate a map projection; it is exact between equal CRS
BLOCK = 256
# GDAL's warper needs some CRS even where none is: any projected one, the same on both sides, does nothing.
PIXEL_CRS = rasterio.crs.CRS.from_epsg(3857)


def warped(
    dataset: DatasetReader, source: MapGrid, grid: MapGrid, resampling: Resampling, nodata: float | None
) -> WarpedVRT:
    """Return an open raster on another grid, float32 with NaN for missing pixels.

    Args:
        dataset: the raster.
        source: its grid.
        grid: onto which.
        resampling: of the values.
        nodata: value of its missing pixels; None if it has a mask or alpha band, or none are missing.
    """
    # Zero is an honest value of a single dark band, so only zeros in all bands are missing; any other nodata value
    # is missing wherever it stands.
    return WarpedVRT(
        dataset,
        **_place(source, grid),
        width=grid.width,
        height=grid.height,
        resampling=resampling,
        src_nodata=nodata,
        nodata=np.nan,
        dtype="float32",
        tolerance=TOLERANCE,
        UNIFIED_SRC_NODATA="YES" if nodata == 0 else "NO",
        SRC_ALPHA_MAX=1,  # any alpha above 0 is data: 16-bit files often mark it with 255
    )


@dataclass(frozen=True)
class WarpedBlocks:
    """What `warped` gives, read in blocks that are warped as a whole; arguments as there."""

    dataset: DatasetReader
    source: MapGrid
    grid: MapGrid
    resampling: Resampling
    nodata: float | None

    def read(self, bands: Sequence[int], *, window: Window) -> NDArray[np.float32]:
        """Return float32 (bands, rows, columns) of a window that lies on the grid."""
        top, left = window.row_off, window.col_off
        found = np.empty((len(bands), window.height, window.width), np.float32)
        for row in range(top // BLOCK * BLOCK, top + window.height, BLOCK):
            for col in range(left // BLOCK * BLOCK, left + window.width, BLOCK):
                values = self._block(bands, row, col)
                height, width = values.shape[1:]
                rows = slice(max(row, top), min(row + height, top + window.height))
                cols = slice(max(col, left), min(col + width, left + window.width))
                found[:, rows.start - top : rows.stop - top, cols.start - left : cols.stop - left] = values[
                    :, rows.start - row : rows.stop - row, cols.start - col : cols.stop - col
                ]
        return found

    def _block(self, bands: Sequence[int], row: int, col: int) -> NDArray[np.float32]:
        grid = self.grid
        block = MapGrid(
            grid.crs,
            grid.transform @ rasterio.Affine.translation(col, row),
            min(BLOCK, grid.width - col),
            min(BLOCK, grid.height - row),
        )
        with warped(self.dataset, self.source, block, self.resampling, self.nodata) as raster:
            values: NDArray[np.float32] = raster.read(list(bands))
        return values


def _place(source: MapGrid, grid: MapGrid) -> dict[str, Any]:
    """Return the arguments that tell `WarpedVRT` where a source lies and onto which grid it is warped."""
    if grid.crs is not None:
        return {"crs": grid.crs, "transform": grid.transform}
    # GDAL takes the identity for "no transform", so rows are turned upwards, alike on both sides.
    upwards = rasterio.Affine.scale(1.0, -1.0)
    return {
        "src_crs": PIXEL_CRS,
        "src_transform": upwards @ source.transform,
        "crs": PIXEL_CRS,
        "transform": upwards @ grid.transform,
    }
