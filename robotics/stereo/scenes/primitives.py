"""Rays against primitives: where a ray meets a sphere, box, cylinder, capsule, plane or heightfield, and the normal.

Everything happens in the primitive's own frame, where the formulas are short; rays are (3, N) tensors with unit
directions. A convex solid answers with the interval [t0, t1] that the ray spends inside it (empty: t0 > t1); the
surface met first is at t0 from outside and at t1 from inside.

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
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

INFINITY = math.inf
TINY = 1e-12
MARCHING, NEWTON = 120, 4


@dataclass(frozen=True)
class Primitive:
    """One primitive.

    Attributes:
        kind: a row of the table above.
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


def interval(primitive: Primitive, origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Return t0 and t1, (N,) each, of rays in the primitive's frame; t0 > t1 where it is missed.

    Args:
        primitive: what is met.
        origin: (3, N) or (3, 1).
        direction: (3, N), unit vectors.
    """
    match primitive.kind:
        case "sphere":
            return _sphere(origin, direction, primitive.size[0])
        case "box":
            return _box(origin, direction, primitive.size)
        case "cylinder":
            return _cylinder(origin, direction, *primitive.size)
        case "capsule":
            return _capsule(origin, direction, *primitive.size)
        case "plane":
            return _plane(origin, direction, *primitive.size)
        case "heightfield":
            return _heightfield(origin, direction, primitive)
        case _:
            raise ValueError(f"no primitive {primitive.kind}")


def normal(primitive: Primitive, point: Tensor) -> Tensor:
    """Return the outward unit normals (3, N) at surface points (3, N) of the primitive's frame."""
    match primitive.kind:
        case "sphere":
            return point / primitive.size[0]
        case "box":
            half = point.new_tensor(primitive.size)[:, None]
            face = (point / half).abs().argmax(0, keepdim=True)
            return torch.zeros_like(point).scatter_(0, face, point.gather(0, face).sign())
        case "cylinder":
            radius, half_height = primitive.size
            across = torch.cat([point[:2] / radius, torch.zeros_like(point[2:])])
            along = torch.zeros_like(point)
            along[2] = point[2].sign()
            radial = (point[0] ** 2 + point[1] ** 2).sqrt()
            # The surface that is nearer: a point found at a cap lies at |z| = h up to rounding.
            return torch.where((half_height - point[2].abs()) < (radius - radial), along, across)
        case "capsule":
            radius, half_height = primitive.size
            axis = torch.zeros_like(point)
            axis[2] = point[2].clamp(-half_height, half_height)
            return (point - axis) / radius
        case "plane":
            up = torch.zeros_like(point)
            up[2] = 1.0
            return up
        case _:
            slope_x, slope_y = _slopes(primitive, point[0], point[1])
            return torch.nn.functional.normalize(torch.stack([-slope_x, -slope_y, torch.ones_like(slope_x)]), dim=0)


def _sphere(origin: Tensor, direction: Tensor, radius: float, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """Meet |p - (0, 0, shift)| = r; the distance from the axis is taken from a vector, which does not cancel."""
    x, y, z = origin[0], origin[1], origin[2] - shift
    middle = -(x * direction[0] + y * direction[1] + z * direction[2])
    gap = (
        (x + middle * direction[0]).square() + (y + middle * direction[1]).square()
    ) + (z + middle * direction[2]).square()  # fmt: skip
    return _around(middle, radius * radius - gap)


def _around(middle: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
    half = square.clamp_min(0.0).sqrt()
    missed = square < 0
    return (middle - half).masked_fill(missed, INFINITY), (middle + half).masked_fill(missed, -INFINITY)


def _slab(origin: Tensor, direction: Tensor, half: float) -> tuple[Tensor, Tensor]:
    """Return the interval of |p| <= half along one axis."""
    safe = torch.where(direction.abs() < TINY, torch.full_like(direction, TINY), direction)
    first, second = (-half - origin) / safe, (half - origin) / safe
    return torch.minimum(first, second), torch.maximum(first, second)


def _box(origin: Tensor, direction: Tensor, half: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    enter, leave = _slab(origin[0], direction[0], half[0])
    for axis in (1, 2):
        first, last = _slab(origin[axis], direction[axis], half[axis])
        enter, leave = torch.maximum(enter, first), torch.minimum(leave, last)
    return enter, leave


def _side(origin: Tensor, direction: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Return the interval of x^2 + y^2 <= r^2."""
    square = (direction[0].square() + direction[1].square()).clamp_min(TINY)
    middle = -(origin[0] * direction[0] + origin[1] * direction[1]) / square
    gap = (origin[0] + middle * direction[0]).square() + (origin[1] + middle * direction[1]).square()
    return _around(middle, (radius * radius - gap) / square)


def _cylinder(origin: Tensor, direction: Tensor, radius: float, half_height: float) -> tuple[Tensor, Tensor]:
    enter, leave = _side(origin, direction, radius)
    first, last = _slab(origin[2], direction[2], half_height)
    return torch.maximum(enter, first), torch.minimum(leave, last)


def _capsule(origin: Tensor, direction: Tensor, radius: float, half_height: float) -> tuple[Tensor, Tensor]:
    """Union of a cylinder and two spheres: convex, so its interval is the hull of theirs."""
    enter, leave = _cylinder(origin, direction, radius, half_height)
    missed = enter > leave
    enter, leave = enter.masked_fill(missed, INFINITY), leave.masked_fill(missed, -INFINITY)
    for shift in (-half_height, half_height):
        first, last = _sphere(origin, direction, radius, shift)
        enter, leave = torch.minimum(enter, first), torch.maximum(leave, last)
    return enter, leave


def _plane(origin: Tensor, direction: Tensor, half_x: float, half_y: float) -> tuple[Tensor, Tensor]:
    safe = torch.where(direction[2].abs() < TINY, torch.full_like(direction[2], TINY), direction[2])
    t = -origin[2] / safe
    outside = ((origin[0] + t * direction[0]).abs() > half_x) | ((origin[1] + t * direction[1]).abs() > half_y)
    return t.masked_fill(outside, INFINITY), t.masked_fill(outside, -INFINITY)


def _height(primitive: Primitive, x: Tensor, y: Tensor) -> Tensor:
    assert primitive.waves is not None
    height = torch.zeros_like(x)
    for amplitude, wave_x, wave_y, phase in primitive.waves.tolist():
        height = height + amplitude * torch.sin(wave_x * x + wave_y * y + phase)
    return height


def _slopes(primitive: Primitive, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    assert primitive.waves is not None
    slope_x, slope_y = torch.zeros_like(x), torch.zeros_like(x)
    for amplitude, wave_x, wave_y, phase in primitive.waves.tolist():
        cosine = amplitude * torch.cos(wave_x * x + wave_y * y + phase)
        slope_x, slope_y = slope_x + wave_x * cosine, slope_y + wave_y * cosine
    return slope_x, slope_y


def _heightfield(origin: Tensor, direction: Tensor, primitive: Primitive) -> tuple[Tensor, Tensor]:
    """Meet f(t) = z(t) - h(x(t), y(t)) = 0.

    |f'| <= |d_z| + L |(d_x, d_y)| with L = sum_k |a_k| |k_k|, so steps of |f| over that bound never pass the first
    root; Newton's steps then finish. A ray that is still off the surface, nearly parallel to it, is a miss.
    """
    assert primitive.waves is not None
    waves = primitive.waves
    top = float(np.abs(waves[:, 0]).sum()) + 1e-6
    steepest = float((np.abs(waves[:, 0]) * np.hypot(waves[:, 1], waves[:, 2])).sum())
    enter, leave = _box(origin, direction, (primitive.size[0], primitive.size[1], top))
    missed = (enter > leave) | (leave < 0)
    t = enter.clamp_min(0.0).masked_fill(missed, 0.0)
    bound = direction[2].abs() + steepest * (direction[0].square() + direction[1].square()).sqrt()

    def offset(t: Tensor) -> Tensor:
        x, y = origin[0] + t * direction[0], origin[1] + t * direction[1]
        return origin[2] + t * direction[2] - _height(primitive, x, y)

    # A ray that starts on the surface must leave it first, or its own origin would shade it.
    start = offset(t)
    t = torch.where(start.abs() < 1e-3 * top, t + 2e-2 * top, t)
    for _ in range(MARCHING):
        step = offset(t).abs()
        if bool((missed | (step < 1e-3 * top) | (t > leave)).all()):
            break
        t = t + step / bound
    for _ in range(NEWTON):
        slope_x, slope_y = _slopes(primitive, origin[0] + t * direction[0], origin[1] + t * direction[1])
        slope = direction[2] - slope_x * direction[0] - slope_y * direction[1]
        slope = torch.where(slope.abs() < 0.05, 0.05 * slope.sign() + TINY, slope)
        t = t - (offset(t) / slope).clamp(-0.1 * top, 0.1 * top)
    missed = missed | (offset(t).abs() > 1e-3 * top) | (t < enter - 1e-6) | (t > leave)
    return t.masked_fill(missed, INFINITY), t.masked_fill(missed, -INFINITY)
