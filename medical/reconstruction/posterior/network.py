r"""The network of the slice prior: a small convolutional U-Net over complex images of any size.

Images are real (N, 2, H, W), real and imaginary part, H and W multiples of `SliceUNetConfig.multiple`. The first layer
folds each 2 x 2 block of pixels into channels (space to depth), so the widest part of the network runs at a quarter of
the pixels; levels below halve the grid again. There is no attention and no position code: what is learned on one
matrix size and field of view is used on any other of about the same pixel size.

A residual block is told the noise level by scale and shift (Perez et al., FiLM, 2018):

    h <- h' + conv(silu((1 + scale) GroupNorm(conv(silu(GroupNorm(h)))) + shift)),      h' = h, or its 1 x 1 convolution

The last convolution of a block and of the network start at 0: inside the preconditioning of EDM an untrained network is
the best linear denoiser of white data.

References:
    Ronneberger, Fischer and Brox, U-Net, 2015.
    Karras et al., Elucidating the Design Space, 2022.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.networks import TimeEmbedding

FOLD = 2
GROUP = 16  # channels a group of GroupNorm


@dataclass(frozen=True)
class SliceUNetConfig:
    """Size of the network.

    Attributes:
        widths: channels of each level, multiples of 16; the first level has a quarter of the image's pixels.
        blocks: residual blocks a level, on the way down and again on the way up.
        embedding: size of the embedding of the noise level.
    """

    widths: tuple[int, ...] = (64, 96, 128)
    blocks: int = 1
    embedding: int = 128

    @property
    def multiple(self) -> int:
        """Return what H and W must be multiples of."""
        return FOLD * 2 ** (len(self.widths) - 1)


class Block(nn.Module):
    """The residual block of the module docstring."""

    def __init__(self, entering: int, width: int, embedding: int) -> None:
        super().__init__()
        self.before = nn.GroupNorm(entering // GROUP, entering)
        self.first = nn.Conv2d(entering, width, 3, padding=1)
        self.between = nn.GroupNorm(width // GROUP, width)
        self.modulation = nn.Linear(embedding, 2 * width)
        self.last = _zeroed(nn.Conv2d(width, width, 3, padding=1))
        self.skip = nn.Identity() if entering == width else nn.Conv2d(entering, width, 1)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """Return the next h (N, width, ., .), given the embedding (N, E)."""
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        inner = self.first(F.silu(self.before(h)))
        return self.skip(h) + self.last(F.silu((1 + scale) * self.between(inner) + shift))


class SliceUNet(nn.Module):
    """The raw network F of `PreconditionedDenoiser`: (x (N, 2, H, W), time (N,)) -> (N, 2, H, W).

    Args:
        config: size of the network.
    """

    def __init__(self, config: SliceUNetConfig | None = None) -> None:
        super().__init__()
        self.config = config or SliceUNetConfig()
        widths, embedding = self.config.widths, self.config.embedding
        self.time = TimeEmbedding(embedding)
        self.enter = nn.Conv2d(2 * FOLD**2, widths[0], 3, padding=1)
        self.descent, self.ascent = nn.ModuleList(), nn.ModuleList()
        self.halving, self.doubling = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            if level:
                self.halving.append(nn.Conv2d(widths[level - 1], width, 2, stride=2))
                self.doubling.append(nn.ConvTranspose2d(width, widths[level - 1], 2, stride=2))
            self.descent.append(nn.ModuleList(Block(width, width, embedding) for _ in range(self.config.blocks)))
            self.ascent.append(
                nn.ModuleList(Block(width if k else 2 * width, width, embedding) for k in range(self.config.blocks))
            )
        self.norm = nn.GroupNorm(widths[0] // GROUP, widths[0])
        self.leave = _zeroed(nn.Conv2d(widths[0], 2 * FOLD**2, 3, padding=1))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Return the output of the shape of x, given one time a sample (N,)."""
        embedding = self.time(time)
        h = self.enter(F.pixel_unshuffle(x, FOLD))
        kept = []
        for level, blocks in enumerate(self.descent):
            h = self.halving[level - 1](h) if level else h
            for block in blocks.children():
                h = block(h, embedding)
            kept.append(h)
        for level in reversed(range(len(self.ascent))):
            h = torch.cat([h, kept[level]], dim=1)
            for block in self.ascent[level].children():
                h = block(h, embedding)
            h = self.doubling[level - 1](h) if level else h
        return F.pixel_shuffle(self.leave(F.silu(self.norm(h))), FOLD)


def _zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
