"""Centred orthonormal Fourier transforms: the zero frequency and the image centre both sit at index N//2.

    F x [k] = 1/sqrt(N) * sum_n x[n] exp(-2 pi i (k - N//2)(n - N//2) / N)

holds for even and odd N, F is unitary, and the inverse is its adjoint.
"""

from __future__ import annotations

import torch
from torch import Tensor


def fft_centred(x: Tensor, dim: tuple[int, ...] = (-2, -1)) -> Tensor:
    """Image to k-space over the axes `dim`."""
    return torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(x, dim), dim=dim, norm="ortho"), dim)


def ifft_centred(x: Tensor, dim: tuple[int, ...] = (-2, -1)) -> Tensor:
    """k-space to image over the axes `dim`; the adjoint and inverse of `fft_centred`."""
    return torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(x, dim), dim=dim, norm="ortho"), dim)
