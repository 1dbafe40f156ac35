"""Tiles that a cheap method calls unchanged are not given to an expensive detector; what that loses is estimated.

IR-MAD costs little against a network. A tile of whose pixels it calls less than a given share changed is skipped: its
result is "no change". A random part of the skipped tiles is run all the same, and the changed pixels found there say
what the others may hold:

    lost = skipped tiles that were not run * mean of the changed pixels in those that were,
    recall lost = lost / (lost + found).

The choice of a tile depends on its pixels, its place and the seed, so resumed and distributed runs make it alike.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from remote_sensing.rasters import Patch
from remote_sensing.tiling import Detector, Outcome, Tile, TileStore

BOUNDARY = 0.5  # probability from which a pixel is change


@dataclass(frozen=True)
class CheapScreen:
    """Decides by a cheap detector which tiles are worth an expensive one.

    Attributes:
        detector: the cheap one, with neither halo nor blending.
        least: share of a tile's valid pixels that must be changed.
        audit: share of the skipped tiles that are run all the same.
        seed: of that choice.
    """

    detector: Detector
    least: float
    audit: float
    seed: int

    def outcome(self, tile: Tile, patch: Patch) -> Outcome:
        """Return "computed", "skipped", or "audited": skipped by right, but run."""
        changed = self.detector(patch) >= BOUNDARY
        if changed[patch.valid].mean() >= self.least:
            return "computed"
        return "audited" if self._draw(tile) < self.audit else "skipped"

    def _draw(self, tile: Tile) -> float:
        """Return a number in [0, 1) that depends on the place and the seed alone."""
        text = f"{self.seed} {tile.core.row_off} {tile.core.col_off}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def screening_facts(store: TileStore, tiles: Sequence[Tile]) -> dict[str, Any]:
    """Return how many tiles were skipped and the estimated share of all changed pixels that was lost so.

    The standard error is that of the mean over the audited tiles; both are None where it cannot be told.
    """
    outcomes = [store.outcome(tile.index) for tile in tiles]
    count = Counter(outcomes)
    changed: dict[Outcome, list[int]] = {"computed": [], "audited": []}
    for tile, outcome in zip(tiles, outcomes, strict=True):
        if outcome in changed:
            changed[outcome].append(_changed(store.load(tile.index)))
    found, sample = sum(changed["computed"]) + sum(changed["audited"]), changed["audited"]
    skipped, audited = count["skipped"], len(sample)
    lost = error = None
    if not skipped:
        lost = error = 0.0
    elif audited:
        total = skipped * float(np.mean(sample))
        lost = total / max(found + total, 1)
        if audited > 1:
            spread = skipped * float(np.std(sample, ddof=1)) / np.sqrt(audited)
            error = found * spread / max(found + total, 1) ** 2  # of x / (found + x), to first order
    return {
        "tiles_skipped": skipped,
        "tiles_audited": audited,
        "tiles_computed": count["computed"],
        "changed_pixels_audited": sum(sample),
        "recall_lost": lost,
        "recall_lost_error": error,
    }


def screening_text(facts: dict[str, Any]) -> str:
    """Return the sentence of the report."""
    skipped, audited = facts["tiles_skipped"], facts["tiles_audited"]
    begin = f"{skipped} of {facts['tiles']} tiles were skipped as unchanged (--skip-unchanged)"
    if facts["recall_lost"] is None:
        return f"{begin}; none of them was run for comparison, so the recall lost is unknown: raise --audit."
    if not skipped:
        return f"{begin}."
    error = "" if facts["recall_lost_error"] is None else f" +- {100 * facts['recall_lost_error']:.2g}"
    return (
        f"{begin}. {audited} more, chosen at random, were run all the same and held "
        f"{facts['changed_pixels_audited']} changed pixels: by this estimate {100 * facts['recall_lost']:.2g}{error} % "
        "of the change is lost."
    )


def _changed(values: NDArray[np.float32]) -> int:
    return int((values >= BOUNDARY).sum())
