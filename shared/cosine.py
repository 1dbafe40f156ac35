"""The orthonormal cosine transform of volumes, images and series, and bands of its frequencies.

Frequencies are in cycles a sample: wave k along an axis of n samples has k / 2n, at most one half; that of a volume is
the length of the three together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

SPACE = 2  # axes from here on are space


@lru_cache(maxsize=16)
def cosines(count: int) -> Tensor:
    """Return the orthonormal cosine transform (DCT-II) of `count` values, (frequencies, values), float64."""
    k = torch.arange(count, dtype=torch.float64, device="cpu")
    matrix = torch.cos(math.pi / count * k[:, None] * (k + 0.5)) * (2 / count) ** 0.5
    matrix[0] *= 0.5**0.5
    return matrix


def along_axes(x: Tensor, matrices: Iterable[Tensor]) -> Tensor:
    """Return x with each matrix applied along one of the last axes, in their order."""
    chosen = list(matrices)
    for axis, matrix in enumerate(chosen, -len(chosen)):
        x = (x.movedim(axis, -1) @ matrix.T).movedim(-1, axis)
    return x


def waves(x: Tensor) -> Tensor:
    """Return the coefficients of x (N, C, *space) along all its axes of space."""
    return along_axes(x, [cosines(count).to(x) for count in x.shape[SPACE:]])


def from_waves(coefficients: Tensor) -> Tensor:
    """Return what has these coefficients: the inverse of `waves`."""
    return along_axes(coefficients, [cosines(count).to(coefficients).T for count in coefficients.shape[SPACE:]])


@dataclass(frozen=True)
class Bands:
    """Shells of frequencies; the first has the mean.

    Attributes:
        edges: between them, rising, cycles a sample.
    """

    edges: tuple[float, ...]

    @property
    def count(self) -> int:
        """Return how many there are."""
        return len(self.edges) + 1

    def index(self, space: tuple[int, ...]) -> Tensor:
        """Return the band of every coefficient of a volume, (*space) int64 on the CPU."""
        return _index(self.edges, space)

    @classmethod
    def geometric(cls, space: tuple[int, ...], count: int) -> Bands:
        """Return the mean alone, and shells of equal ratio from the lowest frequency of a volume to the highest.

        Args:
            space: samples along each axis.
            count: of bands, at least 2. Where frequencies are few, some have none.
        """
        least, most = 1 / (2 * max(space)), 0.5 * math.sqrt(len(space))
        ratio = (most / least) ** (1 / (count - 1))
        return cls(tuple(least * ratio**k * (1 - 1e-9) for k in range(count - 1)))


@lru_cache(maxsize=16)
def _index(edges: tuple[float, ...], space: tuple[int, ...]) -> Tensor:
    square = torch.zeros((), dtype=torch.float64, device="cpu")
    for axis, count in enumerate(space):
        frequency = torch.arange(count, dtype=torch.float64, device="cpu") / (2 * count)
        square = square + (frequency**2).reshape(-1, *[1] * (len(space) - axis - 1))
    return torch.bucketize(square.sqrt(), torch.tensor(edges, dtype=torch.float64, device="cpu"), right=True)
