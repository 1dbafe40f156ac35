r"""Unrolled reconstruction on ESPIRiT maps that starts from compressed sensing and solves for the data in each cascade.

    z_i = x_i - N_i(x_i; v, R),     x_{i+1} = argmin_x ||A x - y||^2 + lambda_i ||x - z_i||^2,     A = M F S,
    lambda_i = exp(a_i) v^{p_i},     x_0 = argmin_x ||A x - y||^2 / 2 + 0.3 v^(1/2) ||W x||_1,

W an orthonormal wavelet transform. With an operator on k-space, x_0 = S^H F^-1 k_0, k_0 its answer to that image. v is
the variance of the noise after the data were put on a common scale and R the acceleration: a network trusts clean data
more than noisy ones, and N_i knows both. With z known to a variance t, the best weight is v / t: p = 1 for errors that
do not depend on the noise and 0 for errors that are noise; a_i and p_i are learned.

x_0 is a good image already where sampling is incoherent and noise low, the regime in which small networks trained on
simulated scans lose to it. N_i start at zero, so training starts there and learns what is left.

The solution is found as a correction of z, x = z + (A^H A + lambda)^-1 A^H (y - A z), forwards and backwards. What the
data say nothing about then passes unchanged however few the iterations; solving for x itself from zero loses it, since
conjugate gradients reach it last.

Why not the cascades of `varnet.py`: a gradient step per cascade fits the data badly when there are few of them, and
maps made from low-resolution coil images vanish where the head is dark, which wipes out what lies there.

References: Lustig, Donoho and Pauly, MRM 58:1182, 2007 (x_0); Aggarwal et al., MoDL, IEEE Trans. Med. Imaging 38:394,
2019 (the alternation); Uecker et al., ESPIRiT, MRM 71:990, 2014; noise-dependent weights are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medical.reconstruction.coil_maps import espirit, fitting_kernel
from medical.reconstruction.fourier import ifft_centred
from medical.reconstruction.learned.disco import Spacing
from medical.reconstruction.learned.normalise import ComplexNetwork
from medical.reconstruction.learned.output import LearnedOutput, combine, expand, normalised
from medical.reconstruction.learned.sensitivity import in_reference_phase, unit_sum_of_squares
from medical.reconstruction.learned.varnet import check_input
from medical.reconstruction.operators import CartesianSense
from medical.reconstruction.solvers import conjugate_gradient
from medical.reconstruction.sparse import minimise_wavelet

SPARSE_ITERATIONS = 20
SPARSE_THRESHOLD = 0.3
"""Of x_0, in noise standard deviations; that of `--method wavelet`."""

CONDITIONS = 2
"""Numbers that the image networks know: those of `ProximalNetwork.conditions`."""

Normal = Callable[[Tensor], Tensor]


class DataSolution(nn.Module):
    """z -> argmin_x ||A x - y||^2 + lambda ||x - z||^2 with lambda = exp(a) v^p.

    Args:
        iterations: of conjugate gradients, forwards and backwards.
    """

    def __init__(self, iterations: int) -> None:
        super().__init__()
        self.iterations = iterations
        self.log_weight = nn.Parameter(torch.ones(()))
        self.exponent = nn.Parameter(torch.tensor(0.5))

    def forward(self, z: Tensor, back: Tensor, normal: Normal, log_noise: Tensor) -> Tensor:
        """Return x (B, H, W).

        Args:
            z: complex (B, H, W).
            back: A^H y, complex (B, H, W).
            normal: x -> A^H A x.
            log_noise: log v, real (B, 1, 1).
        """
        strength = (self.log_weight + self.exponent * log_noise).exp()
        found: Tensor = _Proximal.apply(z, strength, back, normal, self.iterations)
        return found


class _Proximal(torch.autograd.Function):
    """x = z + B^-1 (b - N z), B = N + lambda, N = A^H A; exact gradients of the solved problem.

    dx/dz = lambda B^-1 = 1 - B^-1 N and dx/dlambda = B^-1 (z - x).
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, strength: Tensor, back: Tensor, normal: Normal, iterations: int) -> Tensor:
        def shifted(x: Tensor) -> Tensor:
            return normal(x) + strength * x

        x = z + conjugate_gradient(shifted, back - normal(z), iterations=iterations)
        ctx.save_for_backward(strength, z - x)
        ctx.normal, ctx.shifted, ctx.iterations = normal, shifted, iterations
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        strength, moved = ctx.saved_tensors
        (gradient,) = gradients
        to_z = gradient - conjugate_gradient(ctx.shifted, ctx.normal(gradient), iterations=ctx.iterations)
        inner = (to_z.conj() * moved).real.sum((-2, -1), keepdim=True)
        return to_z, inner / strength, None, None, None


