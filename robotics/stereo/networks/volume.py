r"""How well each left feature fits the right ones to its left: the cost volume of stereo, at a quarter of the size.

    V_g[j, y, x] = <L_g(y, x), R_g(y, x - j)> / sqrt(C / G),   j = 0 ... D - 1 quarter pixels,   groups g of channels

and 0 where x - j is out of view. Convolutions make it one score S[j, y, x]. It is computed once a pair; what
changes from call to call of the denoiser is only where it is read.

References:
    Guo et al., Group-wise Correlation Stereo Network, 2019.
    Lipson et al., RAFT-Stereo, 2021 (reading a pyramid of the volume around the current estimate).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

UNSEEN = -10.0  # score of a disparity whose partner is out of view
LEVELS = 3  # of the pyramid along disparity: steps of 1, 2 and 4 quarter pixels
RADIUS = 4  # steps read to each side


class Volume(nn.Module):
    """Group-wise correlation and its aggregation.

    Args:
        groups: G.
        channels: between the convolutions.
    """

    def __init__(self, groups: int, channels: int) -> None:
        super().__init__()
        self.groups = groups
        before = [groups, channels, channels]
        self.layers = nn.Sequential(*(_Factored(size, channels) for size in before))
        self.leave = nn.Conv3d(channels, 1, 1)

    def forward(self, left: Tensor, right: Tensor, disparities: int) -> Tensor:
        """Return S, (N, D, h, w).

        Args:
            left: features (N, C, h, w).
            right: likewise.
            disparities: D.
        """
        fit = correlation(left, right, disparities, self.groups)
        score = self.leave(self.layers(fit))[:, 0]
        return torch.where(seen(disparities, left.shape[-1], left.device), score, UNSEEN)


class _Factored(nn.Module):
    """A 3 x 3 convolution within each disparity, then one of 3 across them.

    It has a third of the cost of a 3-D one. With the channels last in memory both see the same numbers in the same
    order, as images (N D, h, w) and (N, D, h w): nothing is copied between them.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.within = nn.Conv2d(before, after, 3, padding=1)
        self.across = nn.Conv2d(after, after, (3, 1), padding=(1, 0))
        self.norm = nn.GroupNorm(1, after)

    def forward(self, volume: Tensor) -> Tensor:
        """Return (N, after, D, h, w) of (N, before, D, h, w)."""
        count, _, disparities, height, width = volume.shape
        flat = volume.contiguous(memory_format=torch.channels_last_3d).transpose(1, 2).flatten(0, 1)
        flat = functional.silu(self.within(flat))
        flat = flat.unflatten(0, (count, disparities)).transpose(1, 2).flatten(3)
        return functional.silu(self.norm(self.across(flat))).unflatten(3, (height, width))


def correlation(left: Tensor, right: Tensor, disparities: int, groups: int) -> Tensor:
    """Return V, (N, G, D, h, w), of features (N, C, h, w)."""
    count, channels, height, width = left.shape
    left, right = (value.reshape(count, groups, channels // groups, height, width) for value in (left, right))
    padded = functional.pad(right, (disparities - 1, 0))
    shifted = [padded[..., disparities - 1 - j : disparities - 1 - j + width] for j in range(disparities)]
    return torch.stack([(left * other).sum(2) for other in shifted], 2) / (channels // groups) ** 0.5


def seen(disparities: int, width: int, device: torch.device) -> Tensor:
    """Return which disparities of a column have a partner in view, (D, 1, width) bool."""
    return torch.arange(width, device=device) >= torch.arange(disparities, device=device)[:, None, None]


def best(score: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean disparity around the best one, (N, 1, h, w) in quarter pixels, and its probability.

    The mean is over the five disparities around the most probable one: over all it would lie between two surfaces.
    """
    probability = score.softmax(1)
    places = torch.arange(score.shape[1], device=score.device, dtype=score.dtype)[:, None, None]
    near = ((places - probability.argmax(1, keepdim=True)).abs() <= 2) * probability
    mass = near.sum(1, keepdim=True)
    return (near * places).sum(1, keepdim=True) / mass, mass


@torch.no_grad()
def consistent(score: Tensor) -> Tensor:
    """Return where left and right prefer each other, up to one entry, (N, 1, h, w), 0 or 1: elsewhere is occlusion.

    Args:
        score: (N, D, h, w) of the left image; entry j of right pixel x is entry j of left pixel x + j.
    """
    width = score.shape[-1]
    shifted = [functional.pad(score[:, j, :, j:], (0, j), value=UNSEEN) for j in range(score.shape[1])]
    other = torch.stack(shifted, 1).argmax(1, keepdim=True)
    own = score.argmax(1, keepdim=True)
    partner = torch.arange(width, device=score.device) - own
    apart = other.gather(3, partner.clamp(min=0)) - own
    return ((partner >= 0) & (apart.abs() <= 1)).to(score.dtype)


def spread_out(value: Tensor, weight: Tensor) -> Tensor:
    """Return a map without holes, (N, 1, h, w): what has little weight takes means of ever larger surroundings.

    Args:
        value: (N, 1, h, w).
        weight: likewise, in [0, 1]; 0 is a hole, and then the value counts for nothing.
    """
    height, width = value.shape[-2:]
    if height == width == 1:
        return torch.where(weight > 0, value, 0.0)
    size = -(-height // 2), -(-width // 2)
    mass = functional.interpolate(weight, size=size, mode="area")
    mean = functional.interpolate(value * weight, size=size, mode="area") / mass.clamp(min=1e-6)
    coarse = spread_out(mean, (4 * mass).clamp(max=1))
    return weight * value + (1 - weight) * functional.interpolate(coarse, size=(height, width), mode="bilinear")


def pyramid(score: Tensor) -> list[Tensor]:
    """Return the volume in steps of 1, 2, 4 quarter pixels."""
    found = [score]
    for _ in range(LEVELS - 1):
        height, width = score.shape[-2:]
        flat = found[-1].flatten(2).transpose(1, 2)
        flat = functional.pad(flat, (0, flat.shape[-1] % 2), mode="replicate")
        found.append(functional.avg_pool1d(flat, 2).transpose(1, 2).unflatten(2, (height, width)))
    return found


def read(levels: list[Tensor], place: Tensor) -> Tensor:
    """Return the scores around a disparity, (N, LEVELS (2 RADIUS + 1), h, w), linear between entries, 0 outside.

    Args:
        levels: of `pyramid`.
        place: (N, 1, h, w), quarter pixels.
    """
    offsets = torch.arange(-RADIUS, RADIUS + 1, device=place.device, dtype=place.dtype)[:, None, None]
    parts = []
    for power, volume in enumerate(levels):
        # Entry i of a level is the mean of entries 2^p i ... 2^p (i + 1) - 1: its centre lies (2^p - 1) / 2 farther.
        at = (place - (2**power - 1) / 2) / 2**power + offsets
        low = at.floor()
        weight = at - low
        value = torch.zeros_like(at)
        for index, share in ((low, 1 - weight), (low + 1, weight)):
            inside = (index >= 0) & (index <= volume.shape[1] - 1)
            entry = index.clamp(0, volume.shape[1] - 1).long()
            value = value + torch.where(inside, share * volume.gather(1, entry), 0.0)
        parts.append(value)
    return torch.cat(parts, 1)
