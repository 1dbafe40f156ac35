r"""DDIM: the exact solution of a step when D is constant over it, with a share eta of fresh noise.

With q = kappa_t / kappa_s, kappa = sigma / alpha, from level s down to level t:

    c       = eta sigma_t sqrt(1 - q^2)                        fresh noise
    x_t     = alpha_t D + sqrt(sigma_t^2 - c^2) eps + c z      eps = (x_s - alpha_s D) / sigma_s

eta = 0 is deterministic and first order; eta = 1 is `Ancestral`.

Reference: Song, Meng and Ermon, Denoising Diffusion Implicit Models, 2021, eq. 12 and 16, written for any process.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from shared.errors import InputError
from shared.grid import Grid
from shared.solvers.linear import LinearPlan, Update


@dataclass(frozen=True)
class DDIM:
    """First-order solver, one call a step.

    Attributes:
        eta: 0 (deterministic) to 1 (as much fresh noise as the forward process allows).

    Raises:
        InputError: eta outside [0, 1].
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise InputError("eta", found=f"{self.eta}", expected="a number in [0, 1]", fix="0 is deterministic.")

    def plan(self, grid: Grid) -> LinearPlan:
        """Return one update a step."""
        updates = []
        for k in range(grid.steps):
            alpha_s, alpha_t, sigma_s, sigma_t = grid.alpha[k], grid.alpha[k + 1], grid.sigma[k], grid.sigma[k + 1]
            q = alpha_s * sigma_t / (alpha_t * sigma_s)
            fresh = self.eta * math.sqrt(max(0.0, 1 - q**2))
            eps_weight = sigma_t * math.sqrt(1 - fresh**2)
            gain = eps_weight / sigma_s
            updates.append(Update(grid.times[k], gain, (alpha_t - alpha_s * gain,), noise=sigma_t * fresh))
        return LinearPlan(tuple(updates), grid.times[-1])
