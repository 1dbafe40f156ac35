r"""Decomposed diffusion sampling: one proximal step towards the data after each estimate.

    D'(x, t) = argmin_z  |A z - y|^2 / 2 sigma_y^2 + |z - D(x, t)|^2 / 2 v(t)
             = argmin_z  gamma(t)/2 |A z - y|^2 + |z - D|^2 / 2,      gamma(t) = v(t) / sigma_y^2

by a few iterations of conjugate gradients. The published method takes a constant gamma, with which the data are fitted
to their noise at the end of the sampling; here gamma follows the two uncertainties, so no tuning is left:

| v(t)                          | method  | constant                                                         |
| ----------------------------- | ------- | ---------------------------------------------------------------- |
| kappa^2 s^2 / (kappa^2 + s^2) | DDS     | s, standard deviation of the data: exact for white Gaussian data |
| kappa^2 / lamda               | DiffPIR | lamda, about 1 to 10 (see `shared.guidance.diffpir`)             |

kappa = sigma / alpha. D needs no gradient, so a step costs one network call.

Reference: Chung, Lee and Ye, Decomposed Diffusion Sampler, 2024, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from shared.denoiser import Denoiser
from shared.guidance.likelihood import Proximal, posterior_variance
from shared.process import NoiseProcess, Time


def dds(
    denoiser: Denoiser,
    likelihood: Proximal,
    process: NoiseProcess,
    *,
    data_std: float = 1.0,
    weight: float = 1.0,
) -> Denoiser:
    """Return the denoiser made consistent with a measurement.

    Args:
        denoiser: of the prior.
        likelihood: the measurement.
        process: noise process of the prior.
        data_std: s, standard deviation of a component of the data.
        weight: share of the correction; 0 returns `denoiser` itself.
    """
    return consistent(denoiser, likelihood, lambda t: posterior_variance(process, t, data_std), weight=weight)


def consistent(
    denoiser: Denoiser, likelihood: Proximal, variance: Callable[[Time], float], *, weight: float = 1.0
) -> Denoiser:
    """Return D + weight delta, where delta is the proximal step for the variance v(t) (module docstring).

    Args:
        denoiser: of the prior.
        likelihood: the measurement.
        variance: t -> v.
        weight: share of the correction; 0 returns `denoiser` itself.
    """
    if weight == 0:
        return denoiser

    def denoise(x: Tensor, t: Time, /) -> Tensor:
        x0 = denoiser(x, t)
        return x0 + weight * likelihood.correction(x0, variance(t))

    return denoise
