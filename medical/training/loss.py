r"""How far a learned reconstruction is from the noise-free truth of a simulated slice.

    loss = 1 - SSIM(m, m*) + lambda ( sum |z_c - z_c*| / sum |z_c*| + sum ||x| - |x*|| / sum |x*| ) / 2

m is the root sum of squares over the coil images z_c = F^-1 k_c of the network's k-space and x its combined image; a
star marks the truth. SSIM is fastMRI's. The complex term keeps phase, which SSIM of a magnitude does not see; it is
taken over coil images, because the phase of a combined image is that of coil maps that no measurement fixes. The last
term holds the coil maps to their unit norm. Every term is free of the unit of the image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medical.metrics import similarity
from medical.reconstruction.fourier import ifft_centred

if TYPE_CHECKING:
    from medical.reconstruction.learned.output import LearnedOutput


def reconstruction_loss(
    output: LearnedOutput, image: Tensor, full_kspace: Tensor, *, complex_weight: float = 1.0
) -> Tensor:
    """Return the loss of a batch, a scalar.

    Args:
        output: of the network.
        image: complex (N, y, x), the truth.
        full_kspace: complex (N, coil, y, x), the truth.
        complex_weight: lambda.
    """
    coil_images, truth = ifft_centred(output.kspace), ifft_centred(full_kspace)
    magnitude, target = rss(coil_images), rss(truth)
    structure = 1 - similarity(target, magnitude, target.flatten(1).amax(1)).mean()
    complex_error = (coil_images - truth).abs().flatten(1).sum(1) / truth.abs().flatten(1).sum(1)
    modulus_error = (_modulus(output.image) - image.abs()).abs().flatten(1).sum(1) / image.abs().flatten(1).sum(1)
    return structure + complex_weight * (complex_error + modulus_error).mean() / 2


def rss(coil_images: Tensor) -> Tensor:
    """Return the root sum of squares over coils (N, coil, y, x) -> (N, y, x), with a gradient that is finite at 0."""
    energy = torch.view_as_real(coil_images).square().sum((-1, 1))
    return (energy + torch.finfo(energy.dtype).tiny).sqrt()


def _modulus(image: Tensor) -> Tensor:
    energy = torch.view_as_real(image).square().sum(-1)
    return (energy + torch.finfo(energy.dtype).tiny).sqrt()
