"""Iteratively reweighted multivariate alteration detection (Nielsen, IEEE TIP 2007).

Canonical correlation analysis finds combinations of the bands x of one date and y of the other with correlations rho_i:

    S_xy S_yy^-1 S_yx a_i = rho_i^2 S_xx a_i,     a_i' S_xx a_i = b_i' S_yy b_i = 1,     a_i' S_xy b_i = rho_i

Where nothing changed, the MAD variates D_i = a_i'(x - m_x) - b_i'(y - m_y) are uncorrelated with variance
2 (1 - rho_i), so

    Z = sum_i D_i^2 / (2 (1 - rho_i))   ~   chi-square with p degrees of freedom.

Means and covariances are taken again with weights w = P(chi2_p > Z), the probability of no change, until no rho_i moves
by more than 1e-3. Affine changes of any band of either date (gain, offset, units) do not change Z.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from remote_sensing.rasters import Patch, Sample

TOLERANCE = 1e-3
MAX_ITERATIONS = 100
CHUNK = 1 << 15  # pixels in float64 at a time
RANK = 1e-10  # eigenvalues of a correlation matrix below this belong to bands that repeat others
LEAST_VARIANCE = 1e-9  # of a MAD variate: identical dates have rho = 1 and differences of nothing but rounding


@dataclass(frozen=True)
class IrMad:
    """The fitted transformation.

    Attributes:
        mean_before: (bands,).
        mean_after: (bands,).
        a: (variates, bands), for the first date.
        b: (variates, bands), for the second.
        rho: (variates,) canonical correlations, largest first.
        iterations: taken until they stood still.
    """

    mean_before: NDArray[np.float64]
    mean_after: NDArray[np.float64]
    a: NDArray[np.float64]
    b: NDArray[np.float64]
    rho: NDArray[np.float64]
    iterations: int

    halo = 0
    unit = "standard deviations of no change"

    @property
    def dof(self) -> int:
        """Degrees of freedom of Z."""
        return len(self.rho)

    def variates(self, before: NDArray, after: NDArray) -> NDArray[np.float64]:
        """Return D (variates, ...) of values (bands, ...)."""
        d = np.tensordot(self.a, before, 1)
        d -= np.tensordot(self.b, after, 1)
        offset = self.a @ self.mean_before - self.b @ self.mean_after
        d -= offset.reshape(-1, *[1] * (before.ndim - 1))
        return d

    def chi_square(self, before: NDArray, after: NDArray) -> NDArray[np.float64]:
        """Return Z (...) of values (bands, ...)."""
        d = self.variates(before, after)
        d *= d
        return np.tensordot(1 / np.maximum(2 * (1 - self.rho), LEAST_VARIANCE), d, 1)

    def no_change(self, before: NDArray, after: NDArray) -> NDArray[np.float64]:
        """Return P(chi2_p > Z)."""
        from scipy.special import chdtrc

        return chdtrc(self.dof, self.chi_square(before, after))

    def score(self, patch: Patch) -> NDArray[np.float32]:
        """Return sqrt(Z), float32 (rows, columns), NaN where not valid."""
        found = np.full(patch.valid.size, np.nan, np.float32)
        valid = patch.valid.ravel()
        before, after = (date.reshape(len(date), -1) for date in (patch.before, patch.after))
        # Chunks stay in the processor's cache, in which float64 is nearly as fast as float32.
        for start in range(0, valid.size, CHUNK):
            part = slice(start, start + CHUNK)
            used = valid[part]
            x, y = (date[:, part][:, used].astype(np.float64) for date in (before, after))
            found[part][used] = np.sqrt(self.chi_square(x, y))
        return found.reshape(patch.valid.shape)

    def sample_score(self, sample: Sample) -> NDArray[np.float32]:
        """Return sqrt(Z) of the pixels of a sample."""
        return np.concatenate(
            [np.sqrt(self.chi_square(before, after)).astype(np.float32) for before, after in _chunks(sample)]
        )

    def facts(self) -> dict[str, object]:
        """Return what is worth telling."""
        return {"iterations": self.iterations, "canonical_correlations": self.rho.tolist()}


def fit_ir_mad(sample: Sample, *, tolerance: float = TOLERANCE, max_iterations: int = MAX_ITERATIONS) -> IrMad:
    """Fit the transformation to the pixels of a pair, accumulating moments chunk by chunk in float64."""
    model: IrMad | None = None
    for iteration in range(1, max_iterations + 1):
        mean, covariance = _moments(sample, model)
        previous, model = model, _canonical(mean, covariance, iteration)
        # Weights can leave pixels in which bands repeat others: then there are fewer variates than before.
        alike = previous is not None and len(model.rho) == len(previous.rho)
        if previous is not None and alike and np.abs(model.rho - previous.rho).max() < tolerance:
            break
    assert model is not None
    return model


def _moments(sample: Sample, model: IrMad | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the weighted mean and covariance of both dates' bands, stacked.

    Sums are taken about a mean that is nearly right already, that of the last iteration, so they lose no digits.
    """
    if model is None:
        centre = np.array([band.mean(dtype=np.float64) for date in (sample.before, sample.after) for band in date])
    else:
        centre = np.concatenate([model.mean_before, model.mean_after])
    weight, first, second = 0.0, np.zeros(len(centre)), np.zeros((len(centre), len(centre)))
    for before, after in _chunks(sample):
        w = np.ones(before.shape[1]) if model is None else model.no_change(before, after)
        values = np.concatenate([before, after]) - centre[:, None]
        weight += w.sum()
        first += values @ w
        second += (values * w) @ values.T
    moved = first / weight
    return centre + moved, second / weight - np.outer(moved, moved)


def _canonical(mean: NDArray, covariance: NDArray, iteration: int) -> IrMad:
    bands = len(mean) // 2
    whitening = [_whitening(covariance[part, part]) for part in (slice(None, bands), slice(bands, None))]
    u, rho, vt = np.linalg.svd(whitening[0] @ covariance[:bands, bands:] @ whitening[1].T, full_matrices=False)
    a, b = u.T @ whitening[0], vt @ whitening[1]
    return IrMad(mean[:bands], mean[bands:], a, b, np.minimum(rho, 1.0), iteration)


def _whitening(covariance: NDArray) -> NDArray[np.float64]:
    """Return W (rank, bands) with W S W' = 1; bands that repeat others lower the rank.

    Through the correlation matrix, so that the rank does not depend on the units of the bands.
    """
    scale = 1 / np.sqrt(np.maximum(np.diag(covariance), np.finfo(float).tiny))
    values, vectors = np.linalg.eigh(covariance * np.outer(scale, scale))
    kept = values > RANK * values.max()
    return (vectors[:, kept] / np.sqrt(values[kept])).T * scale


def _chunks(sample: Sample) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    for start in range(0, sample.before.shape[1], CHUNK):
        part = slice(start, start + CHUNK)
        yield sample.before[:, part].astype(np.float64), sample.after[:, part].astype(np.float64)
