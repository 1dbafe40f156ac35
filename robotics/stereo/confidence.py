r"""A confidence that means something: the chance that a disparity is within 1 px, and an interval that holds 90 %.

Three signs of trouble are known without the truth: the spread of the samples s, the disagreement l of the left map with
the right one, and whether the first map had measured the pixel (k). The scale of the error is fitted to them by maximum
likelihood of a Laplace law on scenes whose truth is known,

    ln b = w_0 + w_1 ln(s + 0.05) + w_2 ln(l + 0.05) + w_3 (1 - k),       minimise E[ln 2b + |e| / b]

then the two statements are calibrated on scenes that took no part in that:

    P(|e| <= 1 px) = 1 - exp(-exp(c_0 - c_1 ln b))    maximum likelihood; c = (0, 1) is the Laplace law itself
    interval       = d +- q b                         q: the 90 % quantile of |e| / b (split conformal)

References:
    McCullagh and Nelder, Generalized Linear Models, 1989, section 4.3 (complementary log-log link).
    Angelopoulos and Bates, A Gentle Introduction to Conformal Prediction, 2021, section 2.3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import FiniteFloat, PositiveFloat

from robotics.stereo.config import Settings

FLOOR = 0.05  # px
LARGEST = 32.0  # px: a disagreement without bound, where the partner is out of view, says no more than this one
WITHIN = 1.0  # px
SHARE = 0.9


class Confidence(Settings):
    """The fitted numbers of the module docstring.

    Attributes:
        weights: w_0 ... w_3.
        offset: c_0.
        slope: c_1.
        factor: q.
    """

    weights: tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]
    offset: FiniteFloat
    slope: FiniteFloat
    factor: PositiveFloat

    def scale(self, signs: np.ndarray) -> np.ndarray:
        """Return b, px, of signs (4, ...) as of `trouble`."""
        return np.exp(np.tensordot(np.asarray(self.weights), signs, 1)).astype(np.float32)

    def probability(self, signs: np.ndarray) -> np.ndarray:
        """Return the chance that the error is at most 1 px, float32."""
        return (-np.expm1(-np.exp(self.offset - self.slope * np.log(self.scale(signs))))).astype(np.float32)

    def interval(self, signs: np.ndarray) -> np.ndarray:
        """Return half of the width of the 90 % interval, px."""
        return self.factor * self.scale(signs)


class FittedConfidence(Settings):
    """A confidence with its origin, as a model file holds it.

    Attributes:
        numbers: of the confidence.
        settings: of the estimation whose errors it was fitted to; it is calibrated for these alone.
        data: the scenes, `SceneFolders.facts`, and which of them each half was.
        measured: how well it does, see `robotics.stereo.calibrating`.
    """

    numbers: Confidence
    settings: dict[str, Any]
    data: dict[str, Any]
    measured: dict[str, float]


def trouble(spread: np.ndarray, disagreement: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the signs (4, ...) float64 that the weights multiply.

    Args:
        spread: standard deviation of the samples, px.
        disagreement: of the left map with the right one, px; NaN where the partner is out of view.
        known: where the first map had measured, bool.
    """
    capped = np.minimum(np.where(np.isfinite(disagreement), disagreement, LARGEST), LARGEST)
    parts = [np.ones_like(capped), np.log(spread + FLOOR), np.log(capped + FLOOR), 1.0 - known]
    return np.stack([np.asarray(part, np.float64) for part in parts])


def disagreement(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return |D_l(x) - D_r(x - D_l(x))|, px, the nearer of the two columns; NaN where the partner is out of view.

    Args:
        left: disparity of the left image, (height, width), px.
        right: of the right image, likewise.
    """
    height, width = left.shape
    column = np.arange(width, dtype=np.float32)[None] - left
    inside = (column >= -0.5) & (column <= width - 0.5)
    low = np.clip(np.floor(np.where(inside, column, 0)).astype(np.int64), 0, width - 1)
    rows = np.arange(height)[:, None]
    gaps = [np.abs(left - right[rows, columns]) for columns in (low, np.minimum(low + 1, width - 1))]
    return np.where(inside, np.minimum(*gaps), np.float32(np.nan))


def fit_confidence(signs: np.ndarray, errors: np.ndarray, calibration: tuple[np.ndarray, np.ndarray]) -> Confidence:
    """Fit to pixels whose truth is known.

    Args:
        signs: (4, N) of the pixels that the scale is fitted to.
        errors: |e| of each, (N,), px.
        calibration: signs and errors of pixels of other scenes, for offset, slope and factor.
    """
    from scipy.optimize import minimize

    def likelihood(w: np.ndarray) -> tuple[float, np.ndarray]:
        log = w @ signs
        share = errors * np.exp(-log)
        return float(np.mean(log + share)), signs @ (1 - share) / len(errors)

    start = np.array([np.log(np.mean(errors) + 1e-3), 0.5, 0.5, 0.0])
    weights = minimize(likelihood, start, jac=True, method="L-BFGS-B").x
    others, wrong = calibration
    log = weights @ others
    good = wrong <= WITHIN

    def surprise(c: np.ndarray) -> float:
        rate = np.exp(np.clip(c[0] - c[1] * log, -30, 30))
        return float(np.mean(np.where(good, -np.log(-np.expm1(-rate)), rate)))

    offset, slope = minimize(surprise, np.array([0.0, 1.0]), method="Nelder-Mead").x
    ratio = wrong / np.exp(log)
    level = min(1.0, np.ceil(SHARE * (len(ratio) + 1)) / len(ratio))
    return Confidence(
        weights=(float(weights[0]), float(weights[1]), float(weights[2]), float(weights[3])),
        offset=float(offset),
        slope=float(slope),
        factor=float(np.quantile(ratio, level, method="higher")),
    )
