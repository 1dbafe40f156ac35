r"""Heun's method: the teacher. Two calls a step, second order, no history.

In l = log_snr, with the weights of `solvers.quadrature` for the line through both answers:

    x~      = (sigma_t / sigma_s) x_s + alpha_t (1 - exp(-h)) D(x_s, s)          first call: a DDIM step
    x_t     = (sigma_t / sigma_s) x_s + w_0 D(x~, t) + w_1 D(x_s, s)             second call: the trapezoid

The step to sigma = 0 is x = D, with one call: 2 N - 1 calls on a grid of N steps. The exponential form has the
variable in which D is smooth and is regular at alpha = 0, where the sigma / alpha of Karras et al. is infinite.

References:
    Karras et al., Elucidating the Design Space, 2022, algorithm 1; Hochbruck and Ostermann, 2010, eq. 2.39.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.grid import Grid
from shared.solvers.linear import LinearPlan, Update
from shared.solvers.quadrature import exponential_weights, transfer


@dataclass(frozen=True)
class Heun:
    """Exponential trapezoid, two calls a step."""

    def plan(self, grid: Grid) -> LinearPlan:
        """Return two updates a step, one for a last step to sigma = 0."""
        updates = []
        for k in range(grid.steps):
            s, t, alpha_t = grid.log_snr[k], grid.log_snr[k + 1], grid.alpha[k + 1]
            gain = transfer(grid.sigma, k, k + 1)
            updates.append(Update(grid.times[k], gain, exponential_weights([s], s, t, alpha_t)))
            if gain > 0:
                correct = exponential_weights([t, s], s, t, alpha_t)
                updates.append(Update(grid.times[k + 1], 1.0, (), keep=gain, take=0.0, correct=correct))
        return LinearPlan(tuple(updates), grid.times[-1])
