r"""Scanning Fourier ring correlation: where two reconstructions of one scan disagree in structure.

The Fourier ring correlation of two patches a and b at radius k is

    FRC(k) = Re sum_ring A conj(B) / sqrt(sum_ring |A|^2 sum_ring |B|^2),

1 where they hold the same structure at that scale and near 0 where they are independent. A network that inserts or
erases structure lowers it in the patch where that happens, while means over the image hardly move (sFRC: scanning the
FRC over patches as a detector of hallucinations, arXiv 2603.04673, and the definition of the term, arXiv 2508.14118).
The images are compared with each other, so a low value says that they disagree, not which of them is right.
"""

from __future__ import annotations

import torch
from torch import Tensor

PATCH = 24
STEP = 8
TINY = torch.finfo(torch.float64).tiny


def ring_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return FRC(k) of real patches (..., n, n) under a Hann window, without their means.

    Returns:
        float64 (..., n // 2): rings k = 1 ... n // 2 cycles a patch, each one cycle wide.
    """
    shared, *powers = _rings(first, second)
    return _correlation(shared, (powers[0] * powers[1]).sqrt())


def agreement_map(first: Tensor, second: Tensor, *, patch: int = PATCH, step: int = STEP) -> Tensor:
    """Return the ring correlation of two magnitude images patch by patch, averaged over rings by their amplitude.

    Every pixel has the mean over the patches that hold it. Patches without structure in either image (less than 1 % of
    the largest energy of a patch) count as agreeing: there is nothing to disagree about.

    Args:
        first: real or complex (y, x).
        second: the same.
        patch: side of a patch in pixels, less where the image is smaller.
        step: distance between patches.

    Returns:
        float32 (y, x) from -1 to 1.
    """
    a, b = first.abs().to(torch.float64), second.abs().to(torch.float64)
    side = min(patch, *a.shape)
    starts = [sorted({*range(0, n - side + 1, step), n - side}) for n in a.shape]
    places = [(y, x) for y in starts[0] for x in starts[1]]
    patches = [torch.stack([image[y : y + side, x : x + side] for y, x in places]) for image in (a, b)]
    shared, *powers = _rings(*patches)
    common = (powers[0] * powers[1]).sqrt()
    weights = common.sqrt()
    value = (_correlation(shared, common) * weights).sum(-1) / weights.sum(-1).clamp_min(TINY)
    energy = torch.maximum(powers[0].sum(-1), powers[1].sum(-1))
    value = torch.where(energy < 0.01 * energy.max(), 1.0, value)
    total, count = torch.zeros_like(a), torch.zeros_like(a)
    for (y, x), found in zip(places, value, strict=True):
        total[y : y + side, x : x + side] += found
        count[y : y + side, x : x + side] += 1
    return (total / count).to(torch.float32)


def _rings(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return sum_ring Re A conj(B), sum_ring |A|^2 and sum_ring |B|^2, each (..., rings)."""
    side = first.shape[-1]
    window = torch.hann_window(side, periodic=False, dtype=torch.float64)
    window = window[:, None] * window
    frequency = torch.fft.fftfreq(side, 1 / side, dtype=torch.float64)
    radius = (frequency[:, None] ** 2 + frequency**2).sqrt().round().long().flatten()
    rings = (radius[:, None] == torch.arange(1, side // 2 + 1)).to(torch.float64)
    spectra = []
    for patch in (first.to(torch.float64), second.to(torch.float64)):
        mean = (patch * window).sum((-2, -1), keepdim=True) / window.sum()
        spectra.append(torch.fft.fft2((patch - mean) * window).flatten(-2))
    a, b = spectra
    return (a * b.conj()).real @ rings, a.abs().square() @ rings, b.abs().square() @ rings


def _correlation(shared: Tensor, common: Tensor) -> Tensor:
    return torch.where(common > TINY, shared / common.clamp_min(TINY), 1.0)
