r"""DPM-Solver++ multistep with the coefficients of its paper and of diffusers: 2M, 3M and their stochastic form 2M-SDE.

With h the step in l = log_snr, h_0 and h_1 the two before it, r_i = h_i / h, m_j the answers, newest first, and

    d_0 = (m_0 - m_1) / r_0,   d_1 = (m_1 - m_2) / r_1,   e = (d_0 - d_1) / (r_0 + r_1),

    2M       x = (sigma_t/sigma_s) x + alpha_t (1 - exp(-h)) (m_0 + d_0 / 2)
    3M       x = (sigma_t/sigma_s) x + alpha_t ((1 - exp(-h)) m_0 + phi_2 (d_0 + r_0 e) + phi_3 e)
                 phi_2 = 1 - (1 - exp(-h)) / h,   phi_3 = 1/2 - phi_2 / h
    2M-SDE   x = (sigma_t/sigma_s) exp(-h) x + alpha_t (1 - exp(-2h)) (m_0 + d_0 / 2) + sigma_t sqrt(1 - exp(-2h)) z

e is half of h^2 D'', whose exact integral has weight 2 phi_3: 3M gives half of it, and so is of order 2, as is 2M;
`Multistep(3)` has the exact weights. With fewer than 15 steps 3M ends with a step of order 2 and one of order 1, as
diffusers does. 2M is `Multistep.dpm_solver_pp_2m()`.

Reference: Lu et al., DPM-Solver++, 2022, algorithm 2 and appendix B.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from shared.errors import InputError
from shared.grid import Grid
from shared.solvers.linear import LinearPlan, Update
from shared.solvers.multistep import midpoint_weights
from shared.solvers.quadrature import transfer

FEW_STEPS = 15  # below, diffusers lowers the order of the last steps


@dataclass(frozen=True)
class DPMSolver:
    """DPM-Solver++ multistep, one call a step.

    Attributes:
        order: 2 or 3.
        stochastic: solve the reverse SDE instead of the ODE (order 2 only).

    Raises:
        InputError: another order, or order 3 with stochastic.
    """

    order: int = 2
    stochastic: bool = False

    def __post_init__(self) -> None:
        if self.order not in (2, 3) or (self.stochastic and self.order == 3):
            raise InputError(
                "DPM-Solver++",
                found=f"order {self.order}{', stochastic' if self.stochastic else ''}",
                expected="order 2 or 3, stochastic only with 2",
                fix="Use DPMSolver(2, stochastic=True) for the SDE.",
            )

    def plan(self, grid: Grid) -> LinearPlan:
        """Return one update a step."""
        updates = []
        for k in range(grid.steps):
            left = grid.steps - k
            order = min(self.order, left) if grid.steps < FEW_STEPS else self.order
            nodes = [node for node in grid.log_snr[max(0, k + 1 - order) : k + 1][::-1] if math.isfinite(node)]
            nodes = nodes or [-math.inf]
            l_to, alpha_to, gain = grid.log_snr[k + 1], grid.alpha[k + 1], transfer(grid.sigma, k, k + 1)
            h, noise = l_to - nodes[0], 0.0
            if len(nodes) == 3 and math.isfinite(h):
                weights = third_order_weights(nodes, l_to, alpha_to)
            else:
                weights = midpoint_weights(nodes[:2], l_to, alpha_to)
            if self.stochastic:
                decay = math.exp(-h)
                weights = tuple(weight * (1 + decay) for weight in weights)  # 1 - e^-2h = (1 - e^-h)(1 + e^-h)
                noise = grid.sigma[k + 1] * math.sqrt(-math.expm1(-2 * h))
                gain *= decay
            updates.append(Update(grid.times[k], gain, weights, noise=noise))
        return LinearPlan(tuple(updates), grid.times[-1])


def third_order_weights(nodes: list[float], l_to: float, alpha_to: float) -> tuple[float, ...]:
    """Return the weights of 3M.

    Args:
        nodes: log_snr of the newest three answers, newest first.
        l_to: log_snr at the end of the step.
        alpha_to: alpha at the end of the step.
    """
    h = l_to - nodes[0]
    r0, r1 = (nodes[0] - nodes[1]) / h, (nodes[1] - nodes[2]) / h
    phi_1 = -math.expm1(-h)
    phi_2 = 1 - phi_1 / h
    phi_3 = 0.5 - phi_2 / h
    curve = (phi_2 * r0 + phi_3) / (r0 + r1)  # weight of d_0 - d_1
    newest, older = (phi_2 + curve) / r0, -curve / r1  # weights of m_0 - m_1 and m_1 - m_2
    return alpha_to * (phi_1 + newest), alpha_to * (older - newest), -alpha_to * older
