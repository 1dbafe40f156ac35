"""The U-Net that denoises: from a quarter of the image down to a thirty-second and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """Two convolutions, the second after a scale and shift by the embedding of the noise level.

    Args:
        before: channels of the input.
        after: channels of the output.
        embedding: size of the embedding.
    """

    def __init__(self, before: int, after: int, embedding: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(8, before), nn.SiLU(), nn.Conv2d(before, after, 3, padding=1))
        self.told = nn.Linear(embedding, 2 * after)
        self.norm = nn.GroupNorm(8, after)
        self.second = nn.Conv2d(after, after, 3, padding=1)
        self.skip = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return (N, after, h, w) of x (N, before, h, w) and the embedding (N, E)."""
        scale, shift = self.told(embedding)[..., None, None].chunk(2, 1)
        h = self.norm(self.first(x)) * (1 + scale) + shift
        return self.skip(x) + self.second(functional.silu(h))


class UNet(nn.Module):
    """A block on each level on the way down and up; half the size from level to level.

    Args:
        channels: of the levels, multiples of 8, the finest first. The input has as many as the finest level.
        embedding: size of the embedding.
    """

    def __init__(self, channels: Sequence[int], embedding: int) -> None:
        super().__init__()
        before = [channels[0], *channels[:-1]]
        self.down = nn.ModuleList(Block(a, b, embedding) for a, b in zip(before, channels, strict=True))
        self.middle = Block(channels[-1], channels[-1], embedding)
        self.up = nn.ModuleList(Block(2 * b, a, embedding) for a, b in zip(before, channels, strict=True))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return (N, C, h, w) of x (N, C, h, w); h and w multiples of 2^(levels - 1)."""
        kept: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else functional.avg_pool2d(x, 2), embedding)
            kept.append(x)
        x = self.middle(x, embedding)
        for level in reversed(range(len(self.up))):
            x = self.up[level](torch.cat([x, kept[level]], 1), embedding)
            if level:
                x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
        return x
