"""Radiometric normalisation: one affine map for each band and date of a pair, never one for each tile.

    x' = (x - c_x) / s_x            y' = (y - c_y) / s_y

| kind | c, s | x' - y' is in |
| --- | --- | --- |
| none | 0, 1 | units of the files |
| zscore | mean and standard deviation of the band at this date | standard deviations of the band |
| invariant | regression of x on y over the pixels that did not change | standard deviations of no change |

"invariant" weights each pixel with its probability of no change from IR-MAD, so a large change does not move the line
(after Canty & Nielsen, RSE 2008). Neither date is free of noise and their units may differ, so the line is the reduced
major axis, the only symmetric one that a gain of either date leaves alone: with the weighted means m and variances s^2,

    x = m_x + k (y - m_y),      k = s_x / s_y.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from remote_sensing.classical.ir_mad import CHUNK, fit_ir_mad
from remote_sensing.rasters import Patch, Sample
from remote_sensing.settings import Normalisation

LEAST_NOISE = 1e-6  # of a band's standard deviation: identical dates have no noise to divide by


@dataclass(frozen=True)
class Radiometry:
    """The maps of all bands; each array is float64 (bands,)."""

    kind: Normalisation
    centre_before: NDArray[np.float64]
    scale_before: NDArray[np.float64]
    centre_after: NDArray[np.float64]
    scale_after: NDArray[np.float64]

    def difference(self, before: NDArray[np.float32], after: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return y' - x' of values (bands, ...)."""
        shape = (-1, *[1] * (before.ndim - 1))
        centre, scale = self.centre_before.reshape(shape), self.scale_before.reshape(shape)
        moved = (after - self.centre_after.reshape(shape)) / self.scale_after.reshape(shape)
        return (moved - (before - centre) / scale).astype(np.float32)

    def magnitude(self, patch: Patch) -> NDArray[np.float32]:
        """Return the length of the change vector, float32 (rows, columns), NaN where not valid."""
        found = np.full(patch.valid.size, np.nan, np.float32)
        before, after = (date.reshape(len(date), -1) for date in (patch.before, patch.after))
        for start in range(0, found.size, CHUNK):  # chunks stay in the processor's cache
            part = slice(start, start + CHUNK)
            found[part] = _length(self.difference(before[:, part], after[:, part]))
        found[~patch.valid.ravel()] = np.nan
        return found.reshape(patch.valid.shape)

    def sample_magnitude(self, sample: Sample) -> NDArray[np.float32]:
        """Return the length of the change vectors of a sample."""
        starts = range(0, sample.before.shape[1], CHUNK)
        parts = (slice(start, start + CHUNK) for start in starts)
        return np.concatenate([_length(self.difference(sample.before[:, p], sample.after[:, p])) for p in parts])

    def facts(self) -> dict[str, object]:
        """Return what is worth telling: y is brought to the units of x by gain and offset."""
        gain = self.scale_before / self.scale_after
        return {
            "normalisation": self.kind,
            "gain": gain.tolist(),
            "offset": (self.centre_before - gain * self.centre_after).tolist(),
        }


def fit_radiometry(sample: Sample, kind: Normalisation) -> Radiometry:
    """Fit the maps to the pixels of a pair."""
    bands = len(sample.before)
    if kind == "none":
        return Radiometry(kind, np.zeros(bands), np.ones(bands), np.zeros(bands), np.ones(bands))
    means, deviations = (
        [np.array([getattr(band, what)(dtype=np.float64) for band in date]) for date in (sample.before, sample.after)]
        for what in ("mean", "std")
    )
    if kind == "zscore":
        return Radiometry(kind, means[0], deviations[0], means[1], deviations[1])
    model = fit_ir_mad(sample)
    w = model.no_change(sample.before, sample.after)
    w /= w.sum()
    centres, scales = np.zeros((2, bands)), np.ones((2, bands))
    for band in range(bands):
        x, y = (date[band].astype(np.float64) for date in (sample.before, sample.after))
        x_mean, y_mean = w @ x, w @ y
        x, y = x - x_mean, y - y_mean
        slope = np.sqrt(w @ (x * x) / (w @ (y * y)))
        noise = max(np.sqrt(w @ (x - slope * y) ** 2), LEAST_NOISE * deviations[0][band])
        centres[:, band] = x_mean, y_mean
        scales[:, band] = noise, noise / slope
    return Radiometry(kind, centres[0], scales[0], centres[1], scales[1])


def _length(difference: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.sqrt(np.square(difference).sum(0))
