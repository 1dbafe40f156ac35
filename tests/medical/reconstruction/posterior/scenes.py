"""Small scans with smooth coils, and priors without training: their denoiser is exact for white Gaussian images."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medical.reconstruction.fourier import fft_centred
from medical.reconstruction.posterior.network import SliceUNet, SliceUNetConfig
from medical.reconstruction.posterior.prior import PriorFacts, SlicePrior

TINY = SliceUNetConfig(widths=(16, 16), blocks=1, embedding=16)


def untrained_prior(sigma_data: float = 0.5, config: SliceUNetConfig = TINY) -> SlicePrior:
    """The last convolution is 0: D(x) = sigma_data^2 / (sigma^2 + sigma_data^2) x."""
    facts = PriorFacts(sigma_data, 0.005, 20.0, config.widths, config.blocks, config.embedding)
    return SlicePrior(SliceUNet(config).eval().requires_grad_(False), facts)


def smooth_maps(coils: int, shape: tuple[int, int]) -> Tensor:
    y = torch.linspace(-1, 1, shape[0])[:, None]
    x = torch.linspace(-1, 1, shape[1])[None]
    angles = [2 * math.pi * c / coils for c in range(coils)]
    maps = torch.stack(
        [
            torch.exp(-((y - math.sin(a)) ** 2 + (x - math.cos(a)) ** 2) / 1.5) * torch.exp(1j * (a + 0.7 * x * c))
            for c, a in enumerate(angles)
        ]
    )
    return (maps / maps.abs().square().sum(0).sqrt()).to(torch.complex64)


def scan_of(image: Tensor, mask: Tensor, maps: Tensor, generator: torch.Generator) -> Tensor:
    """Return whitened k-space (C, H, W) of an image (H, W) in units of the noise."""
    noise = torch.randn(maps.shape, dtype=torch.complex64, generator=generator)
    return (fft_centred(maps * image) + noise) * mask


def every_second_line(shape: tuple[int, int], centre: int = 6) -> Tensor:
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[::2] = True
    mask[shape[0] // 2 - centre // 2 : shape[0] // 2 + centre // 2] = True
    return mask
