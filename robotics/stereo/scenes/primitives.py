"""Rays against primitives: where a ray meets a sphere, box, cylinder, capsule, plane or heightfield, and the normal.

Everything happens in the primitive's own frame, where the formulas are short, for one ray of unit direction. A convex
solid answers with the interval [t0, t1] that the ray spends inside it (empty: t0 > t1); the surface met first is at t0
from outside and at t1 from inside.

| kind | surface in its own frame | size |
| --- | --- | --- |
| sphere | |p| = r | r |
| box | max |p_i| / h_i = 1 | half edges h |
| cylinder | x^2 + y^2 = r^2, |z| <= h, with caps | r, h |
| capsule | points at distance r of the segment |z| <= h | r, h |
| plane | z = 0, |x| <= a, |y| <= b | a, b (may be infinite) |
| heightfield | z = sum_k a_k sin(k_k . (x, y) + phi_k) over |x| <= a, |y| <= b | a, b |
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robotics.stereo.scenes.compiled import compiled
from robotics.stereo.scenes.optics import Vector

KINDS = ("sphere", "box", "cylinder", "capsule", "plane", "heightfield")
SPHERE, BOX, CYLINDER, CAPSULE, PLANE, HEIGHTFIELD = range(len(KINDS))
Interval = tuple[float, float]
INFINITY = math.inf
TINY = 1e-12
MARCHING, ILLINOIS = 400, 9


@dataclass(frozen=True)
class Primitive:
    """One primitive.

    Attributes:
        kind: one of `KINDS`, a row of the table above.
        center: (3,) origin of its frame, m.
        rotation: (3, 3), its columns are its axes in the world.
        size: as in the table, m.
        material: index of its material.
        waves: of a heightfield: (K, 4) rows of amplitude (m), wave vector x and y (rad/m), phase (rad).
    """

    kind: str
    center: np.ndarray
    rotation: np.ndarray
    size: tuple[float, ...]
    material: int
    waves: np.ndarray | None = None

    @property
    def radius(self) -> float:
        """Return the radius of a sphere about `center` that holds it, m."""
        size = self.size
        match self.kind:
            case "sphere":
                return size[0]
            case "box":
                return math.hypot(*size)
            case "cylinder":
                return math.hypot(size[0], size[1])
            case "capsule":
                return size[0] + size[1]
            case "plane":
                return math.hypot(size[0], size[1])
            case _:
                assert self.waves is not None
                return math.hypot(size[0], size[1], float(np.abs(self.waves[:, 0]).sum()))


# Columns of a table of primitives, which compiled code reads: one row each.
KIND, CENTER, TURN, SIZE, RADIUS, MATERIAL, FIRST_WAVE, LAST_WAVE, COLUMNS = 0, 1, 4, 13, 16, 17, 18, 19, 20


def table(primitives: Sequence[Primitive]) -> tuple[np.ndarray, np.ndarray]:
    """Return primitives as rows (P, COLUMNS) and the waves (K, 4) of all heightfields."""
    waves = [np.zeros((0, 4)), *(p.waves for p in primitives if p.waves is not None)]
    rows = np.zeros((len(primitives), COLUMNS))
    last = 0
    for row, primitive in zip(rows, primitives, strict=True):
        first, last = last, last + (0 if primitive.waves is None else len(primitive.waves))
        row[KIND] = KINDS.index(primitive.kind)
        row[CENTER : CENTER + 3] = primitive.center
        row[TURN : TURN + 9] = primitive.rotation.T.reshape(-1)
        row[SIZE : SIZE + 3] = (*primitive.size, 1.0, 1.0)[:3]
        row[RADIUS] = primitive.radius * (1 + 1e-9) + 1e-9
        row[MATERIAL] = primitive.material
        row[FIRST_WAVE], row[LAST_WAVE] = first, last
    return rows, np.concatenate(waves).astype(float)


@compiled
def into_frame(prims: np.ndarray, p: int, x: float, y: float, z: float) -> Vector:
    """Return a direction in the frame of primitive p."""
    return (
        prims[p, 4] * x + prims[p, 5] * y + prims[p, 6] * z,
        prims[p, 7] * x + prims[p, 8] * y + prims[p, 9] * z,
        prims[p, 10] * x + prims[p, 11] * y + prims[p, 12] * z,
    )


@compiled
def may_meet(prims: np.ndarray, p: int, o: Vector, d: Vector, farthest: float) -> bool:
    """Return whether a ray passes the bounding sphere of primitive p nearer than `farthest`."""
    x, y, z = prims[p, CENTER] - o[0], prims[p, CENTER + 1] - o[1], prims[p, CENTER + 2] - o[2]
    along, radius = x * d[0] + y * d[1] + z * d[2], prims[p, RADIUS]
    return along >= -radius and along - radius <= farthest and x * x + y * y + z * z - along * along <= radius * radius


@compiled
def meet(prims: np.ndarray, waves: np.ndarray, p: int, o: Vector, d: Vector) -> Interval:
    """Return the interval [t0, t1] of primitive p, empty if it is missed.

    Args:
        prims: from `table`.
        waves: from `table`.
        p: row of `prims`.
        o: origin in the world.
        d: unit direction in the world.
    """
    start = into_frame(prims, p, o[0] - prims[p, CENTER], o[1] - prims[p, CENTER + 1], o[2] - prims[p, CENTER + 2])
    ray = into_frame(prims, p, d[0], d[1], d[2])
    kind, a, b, c = prims[p, KIND], prims[p, SIZE], prims[p, SIZE + 1], prims[p, SIZE + 2]
    if kind == SPHERE:
        return _sphere(start, ray, a, 0.0)
    if kind == BOX:
        return _box(start, ray, a, b, c)
    if kind == CYLINDER:
        return _cylinder(start, ray, a, b)
    if kind == CAPSULE:
        return _capsule(start, ray, a, b)
    if kind == PLANE:
        return _plane(start, ray, a, b)
    return _heightfield(start, ray, a, b, waves, int(prims[p, FIRST_WAVE]), int(prims[p, LAST_WAVE]))


@compiled
def outward(prims: np.ndarray, waves: np.ndarray, p: int, x: float, y: float, z: float) -> Vector:
    """Return the outward unit normal, in the frame of primitive p, at a surface point of that frame."""
    kind, a, b, c = prims[p, KIND], prims[p, SIZE], prims[p, SIZE + 1], prims[p, SIZE + 2]
    if kind == SPHERE:
        return x / a, y / a, z / a
    if kind == BOX:
        i, j, k = abs(x) / a, abs(y) / b, abs(z) / c
        if i >= j and i >= k:
            return math.copysign(1.0, x), 0.0, 0.0
        if j >= k:
            return 0.0, math.copysign(1.0, y), 0.0
        return 0.0, 0.0, math.copysign(1.0, z)
    if kind == CYLINDER:
        # The surface that is nearer: a point found at a cap lies at |z| = h up to rounding.
        if b - abs(z) < a - math.sqrt(x * x + y * y):
            return 0.0, 0.0, math.copysign(1.0, z)
        return x / a, y / a, 0.0
    if kind == CAPSULE:
        return x / a, y / a, (z - min(max(z, -b), b)) / a
    if kind == PLANE:
        return 0.0, 0.0, 1.0
    slope_x, slope_y = 0.0, 0.0
    for k in range(int(prims[p, FIRST_WAVE]), int(prims[p, LAST_WAVE])):
        cosine = waves[k, 0] * math.cos(waves[k, 1] * x + waves[k, 2] * y + waves[k, 3])
        slope_x += waves[k, 1] * cosine
        slope_y += waves[k, 2] * cosine
    long = math.sqrt(1.0 + slope_x * slope_x + slope_y * slope_y)
    return -slope_x / long, -slope_y / long, 1.0 / long


@compiled
def _around(middle: float, square: float) -> Interval:
    if square < 0.0:
        return INFINITY, -INFINITY
    half = math.sqrt(square)
    return middle - half, middle + half


@compiled
def _sphere(o: Vector, d: Vector, radius: float, shift: float) -> Interval:
    """Meet |p - (0, 0, shift)| = r; the distance from the axis is taken from a vector, which does not cancel."""
    x, y, z = o[0], o[1], o[2] - shift
    middle = -(x * d[0] + y * d[1] + z * d[2])
    x, y, z = x + middle * d[0], y + middle * d[1], z + middle * d[2]
    return _around(middle, radius * radius - (x * x + y * y + z * z))


@compiled
def _slab(o: float, d: float, half: float) -> Interval:
    """Return the interval of |p| <= half along one axis."""
    if abs(d) < TINY:
        return (-INFINITY, INFINITY) if abs(o) <= half else (INFINITY, -INFINITY)
    middle, reach = -o / d, half / abs(d)
    return middle - reach, middle + reach


@compiled
def _box(o: Vector, d: Vector, a: float, b: float, c: float) -> Interval:
    x0, x1 = _slab(o[0], d[0], a)
    y0, y1 = _slab(o[1], d[1], b)
    z0, z1 = _slab(o[2], d[2], c)
    return max(x0, y0, z0), min(x1, y1, z1)


@compiled
def _cylinder(o: Vector, d: Vector, radius: float, half_height: float) -> Interval:
    square = d[0] * d[0] + d[1] * d[1]
    if square < TINY:
        inside = o[0] * o[0] + o[1] * o[1] <= radius * radius
        return _slab(o[2], d[2], half_height) if inside else (INFINITY, -INFINITY)
    middle = -(o[0] * d[0] + o[1] * d[1]) / square
    x, y = o[0] + middle * d[0], o[1] + middle * d[1]
    enter, leave = _around(middle, (radius * radius - x * x - y * y) / square)
    first, last = _slab(o[2], d[2], half_height)
    return max(enter, first), min(leave, last)


@compiled
def _capsule(o: Vector, d: Vector, radius: float, half_height: float) -> Interval:
    """Union of a cylinder and two spheres: convex, so its interval is the hull of theirs."""
    enter, leave = _cylinder(o, d, radius, half_height)
    if enter > leave:
        enter, leave = INFINITY, -INFINITY
    for shift in (-half_height, half_height):
        first, last = _sphere(o, d, radius, shift)
        enter, leave = min(enter, first), max(leave, last)
    return enter, leave


@compiled
def _plane(o: Vector, d: Vector, half_x: float, half_y: float) -> Interval:
    if abs(d[2]) < TINY:
        return INFINITY, -INFINITY
    t = -o[2] / d[2]
    if abs(o[0] + t * d[0]) > half_x or abs(o[1] + t * d[1]) > half_y:
        return INFINITY, -INFINITY
    return t, t


@compiled
def _above(o: Vector, d: Vector, t: float, waves: np.ndarray, first: int, last: int) -> float:
    """Return f(t) = z(t) - h(x(t), y(t)) of the waves from `first` to before `last`."""
    x, y, height = o[0] + t * d[0], o[1] + t * d[1], 0.0
    for k in range(first, last):
        height += waves[k, 0] * math.sin(waves[k, 1] * x + waves[k, 2] * y + waves[k, 3])
    return o[2] + t * d[2] - height


@compiled
def _heightfield(
    o: Vector, d: Vector, half_x: float, half_y: float, waves: np.ndarray, first: int, last: int
) -> Interval:
    """Meet f(t) = z(t) - h(x(t), y(t)) = 0 at its first root; t0 = t1.

    With L = sum_k |a_k| |k_k|, the steepest slope, |f'| <= |d_z| + L |(d_x, d_y)|: a step of |f| over that bound never
    passes a root. Where |d_z| > L |(d_x, d_y)|, f is monotone and the Illinois method needs a few steps instead (a
    false position that keeps one end twice halves the value there). A ray that starts on the surface leaves it first.
    """
    top, steepest = 1e-9, 0.0
    for k in range(first, last):
        top += abs(waves[k, 0])
        steepest += abs(waves[k, 0]) * math.sqrt(waves[k, 1] * waves[k, 1] + waves[k, 2] * waves[k, 2])
    enter, leave = _box(o, d, half_x, half_y, top)
    if enter > leave or leave < 0.0:
        return INFINITY, -INFINITY
    t = max(enter, 0.0)
    value = _above(o, d, t, waves, first, last)
    if abs(value) < 1e-4 * top:
        t += 1e-2 * top
        value = _above(o, d, t, waves, first, last)
    steep = steepest * math.sqrt(d[0] * d[0] + d[1] * d[1])
    if abs(d[2]) > steep:
        at_leave = _above(o, d, leave, waves, first, last)
        if value * at_leave > 0.0 or t > leave:
            return INFINITY, -INFINITY
        for _ in range(ILLINOIS):
            if value == at_leave or at_leave == 0.0:
                break
            middle = leave - at_leave * (t - leave) / (value - at_leave)
            at_middle = _above(o, d, middle, waves, first, last)
            if at_middle * at_leave <= 0.0:
                t, value = leave, at_leave
            else:
                value *= 0.5
            leave, at_leave = middle, at_middle
        return leave, leave
    bound = abs(d[2]) + steep
    for _ in range(MARCHING):
        if t > leave:
            return INFINITY, -INFINITY
        if abs(value) < 1e-7 * top:
            return t, t
        t += abs(value) / bound
        value = _above(o, d, t, waves, first, last)
    return (t, t) if abs(value) < 1e-3 * top else (INFINITY, -INFINITY)
