"""One date of a pair: a raster file, the bands that are used of it, and how it is read on a grid.

Every read goes through GDAL warped virtual rasters in float32 whose nodata is NaN, so that missing source pixels never
enter an interpolation, whatever their value. What is valid is decided by the nearest source pixel.
"""

from __future__ import annotations

import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError, RasterioIOError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from remote_sensing.grid import BLOCK, MapGrid
from remote_sensing.settings import Resampling as ResamplingName
from shared.errors import InputError

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

WARP_TOLERANCE = 0.05  # pixels by which GDAL may interpolate a map projection; it is exact between equal CRS
PROBE = 512  # rows and columns at most of the decimated image in which unmarked fill is looked for
FILL_SHARE = (0.01, 0.6)  # zeros that touch the border are fill if they cover a share between these
# GDAL's warper needs some CRS even where none is: any projected one, the same on both sides, does nothing.
PIXEL_CRS = rasterio.crs.CRS.from_epsg(3857)


@dataclass(frozen=True)
class Source:
    """A raster and what is used of it.

    Attributes:
        path: the file.
        bands: band numbers from 1.
        names: of these bands, "band 4" where the file has none.
        nodata: value that marks missing pixels; None if there is none or the file has a mask or alpha band.
        dtype: of the file.
        grid: of the file.
        notes: sentences a user must read.
    """

    path: Path
    bands: tuple[int, ...]
    names: tuple[str, ...]
    nodata: float | None
    dtype: str
    grid: MapGrid
    notes: tuple[str, ...] = ()


