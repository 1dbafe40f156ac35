"""Teacher trajectories: the states of the almost exact ODE at the candidate nodes, for a batch of noises.

Heun's method on steps that are short in log_snr and that hit every candidate. On the digits denoiser the end differs by
2e-4 from that of twice as many steps: a hundredth of the errors of the solvers that are fitted to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shared.denoiser import Denoiser
from shared.grid import GRIDS, Grid, karras_grid
from shared.process import NoiseProcess
from shared.progress import tracked
from shared.sampling import step
from shared.solvers.heun import Heun

PLAIN_GRIDS = ("karras", "log_snr", "trailing")
"""The grids whose nodes are always among the candidates."""

STEPS = 200
"""Steps of the teacher over the whole range, besides those that are cut to hit a candidate."""


@dataclass(frozen=True)
class Teacher:
    """What the ODE does at the candidate nodes.

    Attributes:
        grid: the candidates t_0 = 1 > ... > t_M = 0.
        states: x at every candidate, each (n, ...); the last is the end of the ODE.
        answers: D(x, t) there, for every candidate but the last.
    """

    grid: Grid
    states: tuple[Tensor, ...]
    answers: tuple[Tensor, ...]


def candidates(process: NoiseProcess, nfe: int, count: int) -> Grid:
    """Return `count` nodes of Karras et al. (`karras_grid`) and those of every plain grid of `nfe` calls.

    Candidates are dense at low noise, where a plain grid is not: the node before the end is chosen, not given.
    """
    times = {round(t, 12) for t in karras_grid(process, max(1, count - 1)).times}
    for name in PLAIN_GRIDS:
        times |= {round(t, 12) for t in GRIDS[name](process, nfe).times}
    return Grid(process, tuple(sorted(times, reverse=True)))


def follow(denoiser: Denoiser, x: Tensor, grid: Grid, *, progress: str | None = None) -> Teacher:
    """Solve the ODE from the noises x, keeping state and answer at every node of `grid`.

    Args:
        denoiser: the model.
        x: noises at t = 1, (n, ...).
        grid: nodes to hit, from 1 to 0.
        progress: label of a progress bar.
    """
    fine, hits = _subdivided(grid)
    plan = Heun().plan(fine)
    state = plan.start(x)
    calls_to_keep = {2 * place for place in hits[:-1]}  # two calls a step; the first is asked at the node itself
    states, answers = [], []
    with torch.no_grad():
        for call in tracked(range(plan.calls), progress):
            before = state
            state = step(denoiser, plan, state)
            if call in calls_to_keep:
                states.append(before.x)
                answers.append(state.x0)
    return Teacher(grid, (*states, state.x), tuple(answers))


def _subdivided(grid: Grid) -> tuple[Grid, Sequence[int]]:
    """Cut every step into parts equally long in log_snr; return the places of the given nodes too."""
    finite = [value for value in grid.log_snr if math.isfinite(value)]
    longest = (finite[-1] - finite[0]) / STEPS if len(finite) > 1 else math.inf
    times, hits = [grid.times[0]], [0]
    for k in range(grid.steps):
        low, high = grid.log_snr[k], grid.log_snr[k + 1]
        if math.isfinite(low) and math.isfinite(high) and longest > 0:
            parts = max(1, math.ceil((high - low) / longest - 1e-9))
            inner = torch.linspace(low, high, parts + 1, dtype=torch.float64)[1:-1]
            times.extend(grid.process.time_of_log_snr(inner).tolist())
        times.append(grid.times[k + 1])
        hits.append(len(times) - 1)
    return Grid(grid.process, tuple(times)), hits
