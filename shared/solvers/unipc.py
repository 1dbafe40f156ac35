r"""UniPC in the B(h) form of its paper and of diffusers.

With h the step in log_snr, m_j the answers, newest first, r_j = (l_j - l_0) / h < 0 the place of the older ones, and
B = -h ("bh1") or B = exp(-h) - 1 ("bh2"), in data prediction

    predictor   x = (sigma_t/sigma_s) y + alpha_t (1 - exp(-h)) m_0 - alpha_t B sum_j rho_j (m_j - m_0) / r_j
    corrector   the same sum with one more answer, that at the end of the step, at r = 1

and rho from sum_j rho_j r_j^(i-1) = b_i, b_i = i! z phi_{i+1}(z) / B at z = -h, where
z phi_{i+1}(z) = phi_i(z) - 1/i! and phi_1(z) = (exp(z) - 1) / z. Where one rho is to be found, it is 1/2 whatever h.

Away from that shortcut B cancels, and the sums are the exact integrals of the polynomial through the answers: order 3
differs from `Multistep(3, corrector=True)` only in the steps at which the shortcut or a lower order is used.

Reference: Zhao et al., UniPC, 2023, algorithms 1 and 2, eq. 9 to 12.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from shared.errors import InputError
from shared.grid import Grid
from shared.solvers.linear import LinearPlan, Update
from shared.solvers.quadrature import transfer


@dataclass(frozen=True)
class UniPC:
    """Unified predictor-corrector, one call a step; the last p - 1 steps lower the order to 1, as in diffusers.

    Attributes:
        order: how many answers the predictor looks at, 1 to 4.
        variant: B(h), "bh1" or "bh2".

    Raises:
        InputError: another order or variant.
    """

    order: int = 2
    variant: Literal["bh1", "bh2"] = "bh2"

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3, 4) or self.variant not in ("bh1", "bh2"):
            raise InputError(
                "UniPC",
                found=f"order {self.order}, variant {self.variant!r}",
                expected="order 1 to 4, variant bh1 or bh2",
                fix="UniPC(2) is a good choice.",
            )

    def plan(self, grid: Grid) -> LinearPlan:
        """Return one update a step."""
        updates = []
        last: tuple[float, ...] = ()  # nodes of the predictor of the step before
        for k in range(grid.steps):
            order = min(self.order, grid.steps - k, k + 1)
            nodes = tuple(node for node in grid.log_snr[k + 1 - order : k + 1][::-1] if math.isfinite(node))
            l_to, alpha_to, gain = grid.log_snr[k + 1], grid.alpha[k + 1], transfer(grid.sigma, k, k + 1)
            weights = _weights(nodes, None, l_to, alpha_to, self.variant)
            if last:
                correct = _weights(last, grid.log_snr[k], grid.log_snr[k], grid.alpha[k], self.variant)
                keep = transfer(grid.sigma, k - 1, k)
                updates.append(Update(grid.times[k], gain, weights, keep=keep, take=0.0, correct=correct))
            else:
                updates.append(Update(grid.times[k], gain, weights))
            last = nodes
        return LinearPlan(tuple(updates), grid.times[-1])


def _weights(
    nodes: tuple[float, ...], end: float | None, l_to: float, alpha_to: float, variant: str
) -> tuple[float, ...]:
    """Return the weights of the answers at `end` (a corrector's) and at the nodes, newest first.

    Without finite nodes (a step from pure noise) the step is of first order, and is not corrected.
    """
    if not nodes or math.isinf(l_to):
        return (alpha_to, *[0.0] * (len(nodes) - 1))
    h = l_to - nodes[0]
    first = -math.expm1(-h)
    places = [*([1.0] if end is not None else []), *((node - nodes[0]) / h for node in nodes[1:])]
    if not places:
        return (alpha_to * first,)
    bracket = -h if variant == "bh1" else math.expm1(-h)
    if len(places) == 1:
        rho = np.array([0.5])
    else:
        powers = np.array([[place**i for place in places] for i in range(len(places))])
        z_phi, right = first / h - 1, []  # z phi_{i+1}(z) at z = -h
        for i in range(1, len(places) + 1):
            right.append(math.factorial(i) * z_phi / bracket)
            z_phi = -z_phi / h - 1 / math.factorial(i + 1)
        rho = np.linalg.solve(powers, np.array(right))
    others = [-alpha_to * bracket * float(r) / place for r, place in zip(rho, places, strict=True)]
    newest = alpha_to * first - sum(others)
    return (others[0], newest, *others[1:]) if end is not None else (newest, *others)
