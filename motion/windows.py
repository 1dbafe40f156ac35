"""Windows of a collection as a training wants them: faster and slower, in their own frame, with some of it known.

Rare actions are drawn more often: a frame counts by n^(-3/4) of its action's n frames. A clip shorter than
the window goes on where it stands, sits or lies still, in its last pose; others are followed by nothing (`valid`).
"""

from __future__ import annotations

from collections.abc import Collection as Names
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from motion.actions import ACTION, ACTIONS
from motion.collection import Collection
from motion.features import GROUPS, HEADING, seen_from
from shared.errors import InputError

STILL = tuple(ACTION[name] for name in ("stand", "sit", "lie"))
RARE = 0.75
ROUNDING = 1e-6  # frames
ALONE = 16  # frames of the shortest clip that is drawn from
# Shares of windows by what is known of them, and the most frames of a history and the most keyframes.
KNOWN = {"nothing": 0.35, "history": 0.3, "both ends": 0.1, "keyframes": 0.1, "path": 0.15}
HISTORY, KEYFRAMES = 20, 5


@dataclass(frozen=True)
class Windows:
    """N windows of F frames.

    Attributes:
        features: (N, F, D) m and so on, each seen from its first frame.
        actions: (N, F).
        known: (N, F, G) bool, groups that are given.
        valid: (N, F) bool, frames that are of the clip.
    """

    features: Tensor
    actions: Tensor
    known: Tensor
    valid: Tensor

    def to(self, device: torch.device | str) -> Windows:
        """Return the windows on a device."""
        return Windows(*(part.to(device) for part in (self.features, self.actions, self.known, self.valid)))


class WindowSource:
    """Draws windows.

    Args:
        collection: the clips.
        held_out: names of files, without suffix, that are left out, or that alone are drawn from.
        only_held_out: the latter.
        speeds: slowest and fastest, in units of the recording.

    Raises:
        InputError: a file is not there, or nothing is left.
    """

    def __init__(
        self, collection: Collection, held_out: Names[str] = (), *, only_held_out: bool = False,
        speeds: tuple[float, float] = (1.0, 1.0),
    ) -> None:  # fmt: skip
        if unknown := set(held_out) - {clip.stem for clip in collection.clips}:
            raise InputError(
                "held_out", found=", ".join(sorted(unknown)), expected="names of clips of the collection",
                fix="Correct the configuration, or collect those clips too.",
            )  # fmt: skip
        clips = [
            clip
            for clip in collection.clips
            if (clip.stem in held_out) == only_held_out and len(clip.features) >= ALONE
        ]
        if not clips:
            raise InputError(
                "clips", found=f"none of {ALONE} frames or more", expected="at least one", fix="Collect more clips."
            )
        self.clips, self.speeds = clips, speeds
        lengths = torch.tensor([len(clip.features) for clip in clips])
        self.features, self.actions = (
            torch.cat([getattr(clip, part) for clip in clips]) for part in ("features", "actions")
        )
        self.stops = lengths.cumsum(0)
        self.starts = self.stops - lengths
        counts = torch.bincount(self.actions, minlength=len(ACTIONS)).clamp(min=1)
        self.chances = np.cumsum((counts.double() ** -RARE)[self.actions].numpy())

    @property
    def frames(self) -> int:
        """Return the number of frames, variants with them."""
        return len(self.features)

    def draw(self, count: int, frames: int, source: np.random.Generator) -> Windows:
        """Return `count` windows of `frames` frames; everything random is drawn from `source`."""
        middle = torch.from_numpy(np.searchsorted(self.chances, source.random(count) * self.chances[-1]))
        clip = torch.searchsorted(self.stops, middle, right=True)
        start, stop = self.starts[clip], self.stops[clip]
        speed = torch.from_numpy(source.uniform(*self.speeds, count))
        # The window is put anywhere around its frame, then moved into its clip as far as that is long enough.
        offset = torch.from_numpy(source.random(count)) * (frames - 1) * speed
        begin = torch.minimum(middle - offset, stop - 1 - (frames - 1) * speed)
        begin = torch.maximum(begin, start.double())
        place = begin[:, None] + torch.arange(frames) * speed[:, None]
        held = torch.isin(self.actions[stop - 1], torch.tensor(STILL))
        valid = (place < stop.double()[:, None] - 1 + ROUNDING) | held[:, None]
        place = torch.minimum(place, stop[:, None].double() - 1)
        low = place.floor().long()
        high = torch.minimum(low + 1, stop[:, None] - 1)
        share = (place - low).float()[..., None]
        features = torch.lerp(self.features[low], self.features[high], share)
        features[..., HEADING] = torch.nn.functional.normalize(features[..., HEADING], dim=-1)
        actions = torch.where(valid, self.actions[place.round().long()], ACTION["any"])
        known = torch.stack([known_by_chance(frames, source) for _ in range(count)])
        return Windows(seen_from(features), actions, known & valid[..., None], valid)


def known_by_chance(frames: int, source: np.random.Generator) -> Tensor:
    """Return which groups of which frames are known, (F, G) bool, by the shares of `KNOWN`."""
    kind = source.choice(list(KNOWN), p=list(KNOWN.values()))
    known = torch.zeros(frames, len(GROUPS), dtype=torch.bool)
    if kind == "keyframes":
        known[source.integers(frames, size=source.integers(1, KEYFRAMES + 1))] = True
    elif kind != "nothing":
        if kind != "path" or source.random() < 0.5:
            known[: source.integers(1, min(HISTORY, frames) + 1)] = True
        if kind == "both ends":
            known[-1] = True
        if kind == "path":
            known[:, GROUPS.index("path")] = True
    return known
