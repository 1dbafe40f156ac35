"""One date of a pair: a raster file or several, the bands that are used of them, and how they are read on a grid.

Every read goes through GDAL warped virtual rasters in float32 whose nodata is NaN, so that missing source pixels never
enter an interpolation, whatever their value. What is valid is decided by the nearest source pixel.

Values are in the unit of the sensor wherever file or product say how to get there (scale and offset), so that two dates
stored in different ways, such as Sentinel-2 before and after processing baseline 04.00, do not differ by that.
"""

from __future__ import annotations

import re
import threading
import warnings
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError, RasterioIOError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from remote_sensing.fill import fill_share
from remote_sensing.grid import MapGrid
from remote_sensing.products import Product, open_product
from remote_sensing.settings import Resampling as ResamplingName
from remote_sensing.warping import WarpedBlocks, warped
from shared.errors import InputError

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

Handles = tuple[WarpedVRT, WarpedVRT | WarpedBlocks]  # by the nearest pixel, and by interpolation
UNITS = (1.0, 0.0)  # of stored numbers that are the values


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
        units: (scale, offset) of each band, value = scale stored + offset; empty where stored numbers are the values.
        parts: the files of a product (`products`), of which this then is the whole; its grid is the finest of theirs.
    """

    path: Path
    bands: tuple[int, ...]
    names: tuple[str, ...]
    nodata: float | None
    dtype: str
    grid: MapGrid
    notes: tuple[str, ...] = ()
    units: tuple[tuple[float, float], ...] = ()
    parts: tuple[Source, ...] = ()

    @property
    def scaled(self) -> bool:
        """Whether its values are stored ones brought to another unit."""
        return bool(self.units) or any(part.units for part in self.parts)

    @property
    def files(self) -> tuple[Path, ...]:
        """What its content depends on."""
        return (self.path, *(part.path for part in self.parts))


def gdal_name(path: Path) -> str:
    """Return what GDAL calls a file: `Path` takes a slash of /vsicurl/https://... and /vsizip//home/... away."""
    name = str(path)
    if not name.startswith("/vsi"):
        return name
    _, handler, rest = name.split("/", 2)
    if any(folder.is_file() for folder in Path(f"/{rest}").parents):
        return f"/{handler}//{rest}"
    return re.sub(r"^(/vsi\w+/\w+:)/(?!/)", r"\1//", name)


