r"""A whole linear sampling as one lower triangular table, found before the sampling starts.

Every point that a linear solver reaches is a fixed sum of what it started from, the network's answers F_j and the
noises z_j drawn by then, even when the conversion of the answers (`shared.denoiser.Reading`) is part of it:

    x_k = sum_i X_ki v_i,      D_k = skip_k x_k + out_k F_k = sum_i E_ki v_i,      v = (x_0, F_0, z_0, F_1, z_1, ...)

(z_k only where the solver adds noise). The tables X and E are what the plan itself does to unit vectors, so they hold
for any linear plan: multistep, correctors, two calls a step, noise prediction. A step is then one product of a row with
the stack of v, whatever the solver, and nothing in float32 is cancelled that can be cancelled here in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from shared.denoiser import Reading
from shared.errors import InputError
from shared.sampling import Plan
from shared.solvers.linear import LinearPlan
from shared.solvers.noise_multistep import NoisePlan


@dataclass(frozen=True)
class Unrolled:
    """The coefficients of every point of a sampling.

    Attributes:
        points: X_k for k = 0 ... calls, the last one the sample; float64, only the first entries that can differ from
            zero: `points[k]` has one entry for each of v known before call k.
        estimates: E_k for each call, with one entry more for F_k.
        answers: place of F_k in v.
        noises: places of the noises in v, in the order of the draws.
    """

    points: tuple[Tensor, ...]
    estimates: tuple[Tensor, ...]
    answers: tuple[int, ...]
    noises: tuple[int, ...]

    @property
    def size(self) -> int:
        """Return the length of v."""
        return len(self.points[-1])


def unroll(plan: Plan, readings: Sequence[Reading]) -> Unrolled:
    """Return the tables of a plan.

    Args:
        plan: of a linear solver.
        readings: how the answer to each call is read; `Reading(time, skip=0, out=1)` for answers that are D already.

    Raises:
        InputError: a plan whose steps are not linear in the answers.
    """
    if isinstance(plan, LinearPlan):
        spread = [update.noise for update in plan.updates]
        silent: LinearPlan | NoisePlan = replace(
            plan, updates=tuple(replace(update, noise=0.0) for update in plan.updates)
        )
    elif isinstance(plan, NoisePlan):
        spread, silent = [0.0] * plan.calls, plan
    else:
        raise InputError(
            "solver",
            found=f"a {type(plan).__name__}",
            expected="a solver whose steps are fixed sums of the network's answers",
            fix="Use another solver, such as Multistep or a calibration, or the loop `sample`.",
        )
    known, answers, noises = 1, [], []
    for noise in spread:
        answers.append(known)
        if noise:
            noises.append(known + 1)
        known += 2 if noise else 1
    unit = torch.eye(known, dtype=torch.float64)
    state = silent.start(unit[0])
    points, estimates = [state.x[:1]], []
    for k, (noise, reading) in enumerate(zip(spread, readings, strict=True)):
        estimate = reading.skip * state.x + reading.out * unit[answers[k]]
        estimates.append(estimate[: answers[k] + 1])
        state = silent.advance(state, estimate)
        if noise:
            state = replace(state, x=state.x + noise * unit[answers[k] + 1])
        points.append(state.x[: answers[k + 1] if k + 1 < len(answers) else known])
    return Unrolled(tuple(points), tuple(estimates), tuple(answers), tuple(noises))
