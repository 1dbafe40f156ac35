r"""ERTACache: reuse where a profile says that little changes, with steps and features rectified.

    schedule = ertacache(denoiser, x, grid, solver, blocks, price=10.0)
    sample(schedule.bind(denoiser), noise, schedule.grid, solver)

1. Policy. On a few noises, the relative l1 drift of what would be reused from what would be computed,

       c[k, i] = |f_k - f_i|_1 / |f_i|_1,

   and one set of steps for all blocks: reuse while c < gamma (`profile.walk`). The user gives the price, and bisection
   finds gamma. The published signal is the drift of the network's output; here each block has one too, so every signal
   is walked and the mask with the least error at the end of these noises is kept.
2. Adjustment of the steps (optional). A step that reuses goes a part phi of its way, and the rest is shared among the
   steps that remain (T steps in all, u the step index as a continuous number):

       phi_i = clip(1 - |D~_i - D_i|_1 / |D_i - D_{i-1}|_1, PHI_LEAST, 1),
       du_i = phi_i du or du,        du <- (T - u_{i+1}) / (T - i - 1),

   D the estimate of x_0, D~ that with reuse. The grid is read at u, linear in t between its nodes.
3. Rectification (`shared.reuse.rectification`).

Source: Peng et al., ERTACache, ICLR 2026 (arXiv 2508.21091). There the whole output of the network is reused under
Euler's method; here the blocks are, under any deterministic solver that asks once a level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from shared.denoiser import NetworkDenoiser, PreconditionedDenoiser
from shared.grid import Grid
from shared.reuse.executor import TIME_TOLERANCE, Predictor, ReusingNetwork
from shared.reuse.interception import Block
from shared.reuse.predictors import Rectified
from shared.reuse.profile import Profile, affordable, computed_within, network_of, profiled, shares, step_mask
from shared.reuse.rectification import Table, rectification
from shared.reuse.schedule import ReuseSchedule, make_schedule
from shared.sampling import Solver, sample

PHI_LEAST = 0.1  # a step of no length would ask the network twice at one level


def ertacache(
    denoiser: NetworkDenoiser | PreconditionedDenoiser,
    x: Tensor,
    grid: Grid,
    solver: Solver,
    blocks: Sequence[Block],
    *,
    price: float,
    rectify: bool = True,
    adjust: bool = False,
    targets: Sequence[Tensor] | None = None,
    progress: str | None = None,
) -> ReuseSchedule:
    """Return the schedule of ERTACache at a price.

    Args:
        denoiser: of the plain network, with its conditioning; labels (n,) go with x.
        x: noises to fit on, (n, ...) at the first level of the grid.
        grid: levels.
        solver: deterministic, asks once a level.
        blocks: what is reused, all together: for a UNet, `unet_levels(network)[1:]` (or a deeper tail).
        price: of a sampling in whole network calls, at most; the schedule computes all blocks at as many steps as it
            allows.
        rectify: fit scalars to the reused features; kept only if they lower the error at the end of x.
        adjust: shorten the steps that reuse; kept only if it lowers that error. The schedule then has its own grid.
        targets: states to come back to at every node of the grid, from x to the end; by default those of the plain
            sampling. `shared.calibration.teacher.follow(denoiser, x, grid).states` are those of the exact ODE.
        progress: label of progress bars.

    Raises:
        InputError: a price that does not buy the first step, a network that is no module, unknown blocks, or a solver
            that draws noise or asks twice at a level.
    """
    seen = profiled(denoiser, x, grid, solver, blocks, progress=progress)
    states = seen.states if targets is None else tuple(targets)
    costs = shares(denoiser, blocks, x, seen.asked[0])
    budget = affordable(price, len(seen.asked), costs)
    trial = _Trial(denoiser, x, solver, tuple(blocks), states[-1])
    policy = _policy(seen, budget, grid, trial)
    mask, asked, error = policy.mask, seen.asked, policy.error
    measured = {"gamma": policy.gamma, "rmse_profiled": error}
    if adjust:
        other = adjusted(grid, trust(denoiser, seen, blocks, mask))
        measured["rmse_adjusted"] = trial.error(other, mask)
        if measured["rmse_adjusted"] < error:
            again = profiled(denoiser, x, other, solver, blocks, progress=progress)
            grid, asked, states, error = other, again.asked, again.states, measured["rmse_adjusted"]
    tables: tuple[Table, Table] | None = None
    if rectify:
        tables = rectification(denoiser, grid, solver, blocks, mask, states, progress=progress)
        measured["rmse_rectified"] = trial.error(grid, mask, Rectified(*tables))
        if not measured["rmse_rectified"] < error:
            tables = None
    return make_schedule(
        denoiser, blocks, mask, grid, asked, shape=x.shape[1:], costs=costs,
        producer=f"ertacache, signal {policy.signal}", predictor="latest" if tables is None else "rectified",
        gain=tables and tables[0], offset=tables and tables[1],
        measured={name: value for name, value in measured.items() if math.isfinite(value)},
    )  # fmt: skip


@dataclass(frozen=True)
class _Trial:
    """Samplings from the fitting noises, and their distance from where they should end."""

    denoiser: NetworkDenoiser | PreconditionedDenoiser
    x: Tensor
    solver: Solver
    blocks: tuple[Block, ...]
    end: Tensor

    def error(self, grid: Grid, mask: Tensor, predictor: Predictor | None = None) -> float:
        """Return the root mean square distance of the masked sampling; inf where two levels are too close to tell."""
        told = [float(self.denoiser.time_input(t)) for t in self.solver.plan(grid).asked]
        span = max(told) - min(told)
        if min(abs(a - b) for a, b in pairwise(told)) <= 4 * TIME_TOLERANCE * span:
            return math.inf
        bound = _reusing(self.denoiser, self.blocks, mask, told, predictor)
        return float((sample(bound, self.x, grid, self.solver) - self.end).double().square().mean().sqrt())


@dataclass(frozen=True)
class _Policy:
    signal: str
    gamma: float
    mask: Tensor
    error: float


def _policy(seen: Profile, budget: int, grid: Grid, trial: _Trial) -> _Policy:
    """Return the mask of the signal that ends best on the noises of the profile."""
    found: dict[tuple[bool, ...], _Policy] = {}
    for signal, drift in seen.drifts().items():
        computed, gamma = computed_within(drift, budget)
        mask = step_mask(computed, len(trial.blocks))
        if tuple(computed) not in found:
            found[tuple(computed)] = _Policy(signal, gamma, mask, trial.error(grid, mask))
    return min(found.values(), key=lambda policy: policy.error)


def _reusing(
    denoiser: NetworkDenoiser | PreconditionedDenoiser, blocks: Sequence[Block], mask: Tensor, told: Sequence[float],
    predictor: Predictor | None = None,
) -> NetworkDenoiser | PreconditionedDenoiser:  # fmt: skip
    return denoiser.with_network(
        ReusingNetwork(
            network_of(denoiser), blocks, mask, told, predictor=predictor, time_argument=denoiser.time_argument
        )
    )


def trust(
    denoiser: NetworkDenoiser | PreconditionedDenoiser, seen: Profile, blocks: Sequence[Block], mask: Tensor
) -> list[float]:
    """Return phi of every step (module docstring), 1 where the step computes; measured on the states of the profile."""
    told = [float(denoiser.time_input(t)) for t in seen.asked]
    reusing = _reusing(denoiser, blocks, mask, told)
    phi = [1.0]
    with torch.no_grad():
        reusing(seen.states[0], seen.asked[0])
        for i in range(1, len(seen.asked)):
            error = float((reusing(seen.states[i], seen.asked[i]) - seen.answers[i]).abs().sum())
            moved = float((seen.answers[i] - seen.answers[i - 1]).abs().sum())
            phi.append(1.0 if bool(mask[i].all()) else min(1.0, max(PHI_LEAST, 1 - error / max(moved, 1e-30))))
    return phi


def adjusted(grid: Grid, phi: Sequence[float]) -> Grid:
    """Return the grid whose i-th step goes phi_i of its share, and the rest later (module docstring)."""
    u, length, places = 0.0, 1.0, [0.0]
    for i in range(grid.steps - 1):
        u += phi[i] * length
        length = (grid.steps - u) / (grid.steps - i - 1)
        places.append(u)
    below = [min(int(place), grid.steps - 1) for place in places]
    times = [
        grid.times[k] + (place - k) * (grid.times[k + 1] - grid.times[k])
        for k, place in zip(below, places, strict=True)
    ]
    return Grid(grid.process, (*times, grid.times[-1]))
