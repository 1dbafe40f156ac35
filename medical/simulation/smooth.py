"""Smooth random fields: what shading, background phase and deformations of anatomy are drawn from."""

from __future__ import annotations

import numpy as np


def smooth_noise(
    shape: tuple[int, int], scale: float | tuple[float, float], generator: np.random.Generator
) -> np.ndarray:
    """Return white noise of variance 1 seen through a Gaussian of unit energy, float64 (y, x).

    Every value has mean 0 and variance 1 over draws, and correlation exp(-d^2 / (4 scale^2)) at distance d. The noise
    is drawn on a grid as coarse as the Gaussian allows and interpolated with cubic splines.

    Args:
        shape: of the field.
        scale: standard deviation of the Gaussian, in cells; one for both axes or (y, x).
        generator: of the noise.
    """
    from scipy.ndimage import gaussian_filter

    scales = np.broadcast_to(np.asarray(scale, dtype=np.float64), (2,))
    step = np.maximum(scales / 2.0, 1.0)  # two samples a standard deviation resolve the Gaussian
    margin = np.ceil(4 * scales / step).astype(int) + 2
    coarse = np.ceil(np.array(shape) / step).astype(int) + 2 * margin + 1
    sigma = scales / step
    field = gaussian_filter(generator.standard_normal(coarse), sigma, mode="constant", truncate=5.0)
    field /= np.prod([_energy(s) for s in sigma])
    if (step == 1).all():
        return field[margin[0] : margin[0] + shape[0], margin[1] : margin[1] + shape[1]]
    along_y, along_x = (
        spline_matrix(np.arange(n) / s + m, c) for n, s, m, c in zip(shape, step, margin, coarse, strict=True)
    )
    return along_y @ field @ along_x.T


def unit_smooth_noise(
    shape: tuple[int, int], scale: float | tuple[float, float], generator: np.random.Generator
) -> np.ndarray:
    """Return `smooth_noise` shifted and scaled to mean 0 and standard deviation 1 over this field."""
    field = smooth_noise(shape, scale, generator)
    field = field - field.mean()
    spread = field.std()
    return field / spread if spread > 0 else field


def spline_matrix(where: np.ndarray, samples: int) -> np.ndarray:
    """Return (len(where), samples): the cubic spline through values at 0, 1, ... samples - 1, evaluated at `where`."""
    from scipy.interpolate import CubicSpline

    return CubicSpline(np.arange(samples), np.eye(samples))(where)


def _energy(sigma: float) -> float:
    """Return the norm of the sampled Gaussian along one axis: its filter leaves this much of white noise."""
    t = np.arange(-int(5 * sigma + 0.5), int(5 * sigma + 0.5) + 1)
    weights = np.exp(-0.5 * (t / sigma) ** 2)
    return float(np.linalg.norm(weights / weights.sum()))
