"""Networks on pixels finer than they were trained on: the network where it knows the scale, sparsity beyond.

The samples of k-space within the band of the coarser pixels are, unchanged, a scan of the same object on those pixels
(the transforms are orthonormal, so the noise of a sample stays too). The network reconstructs that scan, and detail
beyond its band comes from l1-wavelet compressed sensing of all samples.

Why: no operator kernel of a few millimetres can remove noise of finer pixels, and what a network learned about texture
at one scale it does not know at another. On held-out simulated subjects at twice the resolution (R = 4, pixels of 1 mm)
see "Zero-shot" in docs/mri_learned.md.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from medical.reconstruction.learned.disco import Spacing
from medical.reconstruction.learned.output import LearnedOutput, combine, expand, normalised
from medical.reconstruction.learned.proximal import espirit_maps, log_variance, sparse_start
from medical.reconstruction.learned.sensitivity import in_reference_phase
from medical.reconstruction.operators import CartesianSense
from medical.reconstruction.preprocess import resize_centred


def band_of(matrix: tuple[int, int], spacing: Spacing, finest_mm: float) -> tuple[int, int]:
    """Return the matrix (y, x) of the largest band whose pixels are `finest_mm` or larger.

    Args:
        matrix: (y, x).
        spacing: pixel size in mm (y, x).
        finest_mm: smallest pixel that a network was trained on.
    """
    height, width = (
        n if d >= finest_mm else max(math.floor(n * d / finest_mm + 1e-6), 1)
        for n, d in zip(matrix, spacing, strict=True)
    )
    return height, width


@torch.no_grad()
def in_band(
    network: nn.Module,
    kspace: Tensor,
    mask: Tensor,
    calibration: Tensor,
    spacing: Spacing,
    *,
    finest_mm: float,
    noise_std: float = 1.0,
) -> LearnedOutput:
    """Reconstruct a batch of slices on any pixels.

    Args:
        network: a `ProximalNetwork` trained on pixels of `finest_mm` and larger.
        kspace: as in `ProximalNetwork.forward`, like the following three.
        mask: bool (B, H, W).
        calibration: bool (B, H, W).
        spacing: pixel size in mm (y, x).
        finest_mm: on finer pixels the network gets the band of pixels of this size.
        noise_std: of a complex sample.

    Raises:
        InputError: shapes or types that do not fit.
    """
    matrix = (int(mask.shape[-2]), int(mask.shape[-1]))
    band = band_of(matrix, spacing, finest_mm)
    if band == matrix:
        found: LearnedOutput = network(kspace, mask, calibration, spacing, noise_std)
        return found

    def cropped(x: Tensor) -> Tensor:
        return resize_centred(resize_centred(x, band[0], -2), band[1], -1)

    coarser = (spacing[0] * matrix[0] / band[0], spacing[1] * matrix[1] / band[1])
    inner = network(cropped(kspace), cropped(mask), cropped(calibration), coarser, noise_std)
    measured, scale = normalised(kspace * mask[:, None])
    maps = espirit_maps(measured, calibration)
    start = sparse_start(CartesianSense(maps[:, None], mask), measured, log_variance(scale, noise_std))
    k = expand(start, maps) * scale
    cropped(k).copy_(inner.kspace)  # a view
    maps = in_reference_phase(maps, measured, calibration)
    return replace(inner, image=combine(k, maps), coil_maps=maps, kspace=k)
