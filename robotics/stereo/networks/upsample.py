r"""From a quarter of the size to the whole: a learned convex combination, then a correction that sees both images.

    u(y, x) = 4 sum_k w_k(y, x) d_k(y / 4, x / 4),   w = softmax over the nine neighbours k
    d       = g m + (1 - g) (u + 2 tanh(r)),   r, logit g = c(left, |left - right warped by u|, u, m - u, known)

m is the map that was given and g lies between 0 and 1, 0 where it has a hole: a blade of grass that a matcher saw is
narrower than a quarter pixel, but glass that it saw through must not pass.

References: Teed and Deng, RAFT, 2020 (convex upsampling).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

FACTOR = 4
REACH = 2.0  # largest correction, px
UNTRUSTED = -3.0  # logit of the given map's share before any training


class Upsample(nn.Module):
    """The formula above.

    Args:
        features: channels of the features at a quarter.
        half: channels of those at a half.
        channels: of the correction.
    """

    def __init__(self, features: int, half: int, channels: int) -> None:
        super().__init__()
        self.weights = nn.Sequential(
            nn.Conv2d(features + 9, 64, 3, padding=1), nn.SiLU(), nn.Conv2d(64, 9 * FACTOR**2, 1)
        )
        self.finer = nn.Conv2d(half, channels, 1)
        self.enter = nn.Conv2d(9, channels, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation) for dilation in (1, 2, 4)
        )
        self.leave = nn.Conv2d(channels, 2, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        self.leave.bias = nn.Parameter(torch.tensor([0.0, UNTRUSTED]))  # begins nearly as the convex combination alone

    def forward(
        self,
        disparity: Tensor,
        quarter: Tensor,
        half: Tensor,
        left: Tensor,
        right: Tensor,
        start: Tensor,
        known: Tensor,
    ) -> Tensor:
        """Return the disparity (N, 1, H, W) in pixels.

        Args:
            disparity: (N, 1, H / 4, W / 4) in quarter pixels.
            quarter: features of the left image, (N, C, H / 4, W / 4).
            half: those at half the size.
            left: image (N, 3, H, W) about 0.
            right: likewise.
            start: the map that was given, (N, 1, H, W) in pixels.
            known: 1 where `start` was measured, 0 where it was filled, (N, 1, H, W).
        """
        coarse = self._convex(disparity, quarter)
        gap = (left - warped(right, coarse)).abs()
        seen = torch.cat([left, gap, coarse / 64, ((start - coarse) / REACH).clamp(-2, 2), known], 1)
        seen = seen.contiguous(memory_format=torch.channels_last)  # half of the time on a CPU
        h = self.enter(seen) + functional.interpolate(self.finer(half), scale_factor=2.0, mode="nearest")
        for layer in self.layers:
            h = h + layer(functional.silu(h))
        correction, trust = self.leave(functional.silu(h)).split(1, 1)
        fine = coarse + REACH * torch.tanh(correction)
        return fine + known * torch.sigmoid(trust) * (start - fine)

    def _convex(self, disparity: Tensor, quarter: Tensor) -> Tensor:
        count, _, height, width = disparity.shape
        near = functional.unfold(functional.pad(disparity, (1, 1, 1, 1), mode="replicate"), 3)
        near = near.reshape(count, 9, height, width)
        edges = (near - disparity).clamp(-2, 2)
        weights = self.weights(torch.cat([quarter, edges], 1)).reshape(count, 9, FACTOR**2, height, width).softmax(1)
        fine = FACTOR * (weights * near[:, :, None]).sum(1)
        return functional.pixel_shuffle(fine, FACTOR)


def warped(image: Tensor, disparity: Tensor) -> Tensor:
    """Return the right image as the left camera would see it, I(x - d), linear, borders repeated.

    Args:
        image: (N, C, H, W).
        disparity: (N, 1, H, W), px.
    """
    width = image.shape[-1]
    at = torch.arange(width, device=image.device, dtype=image.dtype) - disparity
    at = at.clamp(0, width - 1)
    low = at.floor().clamp(max=width - 2)
    weight = at - low
    index = low.long().expand(-1, image.shape[1], -1, -1)
    return (1 - weight) * image.gather(3, index) + weight * image.gather(3, index + 1)
