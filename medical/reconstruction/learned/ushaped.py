"""The U that the U-Net and the U-shaped neural operator share: they differ in their layers only.

    down:  block, keep a copy, average 2 x 2 pixels         (channels double a level)
    up:    rise to twice the size, join the copy, block     (channels halve a level)
    last:  1 x 1 convolution

A block is twice [convolution, instance normalisation, leaky ReLU 0.2, dropout of channels] (Ronneberger et al., 2015,
in the variant of fastMRI, Zbontar et al. 2018, arXiv 1811.08839).

Normalisation wipes out constant channels, so numbers that hold for the whole image, such as the noise level, cannot
come as images. They set scale and shift of every channel behind it, h -> (1 + a(c)) h + b(c), a and b linear and zero
at the start (Perez et al., FiLM, AAAI 2018).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from medical.reconstruction.learned.disco import Spacing
from medical.reconstruction.learned.normalise import ImageNetwork

Layer = Callable[[int, int, int], nn.Module]
"""A function (channels in, channels out, level) -> module with forward(x, spacing); level 0 is the finest grid."""


class Block(nn.Module):
    """Twice [layer, instance normalisation, leaky ReLU, dropout].

    Args:
        first: module (x, spacing) -> y.
        second: module (x, spacing) -> y.
        channels: of y.
        conditions: how many numbers modulate the features.
        dropout: probability to drop a channel in training.
    """

    def __init__(
        self, first: nn.Module, second: nn.Module, *, channels: int, conditions: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.dropout = dropout
        self.modulation = nn.Linear(conditions, 4 * channels) if conditions else None
        if self.modulation is not None:
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, spacing: Spacing, condition: Tensor | None = None) -> Tensor:
        """Return the block's features on the grid of x."""
        modulations: tuple[Tensor | None, ...] = (None, None)
        if self.modulation is not None:
            modulations = self.modulation(condition)[..., None, None].chunk(2, dim=1)
        for layer, modulation in zip((self.first, self.second), modulations, strict=True):
            x = activate(layer(x, spacing), modulation)
            if self.dropout:
                x = functional.dropout2d(x, self.dropout, self.training)
        return x


def activate(x: Tensor, modulation: Tensor | None = None) -> Tensor:
    """Return leaky ReLU (slope 0.2) of x with every channel brought to mean 0 and variance 1, then modulated.

    Args:
        x: features (B, C, H, W).
        modulation: a and b of FiLM, (B, 2 C, 1, 1).
    """
    x = functional.instance_norm(x)
    if modulation is not None:
        scale, shift = modulation.chunk(2, dim=1)
        x = torch.addcmul(shift, 1 + scale, x)
    return functional.leaky_relu(x, 0.2)


class UShaped(ImageNetwork):
    """The U over (B, in_channels, H, W), H and W divisible by 2^pools.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        channels: of the finest level.
        pools: number of times that the grid is halved.
        convolution: makes the layers of the blocks.
        rise: makes the layers that double the grid; called with the level they rise to.
        conditions: how many numbers modulate the features of all blocks.
        dropout: probability to drop a channel in training.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        channels: int,
        pools: int,
        convolution: Layer,
        rise: Layer,
        conditions: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()

        def block(enter: int, leave: int, level: int) -> Block:
            first, second = convolution(enter, leave, level), convolution(leave, leave, level)
            return Block(first, second, channels=leave, conditions=conditions, dropout=dropout)

        widths = [channels * 2**level for level in range(pools + 1)]
        self.pools = pools
        self.down = nn.ModuleList(
            block(in_channels if level == 0 else widths[level - 1], widths[level], level) for level in range(pools)
        )
        self.bottleneck = block(widths[pools - 1] if pools else in_channels, widths[pools], pools)
        levels = range(pools - 1, -1, -1)
        self.rise = nn.ModuleList(rise(widths[level + 1], widths[level], level) for level in levels)
        self.up = nn.ModuleList(block(2 * widths[level], widths[level], level) for level in levels)
        self.last = nn.Conv2d(channels, out_channels, kernel_size=1)

    def output_layer(self) -> nn.Module:
        """Return the 1 x 1 convolution."""
        return self.last

    def forward(self, x: Tensor, spacing: Spacing, condition: Tensor | None = None) -> Tensor:
        """Return the output (B, out_channels, H, W).

        Args:
            x: (B, in_channels, H, W).
            spacing: size of a pixel (y, x).
            condition: (B, conditions); needed where there are any.
        """
        copies = []
        for block in self.down:
            x = block(x, spacing, condition)
            copies.append(x)
            x, spacing = functional.avg_pool2d(x, 2), (2 * spacing[0], 2 * spacing[1])
        x = self.bottleneck(x, spacing, condition)
        for rise, block in zip(self.rise, self.up, strict=True):
            spacing = (spacing[0] / 2, spacing[1] / 2)
            x = block(torch.cat([activate(rise(x, spacing)), copies.pop()], dim=1), spacing, condition)
        return self.last(x)
