"""A policy in a control loop: each chunk starts the next, each environment has a memory, a deadline may stop it.

    rolling = RollingPolicy(policy, warm=WarmStart(levels=(20, 10, 4, 0)))
    rolling.reset()
    while running:
        tick = rolling.act(observations, executed=1, generator=generator, until=deadline(0.05))
        command(tick.chunk.executable[0, 0])

With `chunking=RealTimeChunking(delay=d)` a chunk also keeps the d actions that are executed while it is drawn.

One robot is one environment; a simulation may run many in one batch. `executed` counts the actions that the world
really took between the last observation and this one, so latency needs no correction anywhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robotics.policy.acting import Memory, Tick, places_of
from robotics.policy.chunking import RealTimeChunking, soft_mask
from robotics.policy.policy import Policy
from robotics.policy.warmstart import WarmStart, shifted
from shared.denoiser import Denoiser, clipped
from shared.errors import InputError
from shared.grid import Grid
from shared.realtime import Until
from shared.sampling import Plan, Solver, State, step
from shared.solvers.ddim import DDIM


class RollingPolicy:
    """A policy with a memory of its last chunk in each environment.

    Args:
        policy: gives the chunks.
        warm: how a chunk starts from the last one.
        solver: how warm samplings step; the default is deterministic `DDIM`.
        cold_solver: how cold ones step; the default is `solver`.
        cold_grid: levels of a cold start; the default is ten, evenly in time.
        chunking: joins each chunk, warm or cold, to the last one; None draws it freely.
        environments: how many worlds act at the same time.

    Raises:
        InputError: levels outside the policy's noise table, or a delay as long as the chunk.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        warm: WarmStart | None = None,
        solver: Solver | None = None,
        cold_solver: Solver | None = None,
        cold_grid: Grid | None = None,
        chunking: RealTimeChunking | None = None,
        environments: int = 1,
    ) -> None:
        self.policy, self.warm, self.chunking = policy, warm or WarmStart(), chunking
        first, length = policy.config.chunk.first, policy.config.chunk.horizon
        if chunking is not None and first + chunking.delay >= length:
            raise InputError(
                "delay", found=f"{chunking.delay} ticks", expected=f"at most {length - first - 1}",
                fix="Nothing of a chunk would be free: use fewer calls or a longer horizon.",
            )  # fmt: skip
        warm_solver: Solver = solver or DDIM()
        self._cold = (cold_solver or warm_solver).plan(cold_grid or policy.grid(min(10, policy.process.steps)))
        self._levels = policy.levels(self.warm.levels)
        self._warm = warm_solver.plan(self._levels)
        self.environments = environments
        self._memory = Memory(policy, environments)

    def reset(self, environments: Sequence[int] | None = None) -> None:
        """Forget the last chunks of these environments; None forgets all. Call it at the start of every episode."""
        self._memory.forget(environments)

    def act(
        self,
        observations: Tensor,
        *,
        executed: int | Sequence[int] = 1,
        rows: Sequence[int] | None = None,
        generator: torch.Generator | None = None,
        until: Until | None = None,
    ) -> Tick:
        """Draw the chunks that begin now.

        Args:
            observations: (N, T_o, D_o) in units, the newest last.
            executed: actions taken since the last call's newest observation, one number or one an environment.
            rows: which environments these are; None is all, in order.
            generator: source of all noise.
            until: asked after each network call with the number made; True stops with the estimate so far, as
                `shared.realtime.deadline` does. The first call is always made.

        Raises:
            InputError: observations of another shape or not finite, or as many as there are not environments.
        """
        places, moves = places_of(len(observations), self.environments, rows, executed)
        newest = self.policy.numbers(observations[:, -1])
        warm = self._memory.known[places] & ~self._jumped(newest, places, moves)
        if self.warm.mode == "cold":
            warm = torch.zeros_like(warm)
        restarted = self._memory.known[places] & ~warm if self.warm.mode != "cold" else torch.zeros_like(warm)
        join = None if self.chunking is None else self._join(self.chunking, places, moves, restarted, generator)
        run = _Run(self.policy, observations, generator, until, join)
        chosen = torch.nonzero(warm).flatten()
        if len(chosen):
            limit = self.policy.config.clip
            memory = self._memory.chunk[places[chosen.cpu()].to(self.policy.device)]
            guess = self.policy.soften(self.warm.guess(memory, moves[chosen.cpu()], limit))
            x = self.warm.start(guess, self.policy.process, self._levels.times[0], generator)
            rejected = run.draw(self._warm, x, chosen, guess, moves[chosen.cpu()], self.warm.guess_gate)
            warm[rejected], restarted[rejected] = False, True
        chosen = torch.nonzero(~warm).flatten()
        if len(chosen):
            run.draw(self._cold, self.policy.noise(len(chosen), generator), chosen)
        if join is not None:
            run.found = join.keep(run.found)
        self._memory.remember(places, run.found, newest)
        return Tick(self.policy.chunk(run.found), run.calls, warm.cpu(), restarted.cpu(), run.complete)

    def _join(
        self,
        chunking: RealTimeChunking,
        places: Tensor,
        moves: Tensor,
        restarted: Tensor,
        generator: torch.Generator | None,
    ) -> _Join:
        """Return what joins the chunks of these environments to their last ones; a restart keeps only what it must."""
        device = self.policy.device
        target = shifted(self._memory.chunk[places.to(device)], moves)
        length = target.shape[1]
        committed = self.policy.config.chunk.first + chunking.delay
        weights = soft_mask(length, committed, moves.to(device))
        weights = torch.where(restarted[:, None], (weights == 1).to(weights), weights)
        weights = weights * self._memory.known[places.to(device)][:, None]
        return _Join(chunking, target, weights, self.policy, generator)

    def _jumped(self, newest: Tensor, places: Tensor, moves: Tensor) -> Tensor:
        gate = self.warm.observation_gate
        if gate is None or not newest.shape[1]:
            return torch.zeros(len(newest), dtype=torch.bool, device=newest.device)
        change = (newest - self._memory.observation[places.to(newest.device)]).abs().amax(1)
        return change > gate * moves.clamp(min=1).to(change.device)


