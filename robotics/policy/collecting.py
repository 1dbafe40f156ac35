"""Demonstrations of a world's scripted expert.

    episodes = collect(find_environment("metaworld/pick-place"), count=200, seed=0, noise=0.3)
    write_episodes("demos.npz", episodes)

The expert acts alone, or is disturbed: to each executed action Gaussian noise is added, while what is recorded is the
expert's answer without it. So the recordings also show how to come back from where the expert alone never goes (Laskey
et al., DART, CoRL 2017). Noise and worlds are those of the seed; only solved episodes are kept.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from robotics.policy.environments import Demonstrated, Environment
from robotics.policy.episodes import ENDS, Episodes
from shared.errors import InputError
from shared.files import atomic_path
from shared.progress import tracked

PATIENCE = 2  # episodes tried for each one wanted


def collect(
    environment: Environment, *, count: int, seed: int = 0, noise: float = 0.0, progress: str | None = None
) -> Episodes:
    """Record the expert; frame i holds an observation and the expert's action there.

    Args:
        environment: whose world has an expert.
        count: episodes.
        seed: of the first world, and of the noise; the next worlds have the next seeds.
        noise: standard deviation of what is added to executed actions, as a share of half their range.
        progress: label of a progress bar; None is silent.

    Returns:
        The observations' arrays, `action`, and `seed` of each frame's world.

    Raises:
        InputError: a world without an expert, or an expert that solves too few worlds.
    """
    world = environment.make()
    try:
        if not isinstance(world, Demonstrated):
            raise InputError(
                environment.name, found="a world without a scripted expert", expected="one with it, such as "
                "metaworld/pick-place", fix="Record demonstrations in another way.",
            )  # fmt: skip
        low, high = world.limits
        frames: list[dict[str, np.ndarray]] = []
        ends: list[int] = []
        tried = seed
        for _ in tracked(range(count), progress):
            solved = False
            while not solved:
                if tried - seed >= PATIENCE * count:
                    raise InputError(
                        environment.name, found=f"{len(ends)} of {tried - seed} worlds solved by the expert",
                        expected=f"one of {PATIENCE} or more", fix="Use less noise.",
                    )  # fmt: skip
                source = np.random.default_rng([seed, tried])
                episode: list[dict[str, np.ndarray]] = []
                seen = world.reset(tried)
                for _ in range(world.steps):
                    action = np.asarray(world.expert(), dtype=np.float32)
                    episode.append({**seen, "action": action, "seed": np.array(tried)})
                    wobble = noise * (high - low) / 2 * source.standard_normal(len(low))
                    seen, _, solved = world.step(np.clip(action + wobble, low, high))
                    if solved:
                        break
                tried += 1
            frames += episode
            ends.append(len(frames))
    finally:
        world.close()
    arrays = {name: np.stack([frame[name] for frame in frames]) for name in frames[0]}
    return Episodes(arrays, np.array(ends), Path(environment.name))


def write_episodes(path: str | os.PathLike[str], episodes: Episodes, *, overwrite: bool = False) -> None:
    """Write episodes as npz, which `robotics.policy.episodes.read_episodes` reads.

    Raises:
        InputError: another suffix, or an existing file that may not be replaced.
    """
    require_npz(path)
    with atomic_path(path, overwrite=overwrite) as scratch, scratch.open("wb") as file:
        arrays: dict[str, Any] = {ENDS: episodes.ends, **episodes.arrays}
        np.savez_compressed(file, **arrays)


def require_npz(path: str | os.PathLike[str]) -> None:
    """Raise `InputError` unless demonstrations may be written there; call it before long work."""
    suffix = Path(path).suffix
    if suffix != ".npz":
        raise InputError(path, found=f"the suffix {suffix!r}", expected=".npz", fix="Rename it.")
