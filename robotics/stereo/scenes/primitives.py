"""Rays against primitives: where a ray meets a sphere, box, cylinder, capsule, plane or heightfield, and the normal.

Everything happens in the primitive's own frame, where the formulas are short, and for many primitives of one kind at
once: `origin` and `direction` are triples of (K, C) tensors, C rays for each of K primitives, directions of unit
length, and sizes are triples of (K, 1). A convex solid answers with the interval [t0, t1] that the ray spends inside
it (empty: t0 > t1); the surface met first is at t0 from outside and at t1 from inside.

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

Triple = tuple[Tensor, Tensor, Tensor]
KINDS = ("sphere", "box", "cylinder", "capsule", "plane", "heightfield")
WAVES = 6  # most waves of a heightfield
INFINITY = math.inf
TINY = 1e-12
MARCHING, NEWTON = 120, 4


@dataclass(frozen=True)
class Primitive:
    """One primitive.

    Attributes:
        kind: one of `KINDS`, a row of the table above.
        center: (3,) origin of its frame, m.
        rotation: (3, 3), its columns are its axes in the world.
        size: as in the table, m.
        material: index of its material.
        waves: of a heightfield: (K, 4), K <= WAVES, rows of amplitude (m), wave vector x and y (rad/m), phase (rad).
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


