r"""How noisy a warm start must be, and how much of a wrong guess survives it, both measured on replayed observations.

For pairs of observations n ticks apart in recorded episodes, with A and A' the policy's chunks at the two,

    e = |shift_n(A) - A'|                                       error of the guess, normalised, for each number
    c_k = |S_k(G, z) - S_k(A', z)| / |G - A'|                   S_k: the warm sampling from k with noise z
    K' = smallest k with sigma_k / alpha_k >= quantile_q(e)     noise as large as the error hides it,
         and quantile_0.9(c_k) <= 1/2                           and half of a wrong guess, or more, is forgotten

Noise alone is not enough: recorded guesses are nearly right, but in the loop the next guess is wrong by what this one
kept, and errors that survive add up, 1 + c + c^2 + ... of them. The published theorem bounds c by a product of factors
that are all above 1, so it is measured here instead. A and A' come from the same noise, moved along with the actions,
so that they are of one mode where the policy has several.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from robotics.policy.policy import Policy, join_observations
from robotics.policy.warmstart import Mode, WarmStart, shifted, spread_levels
from shared.errors import InputError
from shared.sampling import Solver, sample, steps
from shared.solvers.ddim import DDIM

QUANTILES = (0.5, 0.9, 0.99)
SURVIVES = 0.9  # quantile of the contraction that the rule looks at


def calibrate_warm_start(
    policy: Policy,
    arrays: Mapping[str, np.ndarray],
    ends: np.ndarray,
    *,
    executed: int = 1,
    calls: int = 4,
    mode: Mode = "shift+renoise",
    renoise: float = 1.0,
    quantile: float = 0.9,
    most_contraction: float = 0.5,
    pairs: int = 128,
    exact_calls: int = 20,
    solver: Solver | None = None,
    seed: int = 0,
) -> WarmStart:
    """Measure K', the contraction and the gates of the change detector.

    Args:
        policy: the policy.
        arrays: recorded observations, frames first, in units.
        ends: frame after the last one of each episode.
        executed: n, actions between two chunks.
        calls: network calls of a warm sampling.
        mode: of the warm start.
        renoise: share of the noise.
        quantile: q.
        most_contraction: what may survive of a wrong guess, at nine pairs of ten.
        pairs: pairs of observations.
        exact_calls: calls of the samplings that stand for the policy.
        solver: of all samplings; the default is `DDIM`.
        seed: of the choice of pairs and of all noise.

    Raises:
        InputError: episodes too short for a pair, a quantile outside (0, 1), or no level below t = 1 that will do: this
            policy has nothing to gain from a warm start.
    """
    if not 0 < quantile < 1:
        raise InputError("quantile", found=f"{quantile}", expected="a number in (0, 1)", fix="0.9 is common.")
    solver = solver or DDIM()
    generator = torch.Generator().manual_seed(seed)
    old, new, jumps = _pairs(policy, arrays, ends, executed, pairs, generator)
    noise = policy.noise(len(old), generator)
    grid = policy.grid(min(exact_calls, policy.process.steps))
    before = sample(policy.denoiser(old), noise, grid, solver, generator=generator)
    after = sample(policy.denoiser(new), _moved_noise(noise, executed, generator), grid, solver, generator=generator)
    moves = torch.full((len(old),), executed)
    plain = WarmStart(mode=mode, renoise=renoise, levels=(policy.process.steps - 1,))
    guess = policy.soften(plain.guess(before, moves, policy.config.clip))
    held = policy.config.chunk.horizon - executed
    errors = (shifted(before, moves) - after).abs()[:, :held].flatten()
    size = float(torch.quantile(errors, quantile))
    wrong = (guess - after).flatten(1).norm(dim=1)
    state = generator.get_state()
    for highest in range(_level_for(policy, size), policy.process.steps - 1):
        warm = WarmStart(mode=mode, renoise=renoise, levels=spread_levels(highest, calls))
        (firsts, kept), (_, right) = (_sampled(policy, warm, begin, new, solver, state) for begin in (guess, after))
        contraction = ((kept - right).flatten(1).norm(dim=1) / wrong.clamp(min=1e-9))[wrong > 1e-6]
        if not len(contraction) or float(torch.quantile(contraction, SURVIVES)) <= most_contraction:
            break
    else:
        raise _nothing_to_gain(f"a wrong guess of which more than {most_contraction} survives from every level")
    distance = (firsts - guess)[:, :held].square().mean((1, 2)).sqrt()
    t = (warm.levels[0] + 1) / policy.process.steps
    measured = {
        "executed": executed,
        "pairs": len(old),
        "quantile": quantile,
        "guess_error": {f"p{round(100 * q)}": float(torch.quantile(errors, q)) for q in QUANTILES},
        "noise_to_signal": float(policy.process.sigma(t) / policy.process.alpha(t)),
        "contraction": {
            f"p{round(100 * q)}": float(torch.quantile(contraction, q)) if len(contraction) else 0.0
            for q in QUANTILES[:2]
        },
        "seed": seed,
    }
    return WarmStart(
        mode=mode,
        levels=warm.levels,
        renoise=renoise,
        guess_gate=max(1e-6, 2 * float(torch.quantile(distance, 0.99))),
        observation_gate=max(1e-6, 2 * float(torch.quantile(jumps, 0.99))) if len(jumps) else None,
        measured=measured,
    )


def _pairs(
    policy: Policy,
    arrays: Mapping[str, np.ndarray],
    ends: np.ndarray,
    executed: int,
    count: int,
    source: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return observations (N, T_o, D_o) n ticks apart, and the largest change of each one's numbers in a tick.

    A policy that sees images only has no changes (0,).
    """
    observe = policy.config.chunk.observe
    begins = np.concatenate([[0], ends[:-1]])
    places = np.concatenate(
        [np.arange(begin + observe - 1, end - executed) for begin, end in zip(begins, ends, strict=True)]
    )
    if len(places) < 2:
        raise InputError(
            "episodes",
            found="none long enough",
            expected=f"{observe + executed} frames or more",
            fix="Give longer ones.",
        )
    drawn = torch.randperm(len(places), generator=source)[:count]
    now = torch.from_numpy(places)[drawn]
    back = torch.arange(1 - observe, 1)
    old, new = (
        join_observations(
            policy.config, {field.name: arrays[field.name][frames] for field in policy.config.observation}, leading=2
        )
        for frames in ((now[:, None] + ahead + back).numpy() for ahead in (0, executed))
    )
    before, after = (policy.numbers(observations[:, -1]) for observations in (old, new))
    jumps = (after - before).abs()
    return old, new, jumps.amax(1) / executed if jumps.shape[1] else jumps.flatten()


