r"""Guidance: what a pair says about a map, while the map is being sampled.

At every call the estimate x_0 becomes a map in pixels, and `rounds` times each pixel is moved to where the sum of four
costs is smaller, by at most a cap:

    photometric    0.85 (1 - SSIM_3x3) / 2 + 0.15 |I_l - I_r(x - d)|     where the partner is in view and the image has
                                                                         texture
    left-right     min(|d - D_r(x - d)|, 4 px) / 4                       where the right map is known
    smoothness     sum over right and lower neighbour of min(|d - d'|, 4 px) / 4  e^(-|I - I'| / 0.1)
    raw            min(|d - d_raw|, 4 px) / 4                            where the sensor measured

A step goes along the sign of the gradient of the whole cost, by g / (|g| + rms g) of the cap; where it does not lower
the pixel's own cost (averaged over 5 x 5) it is taken back. The cap shrinks as the noise grows, sqrt(1 - sigma^2) of
it, because an early estimate is a mean of many maps. Glass and mirrors show something that is not their surface, and
there the photometric cost misleads: it counts only where the sensor's own match, if one is given, lies within 2 px.

With all weights 0 the denoiser is returned as it is.

Reference: D3RoMa (Wei et al., CoRL 2024) guides by SSIM and smoothness; its published code cannot run it. The gates and
the left-right cost are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional

from robotics.stereo.config import Settings
from robotics.stereo.model import View
from robotics.stereo.networks.upsample import FACTOR, warped
from shared.denoiser import Denoiser
from shared.process import Time

LIMIT = 4.0  # px, beyond which a difference of disparities costs no more
EDGE = 0.1  # contrast, of images in [0, 1], at which smoothness counts 1/e
TEXTURE = 0.01  # smallest standard deviation in 3 x 3 pixels, of images in [0, 1]
AGREES = 2.0  # px


class GuidanceWeights(Settings):
    """How much each cost counts, and how far a step goes.

    Attributes:
        photometric: of the images.
        left_right: of the right map.
        smooth: of neighbours.
        raw: of the sensor's map.
        cap_px: largest step of a pixel in a round.
        rounds: steps after each network call.
    """

    photometric: NonNegativeFloat = 0.0
    left_right: NonNegativeFloat = 0.0
    smooth: NonNegativeFloat = 0.0
    raw: NonNegativeFloat = 0.0
    cap_px: PositiveFloat = 0.5
    rounds: PositiveInt = 2

    @property
    def off(self) -> bool:
        """Return whether nothing counts."""
        return self.photometric == self.left_right == self.smooth == self.raw == 0


@dataclass(frozen=True)
class Guidance:
    """A change of the denoiser, for `StereoModel.draw(..., guidance=...)`.

    Attributes:
        weights: of the costs.
        right: disparity of the right image, (height, width), px; None leaves the left-right cost out.
        raw: the sensor's map, (height, width), px, NaN in holes; None leaves its cost and the gate out.
    """

    weights: GuidanceWeights
    right: Tensor | None = None
    raw: Tensor | None = None

    def __call__(self, denoiser: Denoiser, view: View) -> Denoiser:
        """Return the guided denoiser."""
        if self.weights.off:
            return denoiser

        def guided(x: Tensor, t: Time) -> Tensor:
            estimate = denoiser(x, t)
            share = float((1 - view.model.process.sigma(t).square()).clamp(min=0).sqrt().mean())
            cap = self.weights.cap_px * share
            for round_ in range(self.weights.rounds):
                estimate = self._step(estimate, view, cap / 2**round_)
            return estimate

        return guided

    def _step(self, estimate: Tensor, view: View, cap: float) -> Tensor:
        network, start = view.model.network, view.prepared.start
        before = start + network.decode(estimate)
        with torch.enable_grad():
            moved = torch.zeros_like(before).requires_grad_()
            near = self._costs(before + moved, view)
            (slope,) = torch.autograd.grad(near.sum(), moved)
        size = slope.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        after = before - cap / FACTOR * slope / (slope.abs() + size + 1e-12)
        with torch.no_grad():
            better = _around(self._costs(after, view)) < _around(near)
        chosen = torch.where(better, after, before)
        return torch.where(better, network.encode(chosen - start).clamp(-1, 1), estimate)

    def _costs(self, quarter: Tensor, view: View) -> Tensor:
        """Return the cost of every quarter pixel, (N, 1, h, w), differentiable."""
        prepared, weights = view.prepared, self.weights
        disparity = view.model.network.upsample(
            quarter, prepared.quarter, prepared.half, prepared.left, prepared.right, prepared.first, prepared.known
        )
        left, right = ((image + 2) / 4 for image in (prepared.left, prepared.right))
        total = torch.zeros_like(disparity)
        if weights.photometric:
            gate = self._textured(left) & self._in_view(disparity)
            if self.raw is not None:
                gate &= (disparity - self._padded(self.raw, view)).abs() <= AGREES
            total = total + weights.photometric * gate * photometric(left, warped(right, disparity))
        if weights.left_right and self.right is not None:
            # Repeated beyond its border: a derivative through unknown values would be unknown everywhere.
            right = self._padded(self.right, view, "replicate")
            gap = torch.where(self._in_view(disparity), disparity - warped(right.expand_as(disparity), disparity), 0.0)
            total = total + weights.left_right * _limited(gap)
        if weights.smooth:
            total = total + weights.smooth * smoothness(disparity, left)
        if weights.raw and self.raw is not None:
            raw = self._padded(self.raw, view)
            total = total + weights.raw * _limited(torch.where(raw.isfinite(), disparity - raw.nan_to_num(), 0.0))
        return functional.avg_pool2d(total, FACTOR)

    @staticmethod
    def _textured(image: Tensor) -> Tensor:
        mean, square = _mean3(image), _mean3(image.square())
        return (square - mean.square()).mean(1, keepdim=True) > TEXTURE**2

    @staticmethod
    def _in_view(disparity: Tensor) -> Tensor:
        return torch.arange(disparity.shape[-1], device=disparity.device) >= disparity

    @staticmethod
    def _padded(value: Tensor, view: View, mode: str = "constant") -> Tensor:
        height, width = view.prepared.left.shape[-2:]
        more = width - value.shape[-1], height - value.shape[-2]
        filled = {"value": float("nan")} if mode == "constant" else {}
        return functional.pad(value[None, None], (0, more[0], 0, more[1]), mode, **filled)


def photometric(left: Tensor, right: Tensor) -> Tensor:
    """Return 0.85 (1 - SSIM) / 2 + 0.15 |difference| over 3 x 3 pixels, (N, 1, H, W), of images in [0, 1]."""
    a, b = _mean3(left), _mean3(right)
    va, vb = _mean3(left.square()) - a.square(), _mean3(right.square()) - b.square()
    both = _mean3(left * right) - a * b
    c1, c2 = 0.01**2, 0.03**2
    ssim = (2 * a * b + c1) * (2 * both + c2) / ((a.square() + b.square() + c1) * (va + vb + c2))
    found = 0.85 * ((1 - ssim) / 2).clamp(0, 1) + 0.15 * (left - right).abs()
    return found.mean(1, keepdim=True)


def smoothness(disparity: Tensor, image: Tensor) -> Tensor:
    """Return the edge-aware differences to the right and lower neighbour, (N, 1, H, W)."""
    total = torch.zeros_like(disparity)
    for axis, pad in ((3, (0, 1, 0, 0)), (2, (0, 0, 0, 1))):
        edge = image.diff(dim=axis).abs().mean(1, keepdim=True)
        total = total + functional.pad(_limited(disparity.diff(dim=axis)) * torch.exp(-edge / EDGE), pad)
    return total


def _limited(gap: Tensor) -> Tensor:
    return gap.abs().clamp(max=LIMIT) / LIMIT


def _mean3(x: Tensor) -> Tensor:
    return functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


def _around(cost: Tensor) -> Tensor:
    """Return means over 5 x 5, because a pixel's own cost is noisy."""
    return functional.avg_pool2d(functional.pad(cost, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
