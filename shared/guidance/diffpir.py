r"""DiffPIR: a proximal step with a plug-and-play weight, and a step that draws part of the noise anew.

    D'(x, t) = argmin_z  |A z - y|^2 / 2 sigma_y^2 + lamda / (2 kappa^2) |z - D(x, t)|^2,     kappa = sigma / alpha
    x_next   = alpha' D' + sigma' ( sqrt(1 - zeta) eps + sqrt(zeta) xi ),    eps = (x - alpha D') / sigma, xi ~ N(0, 1)

The first line is `diffpir`, the second the solver `Renoising`, which goes with any denoiser. Unlike DDIM's eta, zeta is
the share of the noise *variance* at the next level that is new; zeta = 0 is deterministic DDIM, zeta = 1 forgets x.

Reference: Zhu et al., Denoising Diffusion Models for Plug-and-Play Image Restoration, 2023, algorithm 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from shared.denoiser import Denoiser
from shared.errors import InputError
from shared.grid import Grid
from shared.guidance.dds import consistent
from shared.guidance.likelihood import Proximal
from shared.process import NoiseProcess, Time
from shared.solvers.linear import LinearPlan, Update

MOST_KAPPA = 1e6  # where alpha = 0 the prior says nothing: any larger number is the same


def diffpir(
    denoiser: Denoiser,
    likelihood: Proximal,
    process: NoiseProcess,
    *,
    lamda: float = 1.0,
    weight: float = 1.0,
) -> Denoiser:
    """Return the denoiser made consistent with a measurement as in DiffPIR.

    Args:
        denoiser: of the prior.
        likelihood: the measurement.
        process: noise process of the prior.
        lamda: trust in the prior.
        weight: share of the correction; 0 returns `denoiser` itself.
    """

    def variance(t: Time) -> float:
        return min(float(process.sigma(t) / process.alpha(t)), MOST_KAPPA) ** 2 / lamda

    return consistent(denoiser, likelihood, variance, weight=weight)


@dataclass(frozen=True)
class Renoising:
    """The step of DiffPIR, one call a step.

    Attributes:
        zeta: share of new noise, 0 to 1.

    Raises:
        InputError: zeta outside [0, 1].
    """

    zeta: float = 0.3

    def __post_init__(self) -> None:
        if not 0 <= self.zeta <= 1:
            raise InputError("zeta", found=f"{self.zeta}", expected="a number in [0, 1]", fix="0.3 is a good choice.")

    def plan(self, grid: Grid) -> LinearPlan:
        """Return one update a step."""
        updates = []
        for k in range(grid.steps):
            gain = math.sqrt(1 - self.zeta) * grid.sigma[k + 1] / grid.sigma[k]
            weight = grid.alpha[k + 1] - gain * grid.alpha[k]
            updates.append(Update(grid.times[k], gain, (weight,), noise=math.sqrt(self.zeta) * grid.sigma[k + 1]))
        return LinearPlan(tuple(updates), grid.times[-1])
