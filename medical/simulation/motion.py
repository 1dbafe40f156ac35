"""Motion of the head between shots: lines of k-space that see the object at different places.

Rigid, in the plane: in shot s the object is f(R_s^-1 (r - t_s)), so its Fourier transform at k is

    F_s(k) = exp(-2 pi i k . t_s) F(R_s^-1 k),

and coils stay where they are, which is why the received object is rotated and encoded again for each shot.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Pose:
    """Where the head is in one shot, relative to the first.

    Attributes:
        shift_mm: (y, x).
        degrees: rotation about the origin, from y towards x.
    """

    shift_mm: tuple[float, float]
    degrees: float


STILL = Pose((0.0, 0.0), 0.0)


def draw_poses(shots: int, shift_mm: float, degrees: float, generator: np.random.Generator) -> tuple[Pose, ...]:
    """Return the poses of a random walk that starts at rest, with these standard deviations a step."""
    steps = generator.standard_normal((max(shots - 1, 0), 3)) * (shift_mm, shift_mm, degrees)
    return (STILL, *(Pose((float(y), float(x)), float(a)) for y, x, a in np.cumsum(steps, axis=0)))


def shot_of_line(lines: int, shots: int) -> np.ndarray:
    """Return (lines,) the shot in which each phase-encode line is acquired: interleaved, as multi-shot scans do."""
    return np.arange(lines) % shots


def moved(values: np.ndarray, y_mm: np.ndarray, x_mm: np.ndarray, pose: Pose) -> np.ndarray:
    """Return an object's cells (y, x) at a pose, by linear interpolation; air comes in from outside."""
    if pose == STILL:
        return values
    from scipy.ndimage import map_coordinates

    angle = np.radians(pose.degrees)
    y, x = y_mm[:, None] - pose.shift_mm[0], x_mm[None, :] - pose.shift_mm[1]
    from_y, from_x = np.cos(angle) * y + np.sin(angle) * x, np.cos(angle) * x - np.sin(angle) * y
    step = (y_mm[1] - y_mm[0], x_mm[1] - x_mm[0])
    where = [(from_y - y_mm[0]) / step[0], (from_x - x_mm[0]) / step[1]]
    return map_coordinates(values.real, where, order=1) + 1j * map_coordinates(values.imag, where, order=1)
