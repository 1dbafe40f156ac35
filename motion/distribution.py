r"""How a set of motions compares with real ones: distance of distributions, diversity, copies.

| number | what |
| --- | --- |
| windows, windows_real | windows of the motions, every 0.5 s, and of the real ones |
| frechet_windows | windows a side of the Frechet distances |
| frechet | Frechet distance of their features to a half of the real ones |
| frechet_real_floor | that of as many windows of the other half: what real motion scores |
| frechet_real_recordings | the same where halves share no recording: what other real motion scores |
| diversity, diversity_real | mean distance of two windows in features; of the real ones |
| nearest_cm, nearest_cm_min | distance to the nearest window of the training (`motion.nearest`): mean, smallest |
| nearest_cm_real, nearest_cm_real_low | the same of held-out recordings: mean, 1 % quantile |
| copied | share of windows nearer than `nearest_cm_real_low`; of real motion that is 0.01 |

The Frechet distances are means over repeats, with the 2.5 and 97.5 % quantiles over them as `_low` and `_high`. In each
repeat, recordings are cut into segments of 4 s; of two neighbours one goes to each half by chance, mirror images with
their originals, and no window crosses a cut. Both distances go to the same half and take as many windows, because few
windows raise the distance. The interval tells what the choice of halves and windows does, not what other motions from
the same source would score. Windows of one clip resemble each other: many short clips say more than a long one.
"""

from __future__ import annotations

from collections.abc import Collection as Names
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from motion.clips import Motion
from motion.collection import Collection, real_clips, same_body
from motion.encoder import MotionEncoder, on_body, windows_of
from motion.nearest import NearestWindows
from shared.bench.metrics import frechet
from shared.errors import InputError

STRIDE = 15  # frames
SEGMENT = 120  # frames
REPEATS = 20
INTERVAL = (0.025, 0.975)
COPY = 0.01  # quantile of real distances under which a window counts as copied


