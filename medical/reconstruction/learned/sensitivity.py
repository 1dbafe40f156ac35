r"""Coil maps by a network: from the low-resolution coil images of the calibration box to S with sum_c |S_c|^2 = 1.

Each coil goes through the network on its own, so any number of coils will do (Sriram et al., End-to-end variational
networks for accelerated MRI reconstruction, MICCAI 2020, arXiv 2004.06688):

    I_c = F^-1 (box k_c),      S_c = N(I_c) / sqrt(sum_d |N(I_d)|^2).

With a residual network N(I) = I + n(I) that starts at n = 0, training starts at the classical estimate I_c / RSS.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

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
