r"""What the blocks do along a plain sampling, and the steps that a threshold on it computes.

A profile records the features f_i of each block at each step i. From it comes a change c[k, i] for using at step i what
was computed at step k < i, and a walk with a threshold gamma decides step by step, k being the last computed one:

    reuse at i  where  c[k, i] < gamma,  else compute, and go on from k = i.

One decision holds for all blocks of a step. On the networks of the bench this is better than a decision for each block
at equal price, and it is the only one that makes sense for the nested levels of a UNet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from shared.denoiser import NetworkDenoiser, PreconditionedDenoiser
from shared.errors import InputError
from shared.grid import Grid
from shared.progress import tracked
from shared.reuse.interception import Block, Call, Output, block_costs, intercepted
from shared.sampling import Solver

BISECTIONS = 50


@dataclass(frozen=True)
class Profile:
    """A plain sampling, seen from inside.

    Attributes:
        asked: level of each network call.
        states: x at each call, and the end; calls + 1 entries, each (n, ...).
        answers: the estimate of x_0 at each call.
        features: [calls][blocks], flat: what the last module of each block gave, in its stored form. The last one
            speaks for the block: in a UNet level, what the levels outside see when it is reused.
    """

    asked: tuple[float, ...]
    states: tuple[Tensor, ...]
    answers: tuple[Tensor, ...]
    features: tuple[tuple[Tensor, ...], ...]

    def drifts(self) -> dict[str, Tensor]:
        r"""Return |f_k - f_i|_1 / |f_i|_1 as matrices [calls, calls], zero unless k < i, by the name of the signal.

        "answer" is that of the network's estimate of x_0, "mean" the mean over blocks, and each block has its own
        under its column ("0", "1", ...).
        """
        columns = [_drift([row[b] for row in self.features]) for b in range(len(self.features[0]))]
        own = {str(b): drift for b, drift in enumerate(columns)}
        return {"answer": _drift(self.answers), "mean": torch.stack(columns).mean(0), **own}


def network_of(denoiser: NetworkDenoiser | PreconditionedDenoiser) -> nn.Module:
    """Return the denoiser's network.

    Raises:
        InputError: it is no torch module.
    """
    if not isinstance(denoiser.network, nn.Module):
        raise InputError(
            "denoiser", found=f"a network of type {type(denoiser.network).__name__}",
            expected="a torch module with named blocks", fix="Give the denoiser of the plain network.",
        )  # fmt: skip
    return denoiser.network


def profiled(
    denoiser: NetworkDenoiser | PreconditionedDenoiser,
    x: Tensor,
    grid: Grid,
    solver: Solver,
    blocks: Sequence[Block],
    *,
    progress: str | None = None,
) -> Profile:
    """Return the profile of the plain sampling from the noises x.

    The features of all steps are kept: calls x n x their size.

    Args:
        denoiser: of the plain network.
        x: noises at the first level of the grid, (n, ...); a few are enough.
        grid: levels.
        solver: deterministic, asks once a level.
        blocks: whose features are recorded.
        progress: label of a progress bar.

    Raises:
        InputError: a network that is no module, blocks that it does not have, or a solver that draws noise.
    """
    network, plan = network_of(denoiser), solver.plan(grid)
    state = plan.start(x)
    states, answers, features = [state.x], [], []
    seen: dict[str, Tensor] = {}

    def record(call: Call) -> Output:
        output = call.compute()
        seen[call.module] = flat(call.stored(output))
        return output

    with torch.no_grad():
        for _ in tracked(range(plan.calls), progress):
            with intercepted(network, blocks, record):
                answer = denoiser(state.x, state.t)
            features.append(tuple(seen[block.modules[-1]] for block in blocks))
            answers.append(answer)
            before, state = state, plan.advance(state, answer)
            if len(states) == 1 and not torch.equal(plan.advance(before, answer).x, state.x):
                raise InputError(
                    "solver", found="one that draws noise", expected="a deterministic one",
                    fix="Profile with the ODE solver; its mask serves the stochastic one on the same levels.",
                )  # fmt: skip
            states.append(state.x)
    return Profile(plan.asked, tuple(states), tuple(answers), tuple(features))


def flat(output: Output) -> Tensor:
    """Return all tensors of an output as one vector."""
    return torch.cat([leaf.detach().flatten() for leaf in tree_leaves(output) if isinstance(leaf, Tensor)])


def shares(
    denoiser: NetworkDenoiser | PreconditionedDenoiser, blocks: Sequence[Block], x: Tensor, t: float
) -> list[float]:
    """Return the share of each block in the operations of a call at level t (`block_costs`)."""
    time = denoiser.time_input(t).to(device=x.device, dtype=x.dtype).expand(len(x))
    named = {} if denoiser.time_argument is None else {denoiser.time_argument: time}
    unnamed = () if named else (time,)
    return block_costs(network_of(denoiser), blocks, x, *unnamed, **named, **denoiser.conditioning)[0]


def affordable(price: float, steps: int, costs: Sequence[float]) -> int:
    """Return how many of `steps` calls can compute the blocks at this price, in network calls.

    Raises:
        InputError: not even the first.
    """
    share = float(sum(costs))
    least = steps * (1 - share) + share
    if price < least - 1e-9:
        raise InputError(
            "price", found=f"{price:g} network calls",
            expected=f"{least:.4g} or more for {steps} steps with these blocks",
            fix="Take fewer steps, or let more blocks be reused.",
        )  # fmt: skip
    return min(steps, int((price - steps * (1 - share)) / share + 1e-9))


def step_mask(computed: Sequence[bool], blocks: int) -> Tensor:
    """Return the mask that computes all blocks at the given steps and none at the others."""
    return torch.tensor(list(computed), dtype=torch.bool)[:, None].expand(-1, blocks).clone()


def walk(change: Tensor, gamma: float) -> list[bool]:
    """Return which steps are computed when a change below gamma is reused (module docstring)."""
    computed, last = [True], 0
    for i in range(1, len(change)):
        computed.append(not float(change[last, i]) < gamma)
        last = i if computed[i] else last
    return computed


def computed_within(change: Tensor, budget: int) -> tuple[list[bool], float]:
    """Return the steps that the smallest threshold within the budget computes, and that threshold.

    A threshold can leave some of the budget over; then the reused step with the largest change is computed too, until
    it is spent, so methods are compared at equal numbers of evaluations.

    Args:
        change: [steps, steps], zero unless k < i.
        budget: number of steps that may be computed, at least 1.
    """
    if budget >= len(change):
        return [True] * len(change), 0.0
    low, high = 0.0, 2 * float(change.max()) + 1e-12
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if sum(walk(change, middle)) <= budget else (middle, high)
    computed = walk(change, high)
    while sum(computed) < budget:
        worst = max(
            (i for i, done in enumerate(computed) if not done), key=lambda i: _reused_change(change, computed, i)
        )
        computed[worst] = True
    return computed, high


def _reused_change(change: Tensor, computed: Sequence[bool], i: int) -> float:
    return float(change[max(k for k in range(i) if computed[k]), i])


def _drift(values: Sequence[Tensor]) -> Tensor:
    drift = torch.zeros(len(values), len(values), dtype=torch.float64)
    for i, value in enumerate(values):
        size = float(value.abs().sum())
        for k in range(i):
            drift[k, i] = float((values[k] - value).abs().sum()) / max(size, 1e-30)
    return drift
