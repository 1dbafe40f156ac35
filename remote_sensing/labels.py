"""Rasters of few classes: reference labels and change masks, and how they are read on a grid.

In a label raster 0 is unchanged and the one other value is changed; nodata is unlabelled. With a second raster of the
unchanged pixels both are sparse: their nonzero pixels are labelled, all others are unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from remote_sensing.grid import MapGrid
from remote_sensing.sources import GridReader, classes_on
from shared.errors import InputError


@dataclass(frozen=True)
class Labels:
    """Reference labels on a grid.

    Attributes:
        changed: raster of the changed pixels.
        unchanged: raster of the unchanged pixels; None if all others are.
        grid: on which they are read.
    """

    changed: Path
    unchanged: Path | None
    grid: MapGrid
    _readers: tuple[GridReader, ...]

    UNCHANGED: ClassVar[int] = 0
    CHANGED: ClassVar[int] = 1
    UNKNOWN: ClassVar[int] = 255

    def read(self, row: int, col: int, shape: tuple[int, int]) -> NDArray[np.uint8]:
        """Return uint8 (rows, columns): 0 unchanged, 1 changed, 255 unknown.

        Raises:
            InputError: a pixel is labelled both changed and unchanged.
        """
        window = Window(col, row, shape[1], shape[0])
        changed, known = self._nonzero(0, window)
        if self.unchanged is None:
            return np.where(known, changed, self.UNKNOWN).astype(np.uint8)
        unchanged, _ = self._nonzero(1, window)
        if (changed & unchanged).any():
            raise InputError(
                self.unchanged,
                found=f"{int((changed & unchanged).sum())} pixels that {self.changed.name} calls changed",
                expected="each pixel labelled once",
                fix="Check that the two rasters are of one scene and not the same file.",
            )
        return np.where(changed, self.CHANGED, np.where(unchanged, self.UNCHANGED, self.UNKNOWN)).astype(np.uint8)

    def _nonzero(self, index: int, window: Window) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        values, valid = self._readers[index].read(window)
        return valid & (np.nan_to_num(values[0]) != 0), valid


def open_labels(changed: Path, unchanged: Path | None, grid: MapGrid) -> Labels:
    """Open reference labels to be read on a grid; labels without georeference must have its size.

    Raises:
        InputError: no raster, another place, another size, or more than two values.
    """
    readers = []
    for path in (changed, *([unchanged] if unchanged is not None else [])):
        reader = classes_on(path, grid)
        require_two_values(path, reader, grid)
        readers.append(reader)
    return Labels(changed, unchanged, grid, tuple(readers))


def require_two_values(path: Path, reader: GridReader, grid: MapGrid) -> None:
    """Raise `InputError` unless a raster of classes holds 0 and at most one other value."""
    found: set[float] = set()
    for window in grid.windows():
        values, valid = reader.read(window)
        found |= set(np.unique(values[0][valid]).tolist())
        if len(found - {0.0}) > 1:
            shown = ", ".join(f"{value:g}" for value in sorted(found)[:6])
            raise InputError(
                path,
                found=f"the values {shown}{', ...' if len(found) > 6 else ''}",
                expected="0 for unchanged and one other value for changed",
                fix="Threshold or reclassify it, and mark unlabelled pixels as nodata.",
            )
