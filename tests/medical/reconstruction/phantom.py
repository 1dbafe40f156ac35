"""A small exact multi-coil scan: piecewise constant object with phase, smooth coil maps of unit norm, white noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medical.reconstruction.fourier import fft_centred


def coil_maps(shape: tuple[int, ...], coils: int, extent: float = 1.0) -> Tensor:
    """Maps (coil, *shape) of loops on a cylinder of radius 1.3 around a field of view from -extent to extent."""
    axes = [(torch.arange(n, dtype=torch.float64) - n // 2) * 2 * extent / n for n in shape]
    grid = torch.meshgrid(*axes, indexing="ij")
    maps = []
    for c in range(coils):
        angle = 2 * math.pi * c / coils
        y, x = grid[-2] - 1.3 * math.sin(angle), grid[-1] - 1.3 * math.cos(angle)
        z = grid[0] - 0.5 * (-1) ** c if len(shape) == 3 else torch.zeros_like(x)
        distance = (x**2 + y**2 + z**2 + 0.3**2).sqrt()
        maps.append(torch.polar(distance.pow(-1.5), 0.8 * x + 0.5 * y * (-1) ** c + angle))
    stacked = torch.stack(maps)
    return stacked / stacked.norm(dim=0)


def head(shape: tuple[int, ...], extent: float = 1.0, size: float = 1.0) -> Tensor:
    """Complex object of nested ellipses (ellipsoids), at most `size` from the centre along y."""
    axes = [(torch.arange(n, dtype=torch.float64) - n // 2) * 2 * extent / n / size for n in shape]
    grid = torch.meshgrid(*axes, indexing="ij")
    y, x = grid[-2], grid[-1]
    z = grid[0] if len(shape) == 3 else torch.zeros_like(x)
    image = torch.zeros(shape, dtype=torch.float64)
    for value, a, b, x0, y0 in [
        (1.0, 0.65, 0.88, 0, 0),
        (-0.6, 0.58, 0.80, 0, 0),
        (0.3, 0.15, 0.3, 0.2, 0.1),
        (-0.2, 0.1, 0.25, -0.25, -0.1),
        (0.4, 0.06, 0.06, 0.05, -0.5),
    ]:
        image += value * (((x - x0) / a) ** 2 + ((y - y0) / b) ** 2 + (z / 0.8) ** 2 <= 1)
    return torch.polar(image, 1.2 * x * y + 0.7 * y)


def scan(image: Tensor, maps: Tensor, mask: Tensor, noise_sd: float = 0.0, seed: int = 0) -> Tensor:
    """Sampled k-space (1, coil, *shape) of coil images maps * image with noise of E|n|^2 = noise_sd^2."""
    kspace = fft_centred(maps * image, tuple(range(-image.ndim, 0)))
    noise = torch.randn(kspace.shape, dtype=kspace.dtype, generator=torch.Generator().manual_seed(seed))
    return ((kspace + noise_sd * noise) * mask)[None]


def every_nth_line(shape: tuple[int, ...], acceleration: int, calibration: int) -> Tensor:
    """Mask (1, *shape): every n-th line along axis -2 and `calibration` lines in the middle."""
    lines = torch.zeros(shape[-2], dtype=torch.bool)
    lines[::acceleration] = True
    first = shape[-2] // 2 - calibration // 2
    lines[first : first + calibration] = True
    return lines[:, None].expand(1, *shape)
