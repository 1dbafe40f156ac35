"""Which axis of a file is up, and what its unit is: stated by the caller, or found from the geometry.

An axis is up to the degree that the scene would stand on it: the hull of what touches the lowest plane covers much
of the footprint, much of the surface is horizontal, and the lowest point lies at zero, as modellers put it. A unit is
right to the degree that the height is that of a room or a piece of furniture and that surfaces facing up lie where
people use them. The scores were set on the apartment, 14 pieces of furniture and two sets of boxes; they are evidence,
not proof, so what was found is told and can be overruled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shared.errors import InputError

UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001, "in": 0.0254, "ft": 0.3048}

# Rows are the new x, y, z; each is a rotation.
AXES = {
    "x": ((0, 1, 0), (0, 0, 1), (1, 0, 0)),
    "y": ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
    "z": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "-x": ((0, 0, 1), (0, 1, 0), (-1, 0, 0)),
    "-y": ((1, 0, 0), (0, 0, 1), (0, -1, 0)),
    "-z": ((1, 0, 0), (0, -1, 0), (0, 0, -1)),
}

DETECTED_UNITS = ("m", "cm", "mm")  # inches lie too near to centimetres to be told apart
CLEAR = 0.6  # a smaller lead is told as uncertain: the two wrong axes found on 14 pieces moved off zero had less
MANY = 4  # from so many named objects on it is a room, not a piece of furniture


@dataclass(frozen=True)
class Frame:
    """How a file's coordinates become ours: x' = scale R x.

    Attributes:
        rotation: R (3, 3), float64.
        scale: metres per unit.
        up: name of the axis, or the vector that was given.
        unit: name.
        notes: what was decided and why, one line each.
    """

    rotation: np.ndarray
    scale: float
    up: str
    unit: str
    notes: tuple[str, ...]

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Return points (..., 3) in metres, z up, float64."""
        return np.asarray(points, np.float64) @ (self.scale * self.rotation).T


def find_frame(
    triangles: np.ndarray,
    *,
    source: str,
    up: str | Sequence[float] | None = None,
    unit: str | None = None,
    gltf: bool = False,
    count: int = 1,
) -> Frame:
    """Return the frame of a file.

    Args:
        triangles: (T, 3, 3), the corners in the file's coordinates.
        source: name for errors.
        up: one of `AXES` or a vector; None to find y or z.
        unit: one of `UNITS`; None to find m, cm or mm.
        gltf: the file is glTF, whose standard says y up and metres: evidence, since exporters ignore it.
        count: of named objects.

    Raises:
        InputError: an unknown axis or unit, or no unit makes the scene a room or a piece of furniture.
    """
    notes = []
    if up is None:
        scores = {axis: _stands(triangles @ np.array(AXES[axis], float).T) for axis in ("z", "y")}
        scores["y"] += 0.5 * gltf
        axis, other = sorted(scores, key=lambda name: -scores[name])
        notes.append(_told("up axis", axis, scores[axis], other, scores[other], "stands on it"))
        rotation = np.array(AXES[axis], float)
    else:
        axis, rotation = _stated_axis(up, source)
    if unit is None:
        upright = triangles @ rotation.T
        extent = np.ptp(upright.reshape(-1, 3), axis=0)
        areas, levels = _levels(upright)
        scores = {
            name: _lived_in(UNITS[name] * extent[2], UNITS[name] * levels, areas, count) for name in DETECTED_UNITS
        }
        scores["m"] += 0.25 * gltf
        unit, other, _ = sorted(scores, key=lambda name: -scores[name])
        if scores[unit] < 0.5:
            raise InputError(
                source, found=f"extents of {extent[0]:.4g} x {extent[1]:.4g} x {extent[2]:.4g} (height last)",
                expected="a room or a piece of furniture in m, cm or mm", fix="Give the unit, and the up axis.",
            )  # fmt: skip
        why = f"{extent[2] * UNITS[unit]:.2f} m high"
        notes.append(_told("unit", unit, scores[unit], other, scores[other], why))
    elif unit not in UNITS:
        raise InputError("unit", found=repr(unit), expected=f"one of {', '.join(UNITS)}", fix="Choose one of these.")
    return Frame(rotation, UNITS[unit], axis, unit, tuple(notes))


