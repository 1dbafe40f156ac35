"""Zeros around an image that no nodata value marks, looked for without reading large files whole where avoidable."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import RasterioIOError
from rasterio.windows import Window

from remote_sensing.grid import BLOCK, MapGrid

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

PROBE = 512  # rows and columns, about, of the thinned image in which fill is looked for
FILL_SHARE = (0.01, 0.6)  # zeros that touch the border are fill if they cover a share between these


def fill_share(dataset: DatasetReader, bands: tuple[int, ...]) -> float:
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