@dataclass(frozen=True)
class _Join:
    """Real-time chunking of one tick: Y (N, T, A) and W (N, T)."""

    chunking: RealTimeChunking
    target: Tensor
    weights: Tensor
    policy: Policy
    generator: torch.Generator | None

    def denoiser(self, plain: Denoiser, rows: Tensor) -> Denoiser:
        """Return the denoiser of the rows, joined to their last chunks and inside the policy's limits."""
        joined = self.chunking.guided(plain, self.policy.process, self.target[rows], self.weights[rows], self.generator)
        limit = self.policy.config.clip
        return joined if limit is None else clipped(joined, -limit, limit)

    def keep(self, found: Tensor) -> Tensor:
        """Return the chunks with the committed actions as they are."""
        return torch.where(self.weights[..., None] == 1, self.target, found)


class _Run:
    """The samplings of one tick, warm ones then cold ones, under one deadline."""

    def __init__(
        self,
        policy: Policy,
        observations: Tensor,
        generator: torch.Generator | None,
        until: Until | None,
        join: _Join | None,
    ) -> None:
        self.policy, self.observations = policy, observations.to(policy.device, torch.float32)
        self.generator, self.until, self.join = generator, until, join
        self.found = torch.zeros(len(observations), *policy.shape, device=policy.device)
        self.calls = torch.zeros(len(observations), dtype=torch.int64)
        self.made, self.complete = 0, True

    @torch.no_grad()
    def draw(
        self,
        plan: Plan,
        x: Tensor,
        rows: Tensor,
        guess: Tensor | None = None,
        moves: Tensor | None = None,
        gate: float | None = None,
    ) -> Tensor:
        """Sample these rows into `found`; return the rows that the gate refused after the first call."""
        denoiser = self._denoiser(rows)
        state: State = plan.start(x)
        refused = rows[:0]
        for index in range(plan.calls):
            state = step(denoiser, plan, state, self.generator)
            self.made += 1
            self.calls[rows.cpu()] += 1
            if index == 0 and gate is not None and guess is not None and moves is not None:
                keep = self._near(state.x0, guess, moves) <= gate
                if not bool(keep.all()):
                    refused, rows = rows[~keep], rows[keep]
                    if not len(rows):
                        return refused
                    state = state.select(torch.nonzero(keep).flatten())
                    denoiser = self._denoiser(rows)
            if self.until is not None and index + 1 < plan.calls and self.until(self.made):
                self.found[rows], self.complete = state.x0, False
                return refused
        self.found[rows] = state.x
        return refused

    def _denoiser(self, rows: Tensor) -> Denoiser:
        plain = self.policy.denoiser(self.observations[rows])
        return plain if self.join is None else self.join.denoiser(plain, rows)

    def _near(self, estimate: Tensor, guess: Tensor, moves: Tensor) -> Tensor:
        """Return the root mean square difference over the actions that the old chunk held, (N,)."""
        length = guess.shape[1]
        held = torch.arange(length, device=guess.device) < (length - moves.to(guess.device))[:, None]
        squares = (estimate - guess).square().mean(2) * held
        return (squares.sum(1) / held.sum(1).clamp(min=1)).sqrt()
