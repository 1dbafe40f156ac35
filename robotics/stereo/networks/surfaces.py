r"""Glass and mirrors, where the best match is of what lies behind or is reflected: what the whole picture tells.

    d' = d + p (s - d),   p = sigmoid(g + ln(q / (1 - q))),   s = sum_i w_i c_i + r,
    g, w, r = branch(left image, d, d_0, scores of the volume around d)

d is the estimate at the end of a sampling, p the chance that glass or a mirror is seen where a share q of the picture
is expected to be so (a bench of glassware is no street), and s where its surface lies:
at a residual r from estimates c_i at the same place or at others of its column or row that the branch points to, as at
the foot of a glass. Attention at a thirty-second of the size sees outlines and where things stand. Which disparities
fit a little at a rim or a highlight is told at `OFFSETS` from d, more of them nearer than farther, since what is seen
through glass lies behind it. The branch is trained with the rest of the network frozen
(`robotics.stereo.surfaces_training`), so that everywhere else d stays what it was.

Reference: Xu et al., GMFlow, 2022 (attention that carries an estimate to where it cannot be matched).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

PREFIX = "surfaces."  # of the names of its tensors in a `StereoNetwork`
OFFSETS = range(-4, 17)  # quarter pixels from the estimate
SEEN = 3 + 2 * len(OFFSETS)  # maps of `told`
PLACE = 16.0  # quarter pixels that are 1 in a map
LEAST = -12.0  # log-probability that is told apart
FARTHEST = 4.0  # of asinh(r / 4)
HEAD = 32  # channels of a head of attention
POINTERS = 2  # other places of the column, and as many of the row
POINTER = 8  # channels of one


class Surfaces(nn.Module):
    """The branch.

    Args:
        channels: of its levels, the finest first, multiples of 8 and the last of `HEAD`; half the size from level to
            level.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.image = nn.Conv2d(48, channels[0], 3, padding=1)
        self.maps = nn.Conv2d(SEEN, channels[0], 3, padding=1)
        before = [channels[0], *channels[:-1]]
        last = channels[-1]
        self.down = nn.ModuleList(_Block(a, b) for a, b in zip(before, channels, strict=True))
        self.middle = nn.Sequential(_Attention(last), _Block(last, last), _Attention(last))
        self.up = nn.ModuleList(_Block(2 * b, a) for a, b in zip(before, channels, strict=True))
        self.column, self.row = (_Pointers(3 * channels[0]) for _ in range(2))
        answer = nn.Conv2d(channels[0], 3 + 2 * POINTERS, 3, padding=1)
        nn.init.zeros_(answer.weight)
        # At first nothing speaks for or against a surface, and each would lie at the estimate.
        answer.bias = nn.Parameter(torch.tensor([0.0, 0.0, 2.0] + 2 * POINTERS * [0.0]))
        self.leave = nn.Sequential(nn.GroupNorm(8, channels[0]), nn.SiLU(), answer)

    def forward(self, maps: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
        """Return the evidence g of a surface and where it lies, s in quarter pixels, (N, 1, h, w) each.

        Args:
            maps: of `told`, (N, SEEN, h, w); h and w multiples of 2^(levels - 1).
            left: image about 0, (N, 3, 4 h, 4 w).
        """
        place = PLACE * maps[:, :1].float()
        x = self.maps(maps) + self.image(functional.pixel_unshuffle(left, 4))
        kept: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else functional.avg_pool2d(x, 2))
            kept.append(x)
        x = self.middle(x)
        for level in reversed(range(1, len(self.up))):
            x = self.up[level](torch.cat([x, kept[level]], 1))
            x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
        context = torch.cat([x, kept[0]], 1)
        x = self.up[0](context)
        seen = torch.cat([x, context], 1)
        along = self.column(seen, place), self.row(seen.transpose(2, 3), place.transpose(2, 3)).transpose(2, 3)
        evidence, residual, weights = self.leave(x).float().split([1, 1, 1 + 2 * POINTERS], 1)
        carried = (weights.softmax(1) * torch.cat([place, *along], 1)).sum(1, keepdim=True)
        return evidence, carried + 4 * torch.sinh(residual.clamp(-FARTHEST, FARTHEST))


def logit(share: float) -> float:
    """Return ln(q / (1 - q)) of a share between 0 and 1."""
    return math.log(share / (1 - share))


