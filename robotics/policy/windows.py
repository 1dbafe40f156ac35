r"""Which frames a training example is made of: every place of a window that touches an episode long enough.

A window of length L starts at frames s = -before ... n - L + after of an episode of n frames. Places outside the
episode repeat its first or last frame, so the frame of place i is

    clip(s + i, 0, n - 1).

Diffusion Policy uses before = T_o - 1 and after = T_a - 1.

Reference: `SequenceSampler` of real-stanford/diffusion_policy, which writes the same as copies and fills.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shared.errors import InputError


def window_frames(
    ends: np.ndarray, length: int, *, before: int = 0, after: int = 0, episodes: Sequence[int] | None = None
) -> np.ndarray:
    """Return the frames of all windows, (windows, length), episode by episode.

    Args:
        ends: frame after the last one of each episode.
        length: L.
        before: places before the first frame that a window may cover; at most L - 1 count.
        after: places after the last frame.
        episodes: which episodes; None takes all.

    Raises:
        InputError: no window fits.
    """
    before, after = min(max(before, 0), length - 1), min(max(after, 0), length - 1)
    begins = np.concatenate([[0], ends[:-1]])
    parts = []
    for episode in range(len(ends)) if episodes is None else episodes:
        frames = int(ends[episode] - begins[episode])
        starts = np.arange(-before, frames - length + after + 1)
        parts.append(begins[episode] + np.clip(starts[:, None] + np.arange(length), 0, frames - 1))
    found = np.concatenate(parts) if parts else np.empty((0, length), dtype=np.int64)
    if not len(found):
        raise InputError(
            "episodes",
            found=f"{len(parts)} episodes, none with a window",
            expected=f"an episode of {max(1, length - before - after)} frames or more",
            fix="Give longer episodes or a shorter horizon.",
        )
    return found.astype(np.int64)


def split_episodes(count: int, *, validation: float, most: int | None, seed: int) -> tuple[list[int], list[int]]:
    """Return the episodes to train on and to validate on, drawn by the seed as Diffusion Policy draws them.

    Args:
        count: number of episodes.
        validation: share of episodes for validation; one or more where it is above 0.
        most: largest number of training episodes; None is no limit.
        seed: of both draws.
    """
    held = np.zeros(count, dtype=bool)
    if validation > 0 and count > 1:
        size = min(max(1, round(count * validation)), count - 1)
        held[np.random.default_rng(seed).choice(count, size=size, replace=False)] = True
    train = np.flatnonzero(~held)
    if most is not None and len(train) > most:
        train = np.sort(train[np.random.default_rng(seed).choice(len(train), size=most, replace=False)])
    return train.tolist(), np.flatnonzero(held).tolist()
