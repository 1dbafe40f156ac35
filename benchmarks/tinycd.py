"""TinyCD as a peer: the network that its published weights fit, written from its paper and the names in the file.

Codegoni, Lombardi and Ferrari, TINYCD: A (Not So) Deep Learning Model For Change Detection, 2022. Both dates go through
the first stages of EfficientNet-B4 (Tan and Le, 2019); their features are mixed pairwise into masks that are multiplied
on the way up. The weights are for non-commercial research and are not part of this repository.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, on which the first stages were pretrained
STAGES = ((24, 2, 1, 3, 1), (32, 4, 2, 3, 6), (56, 4, 2, 5, 6))  # channels, blocks, stride, kernel, expansion


def normed(
    entering: int, leaving: int, kernel: int, *, stride: int = 1, groups: int = 1, swish: bool = True
) -> nn.Module:
    """Return convolution, batch normalisation and, where asked, swish."""
    convolution = nn.Conv2d(entering, leaving, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(leaving), *([nn.SiLU()] if swish else []))


class Squeeze(nn.Module):
    """h sigmoid(W_2 swish(W_1 mean(h)))."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 1)

    def forward(self, h: Tensor) -> Tensor:
        """Return h with its channels weighted."""
        return h * torch.sigmoid(self.fc2(F.silu(self.fc1(h.mean((2, 3), keepdim=True)))))


class Inverted(nn.Module):
    """The inverted residual block of EfficientNet."""

    def __init__(self, entering: int, leaving: int, stride: int, kernel: int, expansion: int) -> None:
        super().__init__()
        wide = entering * expansion
        self.skips = stride == 1 and entering == leaving
        self.block = nn.Sequential(
            *([normed(entering, wide, 1)] if expansion > 1 else []),
            normed(wide, wide, kernel, stride=stride, groups=wide),
            Squeeze(wide, entering // 4),
            normed(wide, leaving, 1, swish=False),
        )

    def forward(self, h: Tensor) -> Tensor:
        """Return the next h."""
        return self.block(h) + h if self.skips else self.block(h)


class Mixing(nn.Module):
    """One 3 x 3 convolution for each channel of the two dates."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self._convmix = nn.Sequential(
            nn.Conv2d(2 * width, width, 3, padding=1, groups=width), nn.PReLU(), nn.InstanceNorm2d(width)
        )

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Return the mixed channels."""
        return self._convmix(torch.stack([before, after], 2).flatten(1, 2))


class Pixelwise(nn.Module):
    """1 x 1 convolutions."""

    def __init__(self, widths: Sequence[int], *, last: nn.Module | None = None) -> None:
        super().__init__()
        parts = []
        for index, (entering, leaving) in enumerate(pairwise(widths)):
            ends = last is not None and index == len(widths) - 2
            parts.append(nn.Sequential(nn.Conv2d(entering, leaving, 1), last if ends else nn.PReLU()))
        self._linears = nn.Sequential(*parts)

    def forward(self, h: Tensor) -> Tensor:
        """Return the next h."""
        return self._linears(h)


class Mask(nn.Module):
    """Mixing, then one number a pixel."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self._mixing, self._linear = Mixing(widths[0]), Pixelwise(widths)

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Return the mask (N, 1, H, W)."""
        return self._linear(self._mixing(before, after))


class Rise(nn.Module):
    """Twice the grid, times a mask, convolved."""

    def __init__(self, entering: int, leaving: int) -> None:
        super().__init__()
        self._convolution = nn.Sequential(
            nn.Conv2d(entering, entering, 3, padding=1, groups=entering), nn.PReLU(), nn.InstanceNorm2d(entering),
            nn.Conv2d(entering, leaving, 1), nn.PReLU(), nn.InstanceNorm2d(leaving),
        )  # fmt: skip

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        """Return h on the grid of the mask."""
        return self._convolution(F.interpolate(h, scale_factor=2.0, mode="bilinear", align_corners=True) * mask)


class TinyCD(nn.Module):
    """The network; images in [0, 255] go in, probabilities (N, H, W) come out."""

    def __init__(self) -> None:
        super().__init__()
        stages, now = [normed(3, 48, 3, stride=2)], 48
        for width, blocks, stride, kernel, expansion in STAGES:
            parts = []
            for index in range(blocks):
                parts.append(Inverted(now, width, stride if index == 0 else 1, kernel, expansion))
                now = width
            stages.append(nn.Sequential(*parts))
        self._backbone = nn.ModuleList(stages)
        self._first_mix = Mask((3, 10, 5, 1))
        self._mixing_mask = nn.ModuleList([Mask((24, 12, 6, 1)), Mask((32, 16, 8, 1)), Mixing(56)])
        self._up = nn.ModuleList([Rise(56, 64), Rise(64, 64), Rise(64, 32)])
        self._classify = Pixelwise((32, 16, 8, 1), last=nn.Sigmoid())

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Return the probability of change."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
        a, b = ((image / 255 - mean) / std for image in (before, after))
        found = [self._first_mix(a, b)]
        for index, stage in enumerate(self._backbone):
            a, b = stage(a), stage(b)
            if index:
                found.append(self._mixing_mask[index - 1](a, b))
        h = found.pop()
        for rise in self._up:
            h = rise(h, found.pop())
        return self._classify(h)[:, 0]


def load_tinycd(path: Path) -> TinyCD:
    """Return the network with published weights, in evaluation mode."""
    network = TinyCD()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval().requires_grad_(False)
