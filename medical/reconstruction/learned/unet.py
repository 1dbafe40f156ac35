"""The U-Net of fastMRI (Zbontar et al. 2018, arXiv 1811.08839): 3 x 3 convolutions, transposed convolutions to rise."""

from __future__ import annotations

from torch import Tensor, nn

from medical.reconstruction.learned.disco import Spacing
from medical.reconstruction.learned.ushaped import UShaped


def unet(
    in_channels: int, out_channels: int, *, channels: int, pools: int, conditions: int = 0, dropout: float = 0.0
) -> UShaped:
    """Return the U-Net: every convolution without bias but the last; arguments as in `UShaped`."""
    return UShaped(
        in_channels,
        out_channels,
        channels=channels,
        pools=pools,
        convolution=lambda enter, leave, level: PixelConvolution(nn.Conv2d(enter, leave, 3, padding=1, bias=False)),
        rise=lambda enter, leave, level: PixelConvolution(nn.ConvTranspose2d(enter, leave, 2, stride=2, bias=False)),
        conditions=conditions,
        dropout=dropout,
    )


class PixelConvolution(nn.Module):
    """A convolution fixed in pixels, deaf to their size.

    Args:
        convolution: module x -> y.
    """

    def __init__(self, convolution: nn.Module) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, x: Tensor, spacing: Spacing) -> Tensor:
        """Return the convolution of x."""
        return self.convolution(x)
