"""Gaussian data N(mean, std^2): the exact denoiser and what each solver must do with it, in closed form.

    D(x, t) = (sigma^2 mean + alpha std^2 x) / (alpha^2 std^2 + sigma^2)

D is affine in x, so a deterministic sampling is an affine map of its start and its standard deviation is the slope.
The predictions below are written in the noise form (x, eps), independently of the solvers' data form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from shared.process import NoiseProcess, along_batch


@dataclass(frozen=True)
class GaussianDenoiser:
    process: NoiseProcess
    mean: float = 0.5
    std: float = 0.2

    def __call__(self, x: Tensor, t) -> Tensor:
        alpha, sigma = along_batch(self.process.alpha(t), x), along_batch(self.process.sigma(t), x)
        return (sigma**2 * self.mean + alpha * self.std**2 * x) / (alpha**2 * self.std**2 + sigma**2)


def ddim_moments(
    alphas: Sequence[float], sigmas: Sequence[float], start_std: float, mean: float = 0.5, std: float = 0.2, eta=0.0
) -> tuple[float, float]:
    """Return mean and standard deviation of DDIM's result, by x_t = alpha_t x0 + sqrt(sigma_t^2 - c^2) eps + c z."""
    m, variance = 0.0, start_std**2
    for (a_s, s_s), (a_t, s_t) in zip(
        zip(alphas, sigmas, strict=True), list(zip(alphas, sigmas, strict=True))[1:], strict=False
    ):
        total = a_s**2 * std**2 + s_s**2
        eps_slope, eps_shift = s_s / total, -s_s * a_s * mean / total  # eps = slope x + shift
        x0_slope, x0_shift = a_s * std**2 / total, s_s**2 * mean / total
        c = eta * s_t * math.sqrt(max(0.0, 1 - (a_s * s_t / (a_t * s_s)) ** 2))
        rest = math.sqrt(max(0.0, s_t**2 - c**2))
        slope = a_t * x0_slope + rest * eps_slope
        m = slope * m + a_t * x0_shift + rest * eps_shift
        variance = slope**2 * variance + c**2
    return m, math.sqrt(variance)
