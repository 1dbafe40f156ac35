"""Both dates and the change on one picture, all in the same colours for the same values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from remote_sensing.grid import MapGrid
from remote_sensing.outputs.rasters import CHANGE, NODATA
from remote_sensing.rasters import Pair
from remote_sensing.sources import GridReader, warp_place

if TYPE_CHECKING:
    from PIL.Image import Image as Bitmap

SIDE = 560  # longest side of a panel in pixels
MISSING = (58, 62, 70)
MARK = np.array([255.0, 40.0, 40.0])
PERCENTILES = (2, 98)


def panels(pair: Pair, mask: Path, probability: Path) -> dict[str, Bitmap]:
    """Return the panels "before", "after", "change" (marked red on the second date) and "probability"."""
    from PIL import Image

    from shared.pictures import Window as Range
    from shared.pictures import render

    grid = _coarse(pair.grid)
    images = [
        GridReader(source, grid, shift=shift, resampling="bilinear").read(Window(0, 0, grid.width, grid.height))
        for source, shift in ((pair.before, (0.0, 0.0)), (pair.after, _scaled(pair, grid)))
    ]
    bands = shown_bands(pair.before.names)
    # A stretch of its own for each date would show a difference of haze as a difference of nothing.
    colours = [_stretched([values[band] for values, _ in images]) for band in bands]
    before, after = (np.stack([channel[date] for channel in colours], -1) for date in (0, 1))
    valid = images[0][1] & images[1][1]
    for picture, (_, known) in zip((before, after), images, strict=True):
        picture[~known] = MISSING
    found = _read(mask, grid, Resampling.max)
    marked = after.astype(np.float64)
    marked = np.where((found == CHANGE)[..., None], 0.25 * marked + 0.75 * MARK, 0.6 * marked)
    marked[~valid | (found == NODATA)] = MISSING
    shown = render(np.nan_to_num(_read(probability, grid, Resampling.average)), Range(0.0, 1.0), colours="heat")
    p = np.array(shown)
    p[~valid] = MISSING
    size = _enlarged(grid)
    return {
        name: Image.fromarray(np.rint(pixels).astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
        for name, pixels in (("before", before), ("after", after), ("change", marked), ("probability", p))
    }


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


def _coarse(grid: MapGrid) -> MapGrid:
    step = max(1.0, max(grid.shape) / SIDE)
    width, height = max(1, round(grid.width / step)), max(1, round(grid.height / step))
    scale = rasterio.Affine.scale(grid.width / width, grid.height / height)
    return MapGrid(grid.crs, grid.transform @ scale, width, height)


def _scaled(pair: Pair, grid: MapGrid) -> tuple[float, float]:
    return (
        pair.shift[0] * grid.height / pair.grid.height,
        pair.shift[1] * grid.width / pair.grid.width,
    )


def _enlarged(grid: MapGrid) -> tuple[int, int]:
    factor = max(1, SIDE // max(grid.shape))
    return grid.width * factor, grid.height * factor


def _stretched(dates: list[NDArray[np.float32]]) -> list[NDArray[np.float64]]:
    known = np.concatenate([values[np.isfinite(values)] for values in dates])
    low, high = np.percentile(known, PERCENTILES) if known.size else (0.0, 1.0)
    span = max(float(high - low), 1e-12)
    return [255 * np.clip((np.nan_to_num(values, nan=low) - low) / span, 0, 1) for values in dates]


def _read(path: Path, grid: MapGrid, resampling: Resampling) -> NDArray:
    with rasterio.open(path) as dataset:
        place = warp_place(MapGrid.of(dataset), grid)
        with WarpedVRT(dataset, width=grid.width, height=grid.height, resampling=resampling, **place) as warped:
            return warped.read(1)
