"""What to do in each block of an endless motion."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shared.errors import InputError


@dataclass(frozen=True, eq=False)
class Command:
    """What a body is to do in a block of B frames.

    Attributes:
        action: one of all frames, or one a frame.
        path: where the hips are to be over the floor, (B, 2) m in the world, NaN in frames in which they are free; None
            where all are. The last frame alone steers: the way there is the body's own.
    """

    action: str | Sequence[str] = "any"
    path: Tensor | None = None


def in_blocks(actions: Sequence[str], block: int) -> Iterator[Command]:
    """Yield commands for an action a frame; the last action goes on to the end of its block."""
    for start in range(0, len(actions), block):
        part = list(actions[start : start + block])
        yield Command(part + part[-1:] * (block - len(part)))


def along(points: Sequence[Sequence[float]], speed: float, *, block: int, fps: float = 30.0, action: str = "walk"
) -> Iterator[Command]:  # fmt: skip
    """Yield commands that lead along lines from point to point: at the end of each block the hips are there.

    Args:
        points: two or more, (x, y) m; the body stands at the first one.
        speed: m/s.
        block: B, frames.
        fps: frames a second.
        action: of all frames.

    Raises:
        InputError: fewer points, points that are not numbers, a way without length, or a speed that is not positive.
    """
    way = torch.as_tensor(points, dtype=torch.float64)
    if way.ndim != 2 or way.shape[0] < 2 or way.shape[1] != 2 or not way.isfinite().all() or (way == way[0]).all():
        raise InputError(
            "way", found=f"{way.tolist()}", expected="two or more different points x, y, m", fix="Correct the points."
        )
    if not 0 < speed < math.inf:
        raise InputError("speed", found=f"{speed:g} m/s", expected="a positive number", fix="Correct it.")
    lengths = way.diff(dim=0).norm(dim=-1)
    way, lengths = torch.cat([way[:1], way[1:][lengths > 0]]), lengths[lengths > 0]
    ends = lengths.cumsum(0)
    step = speed * block / fps
    for count in range(1, math.ceil(float(ends[-1]) / step - 1e-9) + 1):
        gone = torch.tensor(count * step, dtype=torch.float64).clamp(max=ends[-1])
        line = int(torch.searchsorted(ends, gone).clamp(max=len(ends) - 1))
        share = 1 - (ends[line] - gone) / lengths[line]
        path = torch.full((block, 2), math.nan, dtype=torch.float64)
        path[-1] = way[line] + share * (way[line + 1] - way[line])
        yield Command(action, path)
