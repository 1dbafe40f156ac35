r"""`cd_head_v2`, the change head of DDPM-CD: features of two dates, coarse to fine, to two logits a pixel.

    g_l(f) = relu(conv3(relu(conv1(f of all timesteps))))       without conv1 where there is one timestep
    d_l    = |g_l(f_A) - g_l(f_B)| + x_{l+1}                     x = 0 at the coarsest level
    x_l    = rise(SE(relu(conv3(d_l))))                          bilinear x 2, at every level but the finest
    SE(h)  = h sigmoid(W_2 relu(W_1 mean(h))) + h sigmoid(w h)   (Roy et al., 2018, the sum of channels' and places')
    logits = conv3(relu(conv3(x_1)))

With `ordered` the dates are told apart, and what both show decides how much their difference counts:

    d_l    = |a - b| (1 + tanh(Q_l [a, b])) + S_l (a - b) + x_{l+1},    a = g_l(f_A), b = g_l(f_B)

S_l has no bias, so equal dates still differ by exactly nothing; both begin at 0, where this is the published head.

The published graph ends with x_1: it computes the finest difference d_0 and never uses it. So features of the finest
level need not be computed, and its weights (`decoder.8`) are loaded and idle. `use_finest` classifies d_0 instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from remote_sensing.ddpm_cd.config import DetectorConfig

CLASSES = 2  # unchanged, changed


class Branch(nn.Module):
    """g_l: the same for both dates."""

    def __init__(self, width: int, timesteps: int) -> None:
        super().__init__()
        one = timesteps == 1
        self.block = nn.Sequential(
            nn.Identity() if one else nn.Conv2d(timesteps * width, width, 1),
            nn.Identity() if one else nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return g (N, width, H, W) of the features of all timesteps (N, timesteps x width, H, W)."""
        return self.block(features)


class ChannelExcitation(nn.Module):
    """h sigmoid(W_2 relu(W_1 mean(h)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, width // 2), nn.Linear(width // 2, width)

    def forward(self, h: Tensor) -> Tensor:
        """Return h with its channels weighted."""
        weights = torch.sigmoid(self.fc2(F.relu(self.fc1(h.mean((2, 3))))))
        return h * weights[:, :, None, None]


class PlaceExcitation(nn.Module):
    """h sigmoid(w h)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, 1, 1)

    def forward(self, h: Tensor) -> Tensor:
        """Return h with its places weighted."""
        return h * torch.sigmoid(self.conv(h))


class ConcurrentExcitation(nn.Module):
    """The sum of both."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cSE, self.sSE = ChannelExcitation(width), PlaceExcitation(width)

    def forward(self, h: Tensor) -> Tensor:
        """Return the excited h."""
        return self.cSE(h) + self.sSE(h)


class Fusion(nn.Module):
    """SE(relu(conv3(d)))."""

    def __init__(self, entering: int, leaving: int) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(entering, leaving, 3, padding=1), nn.ReLU(), ConcurrentExcitation(leaving))

    def forward(self, difference: Tensor) -> Tensor:
        """Return what the next finer level is given, before it rises."""
        return self.block(difference)


class Ordered(nn.Module):
    """|a - b| (1 + tanh(Q [a, b])) + S (a - b): zero where a = b; |a - b| as long as Q = S = 0."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.context, self.sign = nn.Conv2d(2 * width, width, 1), nn.Conv2d(width, width, 1, bias=False)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the difference (N, width, H, W) of two dates' g."""
        change = a - b
        return change.abs() * (1 + torch.tanh(self.context(torch.cat([a, b], 1)))) + self.sign(change)


class ChangeHead(nn.Module):
    """The head: `embed` the features of each date, then `compare` two dates.

    Args:
        config: of the detector; widths and levels are those of its UNet.
    """

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        unet, head = config.diffusion.unet, config.head
        self.scales, self.used, self.fold = config.scales, config.used_scales, unet.fold
        widths = [unet.widths[unet.level_of(scale)] for scale in self.scales]
        layers: list[nn.Module] = []
        for place, width in enumerate(widths):
            layers.append(Branch(width, len(head.timesteps)))
            if place + 1 < len(widths):
                layers.append(Fusion(width, widths[place + 1]))
        self.decoder = nn.ModuleList(layers)
        self.clfr_stg1 = nn.Conv2d(widths[-1], head.hidden, 3, padding=1)
        self.clfr_stg2 = nn.Conv2d(head.hidden, CLASSES * self.fold**2, 3, padding=1)
        self.order = nn.ModuleList(Ordered(width) for width in widths[: len(self.used)]) if head.ordered else None

    def embed(self, features: Mapping[int, Tensor]) -> list[Tensor]:
        """Return g of one date at every used level, coarsest first.

        Args:
            features: scale -> (N, timesteps x width, H, W), at least those of `used`.
        """
        return [self.decoder[2 * place](features[scale]) for place, scale in enumerate(self.used)]

    def compare(self, before: Sequence[Tensor], after: Sequence[Tensor]) -> Tensor:
        """Return the logits (N, 2, H, W) of two dates' `embed`; unless `ordered`, swapping them changes nothing."""
        rising: Tensor | float = 0.0
        for place, (a, b) in enumerate(zip(before, after, strict=True)):
            difference = ((a - b).abs() if self.order is None else self.order[place](a, b)) + rising
            if place + 1 == len(self.scales):
                rising = difference
            else:
                rising = F.interpolate(
                    self.decoder[2 * place + 1](difference), scale_factor=2.0, mode="bilinear", align_corners=False
                )
        assert isinstance(rising, Tensor)
        return F.pixel_shuffle(self.clfr_stg2(F.relu(self.clfr_stg1(rising))), self.fold)

    def forward(self, before: Mapping[int, Tensor], after: Mapping[int, Tensor]) -> Tensor:
        """Return the logits (N, 2, H, W) of the features of two dates."""
        return self.compare(self.embed(before), self.embed(after))