def _told(what: str, first: str, score: float, second: str, runner_up: float, why: str) -> str:
    lead = score - runner_up
    doubt = "" if lead >= CLEAR else f"; uncertain, give it if it is {second}"
    return f"{what}: {first}, found ({why}; {score:.2f} against {runner_up:.2f} for {second}{doubt})"


def _stated_axis(up: str | Sequence[float], source: str) -> tuple[str, np.ndarray]:
    if isinstance(up, str):
        if up not in AXES:
            raise InputError(
                "up axis", found=repr(up), expected=f"one of {', '.join(AXES)} or a vector", fix="Mend it."
            )
        return up, np.array(AXES[up], float)
    vector = np.asarray(up, np.float64)
    length = np.linalg.norm(vector) if vector.shape == (3,) else 0.0
    if not (np.isfinite(length) and length > 0):
        raise InputError(f"{source}: up vector", found=str(up), expected="three finite numbers", fix="Mend it.")
    a = vector / length
    # The rotation by the smallest angle that takes a to z: R = I + K + K K / (1 + a_z), K = [a x z]_x.
    if a[2] < -1 + 1e-9:
        return str(tuple(up)), np.array(AXES["-z"], float)
    k = np.array([[0.0, 0.0, -a[0]], [0.0, 0.0, -a[1]], [a[0], a[1], 0.0]])
    return str(tuple(up)), np.eye(3) + k + k @ k / (1 + a[2])


def facing(triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return areas (T,) and unit normals (T, 3) of triangles (T, 3, 3); the normal of a degenerate one is zero."""
    cross = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    twice = np.linalg.norm(cross, axis=1)
    return twice / 2, cross / np.maximum(twice, np.finfo(np.float64).tiny)[:, None]


def _stands(triangles: np.ndarray) -> float:
    """Return how well z is up: support share + horizontal share + 0.7 if the lowest point is at zero."""
    from scipy.spatial import ConvexHull, QhullError

    points = triangles.reshape(-1, 3)
    low, extent = points.min(0), np.ptp(points, axis=0)
    height = max(extent[2], 1e-12)
    touching = points[points[:, 2] <= low[2] + 0.01 * height][:, :2]
    try:
        support = ConvexHull(touching).volume / max(extent[0] * extent[1], 1e-12)
    except (QhullError, ValueError):  # fewer than three points, or all in a line
        support = 0.0
    area, normal = facing(triangles)
    horizontal = area[np.abs(normal[:, 2]) > 0.95].sum() / max(area.sum(), 1e-300)
    return float(support + horizontal + 0.7 * (abs(low[2]) <= 0.01 * height))


def _levels(triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return areas (T,) and heights (T,) over the lowest point of the horizontal faces, whichever way they face.

    Those of the lowest tenth are left out: the floor says nothing.
    """
    area, normal = facing(triangles)
    heights = triangles[..., 2]
    level = heights.mean(1) - heights.min()
    flat = (np.abs(normal[:, 2]) > 0.95) & (level > 0.1 * np.ptp(heights))
    return area[flat], level[flat]


def _lived_in(height: float, levels: np.ndarray, areas: np.ndarray, count: int) -> float:
    """Return how well a unit fits: 1 for a usual height (0.5 for a possible one) + share of surface at 0.3 to 1.1 m."""
    usual, possible = ((2.0, 4.5), (0.3, 15.0)) if count >= MANY else ((0.3, 4.0), (0.3, 12.0))
    plausible = 1.0 if usual[0] <= height <= usual[1] else 0.5 if possible[0] <= height <= possible[1] else -1.0
    used = (levels >= 0.3) & (levels <= 1.1)
    return float(plausible + areas[used].sum() / max(areas.sum(), 1e-300))
