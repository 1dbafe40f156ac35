r"""Pseudoinverse guidance: the score of the measurement under a Gaussian approximation, through the network.

With x_0 | x_t ~ N(D, r^2), r^2 = kappa^2 s^2 / (kappa^2 + s^2), kappa = sigma / alpha:

    grad log p(y | x_t) = J^T A^T (r^2 A A^T + sigma_y^2)^-1 (y - A D) = J^T delta / r^2,      J = dD/dx_t
    D'(x, t)            = D + sigma^2/alpha grad log p(y | x_t)

delta is the proximal step of `shared.guidance.likelihood`. The published r^2 = sigma^2 / (1 + sigma^2) is that of unit
variance; here s is the standard deviation of the data. A call costs a network call and a backward pass through it. On
white Gaussian data D' is the exact posterior mean, and equals that of DDS.

References:
    Song et al., Pseudoinverse-Guided Diffusion Models, 2023, eq. 7 and 8.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from shared.denoiser import Denoiser
from shared.guidance.likelihood import GaussianLikelihood, posterior_variance
from shared.process import NoiseProcess, Time


@dataclass(frozen=True)
class GuidedEstimate:
    """One call of pseudoinverse guidance.

    Attributes:
        plain: D.
        guided: D'.
        log_twist: log p(y | x_t) in the Gaussian approximation, up to a constant of t; float64 (N,).
    """

    plain: Tensor
    guided: Tensor
    log_twist: Tensor


def guided_estimate(
    denoiser: Denoiser,
    likelihood: GaussianLikelihood,
    process: NoiseProcess,
    x: Tensor,
    t: float,
    *,
    data_std: float = 1.0,
    weight: float = 1.0,
) -> GuidedEstimate:
    """Ask the denoiser once and return its estimate, the guided one and the measurement's log density.

    Args:
        denoiser: of the prior, differentiable.
        likelihood: the measurement.
        process: noise process of the prior.
        x: noisy batch (N, ...), real.
        t: level of the batch, where alpha > 0.
        data_std: s, standard deviation of a component of the data.
        weight: factor of the score.
    """
    variance = posterior_variance(process, t, data_std)
    with torch.enable_grad():
        start = x.detach().requires_grad_(True)
        x0 = denoiser(start, t)
        with torch.no_grad():
            delta = likelihood.correction(x0, variance)
        (score,) = torch.autograd.grad(x0, start, delta / variance)
    plain = x0.detach()
    with torch.no_grad():
        log_twist = likelihood.log_marginal(plain, delta)
        factor = weight * float(process.sigma(t) ** 2 / process.alpha(t))
        return GuidedEstimate(plain, plain + factor * score, log_twist)


def pigdm(
    denoiser: Denoiser,
    likelihood: GaussianLikelihood,
    process: NoiseProcess,
    *,
    data_std: float = 1.0,
    weight: float = 1.0,
) -> Denoiser:
    """Return the denoiser guided towards a measurement; weight 0 returns `denoiser` itself."""
    if weight == 0:
        return denoiser

    def denoise(x: Tensor, t: Time, /) -> Tensor:
        return guided_estimate(denoiser, likelihood, process, x, float(t), data_std=data_std, weight=weight).guided

    return denoise
