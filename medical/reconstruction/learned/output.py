"""What every learned reconstruction returns, and the maps between coil k-space and one image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medical.reconstruction.fourier import fft_centred, ifft_centred


@dataclass(frozen=True)
class LearnedOutput:
    """A learned reconstruction.

    Attributes:
        image: complex (B, H, W), sum_c conj(S_c) F^-1 k_c.
        coil_maps: S, complex (B, C, H, W), sum_c |S_c|^2 = 1.
        kspace: k, complex (B, C, H, W), the last estimate of the fully sampled k-space.
    """

    image: Tensor
    coil_maps: Tensor
    kspace: Tensor

    @property
    def rss(self) -> Tensor:
        """The root sum of squares sqrt(sum_c |F^-1 k_c|^2), real (B, H, W)."""
        return root_sum_of_squares(ifft_centred(self.kspace))


def root_sum_of_squares(coil_images: Tensor) -> Tensor:
    """Return sqrt(sum_c |x_c|^2) (B, H, W) of (B, C, H, W)."""
    return torch.linalg.vector_norm(coil_images, dim=1)


def combine(kspace: Tensor, coil_maps: Tensor) -> Tensor:
    """Return the image S^H F^-1 k (B, H, W)."""
    return (coil_maps.conj() * ifft_centred(kspace)).sum(1)


def expand(image: Tensor, coil_maps: Tensor) -> Tensor:
    """Return the k-space F S x (B, C, H, W) of an image (B, H, W)."""
    return fft_centred(coil_maps * image[:, None])


def normalised(kspace: Tensor) -> tuple[Tensor, Tensor]:
    """Return k / s and s (B, 1, 1, 1), the root mean square of the zero-filled root-sum-of-squares image.

    Networks work on k / s and multiply their output by s, so they are homogeneous, network(a k) = a network(k) for
    a > 0, and give zero where there is no signal.
    """
    energy = torch.view_as_real(kspace).square().sum((1, 2, 3, 4)) / (kspace.shape[-2] * kspace.shape[-1])
    scale = energy.sqrt()[:, None, None, None]
    return kspace / scale.clamp(min=torch.finfo(scale.dtype).tiny), scale