def told(place: Tensor, start: Tensor, known: Tensor, score: Tensor, fit: Tensor) -> Tensor:
    """Return what the branch sees beside the image, (N, SEEN, h, w), each of the size of 1.

    Args:
        place: the estimate d, (N, 1, h, w) in quarter pixels.
        start: the first map d_0, likewise.
        known: share of a place where that was measured, likewise.
        score: of the cost volume, (N, D, h, w).
        fit: its plain correlation, likewise.
    """
    around = [_around(volume, place) / 4 + 1 for volume in (score, fit)]
    return torch.cat([place / PLACE, start / PLACE, known, *around], 1)


def _around(volume: Tensor, place: Tensor) -> Tensor:
    """Return log-probabilities at `OFFSETS` from a place, linear between entries, `LEAST` out of range."""
    logs, last = volume.log_softmax(1), volume.shape[1] - 1
    at = place + torch.arange(OFFSETS.start, OFFSETS.stop, dtype=place.dtype, device=place.device)[:, None, None]
    low = at.floor().clamp(0, max(0, last - 1))
    share = (at - low).clamp(0, 1)
    index = low.long()
    value = (1 - share) * logs.gather(1, index) + share * logs.gather(1, (index + 1).clamp(max=last))
    inside = (at >= -0.5) & (at <= last + 0.5)
    return torch.where(inside, value.clamp(min=LEAST), LEAST)


class _Block(nn.Module):
    """Two convolutions with a skip."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(8, before), nn.SiLU(), nn.Conv2d(before, after, 3, padding=1),
            nn.GroupNorm(8, after), nn.SiLU(), nn.Conv2d(after, after, 3, padding=1),
        )  # fmt: skip
        self.skip = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, after, h, w) of (N, before, h, w)."""
        found: Tensor = self.skip(x) + self.layers(x)
        return found


class _Pointers(nn.Module):
    r"""Estimates of other places of the column.

        c_i = sum_j softmax_j(q_i . k_j / sqrt(channels) + a o + b o^2) d_j,   o = (j - i) / 8

    j is every second place, which halves the time.

    Args:
        channels: of the features.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ask = nn.Conv2d(channels, 2 * POINTERS * POINTER, 1)
        self.towards = nn.Parameter(torch.stack([torch.linspace(-2, 2, POINTERS), torch.full((POINTERS,), -0.3)]))

    def forward(self, x: Tensor, place: Tensor) -> Tensor:
        """Return (N, POINTERS, h, w) of features (N, C, h, w) and estimates (N, 1, h, w), in float32."""
        count, _, height, width = x.shape
        with torch.autocast(x.device.type, enabled=False):  # disparities want more than eight bits
            asked = self.ask(x.float()).reshape(count, 2, POINTERS, POINTER, height, width)
            query, key = asked[:, 0].permute(0, 4, 1, 3, 2), asked[:, 1, :, :, ::2].permute(0, 4, 1, 2, 3)
            rows = torch.arange(height, dtype=torch.float32, device=x.device)
            off = (rows[::2] - rows[:, None]) / 8
            linear, square = self.towards[..., None, None]
            share = (query @ key / POINTER**0.5 + linear * off + square * off**2).softmax(-1)
            found: Tensor = share @ place[:, 0, ::2].transpose(1, 2)[:, :, None, :, None]
        return found[..., 0].permute(0, 2, 3, 1)


class _Attention(nn.Module):
    """Places of a map look at each other; where they are is told by a convolution of each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = channels // HEAD
        self.where = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.ask = nn.Sequential(nn.GroupNorm(8, channels), nn.Conv2d(channels, 3 * channels, 1))
        self.answer = nn.Conv2d(channels, channels, 1)
        self.think = nn.Sequential(
            nn.GroupNorm(8, channels), nn.Conv2d(channels, 2 * channels, 1), nn.SiLU(),
            nn.Conv2d(2 * channels, channels, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the shape of x, (N, C, h, w)."""
        count, channels, height, width = x.shape
        x = x + self.where(x)
        asked = self.ask(x).reshape(count, 3, self.heads, HEAD, height * width)
        query, key, value = asked.transpose(-1, -2).unbind(1)
        found = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.answer(found.transpose(-1, -2).reshape(count, channels, height, width))
        return x + self.think(x)