def interval(
    kind: str, origin: Triple, direction: Triple, size: Triple, waves: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return t0 and t1, (K, C) each, of rays in the frames of K primitives of one kind; t0 > t1 where one is missed.

    Args:
        kind: one of `KINDS`.
        origin: three coordinates, (K, C) or (K, 1).
        direction: three coordinates of unit vectors, (K, C).
        size: (K, 1) each, as in the module's table; numbers that a kind lacks are not read.
        waves: of heightfields: (K, WAVES, 4), filled up with waves of no amplitude.
    """
    match kind:
        case "sphere":
            return _sphere(origin, direction, size[0])
        case "box":
            return _box(origin, direction, size)
        case "cylinder":
            return _cylinder(origin, direction, size[0], size[1])
        case "capsule":
            return _capsule(origin, direction, size[0], size[1])
        case "plane":
            return _plane(origin, direction, size[0], size[1])
        case "heightfield":
            assert waves is not None
            return _heightfield(origin, direction, size[0], size[1], waves)
        case _:
            raise ValueError(f"no primitive {kind}")


def normal(kind: str, point: Triple, size: Triple, waves: Tensor | None = None) -> Triple:
    """Return the outward unit normals at surface points of primitives of one kind, in their frames.

    Args:
        kind: one of `KINDS`.
        point: three coordinates, any one shape.
        size: likewise, of each point's primitive.
        waves: of heightfields: (*shape, WAVES, 4).
    """
    x, y, z = point
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    match kind:
        case "sphere":
            return x / size[0], y / size[0], z / size[0]
        case "box":
            a, b, c = ((p / h).abs() for p, h in zip(point, size, strict=True))
            first, last = (a >= b) & (a >= c), (c > a) & (c > b)
            return (
                torch.where(first, x.sign(), zero),
                torch.where(first | last, zero, y.sign()),
                torch.where(last, z.sign(), zero),
            )
        case "cylinder":
            # The surface that is nearer: a point found at a cap lies at |z| = h up to rounding.
            cap = (size[1] - z.abs()) < (size[0] - (x.square() + y.square()).sqrt())
            side = torch.where(cap, zero, 1.0 / size[0])
            return x * side, y * side, torch.where(cap, z.sign(), zero)
        case "capsule":
            return x / size[0], y / size[0], (z - torch.minimum(torch.maximum(z, -size[1]), size[1])) / size[0]
        case "plane":
            return zero, zero, one
        case _:
            assert waves is not None
            slope_x, slope_y = _slopes(waves, x, y)
            long = (1.0 + slope_x.square() + slope_y.square()).sqrt()
            return -slope_x / long, -slope_y / long, 1.0 / long


def _sphere(origin: Triple, direction: Triple, radius: Tensor, shift: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    """Meet |p - (0, 0, shift)| = r; the distance from the axis is taken from a vector, which does not cancel."""
    x, y, z = origin[0], origin[1], origin[2] - shift
    middle = -(x * direction[0] + y * direction[1] + z * direction[2])
    gap = (x + middle * direction[0]).square() + (y + middle * direction[1]).square()
    gap = gap + (z + middle * direction[2]).square()
    return _around(middle, radius * radius - gap)


def _around(middle: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
    half = square.clamp_min(0.0).sqrt()
    missed = square < 0
    return (middle - half).masked_fill(missed, INFINITY), (middle + half).masked_fill(missed, -INFINITY)


def _safe(component: Tensor) -> Tensor:
    return torch.where(component.abs() < TINY, TINY, component)


def _slab(origin: Tensor, direction: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Return the interval of |p| <= half along one axis."""
    inverse = 1.0 / _safe(direction)
    middle, reach = -origin * inverse, half * inverse.abs()
    return middle - reach, middle + reach


def _box(origin: Triple, direction: Triple, half: Triple) -> tuple[Tensor, Tensor]:
    enter, leave = _slab(origin[0], direction[0], half[0])
    for axis in (1, 2):
        first, last = _slab(origin[axis], direction[axis], half[axis])
        enter, leave = torch.maximum(enter, first), torch.minimum(leave, last)
    return enter, leave


def _side(origin: Triple, direction: Triple, radius: Tensor) -> tuple[Tensor, Tensor]:
    """Return the interval of x^2 + y^2 <= r^2."""
    square = (direction[0].square() + direction[1].square()).clamp_min(TINY)
    middle = -(origin[0] * direction[0] + origin[1] * direction[1]) / square
    gap = (origin[0] + middle * direction[0]).square() + (origin[1] + middle * direction[1]).square()
    return _around(middle, (radius * radius - gap) / square)


def _cylinder(origin: Triple, direction: Triple, radius: Tensor, half_height: Tensor) -> tuple[Tensor, Tensor]:
    enter, leave = _side(origin, direction, radius)
    first, last = _slab(origin[2], direction[2], half_height)
    return torch.maximum(enter, first), torch.minimum(leave, last)


def _capsule(origin: Triple, direction: Triple, radius: Tensor, half_height: Tensor) -> tuple[Tensor, Tensor]:
    """Union of a cylinder and two spheres: convex, so its interval is the hull of theirs."""
    enter, leave = _cylinder(origin, direction, radius, half_height)
    missed = enter > leave
    enter, leave = enter.masked_fill(missed, INFINITY), leave.masked_fill(missed, -INFINITY)
    for shift in (-half_height, half_height):
        first, last = _sphere(origin, direction, radius, shift)
        enter, leave = torch.minimum(enter, first), torch.maximum(leave, last)
    return enter, leave


def _plane(origin: Triple, direction: Triple, half_x: Tensor, half_y: Tensor) -> tuple[Tensor, Tensor]:
    t = -origin[2] / _safe(direction[2])
    outside = ((origin[0] + t * direction[0]).abs() > half_x) | ((origin[1] + t * direction[1]).abs() > half_y)
    return t.masked_fill(outside, INFINITY), t.masked_fill(outside, -INFINITY)


def _height(waves: Tensor, x: Tensor, y: Tensor) -> Tensor:
    height = torch.zeros_like(x)
    for wave in waves.unbind(-2):
        amplitude, wave_x, wave_y, phase = wave.unbind(-1)
        height = height + amplitude * torch.sin(wave_x * x + wave_y * y + phase)
    return height


def _slopes(waves: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    slope_x, slope_y = torch.zeros_like(x), torch.zeros_like(x)
    for wave in waves.unbind(-2):
        amplitude, wave_x, wave_y, phase = wave.unbind(-1)
        cosine = amplitude * torch.cos(wave_x * x + wave_y * y + phase)
        slope_x, slope_y = slope_x + wave_x * cosine, slope_y + wave_y * cosine
    return slope_x, slope_y


def _heightfield(
    origin: Triple, direction: Triple, half_x: Tensor, half_y: Tensor, waves: Tensor
) -> tuple[Tensor, Tensor]:
    """Meet f(t) = z(t) - h(x(t), y(t)) = 0.

    |f'| <= |d_z| + L |(d_x, d_y)| with L = sum_k |a_k| |k_k|, so steps of |f| over that bound never pass the first
    root; Newton's steps then finish. A ray that is still off the surface, nearly parallel to it, is a miss.
    """
    top = waves[..., 0].abs().sum(-1, keepdim=True) + 1e-6
    steepest = (waves[..., 0].abs() * torch.hypot(waves[..., 1], waves[..., 2])).sum(-1, keepdim=True)
    spread = waves[:, None]  # (K, 1, WAVES, 4) beside points (K, C)
    enter, leave = _box(origin, direction, (half_x, half_y, top))
    missed = (enter > leave) | (leave < 0)
    t = enter.clamp_min(0.0).masked_fill(missed, 0.0)
    bound = direction[2].abs() + steepest * (direction[0].square() + direction[1].square()).sqrt()

    def offset(t: Tensor) -> Tensor:
        x, y = origin[0] + t * direction[0], origin[1] + t * direction[1]
        return origin[2] + t * direction[2] - _height(spread, x, y)

    # A ray that starts on the surface must leave it first, or its own origin would shade it.
    t = torch.where(offset(t).abs() < 1e-3 * top, t + 2e-2 * top, t)
    for _ in range(MARCHING):
        step = offset(t).abs()
        if bool((missed | (step < 1e-3 * top) | (t > leave)).all()):
            break
        t = t + step / bound
    for _ in range(NEWTON):
        slope_x, slope_y = _slopes(spread, origin[0] + t * direction[0], origin[1] + t * direction[1])
        slope = direction[2] - slope_x * direction[0] - slope_y * direction[1]
        slope = torch.where(slope.abs() < 0.05, 0.05 * slope.sign() + TINY, slope)
        t = t - torch.minimum(torch.maximum(offset(t) / slope, -0.1 * top), 0.1 * top)
    missed = missed | (offset(t).abs() > 1e-3 * top) | (t < enter - 1e-6) | (t > leave)
    return t.masked_fill(missed, INFINITY), t.masked_fill(missed, -INFINITY)
