r"""Feature maps that are read in slabs: convolutions and group normalisation whose results are those of the whole map.

A slab is a run of planes along the first spatial axis. A feature map need not exist as a tensor: it is anything that
can give its planes start ... stop, zero where these lie outside (the padding of a convolution).

| map         | its planes                                                                              |
| ----------- | --------------------------------------------------------------------------------------- |
| `Stored`    | of a tensor in memory                                                                   |
| `Joined`    | of several maps, channel after channel                                                  |
| `Activated` | SiLU(a x + b), which is group normalisation and SiLU once a and b are known             |
| `Convolved` | a convolution of the planes that its kernel reaches: stop - start, and a halo           |
| `Resized`   | an upsampling by nearest neighbours, or a pooling, of whole planes                      |

Group normalisation needs mean and variance of groups of channels over all voxels. Every map therefore knows the sum and
the sum of squares of each channel (`Sums`, float64), added up as its slabs are made; those of joined maps are joined,
so a group may span both. With m, v of a group: a = w / sqrt(v + eps), b = bias - a m.

`stored` makes a map a tensor, slab by slab. `refined` is the second half of a residual block, h <- skip + conv(
SiLU(norm(h))), in place: a slab is written once the next one has read its halo.

Reference: the feature slicer and operator grouping of Streamlined Inference, NeurIPS 2024 (arXiv 2411.01171), which
normalises each slice by its own statistics; here the statistics are of the whole map.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

AXIS = 2  # of (N, C, X, Y, Z): the first spatial one
CONVOLUTIONS = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}  # by the dimensions of the tensor


class Sums:
    """Sum and sum of squares of every channel of a map, added up slab by slab in float64.

    Args:
        first: (N, C) sums; None starts empty.
        second: (N, C) sums of squares.
        count: voxels that were added.
    """

    def __init__(self, first: Tensor | None = None, second: Tensor | None = None, count: int = 0) -> None:
        nothing = torch.zeros(())
        self.first, self.second = nothing if first is None else first, nothing if second is None else second
        self.count = count

    def add(self, slab: Tensor) -> None:
        """Add a slab (N, C, ...)."""
        spatial = tuple(range(AXIS, slab.ndim))
        values = slab.to(torch.float32 if slab.device.type == "mps" else torch.float64)
        first, second = values.sum(spatial), torch.linalg.vector_norm(values, dim=spatial).square()
        self.first, self.second = first + self.first, second + self.second
        self.count += math.prod(slab.shape[AXIS:])

    @classmethod
    def joined(cls, parts: Sequence[Sums]) -> Sums:
        """Return the sums of maps of one size that are joined along their channels."""
        return cls(torch.cat([part.first for part in parts], 1), torch.cat([part.second for part in parts], 1),
                   parts[0].count)  # fmt: skip

    def affine(self, norm: nn.GroupNorm) -> tuple[Tensor, Tensor]:
        """Return a, b (N, C) of the group normalisation a x + b of the whole map, in float64."""
        n, channels = self.first.shape
        count = self.count * channels // norm.num_groups
        first, second = (sums.view(n, norm.num_groups, -1).sum(-1, keepdim=True) for sums in (self.first, self.second))
        mean = first / count
        variance = (second / count - mean.square()).clamp(min=0)
        scale = (variance + norm.eps).rsqrt()
        a = scale.expand(n, norm.num_groups, channels // norm.num_groups).reshape(n, channels)
        m = mean.expand(n, norm.num_groups, channels // norm.num_groups).reshape(n, channels)
        if norm.affine:
            a = a * norm.weight
            return a, norm.bias - a * m
        return a, -a * m


@dataclass(frozen=True)
class Cut:
    """How maps are cut: no slab has more than `largest` values, unless one plane has.

    Attributes:
        largest: values of a slab of the result.
    """

    largest: int

    def __call__(self, shape: Sequence[int]) -> list[tuple[int, int]]:
        """Return start and stop of the slabs of a map (N, C, X, ...): as many planes each, give or take one."""
        length = shape[AXIS]
        pieces = min(length, max(1, math.ceil(math.prod(shape) / self.largest)))
        edges = [length * piece // pieces for piece in range(pieces + 1)]
        return list(pairwise(edges))


class Feature(ABC):
    """A map (N, C, X, ...) that gives its planes along X.

    Attributes:
        shape: of the whole map.
    """

    shape: tuple[int, ...]

    @abstractmethod
    def inside(self, start: int, stop: int) -> Tensor:
        """Return the planes start ... stop, 0 <= start < stop <= X; not to be changed by the caller."""

    @abstractmethod
    def sums(self, cut: Cut) -> Sums:
        """Return the sums of the channels."""

    def planes(self, start: int, stop: int) -> Tensor:
        """Return the planes start ... stop, with zeros before 0 and from X on."""
        before, after = max(0, -start), max(0, stop - self.shape[AXIS])
        part = self.inside(start + before, stop - after)
        if not before and not after:
            return part
        return F.pad(part, (0, 0) * (part.ndim - AXIS - 1) + (before, after))


class Stored(Feature):
    """A map in memory.

    Args:
        tensor: (N, C, X, ...).
        sums: of it; None adds them up when they are asked for.
    """

    def __init__(self, tensor: Tensor, sums: Sums | None = None) -> None:
        self.tensor, self.shape, self._sums = tensor, tuple(tensor.shape), sums

    def inside(self, start: int, stop: int) -> Tensor:
        """Return a view."""
        return self.tensor.narrow(AXIS, start, stop - start)

    def sums(self, cut: Cut) -> Sums:
        """Return the sums of the channels."""
        if self._sums is None:
            self._sums = _added(self, cut)
        return self._sums


class Joined(Feature):
    """Maps of one size, one after the other along their channels."""

    def __init__(self, *parts: Feature) -> None:
        self.parts = parts
        n, _, *size = parts[0].shape
        self.shape = (n, sum(part.shape[1] for part in parts), *size)

    def inside(self, start: int, stop: int) -> Tensor:
        """Return a new slab."""
        return torch.cat([part.inside(start, stop) for part in self.parts], 1)

    def sums(self, cut: Cut) -> Sums:
        """Return the sums of the channels."""
        return Sums.joined([part.sums(cut) for part in self.parts])


class _Made(Feature):
    """A map that is computed whenever it is read."""

    _sums: Sums | None = None

    def sums(self, cut: Cut) -> Sums:
        """Return the sums of the channels, computing all slabs once."""
        if self._sums is None:
            self._sums = _added(self, cut)
        return self._sums


class Activated(_Made):
    """SiLU of the group normalisation of a map.

    Args:
        source: the map.
        norm: its normalisation.
        cut: of the pass that adds up, where the sums are not known.
        silu: False leaves the SiLU out.
    """

    def __init__(self, source: Feature, norm: nn.GroupNorm, cut: Cut, *, silu: bool = True) -> None:
        self.source, self.shape, self.silu = source, source.shape, silu
        ones = (1,) * (len(source.shape) - AXIS)
        self._a, self._b = (value.view(*value.shape, *ones) for value in source.sums(cut).affine(norm))

    def inside(self, start: int, stop: int) -> Tensor:
        """Return a new slab."""
        return self.planes(start, stop)

    def planes(self, start: int, stop: int) -> Tensor:
        """Return the planes start ... stop in a new slab, with zeros where they lie outside."""
        before, after = max(0, -start), max(0, stop - self.shape[AXIS])
        part = self.source.inside(start + before, stop - after)
        n, channels, length, *rest = part.shape
        result = part.new_empty((n, channels, before + length + after, *rest))
        result.narrow(AXIS, 0, before).zero_()
        result.narrow(AXIS, before + length, after).zero_()
        dtype = torch.promote_types(part.dtype, torch.float32)  # half precision is normalised in float32
        middle = result.narrow(AXIS, before, length)
        torch.addcmul(self._b.to(dtype), part, self._a.to(dtype), out=middle)
        if self.silu:
            F.silu(middle, inplace=True)
        return result


class Convolved(_Made):
    """A convolution of a map, with zeros around it.

    Args:
        source: the map.
        convolution: `nn.Conv2d` or the like.
        added: (N, C) to add to every channel.
    """

    def __init__(self, source: Feature, convolution: Any, *, added: Tensor | None = None) -> None:
        self.source, self.convolution, self.added = source, convolution, added
        self._kernel, self._stride, self._padding, self._dilation = (
            tuple(int(value) for value in getattr(convolution, name))  # one value an axis
            for name in ("kernel_size", "stride", "padding", "dilation")
        )
        n, _, *size = source.shape
        axes = zip(size, self._kernel, self._stride, self._padding, self._dilation, strict=True)
        made = ((x + 2 * p - d * (k - 1) - 1) // s + 1 for x, k, s, p, d in axes)
        self.shape = (n, int(convolution.out_channels), *made)

    def read(self, start: int, stop: int) -> Tensor:
        """Return the planes of the source that the planes start ... stop are made of."""
        stride, padding = self._stride[0], self._padding[0]
        reach = self._dilation[0] * (self._kernel[0] - 1) + 1
        return self.source.planes(start * stride - padding, (stop - 1) * stride - padding + reach)

    def convolve(self, part: Tensor) -> Tensor:
        """Return the new planes that are made of what `read` returned."""
        weight, bias, groups = self.convolution.weight, self.convolution.bias, self.convolution.groups
        padding = (0, *self._padding[1:])
        if part.device.type == "cpu" and part.dtype == torch.float32 and torch.backends.mkldnn.is_available():
            # Below a size of its input torch unfolds it instead: 27 times the memory, and slower at the size of slabs.
            result = torch.mkldnn_convolution(
                part.contiguous(), weight, bias, padding, self._stride, self._dilation, groups
            )  # fmt: skip
        else:
            result = CONVOLUTIONS[part.ndim](part, weight, bias, self._stride, padding, self._dilation, groups)
        if self.added is not None:
            result += self.added.view(*self.added.shape, *(1,) * (part.ndim - AXIS))
        return result

    def inside(self, start: int, stop: int) -> Tensor:
        """Return new planes."""
        return self.convolve(self.read(start, stop))


class Resized(_Made):
    """A map made larger or smaller plane by plane, by the same whole number along every axis.

    Args:
        source: the map.
        module: such as `nn.Upsample` by nearest neighbours or `nn.AvgPool3d`, whose windows do not overlap.
        up: it makes the map this many times larger.
        down: it makes the map this many times smaller, leaving out an incomplete window at the end.
    """

    def __init__(self, source: Feature, module: nn.Module, *, up: int = 1, down: int = 1) -> None:
        self.source, self.module, self.up, self.down = source, module, up, down
        n, channels, *size = source.shape
        self.shape = (n, channels, *(x * up // down for x in size))

    def inside(self, start: int, stop: int) -> Tensor:
        """Return new planes."""
        first = start * self.down // self.up
        part = self.module(self.source.inside(first, -(-stop * self.down // self.up)))
        return part.narrow(AXIS, start - first * self.up // self.down, stop - start)


def stored(feature: Feature, cut: Cut) -> Stored:
    """Return a map as a tensor, made slab by slab, with its sums."""
    sums = Sums()
    result: Tensor | None = None
    for start, stop in cut(feature.shape):
        part = feature.planes(start, stop)
        if result is None:
            result = part.new_empty(feature.shape)
        result.narrow(AXIS, start, stop - start).copy_(part)
        sums.add(part)
        del part  # before the next slab is made
    assert result is not None
    return Stored(result, sums)


def refined(h: Stored, norm: nn.GroupNorm, convolution: Any, skip: Feature, cut: Cut) -> Stored:
    """Return skip + convolution(SiLU(norm(h))), written into the tensor of h.

    Args:
        h: the map, lost.
        norm: its normalisation.
        convolution: with as many channels out as in, stride 1, and a halo of at most one slab.
        skip: a map of the shape of h, not made of h.
        cut: of the slabs.
    """
    change = Convolved(Activated(h, norm, cut), convolution)
    sums = Sums()
    waiting: tuple[Tensor, Tensor] | None = None
    for start, stop in cut(h.shape):
        part = change.read(start, stop)
        if waiting is not None:  # its old planes have been read now
            waiting[0].copy_(waiting[1])
            waiting = None
        part = change.convolve(part)
        part += skip.planes(start, stop)
        sums.add(part)
        waiting = h.inside(start, stop), part
        del part
    if waiting is not None:
        waiting[0].copy_(waiting[1])
    return Stored(h.tensor, sums)


def _added(feature: Feature, cut: Cut) -> Sums:
    sums = Sums()
    for start, stop in cut(feature.shape):
        sums.add(feature.planes(start, stop))
    return sums