def open_raster(path: Path) -> DatasetReader:
    """Open a raster for reading.

    Raises:
        InputError: the file is absent, is not a raster that GDAL reads, or holds several rasters.
    """
    if not str(path).startswith("/vsi") and not path.exists():
        raise InputError(path, found="no such file", expected="a raster", fix="Check the path.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            dataset = rasterio.open(gdal_name(path), sharing=False)
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
    """Look at a raster, or at the rasters of a STAC item or SAFE folder, and choose bands and nodata values.

    Args:
        path: the raster, item or folder.
        bands: numbers from 1 or names, separated by commas; None takes every band but alpha.
        nodata: a value, "auto" (the file's own; else 0 if zeros in all bands form a large border) or "none".
        georeferenced: whether a CRS and a transform are needed.

    Raises:
        InputError: no raster, no georeference, no such band.
    """
    product = open_product(path)
    if product is not None:
        return _product_source(product, bands, nodata)
    return _file_source(path, bands, nodata, georeferenced=georeferenced)


def _product_source(product: Product, bands: str | None, nodata: float | Literal["auto", "none"]) -> Source:
    parts: list[Source] = []
    # Neighbours in the order of the choice that lie in one file are read together.
    for (file, told), group in groupby(product.choose(bands), key=lambda band: (band.file, band.nodata)):
        chosen = list(group)
        numbers = None if any(band.number is None for band in chosen) else ",".join(str(band.number) for band in chosen)
        value = told if nodata == "auto" and told is not None else nodata
        part = _file_source(Path(file), numbers, value, georeferenced=True)
        if len(part.bands) == len(chosen):
            part = replace(part, names=tuple(band.names[0] for band in chosen))
            if any(band.units for band in chosen):
                part = replace(part, units=tuple(band.units or UNITS for band in chosen))
        parts.append(part)
    finest = min(parts, key=lambda part: part.grid.pixel_size()[0])
    values = {part.nodata for part in parts}
    return Source(
        product.path,
        tuple(range(1, sum(len(part.bands) for part in parts) + 1)),
        tuple(name for part in parts for name in part.names),
        values.pop() if len(values) == 1 else None,
        finest.dtype,
        finest.grid,
        tuple(note for part in parts for note in part.notes),
        parts=tuple(parts),
    )


def _file_source(
    path: Path, bands: str | None, nodata: float | Literal["auto", "none"], *, georeferenced: bool
) -> Source:
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
            share = fill_share(dataset, chosen) if value is None and _is_unmasked(dataset) else 0.0
            if share:
                value = 0.0
                notes.append(
                    f"{path.name} names no nodata value, but zeros cover {100 * share:.1f} % from its border: they are "
                    "taken as missing (--nodata none keeps them)."
                )
            elif value is None and np.dtype(dataset.dtypes[chosen[0] - 1]).kind == "f":
                value = float("nan")
        names = tuple(dataset.descriptions[band - 1] or f"band {band}" for band in chosen)
        units = tuple((dataset.scales[band - 1], dataset.offsets[band - 1]) for band in chosen)
        if all(unit == UNITS for unit in units):
            units = ()
        return Source(path, chosen, names, value, dataset.dtypes[chosen[0] - 1], grid, tuple(notes), units)


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
        self._resampling = resampling
        self._local = threading.local()

    def read(self, window: Window) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return values float32 (bands, rows, columns), NaN where missing, and what is valid, bool (rows, columns).

        Raises:
            InputError: a file is damaged there.
        """
        read = [_read(source, handles, window) for source, handles in self._opened()]
        valid = np.logical_and.reduce([known for _, known in read])
        values = read[0][0] if len(read) == 1 else np.concatenate([part for part, _ in read])
        values[:, ~valid] = np.nan
        return values, valid

    def valid(self, window: Window) -> NDArray[np.bool_]:
        """Return what is valid, bool (rows, columns), without the cost of an interpolation.

        Raises:
            InputError: a file is damaged there.
        """
        known = [_read(source, (nearest, nearest), window)[1] for source, (nearest, _) in self._opened()]
        return np.logical_and.reduce(known)

    def _opened(self) -> list[tuple[Source, Handles]]:
        if not hasattr(self._local, "parts"):
            self._local.parts = [(part, self._handles(part)) for part in self.source.parts or (self.source,)]
        parts: list[tuple[Source, Handles]] = self._local.parts
        return parts

    def _handles(self, source: Source) -> Handles:
        dataset = open_raster(source.path)
        nearest = warped(dataset, source.grid, self._grid, Resampling.nearest, source.nodata)
        if source.grid.aligned_with(self._grid):
            return nearest, nearest
        return nearest, WarpedBlocks(dataset, source.grid, self._grid, Resampling[self._resampling], source.nodata)


def _read(source: Source, handles: Handles, window: Window) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    nearest, smooth = handles
    try:
        values: NDArray[np.float32] = smooth.read(list(source.bands), window=window)
        valid = np.asarray(np.isfinite(values).all(0))
        if smooth is not nearest:
            valid &= np.isfinite(nearest.read(list(source.bands), window=window)).all(0)
    except RasterioIOError as error:
        raise InputError(
            source.path,
            found=f"data that cannot be read for rows {window.row_off} to {window.row_off + window.height} of the "
            f"grid ({error.__cause__ or error})",
            expected="a complete raster",
            fix="Copy or download the file again.",
        ) from error
    if source.units:
        scale, offset = np.array(source.units, np.float32).T[:, :, None, None]
        values = scale * values + offset
    return values, valid


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
