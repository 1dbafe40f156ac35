"""Episodes laid end to end: what every reader gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from shared.errors import InputError

ENDS = "episode_ends"


@dataclass(frozen=True)
class Episodes:
    """Episodes laid end to end.

    Attributes:
        arrays: name to numbers, frames first.
        ends: frame after the last one of each episode.
        path: where they were read.
        facts: what else the data say of themselves, such as the simulator of a robomimic file; JSON types.
    """

    arrays: Mapping[str, np.ndarray]
    ends: np.ndarray
    path: Path
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def frames(self) -> int:
        """Return the number of frames."""
        return int(self.ends[-1])

    @property
    def count(self) -> int:
        """Return the number of episodes."""
        return len(self.ends)

    @property
    def bounds(self) -> list[tuple[int, int]]:
        """Return (first frame, frame after the last) of each episode."""
        return list(zip([0, *self.ends[:-1].tolist()], self.ends.tolist(), strict=True))


def joined(parts: Sequence[Mapping[str, np.ndarray]], path: Path, facts: Mapping[str, Any] | None = None) -> Episodes:
    """Return the episodes of one mapping each, whose arrays have the same frames.

    Raises:
        InputError: arrays of one episode with other numbers of frames, or of two with other shapes.
    """
    lengths = []
    for place, part in enumerate(parts):
        found = {name: len(values) for name, values in part.items()}
        if len(set(found.values())) != 1:
            raise InputError(
                path, found=f"episode {place} with frames {found}", expected="the same number of each array",
                fix="Repair the data.",
            )  # fmt: skip
        lengths.append(next(iter(found.values())))
    arrays = {}
    for name in parts[0]:
        shapes = {part[name].shape[1:] for part in parts}
        if len(shapes) > 1:
            raise InputError(
                path, found=f"{name} of shapes {sorted(shapes)}", expected="one shape in all episodes",
                fix="Repair the data.",
            )  # fmt: skip
        arrays[name] = np.concatenate([part[name] for part in parts])
    return Episodes(arrays, np.cumsum(lengths), path, facts or {})


def absent(path: Path, name: str, known: Sequence[str]) -> InputError:
    """Return the error of an array that is not there."""
    return InputError(
        path, found=f"no array {name!r}", expected=f"one of {', '.join(sorted(known))}", fix="Correct the name."
    )
