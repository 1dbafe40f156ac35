r"""The loop that draws a sample, closed (`sample`) and open (`steps`, `step`).

A solver never calls the network. From a grid it makes a `Plan`: at which level the network is asked at each call, and
what its answer does to the state. The loop is then

    state = plan.start(x)
    for call in range(plan.calls):
        state = plan.advance(state, denoiser(state.x, state.t), generator)

State is data: a few batch-first tensors that can be re-indexed, cloned and moved between any two calls. So particles
are resampled by `state.select(ancestors)`, several samplings interleave on one plan, and a deadline can stop the loop
after any call with `state.x0`, the best estimate so far.

Gradients: `sample` runs without them; `step` and `steps` follow the caller's grad mode, for differentiating through a
sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from shared.denoiser import Denoiser
from shared.errors import InputError
from shared.grid import Grid


@dataclass(frozen=True)
class State:
    """Where a sampling stands between two network calls.

    Attributes:
        x: the noisy batch at which the network is asked next; after the last call, the sample.
        t: the level of x.
        index: number of calls made.
        history: the latest answers of the network, newest first.
        anchor: the point from which the current step started, for solvers that correct it.
    """

    x: Tensor
    t: float
    index: int = 0
    history: tuple[Tensor, ...] = ()
    anchor: Tensor | None = None

    @property
    def x0(self) -> Tensor:
        """Return the newest estimate of the clean batch.

        Raises:
            InputError: no call was made yet.
        """
        if not self.history:
            raise InputError(
                "state.x0", found="no call made", expected="one call or more", fix="Advance the state once."
            )
        return self.history[0]

    def select(self, indices: Tensor) -> State:
        """Return the state of the samples `indices` (batch positions, may repeat): resampling, beams, trees."""
        return self.map(lambda tensor: tensor.index_select(0, indices.to(tensor.device)))

    def clone(self) -> State:
        """Return a copy that shares no memory."""
        return self.map(torch.clone)

    def to(self, device: torch.device | str) -> State:
        """Return the state on a device."""
        return self.map(lambda tensor: tensor.to(device))

    def map(self, change: Callable[[Tensor], Tensor]) -> State:
        """Return the state with every tensor changed in the same way."""
        return replace(
            self,
            x=change(self.x),
            history=tuple(change(answer) for answer in self.history),
            anchor=None if self.anchor is None else change(self.anchor),
        )


class Plan(Protocol):
    """A solver on a grid: how many calls, at which levels, and what an answer does to the state."""

    @property
    def calls(self) -> int:
        """Return the number of network calls of a whole sampling."""
        ...

    @property
    def asked(self) -> tuple[float, ...]:
        """Return the level of each call."""
        ...

    def start(self, x: Tensor) -> State:
        """Return the state before the first call, from x at the first level."""
        ...

    def advance(self, state: State, x0: Tensor, generator: torch.Generator | None = None) -> State:
        """Return the state after the network answered x0 = D(state.x, state.t)."""
        ...


class Solver(Protocol):
    """A rule for going from one level to the next, on any grid."""

    def plan(self, grid: Grid) -> Plan:
        """Return the plan for a grid; all coefficients are computed here."""
        ...


def step(denoiser: Denoiser, plan: Plan, state: State, generator: torch.Generator | None = None) -> State:
    """Make one network call and return the next state."""
    return plan.advance(state, denoiser(state.x, state.t), generator)


def steps(
    denoiser: Denoiser, x: Tensor, grid: Grid, solver: Solver, *, generator: torch.Generator | None = None
) -> Iterator[State]:
    """Yield the state after each network call.

    `state.x0` is usable from the first state on; `state.x` of the last one is the sample.

    Args:
        denoiser: gives the estimate of x_0.
        x: batch at the first level of the grid, e.g. `process.noise(shape, generator)`, or `process.add_noise` for a
            warm start on `grid.from_time(t)`.
        grid: levels.
        solver: how to step.
        generator: source of the noise of stochastic solvers.
    """
    plan = solver.plan(grid)
    state = plan.start(x)
    for _ in range(plan.calls):
        state = step(denoiser, plan, state, generator)
        yield state


def sample(
    denoiser: Denoiser,
    x: Tensor,
    grid: Grid,
    solver: Solver,
    *,
    generator: torch.Generator | None = None,
    progress: str | None = None,
    callback: Callable[[State], None] | None = None,
) -> Tensor:
    """Draw a sample: run `steps` to the end without gradients and return the last x.

    Args:
        denoiser: gives the estimate of x_0.
        x: batch at the first level of the grid.
        grid: levels.
        solver: how to step.
        generator: source of the noise of stochastic solvers.
        progress: label of a progress bar on standard error, shown when the run takes longer than two seconds; None is
            silent.
        callback: called with the state after each network call.

    Returns:
        The batch at the last level of the grid: clean data when it is 0.
    """
    from shared.progress import tracked

    plan = solver.plan(grid)
    state = plan.start(x)
    with torch.no_grad():
        for _ in tracked(range(plan.calls), progress):
            state = step(denoiser, plan, state, generator)
            if callback is not None:
                callback(state)
    return state.x
