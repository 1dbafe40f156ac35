r"""Orthonormal periodic Daubechies wavelets over the last axes of a tensor.

One level along one axis of even length N, with the scaling filter h of length L and g[k] = (-1)^k h[L-1-k],

    low[n] = sum_k h[k] x[(2n + k) mod N],      high[n] = sum_k g[k] x[(2n + k) mod N],

is an orthogonal matrix (Daubechies, Ten Lectures on Wavelets, 1992, chapters 5 and 6); the next level treats `low`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medical.reconstruction.operators import LinearOperator

_ROOT3 = math.sqrt(3.0)
SCALING_FILTERS: dict[str, tuple[float, ...]] = {
    "haar": (1 / math.sqrt(2), 1 / math.sqrt(2)),
    "db2": tuple(v / (4 * math.sqrt(2)) for v in (1 + _ROOT3, 3 + _ROOT3, 3 - _ROOT3, 1 - _ROOT3)),
}
"""Scaling filters h, sum h = sqrt(2), named by their vanishing moments as in PyWavelets."""

_COARSEST = 8
"""Levels are added while the coarsest band keeps this many samples along every axis; as deep as BART goes."""


class Wavelet(LinearOperator):
    r"""Separable multi-level wavelet transform W of the last `len(shape)` axes; W^H W = 1.

    Coefficients lie in one array: the coarsest band in the first corner, details around it. Axes whose length is not
    a multiple of 2^levels are zero-padded at the end, so W stays an isometry and W^H crops.

    Args:
        shape: lengths of the transformed axes.
        name: a key of `SCALING_FILTERS`.
        levels: number of levels; by default as many as keep the coarsest band at 8 samples an axis.
    """

    def __init__(self, shape: tuple[int, ...], name: str = "db2", levels: int | None = None) -> None:
        self.shape = tuple(shape)
        self.levels = default_levels(self.shape) if levels is None else levels
        block = 2**self.levels
        self.padded = tuple(-(-n // block) * block if n > 1 else 1 for n in self.shape)
        low = SCALING_FILTERS[name]
        high = tuple((-1) ** k * v for k, v in enumerate(reversed(low)))
        self.filters = (low, high)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the coefficients W x."""
        pad: list[int] = []
        for n, padded in zip(reversed(self.shape), reversed(self.padded), strict=True):
            pad += [0, padded - n]
        out = torch.nn.functional.pad(x, pad)
        for level in range(self.levels):
            corner = self._corner(out, level)
            band: Tensor = corner
            for axis in self._axes():
                band = self._analyse(band, axis)
            corner.copy_(band)
        return out

    def adjoint(self, y: Tensor) -> Tensor:
        """Return W^H y."""
        out = y.clone()
        for level in reversed(range(self.levels)):
            corner = self._corner(out, level)
            band: Tensor = corner
            for axis in self._axes():
                band = self._synthesise(band, axis)
            corner.copy_(band)
        for axis, n in zip(range(-len(self.shape), 0), self.shape, strict=True):
            out = out.narrow(axis, 0, n)
        return out

    def _axes(self) -> list[int]:
        """Axes of length 1 are left alone."""
        return [axis for axis, n in zip(range(-len(self.shape), 0), self.shape, strict=True) if n > 1]

    def _corner(self, x: Tensor, level: int) -> Tensor:
        for axis in self._axes():
            x = x.narrow(axis, 0, self.padded[axis] >> level)
        return x

    def _analyse(self, x: Tensor, axis: int) -> Tensor:
        half = x.shape[axis] // 2
        extended = torch.cat([x, x.narrow(axis, 0, len(self.filters[0]) - 2)], axis)
        out = torch.empty_like(x)
        for band, taps in enumerate(self.filters):
            target = out.narrow(axis, band * half, half)
            target.zero_()
            for k, tap in enumerate(taps):
                target.add_(_every_second(extended, axis, k, half), alpha=tap)
        return out

    def _synthesise(self, x: Tensor, axis: int) -> Tensor:
        half, overhang = x.shape[axis] // 2, len(self.filters[0]) - 2
        shape = list(x.shape)
        shape[axis] += overhang
        extended = x.new_zeros(shape)
        for band, taps in enumerate(self.filters):
            source = x.narrow(axis, band * half, half)
            for k, tap in enumerate(taps):
                _every_second(extended, axis, k, half).add_(source, alpha=tap)
        out = extended.narrow(axis, 0, 2 * half)
        out.narrow(axis, 0, overhang).add_(extended.narrow(axis, 2 * half, overhang))
        return out


def _every_second(x: Tensor, axis: int, start: int, count: int) -> Tensor:
    """View of x[start], x[start + 2], ... along an axis, `count` samples."""
    index: list[slice] = [slice(None)] * x.ndim
    index[axis] = slice(start, start + 2 * count, 2)
    return x[tuple(index)]


def default_levels(shape: tuple[int, ...]) -> int:
    """Number of levels that keep at least 8 samples in the coarsest band along every axis longer than 1."""
    shortest = min((n for n in shape if n > 1), default=1)
    return max(0, int(math.log2(shortest / _COARSEST))) if shortest >= _COARSEST else 0
