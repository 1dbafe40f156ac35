"""Small pictures of large rasters, made of the windows that are read anyway.

A raster without overviews must be read whole for a picture of a few hundred pixels, and GDAL's warper is slow at
shrinking it. So the pass that takes the sample of a pair also takes the mean of each square cell of pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

SIDE = 560  # pixels of the longest side that a picture should have


def cell_of(shape: tuple[int, int], side: int = SIDE) -> int:
    """Return the rows and columns of a cell, so that a picture of the grid's shape has about `side` of them."""
    return max(1, round(max(shape) / side))


@dataclass
class CellSums:
    """Sums over the cells that a window touches.

    Attributes:
        row: first row of cells.
        col: first column of cells.
        values: float32 (bands, rows, columns), sums over the pixels with data.
        counts: int64 (rows, columns), pixels with data.
    """

    row: int
    col: int
    values: NDArray[np.float32]
    counts: NDArray[np.int64]


def cell_sums(window: Window, values: NDArray[np.float32], valid: NDArray[np.bool_], cell: int) -> CellSums:
    """Return the sums of a window's values (bands, rows, columns) over the cells of the whole grid."""
    row, rows = _starts(window.row_off, window.height, cell)
    col, cols = _starts(window.col_off, window.width, cell)
    known = np.where(valid, values, np.float32(0))
    sums = np.add.reduceat(np.add.reduceat(known, rows, axis=-2), cols, axis=-1)
    counts = np.add.reduceat(np.add.reduceat(valid.astype(np.int64), rows, axis=0), cols, axis=1)
    return CellSums(row, col, sums, counts)


class CellMeans:
    """Collects the sums of windows into a picture.

    Args:
        shape: (rows, columns) of the grid.
        bands: of the picture.
        cell: rows and columns of a cell.
    """

    def __init__(self, shape: tuple[int, int], bands: int, cell: int) -> None:
        size = tuple(-(-length // cell) for length in shape)
        self._values = np.zeros((bands, *size), np.float32)
        self._counts = np.zeros(size, np.int64)

    def add(self, part: CellSums) -> None:
        """Add a window; the order of the windows decides the last bits."""
        height, width = part.counts.shape
        place = np.s_[part.row : part.row + height, part.col : part.col + width]
        self._values[:, place[0], place[1]] += part.values
        self._counts[place] += part.counts

    def image(self) -> NDArray[np.float32]:
        """Return the means, float32 (bands, rows, columns), NaN where no pixel of a cell has data."""
        return np.where(self._counts > 0, self._values / np.maximum(self._counts, 1), np.nan).astype(np.float32)


def _starts(offset: int, length: int, cell: int) -> tuple[int, NDArray[np.int64]]:
    """Return the first cell that a span touches and where in the span each cell starts."""
    first = offset // cell
    borders = np.arange(first, (offset + length - 1) // cell + 1) * cell - offset
    return first, np.maximum(borders, 0)
