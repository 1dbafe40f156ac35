r"""Starting from a half-way state of the last samplings, in the manner of Falcon.

The states x_k at the levels t_k of the grid are kept, moved by the executed actions with fresh noise at their new end.
With D the estimate under the new observation and y the last chunk, moved,

    k* = the lowest level with  rms(D(x_k, t_k) - y) <= threshold      over the actions that y foresaw

is where the next sampling goes on; with the share `explore` of ticks, and where no level fits, it starts from noise.
The estimates at all levels are one batch, whose answer at k* is the first call of the sampling. The states carry the
noise of their own sampling, so few new numbers enter: an exploring start renews them.

Falcon-style, after the abstract and a summary of Chen et al., Falcon: Fast Visuomotor Policies via Partial Denoising,
ICML 2025. Its buffer holds states of several ticks and draws among those that fit; here the newest of each level is
kept and the lowest is taken.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from robotics.policy.acting import Memory, Tick, places_of
from robotics.policy.policy import Policy
from robotics.policy.warmstart import shifted
from shared.errors import InputError
from shared.grid import Grid
from shared.process import standard_normal
from shared.realtime import Until
from shared.sampling import Solver, step
from shared.solvers.ddim import DDIM


class PartialDenoising:
    """A policy that goes on from its own half-way states.

    Args:
        policy: draws the chunks.
        threshold: largest distance of an estimate from the last chunk, normalised.
        explore: share of ticks that start from noise all the same.
        solver: of the samplings; the default is deterministic `DDIM`.
        grid: levels; the default is ten, evenly in time.
        environments: how many worlds act at the same time.

    Raises:
        InputError: a threshold or a share that cannot be.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        threshold: float = 0.05,
        explore: float = 0.1,
        solver: Solver | None = None,
        grid: Grid | None = None,
        environments: int = 1,
    ) -> None:
        if not (threshold > 0 and 0 <= explore <= 1):
            raise InputError(
                "threshold and explore", found=f"{threshold}, {explore}", expected="above 0, and from 0 to 1",
                fix="Correct them.",
            )  # fmt: skip
        self.policy, self.threshold, self.explore = policy, threshold, explore
        self.grid = grid or policy.grid(min(10, policy.process.steps))
        rule: Solver = solver or DDIM()
        self._plans = [rule.plan(self.grid.from_index(k)) for k in range(self.grid.steps)]
        self.environments = environments
        self._memory = Memory(policy, environments)
        self._states = torch.zeros(environments, self.grid.steps, *policy.shape, device=policy.device)

    def reset(self, environments: Sequence[int] | None = None) -> None:
        """Forget the last chunks and states of these environments; None forgets all."""
        self._memory.forget(environments)

    @torch.no_grad()
    def act(
        self,
        observations: Tensor,
        *,
        executed: int | Sequence[int] = 1,
        rows: Sequence[int] | None = None,
        generator: torch.Generator | None = None,
        until: Until | None = None,
    ) -> Tick:
        """Draw the chunks that begin now; see `robotics.policy.rolling.RollingPolicy.act`.

        `calls` counts the estimates at all levels, which are one batch of the network.
        """
        places, moves = places_of(len(observations), self.environments, rows, executed)
        device, count = self.policy.device, len(observations)
        at, moves = places.to(device), moves.to(device)
        begin = torch.zeros(count, dtype=torch.int64, device=device)
        calls = torch.zeros(count, dtype=torch.int64)
        states = self._moved(at, moves, generator)
        states[:, 0] = self.policy.noise(count, generator)
        estimates = torch.zeros_like(states)
        chosen = torch.nonzero(self._memory.known[at]).flatten()
        if len(chosen):
            estimates[chosen], begin[chosen] = self._choose(observations, states, chosen, at, moves, generator)
            calls[chosen.cpu()] += self.grid.steps - 1
        found, complete = torch.zeros(count, *self.policy.shape, device=device), True
        for k in begin.unique().tolist():
            group = torch.nonzero(begin == k).flatten()
            plan, denoiser = self._plans[k], self.policy.denoiser(observations[group.to(observations.device)])
            state = plan.start(states[group, k])
            for index in range(plan.calls):
                if index == 0 and k > 0:
                    state = plan.advance(state, estimates[group, k], generator)
                else:
                    state = step(denoiser, plan, state, generator)
                    calls[group.cpu()] += 1
                if index + 1 < plan.calls:
                    states[group, k + index + 1] = state.x
                    if until is not None and until(index + 1):
                        complete = False
                        break
            found[group] = state.x if state.index == plan.calls else state.x0
        self._states[at] = states
        self._memory.remember(places, found, self.policy.numbers(observations[:, -1]))
        no = torch.zeros(count, dtype=torch.bool)
        return Tick(self.policy.chunk(found), calls, (begin > 0).cpu(), no, complete)

    def _moved(self, at: Tensor, moves: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return the states (N, K, T, A) moved along; entries beyond are pure noise of their level."""
        states = self._states[at]
        count, levels, length, _ = states.shape
        moved = shifted(states.flatten(0, 1), moves.repeat_interleave(levels)).unflatten(0, (count, levels))
        sigma = torch.tensor(self.grid.sigma[:levels], device=states.device, dtype=states.dtype)
        fresh = standard_normal(states.shape, generator, dtype=states.dtype, device=states.device)
        foreseen = torch.arange(length, device=states.device) < (length - moves)[:, None]
        return torch.where(foreseen[:, None, :, None], moved, sigma[:, None, None] * fresh)

    def _choose(
        self,
        observations: Tensor,
        states: Tensor,
        chosen: Tensor,
        at: Tensor,
        moves: Tensor,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        """Return the estimates (n, K, T, A), whose entry 0 is empty, and where to begin (n,), of the rows `chosen`."""
        levels, length = self.grid.steps, states.shape[2]
        told = observations[chosen.to(observations.device)]
        times = torch.tensor(self.grid.times[1:levels], dtype=torch.float64).repeat(len(chosen))
        x = states[chosen, 1:].flatten(0, 1)
        found = self.policy.denoiser(told, levels - 1)(x, times.to(x.device)).unflatten(0, (-1, levels - 1))
        target = shifted(self._memory.chunk[at[chosen]], moves[chosen])[:, None]
        foreseen = torch.arange(length, device=x.device) < (length - moves[chosen])[:, None]
        squares = (found - target).square().mean(3) * foreseen[:, None]
        distance = (squares.sum(2) / foreseen.sum(1).clamp(min=1)[:, None]).sqrt()
        level = torch.arange(1, levels, device=x.device)
        begin = torch.where(distance <= self.threshold, level, 0).amax(1)
        source = "cpu" if generator is None else generator.device
        explore = torch.rand(len(chosen), generator=generator, device=source).to(x.device) < self.explore
        return torch.cat([torch.zeros_like(found[:, :1]), found], dim=1), torch.where(explore, 0, begin)
