r"""Unrolled reconstruction on ESPIRiT maps whose cascades solve for the data instead of stepping towards them.

    z_i = x_i - N_i(x_i, v),     x_{i+1} = argmin_x ||A x - y||^2 + lambda_i ||x - z_i||^2,     A = M F S,
    lambda_i = exp(a_i) v^{p_i},     x_0 = S^H F^-1 k_0,

v is the variance of the noise after the data were put on a common scale, so a network trusts clean data more than
noisy ones, and N_i sees log v as a channel. With z known to a variance t, the best weight is v / t: p = 1 for errors
that do not depend on the noise and 0 for errors that are noise; a_i and p_i are learned from 0 and 1/2.

Why not the cascades of `varnet.py`: a gradient step per cascade fits the data badly when there are few of them, and
maps made from low-resolution coil images vanish where the head is dark, which wipes out what lies there.

References: Aggarwal et al., MoDL, IEEE Trans. Med. Imaging 38:394, 2019 (the alternation); Uecker et al., ESPIRiT,
Magn. Reson. Med. 71:990, 2014; noise-dependent weights are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medical.reconstruction.coil_maps import espirit
from medical.reconstruction.fourier import ifft_centred
from medical.reconstruction.learned.disco import Spacing
from medical.reconstruction.learned.modl import consistent
from medical.reconstruction.learned.normalise import ComplexNetwork
from medical.reconstruction.learned.output import LearnedOutput, combine, expand, normalised
from medical.reconstruction.learned.sensitivity import in_reference_phase, unit_sum_of_squares
from medical.reconstruction.learned.varnet import check_input

KERNEL = 6
"""Width of ESPIRiT's kernel; narrower where the calibration box is."""


class ProximalCascade(nn.Module):
    """One refinement and the solution for the data.

    Args:
        network: N_i, a complex image and one channel more to a complex image.
        iterations: of conjugate gradients.
    """

    def __init__(self, network: ComplexNetwork, iterations: int) -> None:
        super().__init__()
        self.network, self.iterations = network, iterations
        self.log_weight = nn.Parameter(torch.zeros(()))
        self.exponent = nn.Parameter(torch.tensor(0.5))

    def forward(
        self, x: Tensor, back: Tensor, coil_maps: Tensor, mask: Tensor, log_noise: Tensor, spacing: Spacing
    ) -> Tensor:
        """Return x_{i+1} (B, H, W).

        Args:
            x: x_i, complex (B, H, W).
            back: A^H y, complex (B, H, W).
            coil_maps: complex (B, C, H, W).
            mask: bool (B, H, W).
            log_noise: log v, real (B, 1, 1).
            spacing: pixel size in mm (y, x).
        """
        # A quarter of it, moved to about zero: the range of a normalised image.
        seen = (0.25 * log_noise + 1).expand(x.shape)[:, None]
        z = x - self.network(x, spacing, seen)
        strength = (self.log_weight + self.exponent * log_noise).exp()
        return consistent(back + strength * z, coil_maps, mask, strength, self.iterations)


class ProximalNetwork(nn.Module):
    """ESPIRiT maps, an optional operator on k-space, and proximal cascades.

    Args:
        networks: N_i, one for each cascade.
        iterations: of conjugate gradients in each.
        kspace_operator: module (measured, mask, coil_maps, spacing) -> k_0; without it k_0 = y.
    """

    def __init__(
        self, networks: Sequence[ComplexNetwork], *, iterations: int, kspace_operator: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.kspace_operator = kspace_operator
        self.cascades = nn.ModuleList(ProximalCascade(network, iterations) for network in networks)

    def forward(
        self, kspace: Tensor, mask: Tensor, calibration: Tensor, spacing: Spacing, noise_std: float = 1.0
    ) -> LearnedOutput:
        """Reconstruct a batch of slices.

        Args:
            kspace: complex (B, C, H, W), whitened, zero where not sampled, DC at N//2.
            mask: bool (B, H, W), true where sampled.
            calibration: bool (B, H, W), the fully sampled box of `calibration_box`.
            spacing: pixel size in mm (y, x).
            noise_std: root of the variance of a complex sample of the noise, the same in all coils; whitening makes it
                1. With it the network is homogeneous: network(a k, a noise) = a network(k, noise).

        Raises:
            InputError: shapes or types that do not fit.
        """
        check_input(kspace, mask, calibration)
        measured, scale = normalised(kspace * mask[:, None])
        coil_maps = espirit_maps(measured, calibration)
        tiny = torch.finfo(scale.dtype).tiny ** 0.5
        log_noise = 2 * (math.log(noise_std) - scale[:, 0].clamp(min=tiny).log()).clamp(-20, 20)
        k = measured
        if self.kspace_operator is not None:
            k = self.kspace_operator(measured, mask, coil_maps, spacing)
        x, back = combine(k, coil_maps), combine(measured, coil_maps)
        for cascade in self.cascades:
            x = cascade(x, back, coil_maps, mask, log_noise, spacing)
        k = expand(x, coil_maps) * scale
        coil_maps = in_reference_phase(coil_maps, measured, calibration)
        return LearnedOutput(combine(k, coil_maps), coil_maps, k)


@torch.no_grad()
def espirit_maps(kspace: Tensor, calibration: Tensor) -> Tensor:
    """Return ESPIRiT's maps (B, C, H, W) everywhere, with the phase of the low-resolution image: S^H I_low >= 0.

    That phase leaves an almost real image to the networks. Without signal in a box the maps are zero.

    Args:
        kspace: complex (B, C, H, W).
        calibration: bool (B, H, W), the fully sampled box.
    """
    maps = []
    for k, box in zip(kspace, calibration, strict=True):
        rows, columns = box.any(1).nonzero().squeeze(1), box.any(0).nonzero().squeeze(1)
        if not len(rows) or not bool(k.any()):
            maps.append(torch.zeros_like(k))
            continue
        lines = k[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        width = min(KERNEL, *lines.shape[1:])
        found, _ = espirit(lines, (k.shape[-2], k.shape[-1]), kernel_size=width, crop=0.0)
        low = ifft_centred(k * box)
        maps.append(found[0] * (found[0].conj() * low).sum(0))
    return unit_sum_of_squares(torch.stack(maps))
