"""Probability and mask as cloud-optimised GeoTIFFs.

A COG cannot be written piece by piece, so a tiled GeoTIFF is filled row by row and copied.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.io import DatasetWriter
from rasterio.windows import Window

from remote_sensing.grid import MapGrid

BLOCK = 512
NO_CHANGE, CHANGE, NODATA = 0, 1, 255
COLOURS = {NO_CHANGE: (245, 245, 245, 0), CHANGE: (215, 25, 28, 255), NODATA: (0, 0, 0, 0)}
BOUNDARY = 0.5  # probability from which a pixel is change
BINS = 20
STEPS = 254  # of a probability in uint8: 0 to 254, and 255 is nodata


@dataclass(frozen=True)
class Counts:
    """What the rasters hold.

    Attributes:
        pixels: of the grid.
        valid: pixels with data at both dates.
        changed: pixels with a probability of at least 1/2.
        histogram: valid pixels in 20 equal bins of the probability from 0 to 1.
    """

    pixels: int
    valid: int
    changed: int
    histogram: tuple[int, ...]


def write_plain(
    folder: Path, grid: MapGrid, rows: Iterable[tuple[int, NDArray[np.float32]]], *, tags: dict[str, str]
) -> tuple[Path, Path, Counts]:
    """Write probability and mask row by row as tiled GeoTIFFs; return their paths and what they hold.

    Args:
        folder: where to write.
        grid: of the rasters.
        rows: (first row, probability float32 (rows, columns)) from top to bottom, NaN for no data.
        tags: metadata of both files.
    """
    probability_path, mask_path = folder / "probability.plain.tif", folder / "change.plain.tif"
    valid = changed = 0
    histogram = np.zeros(BINS, np.int64)
    with (
        _create(probability_path, grid, "float32", float("nan")) as probability,
        _create(mask_path, grid, "uint8", NODATA) as mask,
    ):
        probability.update_tags(**tags)
        probability.set_band_description(1, "probability of change")
        mask.update_tags(**tags)
        mask.set_band_description(1, "change")
        mask.colorinterp = [ColorInterp.palette]
        mask.write_colormap(1, COLOURS)
        for top, values in rows:
            window = Window(0, top, grid.width, len(values))
            known = np.isfinite(values)
            found = np.where(known, values >= BOUNDARY, NODATA).astype(np.uint8)
            probability.write(values, 1, window=window)
            mask.write(found, 1, window=window)
            valid += int(known.sum())
            changed += int((found == CHANGE).sum())
            histogram += np.histogram(values[known], BINS, (0.0, 1.0))[0]
    return probability_path, mask_path, Counts(grid.width * grid.height, valid, changed, tuple(histogram.tolist()))


def write_coded(plain: Path, grid: MapGrid) -> Path:
    """Write a raster of probabilities once more as uint8 with scale and nodata, and delete it; return the new path.

    Rounded down, so that exactly what was 1/2 or more is 1/2 or more.
    """
    path = plain.with_suffix(".uint8.tif")
    with rasterio.open(plain) as source, _create(path, grid, "uint8", NODATA) as coded:
        coded.update_tags(**source.tags())
        coded.set_band_description(1, source.descriptions[0])
        coded.scales = (1 / STEPS,)
        for top in range(0, grid.height, BLOCK):
            window = Window(0, top, grid.width, min(BLOCK, grid.height - top))
            values = source.read(1, window=window)
            steps = np.floor(np.nan_to_num(values) * STEPS)
            coded.write(np.where(np.isfinite(values), steps, NODATA).astype(np.uint8), 1, window=window)
    plain.unlink()
    return path


def write_cog(plain: Path, final: Path, *, overviews: str) -> None:
    """Copy a tiled GeoTIFF into a COG and delete it; `overviews` is the resampling of its pyramid."""
    floating = False
    with rasterio.open(plain) as dataset:
        floating = np.dtype(dataset.dtypes[0]).kind == "f"
    rasterio.shutil.copy(
        plain,
        final,
        driver="COG",
        COMPRESS="DEFLATE",
        PREDICTOR="FLOATING_POINT" if floating else "NO",
        BLOCKSIZE=BLOCK,
        BIGTIFF="IF_SAFER",
        OVERVIEW_RESAMPLING=overviews,
        OVERVIEWS="IGNORE_EXISTING",
        NUM_THREADS="ALL_CPUS",  # blocks are compressed one by one: the bytes do not depend on it
    )
    plain.unlink()


def _create(path: Path, grid: MapGrid, dtype: str, nodata: float) -> DatasetWriter:
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "width": grid.width,
        "height": grid.height,
        "count": 1,
        "dtype": dtype,
        "nodata": nodata,
        "tiled": True,
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "BIGTIFF": "IF_SAFER",
    }
    if grid.crs is not None:
        profile |= {"crs": grid.crs, "transform": grid.transform}
    return rasterio.open(path, "w", **profile)
