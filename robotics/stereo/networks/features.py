"""Features of one image at a half and a quarter of its size, the same network for left and right."""

from __future__ import annotations

from torch import Tensor, nn


class Residual(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), in the style of pre-activation ResNets.

    Args:
        channels: of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.InstanceNorm2d(channels, affine=True),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.InstanceNorm2d(channels, affine=True),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the shape of x, (N, C, h, w)."""
        return x + self.layers(x)


class Features(nn.Module):
    """Convolutions with instance norm, which takes away most of a difference in exposure and gain.

    Args:
        half: channels at half the size.
        quarter: channels at a quarter.
    """

    def __init__(self, half: int, quarter: int) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(3, half, 5, stride=2, padding=2), Residual(half))
        self.down = nn.Sequential(
            nn.InstanceNorm2d(half, affine=True),
            nn.SiLU(),
            nn.Conv2d(half, quarter, 3, stride=2, padding=1),
            Residual(quarter),
            Residual(quarter),
        )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (N, half, H / 2, W / 2) and (N, quarter, H / 4, W / 4) of images (N, 3, H, W) about 0."""
        half = self.enter(image)
        return half, self.down(half)
