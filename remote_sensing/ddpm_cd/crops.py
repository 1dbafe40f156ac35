"""Training data: arrays of scenes, and random square crops of them, turned and mirrored.

Scenes are arrays (C, y, x) of any real dtype in the units of their sensor, memory-mapped ones too; NaN is no value.
Everything random comes from one generator, so a crop is a function of its state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.errors import InputError

Scene = NDArray[np.generic]
UNCHANGED, CHANGED, UNKNOWN = 0, 1, 255
ROWS = 256  # read at a time of an array that may be larger than memory
FAR = 2**31  # origins are drawn below this, so every crop has noise of its own


@dataclass(frozen=True)
class PairScene:
    """Two dates of one place.

    Attributes:
        before: (C, y, x).
        after: (C, y, x).
        label: (y, x) of 0 unchanged, 1 changed, 255 unknown; None is unknown everywhere.
    """

    before: Scene
    after: Scene
    label: Scene | None = None


@dataclass(frozen=True)
class PairBatch:
    """Crops of pairs.

    Attributes:
        before: (N, C, S, S), float32 in the units of the sensor.
        after: the same.
        label: (N, S, S), uint8.
        origins: (N, 2), int64, random: which noise the crop gets.
    """

    before: Tensor
    after: Tensor
    label: Tensor
    origins: Tensor

    def to(self, device: torch.device) -> PairBatch:
        """Return the batch on a device."""
        parts = (self.before, self.after, self.label, self.origins)
        return PairBatch(*(part.to(device, non_blocking=True) for part in parts))


def digest(scene: Scene) -> str:
    """Return a hash of the type, shape and numbers of an array, read row by row."""
    found = hashlib.sha256(f"{scene.dtype.str} {scene.shape}".encode())
    for band in scene if scene.ndim > 2 else scene[None]:
        for row in range(0, len(band), ROWS):
            found.update(np.ascontiguousarray(band[row : row + ROWS]).tobytes())
    return found.hexdigest()


def check_scenes(scenes: Sequence[Scene], bands: int, size: int) -> None:
    """Raise `InputError` unless there are scenes, all (bands, y, x) and at least one crop large."""
    if not scenes:
        raise InputError("scenes", found="none", expected="at least one", fix="Give training data.")
    for index, scene in enumerate(scenes):
        if scene.ndim != 3 or scene.shape[0] != bands or min(scene.shape[1:]) < size:
            raise InputError(
                f"scene {index}",
                found=f"shape {scene.shape}",
                expected=f"({bands} bands, y, x) with y and x of at least {size}, the size of a crop",
                fix="Leave small scenes out, or choose a smaller crop and the network's bands.",
            )


def check_pairs(pairs: Sequence[PairScene], bands: int, size: int, *, labelled: bool) -> None:
    """Raise `InputError` unless the pairs fit each other, the network and the crop, and labels hold 0, 1 and 255.

    Args:
        pairs: of the training.
        bands: of the network.
        size: of a crop.
        labelled: labels with changed pixels are needed.
    """
    for date in ("before", "after"):
        check_scenes([getattr(pair, date) for pair in pairs], bands, size)
    changed = 0
    for index, pair in enumerate(pairs):
        shapes = [pair.before.shape[1:], pair.after.shape[1:], *([] if pair.label is None else [pair.label.shape])]
        if len(set(shapes)) > 1:
            raise InputError(
                f"pair {index}", found=f"grids {shapes}", expected="one grid", fix="Resample to the grid of one date."
            )
        if pair.label is not None:
            values = np.unique(pair.label)
            if not set(values.tolist()) <= {UNCHANGED, CHANGED, UNKNOWN}:
                raise InputError(
                    f"label {index}",
                    found=f"values {values[:6].tolist()}",
                    expected="0 unchanged, 1 changed, 255 unknown",
                    fix="Threshold the mask; grey values at edges are not labels.",
                )
            changed += int((pair.label == CHANGED).sum())
    if labelled and not changed:
        raise InputError(
            "labels",
            found="no changed pixel (1)",
            expected="0 unchanged, 1 changed, 255 unknown",
            fix="A mask of 0 and 255 must be divided by 255.",
        )


def draw_crops(scenes: Sequence[Scene], count: int, size: int, generator: torch.Generator) -> Tensor:
    """Return crops (count, C, size, size), float32; scenes are drawn in proportion to their area."""
    chosen = _choice(scenes, count, generator)
    crops = []
    for index in chosen:
        row, column = _place(scenes[index].shape[1:], size, generator)
        crops.append(_turned([_window(scenes[index], row, column, size)], generator)[0])
    return torch.stack(crops)


class PairCrops:
    """A source of crops of pairs.

    Args:
        pairs: checked ones.
        size: of a crop.
        on_change: share of crops that hold a changed pixel for certain, where a pair has any.
        margin: pixels at the edges of a crop which that pixel avoids as far as the scene allows.
    """

    def __init__(self, pairs: Sequence[PairScene], size: int, on_change: float, margin: int = 0) -> None:
        self.pairs, self.size, self.on_change, self.margin = pairs, size, on_change, margin
        self._changed = [
            np.argwhere(pair.label == CHANGED) if pair.label is not None else np.zeros((0, 2), np.int64)
            for pair in pairs
        ]

    def draw(self, count: int, generator: torch.Generator) -> PairBatch:
        """Return crops of pairs drawn in proportion to their area."""
        size = self.size
        parts: list[list[Tensor]] = []
        for index in _choice([pair.before for pair in self.pairs], count, generator):
            pair, changed = self.pairs[index], self._changed[index]
            row, column = _place(pair.before.shape[1:], size, generator)
            if len(changed) and float(torch.rand((), generator=generator)) < self.on_change:
                pixel = changed[int(torch.randint(len(changed), (), generator=generator))]
                around = int(pixel[0]), int(pixel[1])
                row, column = _place(pair.before.shape[1:], size, generator, around, self.margin)
            windows = [_window(date, row, column, size) for date in (pair.before, pair.after)]
            unknown = torch.full((1, size, size), float(UNKNOWN))
            label = unknown if pair.label is None else _window(pair.label[None], row, column, size)
            parts.append(_turned([*windows, label], generator))
        before, after, labels = (torch.stack(part) for part in zip(*parts, strict=True))
        origins = torch.randint(FAR, (count, 2), generator=generator)
        return PairBatch(before, after, labels[:, 0].to(torch.uint8), origins)


def _choice(scenes: Sequence[Scene], count: int, generator: torch.Generator) -> list[int]:
    areas = torch.tensor([float(scene.shape[1] * scene.shape[2]) for scene in scenes])
    return torch.multinomial(areas, count, replacement=True, generator=generator).tolist()


def _place(
    shape: tuple[int, ...],
    size: int,
    generator: torch.Generator,
    around: tuple[int, int] | None = None,
    margin: int = 0,
) -> tuple[int, int]:
    """Return the first row and column of a random crop, one that holds the pixel `around`, within margins if it can."""
    place = []
    for axis in (0, 1):
        low, high = 0, shape[axis] - size
        if around is not None:
            first, last = around[axis] - size + 1 + margin, around[axis] - margin
            low, high = min(max(low, first), high), max(min(high, last), low)
        place.append(int(torch.randint(low, high + 1, (), generator=generator)))
    return place[0], place[1]


def _window(scene: Scene, row: int, column: int, size: int) -> Tensor:
    return torch.from_numpy(scene[:, row : row + size, column : column + size].astype(np.float32))


def _turned(images: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Return the images (C, S, S) under one random symmetry of the square."""
    turns, mirrored = torch.randint(4, (), generator=generator), torch.randint(2, (), generator=generator)
    turned = [torch.rot90(image, int(turns), (1, 2)) for image in images]
    return [image.flip(2) if mirrored else image for image in turned]
