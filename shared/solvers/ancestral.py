r"""Ancestral sampling: draw from the posterior q(x_t | x_s, x_0 = D) of the forward process, between any two levels.

With a = alpha_s / alpha_t and b^2 = sigma_s^2 - a^2 sigma_t^2, the forward transition is x_s = a x_t + b z, and Bayes
gives (DDPM eq. 6 and 7, where the levels are neighbours in the table):

    mean     = (a sigma_t^2 x_s + alpha_t b^2 D) / sigma_s^2
    variance = sigma_t^2 b^2 / sigma_s^2

On exact denoisers it is the only one of our solvers whose samples carry the spread that D alone lacks; it needs many
steps. It equals DDIM with eta = 1.

Reference: Ho, Jain and Abbeel, Denoising Diffusion Probabilistic Models, 2020.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from shared.grid import Grid
from shared.solvers.linear import LinearPlan, Update


@dataclass(frozen=True)
class Ancestral:
    """The DDPM posterior between arbitrary levels; stochastic, one call a step."""

    def plan(self, grid: Grid) -> LinearPlan:
        """Return one update a step."""
        updates = []
        for k in range(grid.steps):
            alpha_t, sigma_s, sigma_t = grid.alpha[k + 1], grid.sigma[k], grid.sigma[k + 1]
            a = grid.alpha[k] / alpha_t
            b2 = max(0.0, sigma_s**2 - (a * sigma_t) ** 2)
            gain, weight = a * (sigma_t / sigma_s) ** 2, alpha_t * b2 / sigma_s**2
            updates.append(Update(grid.times[k], gain, (weight,), noise=sigma_t * math.sqrt(b2) / sigma_s))
        return LinearPlan(tuple(updates), grid.times[-1])
