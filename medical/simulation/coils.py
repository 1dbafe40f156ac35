"""Receive arrays drawn about those of `receive_coils`: their sensitivities in a slice and their noise."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from medical.reconstruction.receive_coils import Loop, head_array, noise_coupling, sensitivities
from medical.simulation.smooth import spline_matrix

SAMPLES = 33  # sensitivities are evaluated on this many points along each axis and interpolated with cubic splines
HEIGHT_MM = 80.0  # half extent of a head along z


@dataclass(frozen=True)
class Array:
    """A receive array around a slice.

    Attributes:
        loops: its coils; empty for a volume coil, whose sensitivity is 1 everywhere.
        gains: (coil,) receiver gains.
        covariance: (coil, coil) complex noise covariance with mean diagonal of about 1, gains included.
    """

    loops: tuple[Loop, ...]
    gains: np.ndarray
    covariance: np.ndarray

    def __len__(self) -> int:
        return len(self.gains)

    def sensitivities(self, y_mm: np.ndarray, x_mm: np.ndarray) -> np.ndarray:
        """Return the received signal of unit magnetisation, gains included, complex128 (coil, y, x)."""
        if not self.loops:
            return np.full((1, len(y_mm), len(x_mm)), self.gains[0], dtype=np.complex128)
        coarse = [np.linspace(axis.min(), axis.max(), SAMPLES) for axis in (y_mm, x_mm)]
        points = np.zeros((SAMPLES, SAMPLES, 3))
        points[..., 0], points[..., 1] = coarse[1][None, :], coarse[0][:, None]
        exact = sensitivities(points, list(self.loops)) * self.gains[:, None, None]
        along_y, along_x = (
            spline_matrix((axis - axis.min()) / np.ptp(axis) * (SAMPLES - 1), SAMPLES) for axis in (y_mm, x_mm)
        )
        return along_y @ exact @ along_x.T


def draw_array(coils: int, half_extent_mm: tuple[float, float], height: float, generator: np.random.Generator) -> Array:
    """Return a head array of `coils` loops, turned and moved at random, about a slice through the origin.

    One coil is a volume coil, as single-channel scanners have.

    Args:
        coils: their number.
        half_extent_mm: of the object along (y, x).
        height: where the slice lies in the head, -1 to 1 from bottom to top.
        generator: of positions, gains and noise correlation.
    """
    gains = np.exp(0.25 * generator.standard_normal(coils))
    if coils == 1:
        return Array((), gains, np.array([[gains[0] ** 2]], dtype=np.complex128))
    # The slice lies at z = 0, so the centre of the head does not.
    centre = np.array([0.0, 0.0, -0.5 * height * HEIGHT_MM])
    half = np.array([half_extent_mm[1], half_extent_mm[0], HEIGHT_MM])
    turn = generator.uniform(0, 2 * np.pi)
    clearance = generator.uniform(18.0, 45.0)
    # The ellipse of the array is that of the head, so turning the loops means taking others of a finer ring.
    loops = []
    for loop in head_array(coils, centre, half, clearance_mm=clearance):
        a, b = half[0] + clearance, half[1] + clearance
        angle = np.arctan2((loop.centre_mm[1] - centre[1]) / b, (loop.centre_mm[0] - centre[0]) / a) + turn
        normal = np.array([np.cos(angle) / a, np.sin(angle) / b, 0.0])
        place = np.array([a * np.cos(angle), b * np.sin(angle), loop.centre_mm[2]])
        place += generator.uniform(-6.0, 6.0, 3)
        loops.append(replace(loop, centre_mm=place, normal=normal / np.linalg.norm(normal)))
    coupled = generator.uniform(0.3, 0.8)
    shape = coupled * noise_coupling(loops, centre, half) + (1 - coupled) * np.eye(coils)
    return Array(tuple(loops), gains, gains[:, None] * gains * shape)