@dataclass(frozen=True, eq=False)
class Reference:
    """Real motion to compare with: the clips of a collection that are not held out.

    Attributes:
        collection: of the encoder's body and rate.
        encoder: of windows.
        held_out: names of recordings, without suffix, that no model was trained on.
        features: (N, L) of the windows inside segments of recordings and mirror images.
        segments: (N, 2) index of recording and of the segment in it.
    """

    collection: Collection
    encoder: MotionEncoder
    held_out: frozenset[str]
    features: Tensor = field(repr=False)
    segments: Tensor = field(repr=False)

    @classmethod
    def of(cls, collection: Collection, encoder: MotionEncoder, held_out: Names[str] = ()) -> Reference:
        """Return the reference that a collection makes.

        Raises:
            InputError: another body or rate than the encoder's, unknown names, or fewer than two segments.
        """
        config = encoder.config
        if not same_body(collection.body.skeleton, encoder.body.skeleton) or collection.fps != config.fps:
            raise InputError(
                "reference", found=f"{len(collection.body.skeleton)} joints at {collection.fps:g} frames a second",
                expected=f"the body of {encoder.source} at {config.fps:g}",
                fix="Train an encoder on this collection with fewstep motion train-encoder.",
            )  # fmt: skip
        features, segments = [], []
        recordings: dict[str, int] = {}
        for clip in real_clips(collection, config.frames, held_out):
            recording = recordings.setdefault(clip.stem, len(recordings))
            for segment, part in enumerate(clip.features.split(SEGMENT)):
                features.append(encoder.encode(part, STRIDE))
                segments += [(recording, segment)] * len(features[-1])
        found = torch.tensor(segments)
        if len(found) < 2 or len(found.unique(dim=0)) < 2 or len(recordings) < 2:
            raise InputError(
                "reference", found=f"{len(recordings)} recordings that reach {config.frames} frames",
                expected="at least two", fix="Collect more clips, or hold out fewer.",
            )  # fmt: skip
        return cls(collection, encoder, frozenset(held_out), torch.cat(features), found)

    @cached_property
    def training(self) -> NearestWindows:
        """Return the windows of all that a model may have seen, turned round in time as well."""
        clips = [clip for clip in self.collection.clips if clip.stem not in self.held_out]
        return NearestWindows(self.collection.body, clips, self.encoder.config.frames)

    @cached_property
    def usual(self) -> Tensor:
        """Return how far held-out recordings are from the training, cm, (K,); none without such recordings."""
        windows = [
            windows_of(clip.features, self.encoder.config.frames, STRIDE)
            for clip in self.collection.clips
            if clip.stem in self.held_out and clip.name == clip.stem
        ]
        return self.training.find(torch.cat(windows)).distance * 100 if windows else torch.zeros(0)

    def half_of_segments(self, source: np.random.Generator) -> Tensor:
        """Return which windows are in the first half, (N,) bool; of two neighbouring segments one is."""
        recording, segment = self.segments.T
        coins = torch.from_numpy(source.integers(2, size=(int(recording.max()) + 1, int(segment.max()) // 2 + 1)))
        return (coins[recording, segment // 2] + segment) % 2 == 0

    def half_of_recordings(self, source: np.random.Generator) -> Tensor:
        """Return which windows are in the first half, (N,) bool; a recording is in one half, the smaller one so far."""
        counts = torch.bincount(self.segments[:, 0])
        first, sizes = torch.zeros(len(counts), dtype=torch.bool), [0, 0]
        for recording in source.permutation(len(counts)):
            first[recording] = sizes[1] <= sizes[0]
            sizes[int(first[recording])] += int(counts[recording])
        return first[self.segments[:, 0]]


def compare(
    motions: Sequence[Motion], reference: Reference, *, repeats: int = REPEATS, seed: int = 0,
    progress: str | None = None,
) -> dict[str, float]:  # fmt: skip
    """Return the module's numbers of a set of motions; those of held-out recordings only where some are.

    Args:
        motions: on any body that can be retargeted; those shorter than a window are of no account.
        reference: real motion.
        repeats: of the Frechet distances.
        seed: of the halves.
        progress: label of a progress bar; None is silent.

    Raises:
        InputError: fewer than two windows.
    """
    encoder, config = reference.encoder, reference.encoder.config
    parts = [on_body(motion, encoder.body, config.fps)[0] for motion in motions]
    windows = torch.cat([windows_of(part, config.frames, STRIDE) for part in parts])
    if len(windows) < 2:
        raise InputError(
            "motions", found=f"{len(windows)} windows of {config.frames / config.fps:g} s", expected="at least 2",
            fix="Give longer clips, or more of them.",
        )  # fmt: skip
    features = torch.cat([encoder.encode(part, STRIDE) for part in parts])
    numbers = {"windows": float(len(windows)), "windows_real": float(len(reference.features))}
    numbers |= frechet_distances(features, reference, repeats=repeats, seed=seed)
    numbers |= {"diversity": diversity(features), "diversity_real": diversity(reference.features)}
    return numbers | nearest_numbers(windows, reference, progress=progress)


def frechet_distances(
    features: Tensor, reference: Reference, *, repeats: int = REPEATS, seed: int = 0
) -> dict[str, float]:
    """Return the module's Frechet distances of features (N, L), with their intervals, and `frechet_windows` a side."""
    source = np.random.default_rng(seed)
    rows: dict[str, list[float]] = {"frechet": [], "frechet_real_floor": [], "frechet_real_recordings": []}
    taken = []
    for _ in range(repeats):
        first = reference.half_of_segments(source)
        real, other = reference.features[first], reference.features[~first]
        apart = reference.half_of_recordings(source)
        count = min(len(features), len(real), int(apart.sum()))
        rows["frechet"].append(frechet(_some(features, count, source), other))
        rows["frechet_real_floor"].append(frechet(_some(real, count, source), other))
        rows["frechet_real_recordings"].append(
            frechet(_some(reference.features[apart], count, source), reference.features[~apart])
        )
        taken.append(count)
    numbers = {"frechet_windows": float(np.mean(taken))}
    for name, values in rows.items():
        numbers[name] = float(np.mean(values))
        numbers[f"{name}_low"], numbers[f"{name}_high"] = (float(np.quantile(values, share)) for share in INTERVAL)
    return numbers


def diversity(features: Tensor) -> float:
    """Return the mean distance of two different windows, of features (N, L), over all pairs."""
    return float(torch.pdist(features).mean())


def nearest_numbers(windows: Tensor, reference: Reference, *, progress: str | None = None) -> dict[str, float]:
    """Return the module's numbers of copies of windows of features (N, F, D)."""
    made = reference.training.find(windows, progress=progress).distance * 100
    numbers = {"nearest_cm": float(made.mean()), "nearest_cm_min": float(made.min())}
    real = reference.usual
    if len(real):
        low = float(real.quantile(COPY))
        numbers |= {
            "nearest_cm_real": float(real.mean()),
            "nearest_cm_real_low": low,
            "copied": float((made < low).double().mean()),
        }
    return numbers


def _some(features: Tensor, count: int, source: np.random.Generator) -> Tensor:
    return features[torch.from_numpy(source.permutation(len(features))[:count])]
