r"""Bidirectional decoding: of many chunks, the one that goes on with the last and that a good policy would plan.

    coherence  L_B(a) = sum_i rho^i |a_i - y_i|                   y: the last chunk, moved by the executed actions
    contrast   L_F(a) = (sum_j |a - a+_j| - sum_j |a - a-_j|) / N     a+: chunks of the policy, a-: of a weaker one
    a*         = argmin L_B + L_F

i counts the actions from now on that the last chunk foresaw; |a - b| = sum_i |a_i - b_i|. Without a weaker policy only
coherence decides. A chunk costs N samplings, twice that with the weaker policy, in one batch each.

Reference: Liu et al., Bidirectional Decoding, ICLR 2025; rho = 0.5 and N = 15 as in the README of its code, which
contrasts with a few of the samples only; here all count.
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
from shared.realtime import Until
from shared.sampling import Solver, steps
from shared.solvers.ddim import DDIM


class BidirectionalDecoding:
    """A policy that draws many chunks and takes the best.

    Args:
        policy: draws the chunks.
        weak: an earlier checkpoint of it; None leaves the contrast out.
        samples: N.
        decay: rho.
        solver: of the samplings; the default is deterministic `DDIM`.
        grid: levels; the default is ten, evenly in time.
        environments: how many worlds act at the same time.

    Raises:
        InputError: no sample, or a weak policy with chunks of another shape.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        weak: Policy | None = None,
        samples: int = 15,
        decay: float = 0.5,
        solver: Solver | None = None,
        grid: Grid | None = None,
        environments: int = 1,
    ) -> None:
        if samples < 1:
            raise InputError("samples", found=f"{samples}", expected="1 or more", fix="The published number is 15.")
        if weak is not None and weak.shape != policy.shape:
            raise InputError(
                "weak policy", found=f"chunks of {weak.shape}", expected=f"{policy.shape}",
                fix="Give an earlier checkpoint of the same training.",
            )  # fmt: skip
        self.policy, self.weak, self.samples, self.decay = policy, weak, samples, decay
        self.solver: Solver = solver or DDIM()
        self.grid = grid or policy.grid(min(10, policy.process.steps))
        self.environments = environments
        self._memory = Memory(policy, environments)

    def reset(self, environments: Sequence[int] | None = None) -> None:
        """Forget the last chunks of these environments; None forgets all."""
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
        """Draw the chunks that begin now; a deadline stops the policy's sampling, and the weaker one has as many calls.

        See `robotics.policy.rolling.RollingPolicy.act`. `calls` counts every sample's network calls.
        """
        places, moves = places_of(len(observations), self.environments, rows, executed)
        count, device = len(observations), self.policy.device
        drawn, made, complete = self._draw(self.policy, observations, generator, until)
        target = shifted(self._memory.chunk[places.to(device)], moves)
        known = self._memory.known[places.to(device)]
        loss = self.coherence(drawn, target, moves.to(device)) * known[:, None]
        if self.weak is not None:
            worse, _, _ = self._draw(self.weak, observations, generator, lambda calls: calls >= made)
            loss = loss + self.contrast(drawn, worse)
        best = drawn[torch.arange(count, device=device), loss.argmin(1)]
        self._memory.remember(places, best, self.policy.numbers(observations[:, -1]))
        sets = 1 if self.weak is None else 2
        calls = torch.full((count,), made * self.samples * sets)
        no = torch.zeros(count, dtype=torch.bool)
        return Tick(self.policy.chunk(best), calls, no, no, complete)

    @torch.no_grad()
    def _draw(
        self, policy: Policy, observations: Tensor, generator: torch.Generator | None, until: Until | None
    ) -> tuple[Tensor, int, bool]:
        """Return N chunks an observation (n, N, T, A), the calls made, and whether the sampling came to its end."""
        x, made = policy.noise(self.samples * len(observations), generator), 0
        denoiser = policy.denoiser(observations, self.samples)
        for state in steps(denoiser, x, self.grid, self.solver, generator=generator):
            made, x = state.index, state.x
            if until is not None and made < self.grid.steps and until(made):
                return state.x0.unflatten(0, (-1, self.samples)), made, False
        return x.unflatten(0, (-1, self.samples)), made, True

    def coherence(self, drawn: Tensor, target: Tensor, moves: Tensor) -> Tensor:
        """Return L_B of chunks (n, N, T, A) given the moved last ones (n, T, A), (n, N)."""
        entry = torch.arange(drawn.shape[2], device=drawn.device) - self.policy.config.chunk.first
        foreseen = entry < drawn.shape[2] - self.policy.config.chunk.first - moves[:, None]
        weights = self.decay ** entry.clamp(min=0) * (entry >= 0) * foreseen
        return ((drawn - target[:, None]).norm(dim=3) * weights[:, None]).sum(2)

    def contrast(self, drawn: Tensor, worse: Tensor) -> Tensor:
        """Return L_F of chunks (n, N, T, A) given those of the weaker policy, (n, N)."""
        first = self.policy.config.chunk.first

        def distance(a: Tensor, b: Tensor) -> Tensor:
            return (a[:, :, None, first:] - b[:, None, :, first:]).norm(dim=4).sum(3).mean(2)

        return distance(drawn, drawn) - distance(drawn, worse)
