r"""Motions whose noise is optimised until they do what an energy asks: through a student one call a step.

    z -> x = S(z) -> features, m -> E,          z by `shared.search.noise`, E >= 0 and 0 where all is as wanted

The network is not told the goals; it makes a motion of every noise, and the noise is looked for whose motion fits.
Known parts (a history, keyframes in full) are better given as `known`, exactly and for nothing; energies are for what
is no feature of a frame: joints at places, obstacles, feet that do not slide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from motion.clips import Motion
from motion.model import Known, MotionModel
from motion.policy import Energy
from shared.grid import trailing_grid
from shared.search.noise import FoundNoise, NoiseSearch, sampler_of, search_noise
from shared.solvers.ddim import DDIM


@dataclass(frozen=True, eq=False)
class FoundMotions:
    """What was found.

    Attributes:
        motions: N, best first.
        energy: of each, (N,).
        search: all of it, in the order of the noise.
    """

    motions: list[Motion]
    energy: Tensor
    search: FoundNoise


def draw_towards(
    model: MotionModel,
    actions: str | Sequence[str],
    frames: int,
    energy: Energy,
    *,
    count: int = 1,
    known: Known | None = None,
    calls: int = 1,
    settings: NoiseSearch | None = None,
    generator: torch.Generator | None = None,
) -> FoundMotions:
    """Draw motions of low energy; a step of the search costs `calls` calls with their gradient a motion.

    Args:
        model: a student for one call; others need several.
        actions: of all frames, or one a frame.
        frames: F.
        energy: what should be small.
        count: candidates, each from its own noise.
        known: what the motions must have.
        calls: of DDIM from the noise to the motion.
        settings: of the search; None for `NoiseSearch()`.
        generator: source of the noise; same seed, same motions.

    Raises:
        InputError: unknown actions, a known window of another length, or an energy that is not one finite number each.
    """
    denoiser = model.denoiser(model.action_table(actions, frames), known)
    noise = model.process.noise((count, frames, model.body.size), generator, device=model.device)
    sampler = sampler_of(denoiser, trailing_grid(model.process, calls), DDIM())
    search = search_noise(sampler, lambda x: energy(model.features(x)), noise, settings)
    order = search.loss.argsort()
    return FoundMotions([model.motion(search.sample[place]) for place in order], search.loss[order], search)
