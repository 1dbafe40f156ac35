r"""The noise of DDPM-CD: a beta table of T steps, and a network that is told the level sqrt(abar) instead of the step.

    s_t = sqrt(prod_{j <= t} (1 - beta_j)),  s_0 = 1;      x_t = s_t x_0 + sqrt(1 - s_t^2) eps,   t = 1 ... T

In `shared`'s continuous time, step t of the table lies at t / T, and s is `alpha`. Step t of a training has a level
l ~ U[s_t, s_{t-1}] (Chen et al., WaveGrad, 2021; Saharia et al., SR3, 2021).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from remote_sensing.ddpm_cd.config import ScheduleConfig
from shared.process import TableVP, Time, VariancePreserving, squared_cosine_betas


@dataclass(frozen=True)
class NoiseLevelVP(TableVP):
    """A table whose network is told alpha(t), the noise level of SR3."""

    def network_time(self, t: Time) -> Tensor:
        """Return alpha(t) = sqrt(abar)."""
        return self.alpha(t)

    def levels(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Return s_t and s_{t-1}, float64, the lowest and the highest level of the steps t (1 ... T, integers)."""
        return self.alpha(steps.double() / self.steps), self.alpha((steps.double() - 1) / self.steps)

    def time_of_level(self, level: Tensor) -> Tensor:
        """Return the continuous t in [0, 1] at which alpha(t) is the level, float64."""
        return self.time_of_log_alpha(torch.log(level.double()))


def betas(config: ScheduleConfig) -> Tensor:
    """Return the table (T,), float64."""
    if config.kind == "cosine":
        return squared_cosine_betas(config.steps)
    return torch.linspace(config.first, config.last, config.steps, dtype=torch.float64)


def noise_process(config: ScheduleConfig) -> NoiseLevelVP:
    """Return the process of the table."""
    with torch.device("cpu"):  # numbers, also where a network is made on the meta device
        return NoiseLevelVP(VariancePreserving.from_betas(betas(config)).log_alphas)


def published_buffers(config: ScheduleConfig) -> dict[str, Tensor]:
    r"""Return the 12 tables (T,) that a published file holds beside its weights, float32.

    With a_t = 1 - beta_t, abar_t = prod a and abar_0 = 1, those of the posterior q(x_{t-1} | x_t, x_0) are (Ho et al.,
    DDPM, 2020, eq. 6 and 7)

        variance  beta_t (1 - abar_{t-1}) / (1 - abar_t)
        mean      sqrt(abar_{t-1}) beta_t / (1 - abar_t) x_0 + sqrt(a_t) (1 - abar_{t-1}) / (1 - abar_t) x_t
    """
    beta = betas(config)
    abar = torch.cumprod(1 - beta, 0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
    variance = beta * (1 - before) / (1 - abar)
    tables = {
        "betas": beta,
        "alphas_cumprod": abar,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": abar.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - abar).sqrt(),
        "log_one_minus_alphas_cumprod": (1 - abar).log(),
        "sqrt_recip_alphas_cumprod": (1 / abar).sqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / abar - 1).sqrt(),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": variance.clamp_min(1e-20).log(),
        "posterior_mean_coef1": beta * before.sqrt() / (1 - abar),
        "posterior_mean_coef2": (1 - before) * (1 - beta).sqrt() / (1 - abar),
    }
    return {name: table.float() for name, table in tables.items()}
