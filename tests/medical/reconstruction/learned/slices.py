"""Small multi-coil k-space for tests of learned networks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medical.reconstruction.fourier import fft_centred
from medical.reconstruction.learned.calibration import calibration_box

Batch = tuple[Tensor, Tensor, Tensor, tuple[float, float]]


def blobs(shape: tuple[int, int], fov: tuple[float, float], seed: int = 0) -> Tensor:
    """A smooth complex object (H, W), the same function of millimetres at every shape of one field of view."""
    generator = torch.Generator().manual_seed(seed)
    y, x = ((torch.arange(n) - n // 2) * f / n for n, f in zip(shape, fov, strict=True))
    image = torch.zeros(shape, dtype=torch.complex128)
    for _ in range(6):
        cy, cx, width, phase = (torch.rand(4, generator=generator) - 0.5).tolist()
        centre = (0.5 * cy * fov[0], 0.5 * cx * fov[1])
        distance = (y[:, None] - centre[0]) ** 2 + (x[None, :] - centre[1]) ** 2
        image += torch.exp(-distance / (2 * (0.06 * min(fov) * (1.5 + width)) ** 2) + 2j * phase)
    return image


def receive_maps(coils: int, shape: tuple[int, int]) -> Tensor:
    """Smooth complex maps (C, H, W) of unit sum of squares."""
    y, x = (torch.linspace(-1, 1, n, dtype=torch.float64) for n in shape)
    angles = 2 * math.pi * torch.arange(coils) / coils
    maps = torch.stack(
        [
            torch.exp(-((y[:, None] - a.sin()) ** 2 + (x[None, :] - a.cos()) ** 2) / 2 + 1j * (x * a.sin() + a))
            for a in angles
        ]
    )
    return maps / torch.linalg.vector_norm(maps, dim=0)


def line_mask(shape: tuple[int, int], rate: int = 3, lines: int = 8) -> Tensor:
    """Every `rate`-th column and `lines` central ones, bool (H, W)."""
    columns = torch.arange(shape[1])
    kept = ((columns - shape[1] // 2) % rate == 0) | ((columns - shape[1] // 2 + lines // 2) // lines == 0)
    return kept.expand(shape)


def batch(
    coils: int = 3,
    shape: tuple[int, int] = (40, 36),
    fov: tuple[float, float] = (200.0, 180.0),
    *,
    slices: int = 1,
    dtype: torch.dtype = torch.complex64,
    full: bool = False,
) -> Batch:
    """Undersampled k-space, mask, calibration box and spacing."""
    images = torch.stack([blobs(shape, fov, seed) for seed in range(slices)])
    mask = torch.ones(shape, dtype=torch.bool) if full else line_mask(shape)
    masks = mask.expand(slices, *shape).contiguous()
    kspace = fft_centred(receive_maps(coils, shape) * images[:, None]) * masks[:, None]
    spacing = (fov[0] / shape[0], fov[1] / shape[1])
    return kspace.to(dtype), masks, calibration_box(masks), spacing
