"""Connected areas of change of a mask of any size, with what a raster holds in each, in two passes of constant memory.

Bands of rows are labelled one by one; pixels that share a side across the border of two bands make their labels one
(connected components of the graph of labels). An area is known by its first pixel in reading order, which is also the
top left corner of the polygon that GDAL traces around it: so polygons find their numbers without being drawn again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window

from remote_sensing.grid import MapGrid
from remote_sensing.outputs.rasters import BLOCK, CHANGE, NO_CHANGE


@dataclass(frozen=True)
class Regions:
    """Areas of change, in the reading order of their first pixels.

    Attributes:
        first: int64 (areas,), row * width + column of the first pixel.
        pixels: int64 (areas,).
        mean: float64 (areas,) of the raster over the area.
        highest: float64 (areas,).
    """

    first: NDArray[np.int64]
    pixels: NDArray[np.int64]
    mean: NDArray[np.float64]
    highest: NDArray[np.float64]
    _of_label: NDArray[np.int64]  # area of each label in the order in which `_bands` gives them

    def __len__(self) -> int:
        return len(self.first)


def find_regions(mask: Path, raster: Path, grid: MapGrid) -> Regions:
    """Return the areas of change of a mask, and the numbers of a raster of the same grid in them.

    Args:
        mask: GeoTIFF of 0, 1 and nodata.
        raster: GeoTIFF of probabilities.
        grid: of both.
    """
    first, pixels, total, highest, edges = [], [], [], [], []
    labels = 0
    above = np.zeros(grid.width, np.int64)  # the labels of the row above the band
    with rasterio.open(mask) as changes, rasterio.open(raster) as values:
        for window, band in _bands(changes, grid):
            place = np.flatnonzero(band)
            label = band.ravel()[place] - 1
            count = int(label.max()) + 1 if label.size else 0
            found = values.read(1, window=window).ravel()[place].astype(np.float64)
            start = np.zeros(count, np.int64)
            start[label[::-1]] = place[::-1]  # of equal labels the last assignment stays: the first pixel
            most = np.full(count, -np.inf)
            np.maximum.at(most, label, found)
            first.append(start + window.row_off * grid.width)
            pixels.append(np.bincount(label, minlength=count))
            total.append(np.bincount(label, found, minlength=count))
            highest.append(most)
            numbered = np.where(band > 0, band + labels, 0)
            joined = (above > 0) & (numbered[0] > 0)
            edges.append(np.unique(np.stack([above[joined], numbered[0][joined]], 1), axis=0) - 1)
            above = numbered[-1].astype(np.int64)
            labels += count
    of_label, areas = _components(np.concatenate(edges), labels)
    start = np.full(areas, grid.width * grid.height, np.int64)
    most = np.full(areas, -np.inf)
    np.minimum.at(start, of_label, np.concatenate(first))
    np.maximum.at(most, of_label, np.concatenate(highest))
    counts = np.bincount(of_label, np.concatenate(pixels), areas)
    sums = np.bincount(of_label, np.concatenate(total), areas)
    order = np.argsort(start)
    rank = np.empty(areas, np.int64)
    rank[order] = np.arange(areas)
    return Regions(
        start[order],
        counts[order].astype(np.int64),
        sums[order] / np.maximum(counts[order], 1),
        most[order],
        rank[of_label],
    )


def erase(mask: Path, regions: Regions, dropped: NDArray[np.bool_], grid: MapGrid) -> None:
    """Set the areas of `dropped` (areas,) to no change in the mask that `regions` was made of."""
    labels = 0
    gone = dropped[regions._of_label]
    with rasterio.open(mask, "r+") as dataset:
        for window, band in _bands(dataset, grid):
            count = int(band.max(initial=0))
            lost = np.concatenate([[False], gone[labels : labels + count]])[band]
            labels += count
            if lost.any():
                values = dataset.read(1, window=window)
                values[lost] = NO_CHANGE
                dataset.write(values, 1, window=window)


def _bands(dataset: rasterio.DatasetReader, grid: MapGrid) -> Iterator[tuple[Window, NDArray[np.int32]]]:
    """Yield bands of rows with the labels from 1 of their areas of change, from top to bottom."""
    from scipy.ndimage import label

    for top in range(0, grid.height, BLOCK):
        window = Window(0, top, grid.width, min(BLOCK, grid.height - top))
        yield window, label(dataset.read(1, window=window) == CHANGE)[0]


def _components(edges: NDArray[np.int64], count: int) -> tuple[NDArray[np.int64], int]:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not count:
        return np.zeros(0, np.int64), 0
    graph = coo_array((np.ones(len(edges), np.bool_), (edges[:, 0], edges[:, 1])), shape=(count, count))
    areas, of_label = connected_components(graph, directed=False)
    return of_label.astype(np.int64), int(areas)
