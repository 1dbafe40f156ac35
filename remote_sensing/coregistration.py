"""Sub-pixel shift between the dates of a pair by phase correlation in windows.

With the Fourier transforms F_A, F_B of a window of both dates, the normalised cross-power spectrum

    F_A conj(F_B) / |F_A conj(F_B)|  =  exp(-2 pi i (k_r dr / M + k_c dc / N))     if  A(r, c) = B(r - dr, c - dc)

has an inverse transform that peaks at (dr, dc), the movement that brings B onto A. Its peak is refined to 1/100 pixel
by a matrix-multiplied DFT around it (Guizar-Sicairos et al. 2008, scikit-image). Clouds, water and change spoil some
windows, so the shift of the pair is the median over the windows that agree. One more pass on the moved image removes
the bias towards zero of windows whose content moved out of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from remote_sensing.rasters import Pair, Patch

WINDOWS = 16  # at most so many are correlated
LOOKED_AT = 40  # at most so many are looked at for data
SIZES = (64, 512)  # smallest and largest window
VALID_SHARE = 0.9  # of a window's pixels must have data
AGREEMENT = 0.5  # windows agree if within so many pixels of their median
UPSAMPLING = 100
PASSES = 2


@dataclass(frozen=True)
class Shift:
    """The movement that brings the second date onto the first.

    Attributes:
        rows: pixels downwards.
        cols: pixels to the right.
        windows: correlated windows.
        agreeing: windows within half a pixel of the median.
        spread: root mean square distance in pixels of the agreeing windows from the shift.
    """

    rows: float
    cols: float
    windows: int
    agreeing: int
    spread: float

    @property
    def pixels(self) -> float:
        """Length of the shift."""
        return float(np.hypot(self.rows, self.cols))

    @property
    def confident(self) -> bool:
        """Whether at least three windows, and at least half of them, agree."""
        return self.agreeing >= 3 and 2 * self.agreeing >= self.windows

    def __str__(self) -> str:
        return (
            f"{self.rows:+.2f} rows, {self.cols:+.2f} columns ({self.agreeing} of {self.windows} windows agree within "
            f"{AGREEMENT:g} pixels, spread {self.spread:.2f})"
        )


def estimate_shift(pair: Pair) -> Shift:
    """Estimate how the second date must be moved to lie on the first; 0 and not confident if no window has data."""
    pair = pair.moved((0.0, 0.0))
    total = np.zeros(2)
    windows = _textured_windows(pair)
    measured = np.zeros((0, 2))
    for _ in range(PASSES):
        patches = pair.moved((float(total[0]), float(total[1]))).patches(windows)
        measured = np.array([_correlate(patch) for patch in patches if patch.valid.mean() >= VALID_SHARE / 2])
        if not len(measured):
            return Shift(0.0, 0.0, 0, 0, 0.0)
        median = np.median(measured, axis=0)
        agreeing = measured[np.hypot(*(measured - median).T) <= AGREEMENT]
        step = np.median(agreeing, axis=0) if len(agreeing) else median
        total = total + step
    spread = float(np.sqrt(np.mean(np.sum((agreeing - step) ** 2, 1)))) if len(agreeing) else float("inf")
    return Shift(float(total[0]), float(total[1]), len(measured), len(agreeing), spread)


def _textured_windows(pair: Pair) -> list[Window]:
    """Return the windows that tell most: nearly all valid, and spread over the grid."""
    size = int(np.clip(min(pair.grid.shape) // 2, *SIZES))
    rows, cols = (_starts(length, size) for length in pair.grid.shape)
    candidates = [
        Window(col, row, min(size, pair.grid.width), min(size, pair.grid.height)) for row in rows for col in cols
    ]
    # To look costs a read of each candidate, thinned or not, so only a regular choice is looked at.
    keep = np.unique(np.linspace(0, len(candidates) - 1, min(len(candidates), LOOKED_AT)).round().astype(int))
    good = [int(index) for index in keep if pair.valid(candidates[index]).mean() >= VALID_SHARE]
    if not good:
        return []
    chosen = np.unique(np.linspace(0, len(good) - 1, min(len(good), WINDOWS)).round().astype(int))
    return [candidates[good[index]] for index in chosen]


def _starts(length: int, size: int) -> list[int]:
    if length <= size:
        return [0]
    count = int(np.ceil((length - size) / max(1, size // 2))) + 1
    return np.linspace(0, length - size, count).round().astype(int).tolist()


def _correlate(patch: Patch) -> NDArray[np.float64]:
    from skimage.registration import phase_cross_correlation

    taper = np.outer(*(np.hanning(length + 2)[1:-1] for length in patch.valid.shape))
    before, after = (_panchromatic(date, patch.valid) * taper for date in (patch.before, patch.after))
    shift, _, _ = phase_cross_correlation(before, after, upsample_factor=UPSAMPLING, normalization="phase")
    return np.asarray(shift, dtype=np.float64)


def _panchromatic(values: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the mean of the bands, each with mean 0 and variance 1 over the valid pixels, and 0 elsewhere."""
    image = np.zeros(int(valid.sum()))
    for band in values:
        pixels = band[valid].astype(np.float64)
        pixels -= pixels.mean()
        image += pixels / max(np.sqrt(pixels @ pixels / max(pixels.size, 1)), 1e-12) / len(values)
    whole = np.zeros(valid.shape)
    whole[valid] = image
    return whole
