r"""Real networks on complex images: two channels, a common scale, and a size that the network can halve.

Both normalisations make the wrapped network homogeneous, network(a x) = a network(x) for a > 0:

    real-imaginary (fastMRI):   x -> (x - m) / s for the real and the imaginary part each; output y -> s y + m
    magnitude:                  x -> x / s with s^2 = mean |x|^2;                          output y -> s y

The second treats all phases alike, and a network whose last layer is zero gives zero.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from medical.reconstruction.learned.disco import Spacing

Statistics = Callable[[Tensor], tuple[Tensor, Tensor]]


def real_imaginary(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (N, 2, 1, 1) of channels (N, 2, H, W)."""
    return x.mean((2, 3), keepdim=True), x.std((2, 3), keepdim=True)


def magnitude(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return zero and the root mean square of the complex numbers, (N, 1, 1, 1), of channels (N, 2, H, W)."""
    energy = x.square().sum(1, keepdim=True).mean((2, 3), keepdim=True)
    # The square root of zero has no gradient: coils without signal would make all gradients NaN.
    scale = energy.clamp(min=torch.finfo(x.dtype).tiny).sqrt()
    return torch.zeros_like(scale), scale


class ImageNetwork(nn.Module):
    """A real network on images: forward(x (B, in, H, W), spacing) -> (B, out, H, W).

    Attributes:
        pools: H and W must be multiples of 2^pools.
    """

    pools: int

    def output_layer(self) -> nn.Module:
        """Return the linear layer that makes the output."""
        raise NotImplementedError


class ComplexNetwork(nn.Module):
    """A network of two channels and more as a map of complex images: (N, H, W) to (N, H, W).

    Args:
        network: from 2 + extra to 2 channels.
        statistics: `magnitude` or `real_imaginary`.
        start_at_zero: make the last layer zero, so that training starts at the zero map (with `magnitude`).
    """

    def __init__(
        self, network: ImageNetwork, statistics: Statistics = magnitude, *, start_at_zero: bool = False
    ) -> None:
        super().__init__()
        self.network, self.statistics = network, statistics
        if start_at_zero:
            for parameter in network.output_layer().parameters():
                nn.init.zeros_(parameter)

    def forward(
        self, x: Tensor, spacing: Spacing, extra: Tensor | None = None, condition: Tensor | None = None
    ) -> Tensor:
        """Return the network's complex output.

        Args:
            x: complex (N, H, W), any H and W.
            spacing: pixel size (y, x), in the unit of the network's bases.
            extra: real (N, channels, H, W), seen by the network as it is.
            condition: real (N, conditions), of a network that takes any.
        """
        channels = torch.view_as_real(x).movedim(-1, 1)
        mean, scale = self.statistics(channels)
        seen = (channels - mean) / scale.clamp(min=torch.finfo(scale.dtype).tiny ** 0.5)
        if extra is not None:
            seen = torch.cat([seen, extra.to(seen.dtype)], dim=1)
        padding = halving_padding(x.shape[-2], x.shape[-1], self.network.pools)
        given = () if condition is None else (condition.to(seen.dtype),)
        out = self.network(functional.pad(seen, padding), spacing, *given)
        left, _, top, _ = padding
        out = out[..., top : top + x.shape[-2], left : left + x.shape[-1]]
        return torch.view_as_complex((out * scale + mean).movedim(1, -1).contiguous())


def halving_padding(height: int, width: int, pools: int) -> tuple[int, int, int, int]:
    """Return zeros (left, right, top, bottom) that make both sizes multiples of 2^pools, and two pixels when halved."""

    def around(size: int) -> tuple[int, int]:
        unit = 2**pools
        missing = max(-(-size // unit) * unit, 2 * unit) - size
        return missing // 2, missing - missing // 2

    return *around(width), *around(height)
