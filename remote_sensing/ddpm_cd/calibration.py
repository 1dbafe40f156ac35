r"""From the logit of change to a probability that is right on average: p = sigmoid((logit - shift) / temperature).

Trainings oversample change and are confident beyond what they know. Two numbers, fitted by maximum likelihood on
labelled pairs that no weight has seen, mend both without changing the order of pixels (Platt, Advances in Large Margin
Classifiers, 1999; with shift = 0 it is the temperature scaling of Guo et al., On Calibration of Modern Neural
Networks, ICML 2017).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BINS = 4000
REACH = 20.0  # logits beyond are counted there


class LogitCounts:
    """Histogram of logits of unchanged and of changed pixels, so that scenes of any size can be fitted."""

    def __init__(self) -> None:
        self.counts = np.zeros((2, BINS))

    def add(self, logit: NDArray[np.float32], changed: NDArray[np.bool_]) -> None:
        """Count pixels (pixels,)."""
        clipped = np.clip(logit, -REACH, REACH)
        for side in (0, 1):
            self.counts[side] += np.histogram(clipped[changed == bool(side)], BINS, (-REACH, REACH))[0]

    def fit(self) -> tuple[float, float] | None:
        """Return (temperature, shift) of the largest likelihood.

        None where labels are of one kind, or where the logit does not rise with change: nothing to calibrate then.
        """
        from scipy.optimize import minimize

        totals = self.counts.sum(1)
        if not totals.all():
            return None
        centre = (np.arange(BINS) + 0.5) * (2 * REACH / BINS) - REACH
        unchanged, changed = self.counts / totals.sum()

        def loss(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            z = x[0] * centre + x[1]
            p = 0.5 * (1 + np.tanh(z / 2))
            value = float(changed @ np.logaddexp(0, -z) + unchanged @ np.logaddexp(0, z))
            slope = (changed + unchanged) * p - changed
            return value, np.array([slope @ centre, slope.sum()])

        factor, constant = minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS").x
        return (1 / float(factor), -float(constant / factor)) if factor > 0 else None
