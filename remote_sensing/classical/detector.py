"""A score model and a decision make a detector: from a patch to the probability of change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from remote_sensing.classical.cva import fit_cva
from remote_sensing.classical.ir_mad import fit_ir_mad
from remote_sensing.classical.pca_kmeans import fit_pca_kmeans
from remote_sensing.classical.thresholds import Decision, Noise, calibrate, decide, two_class_slope
from remote_sensing.labels import Labels
from remote_sensing.rasters import Pair, Patch, Sample
from remote_sensing.settings import Method, Normalisation
from shared.errors import InputError

NOISE: dict[Normalisation, Noise] = {"invariant": "unit", "zscore": "unknown", "none": "offset"}
SCORED = 16  # windows spread over the pair in which PCA-k-means is scored for its slope


class ScoreModel(Protocol):
    """A fitted model that scores change: higher is more change, NaN is no data."""

    halo: int

    @property
    def unit(self) -> str:
        """What the score is measured in."""

    def score(self, patch: Patch) -> NDArray[np.float32]:
        """Return the score (rows, columns)."""

    def facts(self) -> dict[str, object]:
        """Return what is worth telling."""


@dataclass(frozen=True)
class ClassicalDetector:
    """A detector as `tiling.run` takes it.

    Attributes:
        method: which one.
        model: gives the score.
        decision: makes a probability of it.
    """

    method: Method
    model: ScoreModel
    decision: Decision

    blend = 0

    @property
    def halo(self) -> int:
        """Pixels around a tile that its result depends on."""
        return self.model.halo

    def __call__(self, patch: Patch) -> NDArray[np.float32]:
        """Return the probability of change, float32 (rows, columns), NaN where not valid."""
        return self.decision.probability(self.model.score(patch))

    def facts(self) -> dict[str, object]:
        """Return what is worth telling."""
        return {
            "method": self.method,
            "score": self.model.unit,
            "threshold_rule": self.decision.rule,
            "threshold": self.decision.threshold,
            **self.decision.facts,
            **self.model.facts(),
        }


def fit_classical(
    method: Method,
    pair: Pair,
    sample: Sample,
    *,
    normalisation: Normalisation = "invariant",
    threshold: str | float = "otsu",
    labels: Labels | None = None,
) -> ClassicalDetector:
    """Fit a method to a pair.

    Args:
        method: "ir-mad", "cva" or "pca-kmeans".
        pair: what is compared.
        sample: of its pixels.
        normalisation: of the radiometry; IR-MAD needs none.
        threshold: "otsu", "chi2" (IR-MAD only) or a number on the score. PCA-k-means decides by its clusters ("otsu"
            means those) or by a number.
        labels: labelled pixels of this pair; the probability is then calibrated on them.

    Raises:
        InputError: a threshold the method does not have, or labels that cannot calibrate.
    """
    if threshold == "chi2" and method != "ir-mad":
        raise InputError(
            "--threshold",
            found=f"chi2 with {method}",
            expected="ir-mad, whose score is a chi-square where nothing changed",
            fix="Pass --threshold otsu or a number.",
        )
    if method == "pca-kmeans":
        clusters = fit_pca_kmeans(pair, sample, normalisation)
        if labels is not None:
            return ClassicalDetector(method, clusters, _calibrated(clusters, pair, labels))
        boundary = 0.0 if threshold == "otsu" else float(threshold)
        scores = _scores(clusters, pair)
        rule = "two-means" if threshold == "otsu" else "fixed"
        return ClassicalDetector(method, clusters, Decision(rule, boundary, two_class_slope(scores, boundary)))
    model = fit_ir_mad(sample) if method == "ir-mad" else fit_cva(sample, normalisation)
    if labels is not None:
        return ClassicalDetector(method, model, _calibrated(model, pair, labels))
    noise: Noise = "unit" if method == "ir-mad" else NOISE[normalisation]
    decision = decide(model.sample_score(sample), threshold, dof=model.dof, noise=noise)
    return ClassicalDetector(method, model, decision)


def _scores(model: ScoreModel, pair: Pair) -> NDArray[np.float32]:
    """Return the valid scores of a few windows spread over the pair."""
    windows = pair.grid.windows(512)
    chosen = np.unique(np.linspace(0, len(windows) - 1, min(len(windows), SCORED)).round().astype(int))
    scores = [model.score(patch) for patch in pair.patches([windows[index] for index in chosen])]
    return np.concatenate([score[np.isfinite(score)] for score in scores])


def _calibrated(model: ScoreModel, pair: Pair, labels: Labels) -> Decision:
    scores, changed = [], []
    for patch in pair.patches(pair.grid.windows()):
        truth = labels.read(patch.row, patch.col, patch.valid.shape)
        used = patch.valid & (truth != Labels.UNKNOWN)
        scores.append(model.score(patch)[used])
        changed.append(truth[used] == Labels.CHANGED)
    try:
        return calibrate(np.concatenate(scores), np.concatenate(changed))
    except ValueError as error:
        raise InputError(
            labels.changed,
            found=f"{error} among the labelled pixels",
            expected="changed and unchanged pixels that differ in the score",
            fix="Give labels of both classes; --unchanged names a raster of the unchanged ones.",
        ) from error