def _moved_noise(noise: Tensor, executed: int, generator: torch.Generator) -> Tensor:
    """Return the noise moved along with the actions; the new end is fresh."""
    fresh = torch.randn(noise[:, :executed].shape, generator=generator).to(noise.device)
    return torch.cat([noise[:, executed:], fresh], dim=1)[:, : noise.shape[1]]


def _level_for(policy: Policy, size: float) -> int:
    """Return the smallest entry of the noise table with sigma / alpha of `size` or more."""
    process = policy.process
    t = torch.arange(1, process.steps + 1, dtype=torch.float64) / process.steps
    enough = torch.nonzero(process.sigma(t) / process.alpha(t) >= size).flatten()
    if not len(enough):
        raise _nothing_to_gain(f"guesses wrong by {size:.3g} in normalised numbers, more than the noise at t = 1")
    return int(enough[0])


def _nothing_to_gain(found: str) -> InputError:
    return InputError(
        "policy", found=found, expected="a level below t = 1 to start from",
        fix="Use --warm-start cold: the next chunk does not follow from the last.",
    )  # fmt: skip


@torch.no_grad()
def _sampled(
    policy: Policy, warm: WarmStart, guess: Tensor, observations: Tensor, solver: Solver, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the first estimate and the end of the warm sampling from a guess; `noise` is a generator's state."""
    generator = torch.Generator()
    generator.set_state(noise)
    grid = policy.levels(warm.levels)
    x = warm.start(guess, policy.process, grid.times[0], generator)
    states = list(steps(policy.denoiser(observations), x, grid, solver, generator=generator))
    return states[0].x0, states[-1].x
