r"""Exponential multistep solvers in data prediction: Adams-Bashforth, optionally with a free corrector.

Predictor. D over the step is the polynomial through the newest p answers (Adams-Bashforth), integrated exactly:

    x_{k+1} = (sigma_{k+1} / sigma_k) x_k + sum_{j<p} w_j D_{k-j}            w from `solvers.quadrature`

Corrector (UniC of UniPC, in exact-integral form). When the network has answered at x_{k+1}, the step is taken again
with that answer as one more node (Adams-Moulton), and the next step starts from the corrected point:

    y_{k+1} = (sigma_{k+1} / sigma_k) y_k + sum_{j<=p} v_j D_{k+1-j}

The answer is the one that the next step needs anyway: no extra calls.

The first steps have too little history and use lower orders; the step to sigma = 0 is x = D. Order of convergence in
log_snr, for smooth D, in the limit of small steps h:

| order | predictor alone | with corrector | because                                                                |
| ----- | --------------- | -------------- | ---------------------------------------------------------------------- |
| 1     | 1 (= DDIM)      | 2              |                                                                        |
| 2     | 2               | 3              |                                                                        |
| 3, 4  | 2               | 3              | the first step has a local error of h^2, and of h^3 when it is corrected |

The error of the first step is small where D hardly changes in it (noise far above the data). Orders 3 and 4 then
converge at their own rate until that floor; `docs/core.md` has the measured rates.

`midpoint` weights are those of DPM-Solver++(2M), which replace the exact integral of the linear term by half of the
first-order weight: the same order, other constants.

References:
    Lu et al., DPM-Solver++, 2022, algorithm 2.
    Zhao et al., UniPC, 2023, algorithms 1 and 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from shared.errors import InputError
from shared.grid import Grid
from shared.solvers.linear import LinearPlan, Update
from shared.solvers.quadrature import exponential_weights, transfer


@dataclass(frozen=True)
class Multistep:
    """Exponential multistep solver, one call a step.

    Attributes:
        order: how many answers the predictor looks at, 1 to 4.
        corrector: correct each step with the answer at its end.
        weights: "exact" integrals, or "midpoint" for the convention of DPM-Solver++(2M) (order 2, no corrector).

    Raises:
        InputError: an order outside 1 to 4, or midpoint weights with another order or a corrector.
    """

    order: int = 2
    corrector: bool = False
    weights: Literal["exact", "midpoint"] = "exact"

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3, 4):
            raise InputError("order", found=f"{self.order}", expected="1, 2, 3 or 4", fix="2 or 3 are good choices.")
        if self.weights not in ("exact", "midpoint"):
            raise InputError("weights", found=f"{self.weights!r}", expected="exact or midpoint", fix="Use exact.")
        if self.weights == "midpoint" and (self.order != 2 or self.corrector):
            raise InputError(
                "weights",
                found=f"midpoint with order {self.order}, corrector {self.corrector}",
                expected="midpoint with order 2 and no corrector",
                fix="Use Multistep.dpm_solver_pp_2m().",
            )

    @classmethod
    def dpm_solver_pp_2m(cls) -> Multistep:
        """Return DPM-Solver++(2M) with the coefficients of its paper and of diffusers (algorithm "dpmsolver++")."""
        return cls(order=2, weights="midpoint")

    def plan(self, grid: Grid) -> LinearPlan:
        """Return one update a step."""
        updates = []
        for k in range(grid.steps):
            past = range(k, max(k - self.order, -1), -1)
            nodes = [grid.log_snr[j] for j in past]
            if self.weights == "exact":
                weights = exponential_weights(nodes, nodes[0], grid.log_snr[k + 1], grid.alpha[k + 1])
            else:
                weights = midpoint_weights(nodes, grid.log_snr[k + 1], grid.alpha[k + 1])
            gain = transfer(grid.sigma, k, k + 1)
            if self.corrector and k > 0 and gain > 0:
                nodes = [grid.log_snr[j] for j in range(k, max(k - 1 - self.order, -1), -1)]
                correct = exponential_weights(nodes, grid.log_snr[k - 1], grid.log_snr[k], grid.alpha[k])
                keep = transfer(grid.sigma, k - 1, k)
                updates.append(Update(grid.times[k], gain, weights, keep=keep, take=0.0, correct=correct))
            else:
                updates.append(Update(grid.times[k], gain, weights))
        return LinearPlan(tuple(updates), grid.times[-1])


def midpoint_weights(nodes: list[float], l_to: float, alpha_to: float) -> tuple[float, ...]:
    """Return the weights of DPM-Solver++(2M): alpha_t (1 - exp(-h)) times (1 + h/2h', -h/2h').

    Args:
        nodes: log_snr of the newest one or two answers, newest first; h' is their distance.
        l_to: log_snr at the end of the step; h is its distance from the newest node.
        alpha_to: alpha at the end of the step.
    """
    h = l_to - nodes[0]
    first_order = alpha_to * -math.expm1(-h)
    if len(nodes) == 1 or math.isinf(h) or math.isinf(nodes[1]):
        return (first_order, *[0.0] * (len(nodes) - 1))
    slope = h / (2 * (nodes[0] - nodes[1]))
    return first_order * (1 + slope), -first_order * slope
