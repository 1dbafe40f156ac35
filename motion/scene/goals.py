"""Where to sit, from the shape of things seen from above.

A seat is a level patch at 0.33 to 0.62 m. Every place on it is tried in 24 directions: in front of the knees the patch
must end with a drop, within reach of the thighs and as wide as a body; behind the back a backrest is welcome, and its
distance says how far back the pelvis goes. Then the scene is asked: is there headroom, and a place to stand in front?

By name any object can be asked; without a name, things whose name says table, desk, shelf and the like are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from motion.scene.field import DistanceField
from motion.scene.loading import Scene, SceneObject
from motion.scene.surfaces import HeightMap, candidates, describe_top, height_map
from motion.scene.walkable import ROOM_AREA, WalkableMap
from shared.errors import InputError

SEAT_HEIGHTS = (0.33, 0.62)  # m over the floor
PELVIS_OVER_SEAT = 0.09  # m: the hip joints of a sitting adult
THIGH = (0.12, 0.4)  # m from the pelvis to the front edge: knees bend before it
DIRECTIONS = 24
LANES = (-0.12, 0.0, 0.12)  # m: the width of a pelvis, seen along the thighs
REACH = np.arange(0.0, 0.9, 0.02)  # m, where rays over a seat are read
IN_FRONT, BESIDE = 0.5, -0.5  # cosines of the angle to the facing, of places to stand
SHIN = 0.1  # m before the front edge
LEAN = 0.05  # m before the pelvis: where the torso is free of a backrest, which leans as the back does
APART = 0.6  # m between two seats on a sofa


@dataclass(frozen=True)
class Seat:
    """A place to sit.

    Attributes:
        name: of the object.
        pelvis: (3,) where the pelvis goes, m.
        height: of the seat over the floor, m.
        facing: (2,) unit vector.
        stand: (2,) where to stand before sitting down, m: walkable.
        backrest: whether something to lean on is within 0.45 m behind the pelvis.
    """

    name: str
    pelvis: np.ndarray
    height: float
    facing: np.ndarray
    stand: np.ndarray
    backrest: bool


def find_seats(
    scene: Scene, field: DistanceField, walkable: WalkableMap, *, name: str | None = None, within: float = 0.8
) -> tuple[Seat, ...]:
    """Return the seats of one object or of all, the best of each object first.

    Args:
        scene: from `read_scene`.
        field: of it.
        walkable: of it.
        name: of an object, as for `Scene.find`; None for all but those of `surfaces.NEVER_OCCUPIED`.
        within: how far the place to stand may be from the edge of the seat, m.

    Raises:
        InputError: a named object has no seat, or none that can be reached and used; why is told.
    """
    seats: list[Seat] = []
    for o in candidates(scene, name):
        surface = height_map([o], scene.floor).closed()
        reasons: list[str] = []
        found: list[Seat] = []
        useless: list[_Spot] = []
        for spot in _spots(surface):
            if any(np.linalg.norm(spot.position - seat.pelvis[:2]) < APART for seat in found):
                continue
            if any(_alike(spot, other) for other in useless):
                continue
            seat = _usable(o, _squared(surface, spot), scene, field, walkable, within)
            if isinstance(seat, Seat):
                found.append(seat)
            else:
                reasons.append(seat)
                useless.append(spot)
        if name is not None and not found:
            raise InputError(
                f"{scene.source}: {o.name}",
                found=reasons[0] if reasons else describe_top(surface, SEAT_HEIGHTS),
                expected=f"a seat at {SEAT_HEIGHTS[0]} to {SEAT_HEIGHTS[1]} m over the floor",
                fix="Move what is in the way, or choose another object.",
            )  # fmt: skip
        seats += found
    return tuple(seats)


@dataclass(frozen=True)
class _Spot:
    """A place and direction on a seat: `front` m from the pelvis to the edge, `back` m to a backrest or inf."""

    position: np.ndarray
    facing: np.ndarray
    height: float
    front: float
    back: float
    score: float


def _spots(surface: HeightMap) -> list[_Spot]:
    """Return places to sit on a thing, best first; of every level patch those that are not much worse than its best."""
    from scipy import ndimage

    level = surface.level(*SEAT_HEIGHTS)
    # The edge of a level patch is never level itself: it is given back, but not beyond what holds a body.
    whole = ndimage.binary_dilation(level)
    room = ndimage.distance_transform_edt(whole) * surface.cell
    patches, _ = ndimage.label(whole)
    angles = np.linspace(0, 2 * np.pi, DIRECTIONS, endpoint=False)
    spots: list[_Spot] = []
    for patch in np.unique(patches[(room >= 0.14) & level]):
        places = np.argwhere((room >= 0.14) & level & (patches == patch))
        places = places[(places % 3 == 0).all(1)] if len(places) > 50 else places
        own = [spot for position in surface.centres(places) for spot in _spots_at(surface, position, angles)]
        best = max((spot.score for spot in own), default=0.0)
        spots += [spot for spot in own if spot.score >= best - 0.5]
    return sorted(spots, key=lambda spot: -spot.score)


def _alike(spot: _Spot, other: _Spot) -> bool:
    """Return whether two spots are so near each other that they can be used, or not, for the same reasons."""
    near = np.linalg.norm(spot.position - other.position) < 0.15
    return bool(near and spot.facing @ other.facing > np.cos(np.radians(35)))


def _squared(surface: HeightMap, spot: _Spot) -> _Spot:
    """Return the spot turned until front edge or backrest is square to the body, by the smaller of their mean slopes.

    The other may have a cushion in the corner or be round. Then it is moved midway between two sides, if both are near
    as on a chair.
    """
    lanes = np.linspace(-0.16, 0.16, 17)
    facing = spot.facing
    for _ in range(4):
        across = np.array([-facing[1], facing[0]])
        turns = []
        for sign in (1, -1) if np.isfinite(spot.back) else (1,):
            ends, _ = _ends(surface, spot.position + lanes[:, None] * across, sign * facing, spot.height)
            near = (ends < 0.6) & (np.abs(ends - np.median(ends)) < 0.06)  # beyond a corner there is another edge
            if near.sum() >= 9:
                turns.append(-sign * float(np.polyfit(lanes[near], ends[near], 1)[0]))
        facing = facing + min(turns, key=abs, default=0.0) * across
        facing = facing / np.linalg.norm(facing)
    if facing @ spot.facing < np.cos(2 * np.pi / DIRECTIONS):  # led astray by a corner
        facing = spot.facing
    across = np.array([-facing[1], facing[0]])
    left, right = _ends(surface, np.stack([spot.position] * 2), np.stack([across, -across]), spot.height)[0]
    shift = 0.5 * (left - right) if max(left, right) < 0.4 else 0.0
    return replace(spot, position=spot.position + shift * across, facing=facing)


def _spots_at(surface: HeightMap, position: np.ndarray, angles: np.ndarray) -> list[_Spot]:
    """Return the spots at one place: the directions in which one can sit, with their scores.

    The score is 1 for a backrest at the right distance, less what is off: a front edge or a back that is not square to
    the body, thighs too far over the edge, one side nearer than the other.

    Args:
        surface: heights over the floor.
        position: (2,), m.
        angles: (K,) equally spaced all round, K a multiple of 4.
    """
    height = float(np.median(surface.at(position + surface.cell * (np.argwhere(np.ones((5, 5))) - 2))))
    count = len(angles)
    along = np.stack([np.cos(angles), np.sin(angles)], -1)[:, None]
    across = np.roll(along, -count // 4, axis=0)
    lanes = position + np.array(LANES)[:, None] * across
    ends, profile = _ends(surface, lanes, along, height)
    beyond = REACH - ends[..., None]
    legs = (np.where((beyond > 0.06) & (beyond < 0.35), profile, -1.0) <= -0.1).all((1, 2))
    wall = (np.where((beyond >= 0) & (beyond < 0.14), profile, -1.0).max(2) > 0.12).all(1) & (ends.max(1) <= 0.45)
    possible = ((ends >= THIGH[0]) & (ends <= THIGH[1])).all(1) & legs

    front, spread = np.median(ends, 1), np.ptp(ends, 1)
    leans, rear, slant = (np.roll(a, -count // 2) for a in (wall, ends.min(1), spread))
    left, right = (np.roll(ends[:, 1], k).clip(max=0.4) for k in (-count // 4, count // 4))
    score = np.where(leans, 1 - 3 * np.abs(rear - 0.14) - slant, -2 * np.abs(front - 0.25))
    score = score - 5 * spread - np.abs(left - right)
    return [
        _Spot(position, along[k, 0], height, float(front[k]), float(rear[k]) if leans[k] else np.inf, float(score[k]))
        for k in np.flatnonzero(possible)
    ]


def _ends(surface: HeightMap, starts: np.ndarray, along: np.ndarray, height: float) -> tuple[np.ndarray, np.ndarray]:
    """Return where rays leave a seat, (...) m, and the heights over the seat along them, (..., R) m.

    A ray that never leaves it ends with `REACH`.

    Args:
        surface: heights over the floor.
        starts: (..., 2), m.
        along: (..., 2) unit vectors.
        height: of the seat, m; it ends where the surface is 0.09 m off.
    """
    profile = surface.at(starts[..., None, :] + REACH[:, None] * along[..., None, :]) - height
    off = np.abs(profile) > 0.09
    return np.where(off.any(-1), REACH[off.argmax(-1)], REACH[-1]), profile


def _usable(
    o: SceneObject, spot: _Spot, scene: Scene, field: DistanceField, walkable: WalkableMap, within: float
) -> Seat | str:
    """Return the seat, or why nobody can sit there."""
    pelvis = np.array([*spot.position, scene.floor + spot.height + PELVIS_OVER_SEAT])
    torso = np.tile(pelvis, (8, 1))
    torso[:, :2] += LEAN * spot.facing
    torso[:, 2] = scene.floor + spot.height + np.linspace(0.3, 0.85, 8)
    if float(field(torch.from_numpy(torso)).min()) < 0.05:
        return "a seat without headroom: something is over it"
    edge = spot.position + spot.front * spot.facing
    shins = np.tile([*(edge + SHIN * spot.facing), 0.0], (8, 1))
    shins[:, 2] = scene.floor + np.linspace(0.15, spot.height, 8)
    if float(field(torch.from_numpy(shins)).min()) < 0.04:
        return "a seat without room for the legs: something stands before it"
    stand = _stand(spot, edge, scene.floor, field, walkable, within)
    if stand is None:
        return f"a seat at ({edge[0]:.2f}, {edge[1]:.2f}) with no place to stand before or beside it"
    return Seat(o.name, pelvis, spot.height, spot.facing, stand, bool(np.isfinite(spot.back)))


def _stand(
    spot: _Spot, edge: np.ndarray, floor: float, field: DistanceField, walkable: WalkableMap, within: float
) -> np.ndarray | None:
    """Return where to stand before sitting down: a step before the edge or near there, else beside the seat.

    Only regions of `ROOM_AREA` or more count, since one must have come from somewhere, and only places from which the
    torso can move over the seat without passing through anything.
    """
    areas = np.r_[0.0, walkable.areas]
    reach = int(np.ceil(within / walkable.cell)) + 1
    i, j = walkable.cell_of(edge)
    cells = np.argwhere(np.ones((2 * reach + 1, 2 * reach + 1))) + np.array([i - reach, j - reach])
    cells = cells[((cells >= 0) & (cells < walkable.regions.shape)).all(1)]
    cells = cells[areas[walkable.regions[cells[:, 0], cells[:, 1]]] >= ROOM_AREA]
    places = walkable.centres(cells)
    places = places[np.linalg.norm(places - edge, axis=1) <= within]
    places = places[np.linalg.norm(places - edge - 0.25 * spot.facing, axis=1).argsort()]
    offset = places - edge
    share = offset @ spot.facing / np.linalg.norm(offset, axis=1).clip(1e-9)
    torso = floor + np.arange(spot.height + 0.15, spot.height + 0.8, 0.05)
    for chosen in places[share >= IN_FRONT], places[(share >= BESIDE) & (share < IN_FRONT)]:
        for place in chosen[:: max(1, len(chosen) // 20)]:
            way = np.linspace(spot.position + LEAN * spot.facing, place, 20)
            swept = np.column_stack([np.repeat(way, len(torso), axis=0), np.tile(torso, len(way))])
            # What is thinner than a voxel reads up to half a voxel on the grid.
            if float(field(torch.from_numpy(swept)).min()) > 0.55 * field.voxel:
                return place
    return None
