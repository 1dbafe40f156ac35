"""From a score to a probability of change that is 1/2 at the threshold.

    p = 1 / (1 + exp(-k (s - T)))

T is Otsu's threshold, a chi-square quantile, a number, or the boundary of a logistic regression on labels. But for that
last case k follows from the two classes that T makes: between two normal distributions with means m_0, m_1 and common
variance v the log odds have the slope k = (m_1 - m_0) / v. Such a p orders pixels and says how clear each is; only the
one fitted to labels is calibrated.

Otsu's threshold splits any histogram, also one of noise alone. So it is never taken below what noise exceeds once in a
thousand pixels: the 0.999 quantile of the chi distribution, and the same quantile of one whose lower quartile is that
of the scores, since the noise of a pair is seldom as small as its model. Differences without normalisation are not
centred on no change, so there is no such floor for them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

BINS = 1024
TAIL = 0.001  # of the scores, the largest, are left out of the histogram: a few extremes would move the split
QUANTILE = 0.999
QUARTER = 0.25
Noise = Literal["unit", "unknown", "offset"]
STEEPEST = 1e3  # slope where all scores of a class are equal


@dataclass(frozen=True)
class Decision:
    """Where the score says change.

    Attributes:
        rule: how the threshold was found.
        threshold: T, on the score.
        slope: k, above 0.
        facts: numbers behind it.
    """

    rule: str
    threshold: float
    slope: float
    facts: dict[str, float] = field(default_factory=dict)

    def probability(self, score: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return p of scores; NaN stays NaN."""
        from scipy.special import expit

        return expit(np.float32(self.slope) * (score - np.float32(self.threshold))).astype(np.float32)


def otsu(scores: NDArray[np.float32]) -> float:
    """Return the threshold that separates scores >= 0 into the two classes with the largest variance between them."""
    from skimage.filters import threshold_otsu

    top = float(np.quantile(scores, 1 - TAIL))
    if not top > 0:
        return 0.0
    counts, edges = np.histogram(scores, BINS, (0.0, top))
    return float(threshold_otsu(hist=(counts, (edges[1:] + edges[:-1]) / 2)))


def chi_quantile(share: float, dof: int) -> float:
    """Return the quantile of the chi distribution: sqrt(2 P^-1(dof / 2, share)), P the incomplete gamma function."""
    from scipy.special import gammaincinv  # scipy.stats takes two seconds to import

    return float(np.sqrt(2 * gammaincinv(dof / 2, share)))


def noise_floor(scores: NDArray[np.float32], dof: int, noise: Noise) -> float:
    """Return the score that no change exceeds once in a thousand pixels."""
    high, quarter = chi_quantile(QUANTILE, dof), chi_quantile(QUARTER, dof)
    observed = float(np.quantile(scores, QUARTER)) * high / quarter
    return {"unit": max(observed, high), "unknown": observed, "offset": 0.0}[noise]


def decide(scores: NDArray[np.float32], rule: str | float, *, dof: int, noise: Noise) -> Decision:
    """Return the decision of a rule: "otsu", "chi2" or a number on the score.

    Args:
        scores: of a sample of the pair, all >= 0.
        rule: how to find the threshold.
        dof: degrees of freedom of the squared score where nothing changed.
        noise: whether the squared score is then a chi-square ("unit"; the rule "chi2" needs it), that times a factor
            ("unknown"), or neither ("offset").
    """
    if rule == "otsu":
        split, floor = otsu(scores), noise_floor(scores, dof, noise)
        threshold, facts = max(split, floor), {"otsu": split, "noise_floor": floor}
        if threshold <= 0:  # identical dates: any positive number says that nothing changed
            threshold = 1.0
    elif rule == "chi2":
        threshold, facts = chi_quantile(QUANTILE, dof), {"quantile": QUANTILE}
    else:
        threshold, facts = float(rule), {}
    name = rule if isinstance(rule, str) else "fixed"
    return Decision(name, threshold, two_class_slope(scores, threshold), facts)


def two_class_slope(scores: NDArray[np.float32], threshold: float) -> float:
    """Return k = (m_1 - m_0) / v of the classes below and from the threshold; v is their pooled variance."""
    scores = scores.astype(np.float64)
    changed = scores >= threshold
    if not changed.any() or changed.all():
        spread = max(abs(float(scores.mean()) - threshold), float(scores.std()))
        return STEEPEST if spread == 0 else min(STEEPEST, 4 / spread)
    low, high = scores[~changed], scores[changed]
    pooled = (low.var() * low.size + high.var() * high.size) / scores.size
    return float(min(STEEPEST, (high.mean() - low.mean()) / max(pooled, np.finfo(float).tiny)))


def calibrate(scores: NDArray[np.float32], changed: NDArray[np.bool_], *, iterations: int = 50) -> Decision:
    """Fit log odds = k (s - T) to labelled pixels by Newton's method, with Platt's targets against overconfidence.

    The odds are those among the labelled pixels, so they should be labelled in the proportion of the scene.

    Raises:
        ValueError: one class is absent, or the score does not rise with change.
    """
    from scipy.special import expit

    positives = int(changed.sum())
    negatives = changed.size - positives
    if not positives or not negatives:
        raise ValueError(f"{positives} changed and {negatives} unchanged pixels")
    centre, scale = float(scores.mean(dtype=np.float64)), float(scores.std(dtype=np.float64)) or 1.0
    design = np.stack([(scores.astype(np.float64) - centre) / scale, np.ones(scores.size)], 1)
    target = np.where(changed, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    w = np.zeros(2)
    for _ in range(iterations):
        p = expit(design @ w)
        hessian = (design * (p * (1 - p))[:, None]).T @ design + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, design.T @ (target - p))
        w += step
        if np.abs(step).max() < 1e-8:
            break
    if not (np.isfinite(w).all() and w[0] > 0):
        raise ValueError("a score that does not rise with change")
    return Decision(
        "calibrated",
        float(centre - scale * w[1] / w[0]),
        float(w[0] / scale),
        {"labelled_changed": positives, "labelled_unchanged": negatives},
    )
