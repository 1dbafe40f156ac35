r"""The k-space operator of NO-VarNet, in the published form and in ours.

NO-VarNet is the unrolled network of `varnet.py` whose image networks are U-shaped DISCO operators, preceded by one that
acts on k-space: k_0 = NO_k(y). In k-space the radius is in 1/mm and the spacing is 1 / FOV (Jatyani, Wang et al.,
CVPR 2025, arXiv 2410.16290).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medical.reconstruction.fourier import fft_centred, ifft_centred
from medical.reconstruction.learned.disco import Spacing
from medical.reconstruction.learned.normalise import ComplexNetwork
from medical.reconstruction.learned.output import combine, expand


def kspace_spacing(shape: tuple[int, int], spacing: Spacing) -> Spacing:
    """Return the sample spacing of k-space, 1 / FOV, in 1/mm (y, x)."""
    return 1 / (shape[0] * spacing[0]), 1 / (shape[1] * spacing[1])


class FillingOperator(nn.Module):
    r"""Fills what was not sampled and leaves what was: k_0 = y + (1 - M) F S F^-1 (q + N(w q, M) / w).

    q = F x is the k-space of an image: of a first reconstruction, or of the combined data, x = S^H F^-1 y. Its
    magnitude falls by orders from the centre outwards, so the operator sees it weighted by
    w = (1 + |k|^2 / k_c^2)^(3/4), which is the same function on every grid, and it sees the mask.

    Args:
        network: N, complex k-space and one channel more to complex k-space.
        corner: k_c in 1/mm.
    """

    def __init__(self, network: ComplexNetwork, *, corner: float = 0.02) -> None:
        super().__init__()
        self.network, self.corner = network, corner

    def forward(
        self, measured: Tensor, mask: Tensor, coil_maps: Tensor, spacing: Spacing, image: Tensor | None = None
    ) -> Tensor:
        """Return k_0 (B, C, H, W).

        Args:
            measured: y, complex (B, C, H, W), zero where not sampled.
            mask: bool (B, H, W).
            coil_maps: complex (B, C, H, W).
            spacing: pixel size in mm (y, x).
            image: x, complex (B, H, W); None combines the data.
        """
        height, width = measured.shape[-2:]
        step = kspace_spacing((height, width), spacing)
        ky = (torch.arange(height, device=measured.device) - height // 2) * step[0]
        kx = (torch.arange(width, device=measured.device) - width // 2) * step[1]
        weight = (1 + (ky[:, None] ** 2 + kx**2) / self.corner**2).pow(0.75).to(measured.real.dtype)
        image = combine(measured, coil_maps) if image is None else image
        q = fft_centred(image)
        correction = self.network(weight * q, step, mask[:, None]) / weight
        filled = expand(image + ifft_centred(correction), coil_maps)
        return torch.where(mask[:, None], measured, filled)


class CoilwiseOperator(nn.Module):
    """The published form: every coil's k-space goes through the network, whose answer replaces it.

    Args:
        network: complex k-space to complex k-space.
    """

    def __init__(self, network: ComplexNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, measured: Tensor, mask: Tensor, coil_maps: Tensor, spacing: Spacing) -> Tensor:
        """Return k_0 (B, C, H, W)."""
        step = kspace_spacing((measured.shape[-2], measured.shape[-1]), spacing)
        return self.network(measured.flatten(0, 1), step).reshape(measured.shape)
