r"""Multistep consistency sampling: accept the estimate, add fresh noise of the next level, ask again.

    x_t = alpha_t D + sigma_t z

For consistency models, whose D is a sample already; DDIM and DDPM instead keep a part of the old noise.

Reference: Song et al., Consistency Models, 2023, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.grid import Grid
from shared.solvers.linear import LinearPlan, Update


@dataclass(frozen=True)
class ConsistencySteps:
    """The estimate noised anew; stochastic, one call a step."""

    def plan(self, grid: Grid) -> LinearPlan:
        """Return one update a step."""
        updates = [Update(grid.times[k], 0.0, (grid.alpha[k + 1],), noise=grid.sigma[k + 1]) for k in range(grid.steps)]
        return LinearPlan(tuple(updates), grid.times[-1])
