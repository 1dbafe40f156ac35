r"""Reconstructions with a closed form: root sum of squares, coil combination, CG-SENSE; and how well they fit the data.

k-space is (slice, coil, \*encodes), its mask (slice, \*encodes), maps (slice, set, coil, \*encodes) and images
(slice, set, \*encodes), as in `medical.reconstruction.operators`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medical.reconstruction.operators import CartesianSense, LinearOperator
from medical.reconstruction.solvers import conjugate_gradient

SENSE_LAMDA = 0.005
SENSE_ITERATIONS = 30


def rss(coil_images: Tensor) -> Tensor:
    r"""Return sqrt(sum_c |I_c|^2), real (slice, \*encodes), of coil images (slice, coil, \*encodes)."""
    return torch.linalg.vector_norm(coil_images, dim=1)


def combine(coil_images: Tensor, maps: Tensor) -> Tensor:
    r"""Combine coil images with minimum variance for white noise: x = (S^H S)^-1 S^H I at every pixel.

    With one set this is sum_c conj(S_c) I_c / sum_c |S_c|^2 (Roemer et al., MRM 16:192, 1990). Pixels without maps
    are zero; so are directions of two sets that the coils cannot tell apart.

    Args:
        coil_images: complex (slice, coil, \*encodes).
        maps: complex (slice, set, coil, \*encodes).

    Returns:
        Complex image (slice, set, \*encodes).
    """
    projected = (maps.conj() * coil_images.unsqueeze(1)).sum(2)
    gram = (maps.conj().unsqueeze(2) * maps.unsqueeze(1)).sum(3)
    if maps.shape[1] == 1:
        energy = gram[:, 0].real
        return torch.where(energy > 0, projected / energy.clamp_min(torch.finfo(energy.dtype).tiny), 0)
    inverse = torch.linalg.pinv(gram.movedim((1, 2), (-2, -1)), hermitian=True)
    return (inverse @ projected.movedim(1, -1).unsqueeze(-1)).squeeze(-1).movedim(-1, 1)


def merge_sets(image: Tensor) -> Tensor:
    r"""Merge the images of several map sets (slice, set, \*encodes) into one (slice, \*encodes).

    Magnitude sqrt(sum_j |x_j|^2), phase of the strongest set at each pixel; one set stays as it is.
    """
    if image.shape[1] == 1:
        return image[:, 0]
    strongest = image.gather(1, image.abs().argmax(1, keepdim=True))[:, 0]
    return torch.polar(torch.linalg.vector_norm(image, dim=1), strongest.angle())


def sense(
    kspace: Tensor,
    mask: Tensor,
    maps: Tensor,
    *,
    lamda: float = SENSE_LAMDA,
    iterations: int = SENSE_ITERATIONS,
    tolerance: float = 1e-6,
) -> Tensor:
    r"""CG-SENSE: minimise ||M F S x - y||^2 + lamda ||x||^2 (Pruessmann et al., MRM 46:638, 2001).

    Args:
        kspace: y, complex (slice, coil, \*encodes).
        mask: M, bool (slice or 1, \*encodes).
        maps: S, complex (slice, set, coil, \*encodes).
        lamda: Tikhonov weight. A^H A <= 1 for maps of unit norm, so it does not depend on the scale of the data; the
            same number as in BART's `pics -l2 -r` and SigPy's `SenseRecon(lamda=)`.
        iterations: most iterations of conjugate gradients.
        tolerance: relative residual of the normal equations at which to stop earlier.

    Returns:
        Complex image (slice, set, \*encodes) in the scale of the data.
    """
    operator = CartesianSense(maps, mask)
    return tikhonov(operator, kspace, lamda=lamda, iterations=iterations, tolerance=tolerance)


def tikhonov(
    operator: LinearOperator, data: Tensor, *, lamda: float, iterations: int, tolerance: float = 1e-6
) -> Tensor:
    """Solve (A^H A + lamda) x = A^H y by conjugate gradients, for any linear A from images to data (slice, ...)."""
    return conjugate_gradient(
        lambda x: operator.normal(x) + lamda * x,
        operator.adjoint(data),
        iterations=iterations,
        tolerance=tolerance,
    )


@dataclass(frozen=True)
class DataConsistency:
    """How well an image explains the samples y it was made from.

    Attributes:
        residual: ||M F S x - y|| / ||y||.
        expected: the value that noise alone gives, noise_sd sqrt(samples) / ||y||; None without noise_sd.
        chi_squared: mean |residual|^2 / noise_sd^2 over the acquired samples: about 1 when only noise is left, less
            where the image also fits noise, more where the model is wrong; None without noise_sd.
    """

    residual: float
    expected: float | None
    chi_squared: float | None


def data_consistency(
    kspace: Tensor, mask: Tensor, maps: Tensor, image: Tensor, noise_sd: float | None = None
) -> DataConsistency:
    r"""Compare M F S x with the acquired samples.

    Args:
        kspace: y, complex (slice, coil, \*encodes), zero where not sampled.
        mask: bool (slice or 1, \*encodes).
        maps: complex (slice, set, coil, \*encodes).
        image: x, complex (slice, set, \*encodes).
        noise_sd: standard deviation sqrt(E|n|^2) of one complex sample; 1 after prewhitening.
    """
    difference = float((CartesianSense(maps, mask)(image) - kspace).norm())
    data = float(kspace.norm())
    residual = difference / data if data > 0 else 0.0
    if noise_sd is None:
        return DataConsistency(residual, None, None)
    samples = int(mask.expand(len(kspace), *mask.shape[1:]).sum()) * kspace.shape[1]
    expected = noise_sd * samples**0.5 / data if data > 0 else 0.0
    return DataConsistency(residual, expected, difference**2 / (noise_sd**2 * max(samples, 1)))