def open_raster(path: Path) -> DatasetReader:
    """Open a raster for reading.

    Raises:
        InputError: the file is absent, is not a raster that GDAL reads, or holds several rasters.
    """
    if not path.exists():
        raise InputError(path, found="no such file", expected="a raster", fix="Check the path.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            dataset = rasterio.open(path, sharing=False)
    except RasterioError as error:
        raise InputError(
            path,
            found="a file that GDAL cannot open",
            expected="a raster such as GeoTIFF, COG, VRT, JP2 or ENVI",
            fix="Check that the file is complete: gdalinfo FILE says more.",
        ) from error
    if dataset.count == 0:
        parts = dataset.subdatasets
        dataset.close()
        raise InputError(
            path,
            found=f"a container of {len(parts)} rasters",
            expected="one raster",
            fix=f"Give one of them, such as {parts[0]}." if parts else "Give a raster with bands.",
        )
    return dataset


def read_source(
    path: Path,
    *,
    bands: str | None = None,
    nodata: float | Literal["auto", "none"] = "auto",
    georeferenced: bool = True,
) -> Source:
    """Look at a raster and choose its bands and its nodata value.

    Args:
        path: the raster.
        bands: numbers from 1 or names, separated by commas; None takes every band but alpha.
        nodata: a value, "auto" (the file's own; else 0 if zeros in all bands form a large border) or "none".
        georeferenced: whether a CRS and a transform are needed.

    Raises:
        InputError: no raster, no georeference, no such band.
    """
    with open_raster(path) as dataset:
        if georeferenced:
            _require_georeference(path, dataset)
        chosen = _bands(path, dataset, bands)
        grid = MapGrid.of(dataset)
        if not georeferenced:
            grid = MapGrid(None, rasterio.Affine.identity(), dataset.width, dataset.height)
        notes: list[str] = []
        if isinstance(nodata, (int, float)):
            value: float | None = float(nodata)
        elif nodata == "none":
            value = None
        else:
            value = dataset.nodata
            share = _fill_share(dataset, chosen) if value is None and _is_unmasked(dataset) else 0.0
            if share:
                value = 0.0
                notes.append(
                    f"{path.name} names no nodata value, but zeros cover {100 * share:.1f} % from its border: they are "
                    "taken as missing (--nodata none keeps them)."
                )
            elif value is None and np.dtype(dataset.dtypes[chosen[0] - 1]).kind == "f":
                value = float("nan")
        names = tuple(dataset.descriptions[band - 1] or f"band {band}" for band in chosen)
        return Source(path, chosen, names, value, dataset.dtypes[chosen[0] - 1], grid, tuple(notes))


class GridReader:
    """Reads a source on a grid, from any thread: GDAL handles belong to the thread that opened them.

    Args:
        source: what to read.
        grid: onto which.
        shift: (rows, columns) by which the image is moved down and to the right on the grid.
        resampling: of the values, where pixels do not coincide.
    """

    def __init__(
        self,
        source: Source,
        grid: MapGrid,
        *,
        shift: tuple[float, float] = (0.0, 0.0),
        resampling: ResamplingName = "bilinear",
    ) -> None:
        self.source = source
        self._grid = grid.moved(-shift[0], -shift[1])
        self._exact = source.grid.aligned_with(self._grid)
        self._resampling = resampling
        self._local = threading.local()

    def read(self, window: Window) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return values float32 (bands, rows, columns), NaN where missing, and what is valid, bool (rows, columns).

        Raises:
            InputError: the file is damaged there.
        """
        try:
            nearest, smooth = self._handles()
            values = smooth.read(list(self.source.bands), window=window)
            valid = np.isfinite(values).all(0)
            if smooth is not nearest:
                valid &= np.isfinite(nearest.read(list(self.source.bands), window=window)).all(0)
        except RasterioIOError as error:
            raise InputError(
                self.source.path,
                found=f"data that cannot be read for rows {window.row_off} to {window.row_off + window.height} of the "
                f"grid ({error.__cause__ or error})",
                expected="a complete raster",
                fix="Copy or download the file again.",
            ) from error
        values[:, ~valid] = np.nan
        return values, valid

    def _handles(self) -> tuple[WarpedVRT, WarpedVRT]:
        if not hasattr(self._local, "handles"):
            dataset = open_raster(self.source.path)
            nearest = self._warped(dataset, Resampling.nearest)
            smooth = nearest if self._exact else self._warped(dataset, Resampling[self._resampling])
            self._local.handles = nearest, smooth
        return self._local.handles

    def _warped(self, dataset: DatasetReader, resampling: Resampling) -> WarpedVRT:
        source, grid = self.source.grid, self._grid
        # Zero is an honest value of a single dark band, so only zeros in all bands are missing; any other nodata value
        # is missing wherever it stands.
        unified = "YES" if self.source.nodata == 0 else "NO"
        return WarpedVRT(
            dataset,
            **warp_place(source, grid),
            width=grid.width,
            height=grid.height,
            resampling=resampling,
            src_nodata=self.source.nodata,
            nodata=np.nan,
            dtype="float32",
            tolerance=WARP_TOLERANCE,
            UNIFIED_SRC_NODATA=unified,
            SRC_ALPHA_MAX=1,  # any alpha above 0 is data: 16-bit files often mark it with 255
        )


def classes_on(path: Path, grid: MapGrid) -> GridReader:
    """Return a reader of the first band of a raster of classes or probabilities; 0 is a value there, never nodata.

    Raises:
        InputError: no raster, another place, or another size without georeference.
    """
    with open_raster(path) as dataset:
        placed = dataset.crs is not None and grid.crs is not None
        nodata: float | Literal["none"] = dataset.nodata or "none"
    source = read_source(path, bands="1", nodata=nodata, georeferenced=placed)
    if placed:
        if not source.grid.footprint_in(grid.crs).intersects(grid.footprint()):
            raise InputError(
                path,
                found="a raster of another place",
                expected="one that overlaps what it is compared with",
                fix="Check the file and its CRS.",
            )
        return GridReader(source, grid, resampling="nearest")
    if source.grid.shape != grid.shape:
        raise InputError(
            path,
            found=f"{source.grid.width} x {source.grid.height} pixels without common georeference",
            expected=f"{grid.width} x {grid.height} pixels, as what it is compared with",
            fix="Georeference both rasters, or give them the same size.",
        )
    pixels = MapGrid(None, rasterio.Affine.identity(), grid.width, grid.height)
    return GridReader(source, pixels, resampling="nearest")


def warp_place(source: MapGrid, grid: MapGrid) -> dict[str, Any]:
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


def _require_georeference(path: Path, dataset: DatasetReader) -> None:
    if dataset.crs is None and dataset.gcps[0]:
        raise InputError(
            path,
            found="ground control points without a transform",
            expected="a raster on a map grid",
            fix="Warp it first: gdalwarp FILE warped.tif.",
        )
    if dataset.crs is None or dataset.transform.is_identity:
        raise InputError(
            path,
            found="no coordinate reference system" if dataset.crs is None else "no geotransform",
            expected="a georeferenced raster",
            fix="Assign it with gdal_edit -a_srs EPSG:... -a_ullr ..., or pass --pixel-grid for two images of equal "
            "size that are compared pixel by pixel.",
        )


def _bands(path: Path, dataset: DatasetReader, wanted: str | None) -> tuple[int, ...]:
    alpha = {index + 1 for index, kind in enumerate(dataset.colorinterp) if kind == ColorInterp.alpha}
    usable = [band for band in range(1, dataset.count + 1) if band not in alpha]
    if wanted is None:
        return tuple(usable)
    named = {name: index + 1 for index, name in enumerate(dataset.descriptions) if name}
    chosen = []
    for word in (part.strip() for part in wanted.split(",")):
        band = named.get(word) or (int(word) if word.isdecimal() else 0)
        if band not in usable:
            names = f" named {', '.join(named)}" if named else ""
            raise InputError(
                path,
                found=f"no band {word!r}",
                expected=f"bands 1 to {usable[-1]}{names}" if usable else "bands",
                fix="Give numbers or names separated by commas, such as 4,3,2. Alpha is a mask, not a band.",
            )
        chosen.append(band)
    return tuple(chosen)


def _is_unmasked(dataset: DatasetReader) -> bool:
    return all(flags == [MaskFlags.all_valid] for flags in dataset.mask_flag_enums)


def _fill_share(dataset: DatasetReader, bands: tuple[int, ...]) -> float:
    """Return the share of pixels that look like fill: zero in all bands and connected to the border; else 0."""
    from scipy.ndimage import label

    cell = max(1, max(dataset.shape) // PROBE)
    try:
        if not _zero_at_border(dataset, bands, cell):
            return 0.0
        zero = _thinned_zeros(dataset, bands, cell)
    except RasterioIOError:
        return 0.0  # the damage is reported where the data are read
    parts, _ = label(zero)
    border = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
    share = float(np.isin(parts, border[border > 0]).mean())
    return share if FILL_SHARE[0] <= share <= FILL_SHARE[1] else 0.0


def _zero_at_border(dataset: DatasetReader, bands: tuple[int, ...], cell: int) -> bool:
    """Whether any looked-at pixel of the outer rows and columns is zero in all bands: most files end here."""
    height, width = dataset.shape
    for window in (
        Window(0, 0, width, 1),
        Window(0, height - 1, width, 1),
        Window(0, 0, 1, height),
        Window(width - 1, 0, 1, height),
    ):
        shape = (len(bands), -(-window.height // cell), -(-window.width // cell))
        if (dataset.read(list(bands), window=window, out_shape=shape) == 0).all(0).any():
            return True
    return False


def _thinned_zeros(dataset: DatasetReader, bands: tuple[int, ...], cell: int) -> NDArray[np.bool_]:
    """Return where one pixel of each cell is zero in all bands, bool (rows, columns)."""
    shape = tuple(-(-length // cell) for length in dataset.shape)
    if dataset.overviews(bands[0]) or cell == 1:
        return (dataset.read(list(bands), out_shape=(len(bands), *shape)) == 0).all(0)
    # Without overviews GDAL would fetch every block many times over: they are read once, and thinned.
    zero = np.zeros(shape, bool)
    for window in MapGrid.of(dataset).windows(cell * max(1, BLOCK // cell)):
        values = dataset.read(list(bands), window=window)[:, ::cell, ::cell]
        row, col = window.row_off // cell, window.col_off // cell
        zero[row : row + values.shape[1], col : col + values.shape[2]] = (values == 0).all(0)
    return zero
