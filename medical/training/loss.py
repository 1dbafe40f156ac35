r"""How far a learned reconstruction is from the noise-free truth of a simulated slice.

    loss = 1 - SSIM(m, m*) + lambda ( sum |z_c - z_c*| / sum |z_c*| + sum |m - m*| / sum m* ) / 2

x is the network's combined image, m = |x|, and z_c = F^-1 k_c are the coil images of its k-space; a star marks the
truth. SSIM is fastMRI's, of the combined magnitude, whose noise floor is that of one coil and not of all. The complex
term keeps phase, which no magnitude sees; it is taken over coil images, because the phase of a combined image is that
of coil maps, which no measurement fixes. Every term is free of the unit of the image.
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
    magnitude, target = modulus(output.image), image.abs()
    structure = 1 - similarity(target, magnitude, target.flatten(1).amax(1)).mean()
    complex_error = (coil_images - truth).abs().flatten(1).sum(1) / truth.abs().flatten(1).sum(1)
    modulus_error = (magnitude - target).abs().flatten(1).sum(1) / target.flatten(1).sum(1)
    return structure + complex_weight * (complex_error + modulus_error).mean() / 2


def modulus(image: Tensor) -> Tensor:
    """Return |x| of complex x, with a gradient that is finite at 0."""
    energy = torch.view_as_real(image).square().sum(-1)
    return (energy + torch.finfo(energy.dtype).tiny).sqrt()
