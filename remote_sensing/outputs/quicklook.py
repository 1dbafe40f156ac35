"""Both dates and the change on one picture, all in the same colours for the same values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling

from remote_sensing.grid import MapGrid
from remote_sensing.outputs.rasters import CHANGE, NODATA
from remote_sensing.rasters import Pair
from remote_sensing.thumbnails import SIDE, cell_of

if TYPE_CHECKING:
    from PIL.Image import Image as Bitmap

MISSING = (58, 62, 70)
MARK = np.array([255.0, 40.0, 40.0])
PERCENTILES = (2, 98)
LEAST_SHARED = 0.5  # of the range of both dates, for one stretch
STRIP = 1024  # rows and columns of the mask that are read at a time


def panels(pair: Pair, dates: NDArray[np.float32], mask: Path, probability: Path) -> tuple[dict[str, Bitmap], str]:
    """Return the panels "before", "after", "change" (red on the second date) and "probability", and the stretch.

    Args:
        pair: what was compared.
        dates: both dates small, of `Sample.pictures`.
        mask: GeoTIFF of change.
        probability: COG, whose overviews are means.
    """
    from PIL import Image

    from shared.pictures import Window as Range
    from shared.pictures import render

    shape = dates.shape[-2:]
    bands = shown_bands(pair.before.names)
    shown_dates = [[date[band] for date in dates] for band in bands]
    # One stretch for both dates shows what is brighter or hazier, unless they hardly share a range: then one of them
    # would be all white or all black.
    together = all(_shared_range(*band) >= LEAST_SHARED for band in shown_dates)
    colours = [_stretched(band) if together else [_stretched([date])[0] for date in band] for band in shown_dates]
    before, after = (np.stack([channel[date] for channel in colours], -1) for date in (0, 1))
    for picture, date in zip((before, after), dates, strict=True):
        picture[~np.isfinite(date).all(0)] = MISSING
    found, seen = _shrunk(mask, shape, cell_of(pair.grid.shape))
    marked = after.astype(np.float64)
    marked = np.where(found[..., None], 0.25 * marked + 0.75 * MARK, 0.6 * marked)
    marked[~seen] = MISSING
    with rasterio.open(probability) as dataset:
        values = dataset.read(1, out_shape=shape, resampling=Resampling.average)
    shown = render(np.nan_to_num(values), Range(0.0, 1.0), colours="heat")
    p = np.array(shown)
    p[~np.isfinite(values)] = MISSING
    size = _enlarged(shape)
    pictures = {
        name: Image.fromarray(np.rint(pixels).astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
        for name, pixels in (("before", before), ("after", after), ("change", marked), ("probability", p))
    }
    low, high = PERCENTILES
    return pictures, f"{low}nd to {high}th percentile of {'both dates together' if together else 'each date by itself'}"


def sheet(pictures: dict[str, Bitmap], titles: dict[str, str]) -> Bitmap:
    """Return the panels side by side under their titles."""
    from shared.pictures import montage, titled

    return montage([titled(pictures[name], [title]) for name, title in titles.items()], columns=len(titles), gap=8)


def shown_bands(names: tuple[str, ...]) -> tuple[int, int, int]:
    """Return the indices of the bands shown as red, green and blue.

    By name where bands are called so. Else satellite stacks with more than three bands start with blue, green, red, and
    three bands are red, green, blue as in images.
    """
    places = {name.lower(): index for index, name in enumerate(names)}
    if {"red", "green", "blue"} <= places.keys():
        return places["red"], places["green"], places["blue"]
    if len(names) >= 4:
        return 2, 1, 0
    return (0, 1, 2) if len(names) == 3 else (0, 0, 0)


def _enlarged(shape: tuple[int, ...]) -> tuple[int, int]:
    factor = max(1, SIDE // max(shape))
    return shape[1] * factor, shape[0] * factor


def _shared_range(before: NDArray[np.float32], after: NDArray[np.float32]) -> float:
    """Return which part of the range of both dates they have in common, from 0 to 1."""
    ends = [
        np.percentile(values, PERCENTILES) for values in (d[np.isfinite(d)] for d in (before, after)) if values.size
    ]
    if len(ends) < 2:
        return 1.0
    (low, high), (other_low, other_high) = ends
    common, whole = min(high, other_high) - max(low, other_low), max(high, other_high) - min(low, other_low)
    return max(0.0, float(common / whole)) if whole > 0 else 1.0


def _stretched(dates: list[NDArray[np.float32]]) -> list[NDArray[np.float64]]:
    known = np.concatenate([values[np.isfinite(values)] for values in dates])
    low, high = np.percentile(known, PERCENTILES) if known.size else (0.0, 1.0)
    span = max(float(high - low), 1e-12)
    return [255 * np.clip((np.nan_to_num(values, nan=low) - low) / span, 0, 1) for values in dates]


def _shrunk(mask: Path, shape: tuple[int, ...], cell: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return in which cells of a mask any pixel is change, and in which any has data: a single pixel is seen too."""
    found, seen = np.zeros(shape, bool), np.zeros(shape, bool)
    with rasterio.open(mask) as dataset:
        for window in MapGrid.of(dataset).windows(cell * max(1, STRIP // cell)):
            values = dataset.read(1, window=window)
            row, col = window.row_off // cell, window.col_off // cell
            for image, here in ((found, values == CHANGE), (seen, values != NODATA)):
                for axis in (0, 1):
                    here = np.logical_or.reduceat(here, np.arange(0, here.shape[axis], cell), axis=axis)
                image[row : row + here.shape[0], col : col + here.shape[1]] = here
    return found, seen