class ProximalNetwork(nn.Module):
    """ESPIRiT maps, an optional operator on k-space, and proximal cascades.

    Args:
        networks: N_i, one for each cascade, with `CONDITIONS` conditions.
        iterations: of conjugate gradients in each.
        kspace_operator: module (measured, mask, coil_maps, spacing, image) -> k_0.
    """

    def __init__(
        self, networks: Sequence[ComplexNetwork], *, iterations: int, kspace_operator: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.kspace_operator = kspace_operator
        self.networks = nn.ModuleList(networks)
        self.solutions = nn.ModuleList(DataSolution(iterations) for _ in networks)

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
        log_noise = log_variance(scale, noise_std)
        condition = self.conditions(log_noise, mask)
        operator = CartesianSense(coil_maps[:, None], mask)

        def normal(image: Tensor) -> Tensor:
            return operator.normal(image[:, None])[:, 0]

        back = combine(measured, coil_maps)
        x = sparse_start(operator, measured, log_noise)
        if self.kspace_operator is not None:
            x = combine(self.kspace_operator(measured, mask, coil_maps, spacing, x), coil_maps)
        for network, solution in zip(self.networks, self.solutions, strict=True):
            x = solution(x - network(x, spacing, condition=condition), back, normal, log_noise)
        k = expand(x, coil_maps) * scale
        coil_maps = in_reference_phase(coil_maps, measured, calibration)
        return LearnedOutput(combine(k, coil_maps), coil_maps, k)

    @staticmethod
    def conditions(log_noise: Tensor, mask: Tensor) -> Tensor:
        """Return what the networks know (B, 2): log v and log R, each moved and scaled to about -1 to 1."""
        log_rate = -mask.float().mean((-2, -1)).clamp(min=1e-6).log()
        return torch.stack([0.25 * log_noise.flatten() + 1, log_rate - 1.4], dim=1)


def log_variance(scale: Tensor, noise_std: float) -> Tensor:
    """Return log v (B, 1, 1) of noise with this standard deviation in data that are divided by `scale` (B, 1, 1, 1)."""
    tiny = torch.finfo(scale.dtype).tiny ** 0.5
    return 2 * (math.log(noise_std) - scale[:, 0].clamp(min=tiny).log()).clamp(-20, 20)


@torch.no_grad()
def sparse_start(operator: CartesianSense, measured: Tensor, log_noise: Tensor) -> Tensor:
    """Return x_0 (B, H, W) of the data (B, C, H, W); the wavelet grid is shifted, always by the same random numbers."""
    return minimise_wavelet(
        operator,
        measured,
        weight=SPARSE_THRESHOLD * (log_noise / 2).exp().flatten(),
        lipschitz=1.0,  # the maps have unit norm
        iterations=SPARSE_ITERATIONS,
        generator=torch.Generator().manual_seed(0),
    )[:, 0]


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
        kernel = fitting_kernel((lines.shape[-2], lines.shape[-1]))
        found, _ = espirit(lines, (k.shape[-2], k.shape[-1]), kernel_size=kernel, crop=0.0)
        low = ifft_centred(k * box)
        maps.append(found[0] * (found[0].conj() * low).sum(0))
    return unit_sum_of_squares(torch.stack(maps))
