r"""Coil maps by a network: from the low-resolution coil images of the calibration box to S with sum_c |S_c|^2 = 1.

Each coil goes through the network on its own, so any number of coils will do (Sriram et al., End-to-end variational
networks for accelerated MRI reconstruction, MICCAI 2020, arXiv 2004.06688):

    I_c = F^-1 (box k_c),      S_c = N(I_c) / sqrt(sum_d |N(I_d)|^2).

With a residual network N(I) = I + n(I) that starts at n = 0, training starts at the classical estimate I_c / RSS.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medical.reconstruction.coil_maps import principal_coil
from medical.reconstruction.fourier import ifft_centred
from medical.reconstruction.learned.disco import Spacing
from medical.reconstruction.learned.normalise import ComplexNetwork


class SensitivityNetwork(nn.Module):
    """Calibration data to coil maps.

    Args:
        network: complex image to complex image.
        residual: add the network's output to its input.
    """

    def __init__(self, network: ComplexNetwork, *, residual: bool) -> None:
        super().__init__()
        self.network, self.residual = network, residual

    def forward(self, kspace: Tensor, calibration: Tensor, spacing: Spacing) -> Tensor:
        """Return the maps (B, C, H, W), of unit sum of squares wherever there is any signal.

        Args:
            kspace: complex (B, C, H, W).
            calibration: bool (B, H, W), the fully sampled box.
            spacing: pixel size in mm (y, x).
        """
        images = ifft_centred(kspace * calibration[:, None])
        maps = self.network(images.flatten(0, 1), spacing).reshape(images.shape)
        return unit_sum_of_squares(images + maps if self.residual else maps)


def unit_sum_of_squares(maps: Tensor) -> Tensor:
    """Return S / sqrt(sum_c |S_c|^2), zero where all coils are."""
    energy = torch.view_as_real(maps).square().sum((1, -1))[:, None]
    return maps * energy.clamp(min=torch.finfo(energy.dtype).tiny).rsqrt()


def in_reference_phase(maps: Tensor, kspace: Tensor, calibration: Tensor) -> Tensor:
    """Return the maps with the phase that ESPIRiT's have here: sum_c conj(u_c) S_c > 0, u the principal combination.

    Estimated maps carry the phase of the image, which leaves an almost real image: easy for a network, but not what a
    user of phase expects. The product S x does not change.

    Args:
        maps: complex (B, C, H, W).
        kspace: complex (B, C, H, W).
        calibration: bool (B, H, W).
    """
    principal = principal_coil((kspace * calibration[:, None]).detach(), 2)[..., None, None]
    combined = (principal.conj() * maps.detach()).sum(1, keepdim=True)
    return maps * torch.polar(torch.ones_like(combined.real), -combined.angle())
