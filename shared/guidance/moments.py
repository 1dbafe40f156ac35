r"""Moment matching: guidance by a linear measurement with the covariance that the denoiser itself implies.

    Cov[x_0 | x_t] = V = sigma^2/alpha J^T,     J = dD/dx_t                       (Tweedie's formula, second order)
    D'(x, t)       = D + V A^T w,     (A V A^T + sigma_y^2) w = y - A D

PiGDM and DDS put one number r^2 where V stands here, as if voxels were independent of each other; V knows how they hang
together, so a measured voxel speaks for its neighbours. D' is the exact posterior mean of every Gaussian prior, however
correlated. The system is solved by conjugate gradients, each iteration one backward pass through the network.

J of a trained network is not quite symmetric, so few iterations are better than many.

Reference: Rozet et al., Learning Diffusion Priors from Observations by Expectation Maximization, 2024, section 4.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from shared.denoiser import Denoiser
from shared.guidance.likelihood import GaussianLikelihood, inner, solve_regularised
from shared.guidance.pigdm import GuidedEstimate
from shared.process import NoiseProcess, Time


def moment_estimate(
    denoiser: Denoiser,
    likelihood: GaussianLikelihood,
    process: NoiseProcess,
    x: Tensor,
    t: float,
    *,
    iterations: int = 3,
    tolerance: float = 1e-3,
) -> GuidedEstimate:
    """Ask the denoiser once and return its estimate and the guided one.

    The log density leaves out ln det(A V A^T + sigma_y^2), which depends on x where the prior is not Gaussian.

    Args:
        denoiser: of the prior, differentiable.
        likelihood: the measurement; its own iterations and tolerance are not used.
        process: noise process of the prior.
        x: noisy batch (N, ...), real.
        t: level of the batch, where alpha > 0.
        iterations: of conjugate gradients, each a backward pass.
        tolerance: relative residual at which they stop earlier.
    """
    factor = float(process.sigma(t) ** 2 / process.alpha(t))
    operator = likelihood.operator
    with torch.enable_grad():
        start = x.detach().requires_grad_(True)
        x0 = denoiser(start, t)

    def spread(u: Tensor) -> Tensor:
        """Return V A^T u."""
        (pulled,) = torch.autograd.grad(x0, start, operator.adjoint(u), retain_graph=True)
        return factor * pulled

    plain = x0.detach()
    with torch.no_grad():
        rho = likelihood.residual(plain)
        w = solve_regularised(
            lambda u: operator(spread(u)), rho, likelihood.noise_std**2, iterations=iterations, tolerance=tolerance
        )
        return GuidedEstimate(plain, plain + spread(w), -0.5 * inner(rho, w))


def moment_matched(
    denoiser: Denoiser,
    likelihood: GaussianLikelihood,
    process: NoiseProcess,
    *,
    iterations: int = 3,
    tolerance: float = 1e-3,
) -> Denoiser:
    """Return the denoiser guided towards a measurement by moment matching; arguments as of `moment_estimate`."""

    def denoise(x: Tensor, t: Time, /) -> Tensor:
        return moment_estimate(
            denoiser, likelihood, process, x, float(t), iterations=iterations, tolerance=tolerance
        ).guided

    return denoise
