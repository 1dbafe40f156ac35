r"""The network of residual disparity diffusion: what is unknown about a pair beyond a first map.

At a quarter of the size, with d_0 the first map and d the truth, both in quarter pixels,

    x_0 = asinh((d - d_0) / b) / asinh(limit / b)

is diffused. One call estimates x_0 from x_t, from the scores of the cost volume around the disparity that x_t itself
suggests, d_0 + decode(alpha s^2 / (alpha^2 s^2 + sigma^2) x_t), and from what does not change during the sampling
(`Prepared`). So a call is a function of x_t and t alone, as the core's solvers need, and from noise it begins at d_0.

d_0 is the map that is given, where the best match of the cost volume lies within 4 px of it; else that match, as far
as left and right agree on it; else a mean of the surroundings, because where nothing is known what is left to say
should be smooth. The network is told the match and the given map everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn import functional

from robotics.stereo.config import StereoConfig
from robotics.stereo.networks.features import Features
from robotics.stereo.networks.surfaces import Surfaces, logit, told
from robotics.stereo.networks.unet import UNet
from robotics.stereo.networks.upsample import FACTOR, Upsample
from robotics.stereo.networks.volume import (
    LEVELS,
    RADIUS,
    Volume,
    best,
    consistent,
    correlation,
    pyramid,
    read,
    spread_out,
)
from shared.networks import TimeEmbedding

READ = LEVELS * (2 * RADIUS + 1)


@dataclass(frozen=True)
class Prepared:
    """What does not change during the sampling of N pairs; h = H / 4, w = W / 4.

    Attributes:
        told: features and first map for the U-Net, (N, C, h, w).
        score: of the cost volume, (N, D, h, w).
        fit: its plain correlation, (N, D, h, w).
        start: d_0 in quarter pixels, (N, 1, h, w).
        quarter: features of the left image, (N, C, h, w).
        half: those at half the size, (N, C, H / 2, W / 2).
        left: image, (N, 3, H, W) about 0.
        right: likewise.
        first: first map in pixels, (N, 1, H, W).
        known: 1 where it was measured, 0 where it was filled, (N, 1, H, W).
    """

    told: Tensor
    score: Tensor
    fit: Tensor
    start: Tensor
    quarter: Tensor
    half: Tensor
    left: Tensor
    right: Tensor
    first: Tensor
    known: Tensor

    def repeated(self, times: int) -> Prepared:
        """Return each pair `times` times, for as many samples of it."""
        return Prepared(*(getattr(self, field.name).repeat_interleave(times, 0) for field in fields(self)))


class StereoNetwork(nn.Module):
    """The estimate of x_0 and the way from it to a full map.

    Args:
        config: sizes.
    """

    shrink: Tensor

    def __init__(self, config: StereoConfig) -> None:
        super().__init__()
        self.config = config
        self.features = Features(config.half, config.quarter)
        self.volume = Volume(config.groups, config.volume)
        first = config.channels[0]
        self.tell = nn.Conv2d(config.quarter + 5, first, 3, padding=1)
        self.time = TimeEmbedding(config.embedding)
        self.enter = nn.Conv2d(1 + 2 * READ, first, 3, padding=1)
        self.unet = UNet(config.channels, config.embedding)
        self.leave = nn.Sequential(nn.GroupNorm(8, first), nn.SiLU(), nn.Conv2d(first, 1, 3, padding=1))
        for parameter in self.leave[-1].parameters():
            nn.init.zeros_(parameter)
        self.surfaces = Surfaces(config.surfaces) if config.surfaces else None
        self.upsample = Upsample(config.quarter, config.half, config.correction)
        process = config.process()
        times = torch.arange(1, config.steps + 1, dtype=torch.float64) / config.steps
        alpha, sigma = process.alpha(times), process.sigma(times)
        shrink = alpha * config.spread**2 / (alpha**2 * config.spread**2 + sigma**2)
        self.register_buffer("shrink", shrink.float(), persistent=False)

    def encode(self, residual: Tensor) -> Tensor:
        """Return x of a residual in quarter pixels."""
        bend = self.config.bend_px / FACTOR
        return torch.asinh(residual / bend) / math.asinh(self.config.limit_px / self.config.bend_px)

    def decode(self, x: Tensor) -> Tensor:
        """Return the residual in quarter pixels, between the limits, of x."""
        bend = self.config.bend_px / FACTOR
        return bend * torch.sinh(x.clamp(-1, 1) * math.asinh(self.config.limit_px / self.config.bend_px))

    def prepare(self, left: Tensor, right: Tensor, first: Tensor, known: Tensor, disparities: int) -> Prepared:
        """Look at the pairs once.

        Args:
            left: (N, 3, H, W), in [0, 1]; H and W multiples of `config.multiple`.
            right: likewise.
            first: a first map in pixels, (N, 1, H, W), holes filled; NaN everywhere in a pair is no map.
            known: 1 where it was measured, 0 where it was filled, (N, 1, H, W); only those pixels count.
            disparities: of the cost volume, in quarter pixels.
        """
        left, right = 4 * left - 2, 4 * right - 2
        count = len(left)
        half, quarter = self.features(torch.cat([left, right]))
        half, (quarter, other) = half[:count], quarter.split(count)
        score = self.volume(quarter, other, disparities)
        fit = correlation(quarter, other, disparities, 1)[:, 0]
        found, sure = (value.detach() for value in best(score))
        sure = sure * consistent(score)
        measured = reduced(torch.where(known > 0, first, float("nan"))) / FACTOR
        given, measured = measured.isfinite(), measured.nan_to_num()
        agreed = given & ((measured - found).abs() <= 1)
        start = spread_out(torch.where(agreed, measured, found), torch.where(agreed, 1.0, sure))
        enlarged = FACTOR * functional.interpolate(start, scale_factor=float(FACTOR), mode="nearest")
        first = torch.where(first.isnan().all(dim=(1, 2, 3), keepdim=True), enlarged, first)
        apart = [self.encode(found - start), sure, given * self.encode(measured - start)]
        told = [quarter, start / 16, functional.avg_pool2d(known, FACTOR), *apart]
        return Prepared(self.tell(torch.cat(told, 1)), score, fit, start, quarter, half, left, right, first, known)

    def forward(self, sample: Tensor, timestep: Tensor | float, *, prepared: Prepared) -> Tensor:
        """Return the estimate of x_0, (N, 1, h, w), of x_t and the entry of the noise table (a number or (N,))."""
        entry = torch.as_tensor(timestep, device=sample.device, dtype=torch.float32).expand(len(sample))
        about = self._shrink(entry) * sample
        place = prepared.start + self.decode(about)
        seen = [sample, read(pyramid(prepared.score), place), read(pyramid(prepared.fit), place)]
        h = self.enter(torch.cat(seen, 1)) + prepared.told
        h = self.unet(h, self.time((entry + 1) / self.config.steps))
        return about + self.leave(h)

    def full(self, x: Tensor, prepared: Prepared, glass: float = 0.0) -> Tensor:
        """Return the disparity in pixels, (N, 1, H, W), of an estimate x_0.

        Args:
            x: (N, 1, h, w).
            prepared: what it is of.
            glass: share of the picture that is expected to be glass or mirrors, below 1; 0 does not ask the branch.
        """
        disparity, known = prepared.start + self.decode(x), prepared.known
        if glass and self.surfaces is not None:
            evidence, surface = self.surfaces(self.seen(disparity, prepared), prepared.left)
            share = torch.sigmoid(evidence + logit(glass))
            disparity = torch.lerp(disparity, surface, share)
            # What a matcher measured on glass is what lies behind it.
            known = known * (1 - functional.interpolate(share, scale_factor=float(FACTOR), mode="nearest"))
        return self.upsample(
            disparity, prepared.quarter, prepared.half, prepared.left, prepared.right, prepared.first, known
        )

    def seen(self, disparity: Tensor, prepared: Prepared) -> Tensor:
        """Return the maps by which the branch for glass and mirrors judges an estimate, (N, 1, h, w) in quarter px."""
        known = functional.avg_pool2d(prepared.known, FACTOR)
        return told(disparity, prepared.start, known, prepared.score, prepared.fit)

    def _shrink(self, entry: Tensor) -> Tensor:
        """Return the factor at entries (N,) of the table, linear between them, (N, 1, 1, 1)."""
        low = entry.floor().clamp(0, self.config.steps - 1)
        high = (low + 1).clamp(max=self.config.steps - 1)
        weight = entry - low
        factor = (1 - weight) * self.shrink[low.long()] + weight * self.shrink[high.long()]
        return factor[:, None, None, None]


def reduced(disparity: Tensor) -> Tensor:
    """Return the median of each 4 x 4 pixels, (N, 1, H / 4, W / 4), NaN left out; a mean would invent depths."""
    blocks = functional.pixel_unshuffle(disparity, FACTOR)
    hole = blocks.isnan()
    ordered = blocks.masked_fill(hole, torch.inf).sort(1).values  # of other runtimes, no two sort NaN alike
    known = blocks.shape[1] - hole.sum(1, keepdim=True)
    low, high = (known - 1).clamp(min=0) // 2, (known // 2).clamp(max=blocks.shape[1] - 1)
    middle = (ordered.gather(1, low) + ordered.gather(1, high)) / 2
    return torch.where(known > 0, middle, torch.nan)
