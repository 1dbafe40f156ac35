"""Routes on a walkable map, and curves through waypoints.

A route is the path of least cost, where a metre at clearance d costs 1 + 3 exp(-(d - r) / 0.3): a wide way is worth a
detour, and a narrow door is still taken. It is found on the grid, then pulled straight wherever a straight line costs
no more, rounded at corners without coming nearer to anything, and resampled to equal steps of arc length.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from motion.scene.packages import require
from motion.scene.walkable import ROOM_AREA, WalkableMap
from shared.errors import InputError

SPACING = 0.05  # m
SNAP = 0.5  # m: how far a start in an obstacle may be moved
PENALTY, FALLOFF = 3.0, 0.3  # of clearance, in metres' worth and metres
STRIDE = 4  # cells between the ends that are tried for a straight line
COMFORT = 0.15  # m beyond the radius that rounding a corner does not give up


@dataclass(frozen=True)
class Path:
    """A curve on the floor.

    Attributes:
        points: (N, 2) float64, m, at equal steps of arc length; first and last are start and goal.
        clearance: (N,) m, to what is blocked; infinite without a map.
        notes: what was changed, one line each.
    """

    points: np.ndarray
    clearance: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def length(self) -> float:
        """Return the length, m."""
        return float(np.linalg.norm(np.diff(self.points, axis=0), axis=1).sum())

    @property
    def headings(self) -> np.ndarray:
        """Return the unit tangents (N, 2)."""
        tangent = np.gradient(self.points, axis=0)
        return tangent / np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-12)


def route(
    walkable: WalkableMap, start: np.ndarray, goal: np.ndarray, *, spacing: float = SPACING, snap: float = SNAP
) -> Path:
    """Return the path of least cost; it keeps at least the map's radius from everything.

    But the first and last half cell, if start or goal lie nearer to something than the middle of their cell does.

    Args:
        walkable: the map.
        start: (2,), m. Where one cannot stand, the nearest place within `snap` is taken and told.
        goal: (2,), m: must be walkable.
        spacing: of the points, m; made a little smaller so that it divides the length.
        snap: m.

    Raises:
        InputError: no place near the start, a goal in a thing or off the map, or no way between them.
        MissingExtra: scikit-image is absent.
    """
    begin, end = _finite("start", start), _finite("goal", goal)
    notes: list[str] = []
    if not walkable.region_at(begin):
        moved = walkable.nearest(begin, snap)
        if moved is None:
            raise _not_walkable(walkable, "start", begin)
        notes.append(f"start moved by {np.linalg.norm(moved - begin):.2f} m, out of {walkable.blocker(begin)}")
        begin = moved
    require_walkable(walkable, "goal", end)
    first, second = walkable.region_at(begin), walkable.region_at(end)
    if first != second:
        raise _unreachable(walkable, begin, end)
    cells = _grid_route(walkable, walkable.cell_of(begin), walkable.cell_of(end))
    corners = walkable.centres(cells)
    for index, point in ((0, begin), (-1, end)):
        if walkable.clearance_at(point[None])[0] >= walkable.radius:
            corners[index] = point
    corners = np.concatenate([begin[None], _straightened(walkable, corners), end[None]])
    points = _rounded(walkable, _resampled(corners, min(spacing, walkable.cell)))
    points = _resampled(points, spacing)
    return Path(points, walkable.clearance_at(points), tuple(notes))


def curve(waypoints: np.ndarray, *, spacing: float = SPACING, walkable: WalkableMap | None = None) -> Path:
    """Return the centripetal cubic spline through waypoints.

    Args:
        waypoints: (K, 2), m, K >= 2; those equal to their neighbour are dropped.
        spacing: of the points, m.
        walkable: where to check that a body fits along it; None for an empty floor.

    Raises:
        InputError: fewer than two waypoints, or the curve leads through something; use `route` for a way around.
    """
    require("scipy", "for curves through waypoints")
    from scipy.interpolate import CubicSpline

    knots = np.asarray(waypoints, np.float64)
    if knots.ndim != 2 or knots.shape[1] != 2 or not np.isfinite(knots).all():
        raise InputError("waypoints", found=f"shape {knots.shape}", expected="(K, 2), finite, m", fix="Mend them.")
    if len(knots):
        knots = knots[np.r_[True, np.linalg.norm(np.diff(knots, axis=0), axis=1) > 1e-6]]
    if len(knots) < 2:
        raise InputError("waypoints", found=f"{len(knots)} different", expected="2 or more", fix="Add some.")
    times = np.r_[0.0, np.cumsum(np.linalg.norm(np.diff(knots, axis=0), axis=1) ** 0.5)]
    # Dense in time first, so that the chords of the resampling are as long as the arcs.
    dense = CubicSpline(times, knots, bc_type="natural")(np.linspace(0, times[-1], 200 * len(knots)))
    points = _resampled(dense, spacing)
    if walkable is None:
        return Path(points, np.full(len(points), np.inf))
    clearance = walkable.clearance_at(points)
    for point in points:
        require_walkable(walkable, "curve through the waypoints", point)
    return Path(points, clearance)


def require_walkable(walkable: WalkableMap, what: str, point: np.ndarray) -> None:
    """Raise `InputError` unless a body can stand at a point (2,), with the thing in the way and the nearest place."""
    if not walkable.region_at(point):
        raise _not_walkable(walkable, what, np.asarray(point, np.float64)[:2])


def _finite(what: str, point: np.ndarray) -> np.ndarray:
    given = np.asarray(point, np.float64)
    if given.shape not in ((2,), (3,)) or not np.isfinite(given).all():
        raise InputError(what, found=str(point), expected="(x, y) in metres", fix="Give two finite numbers.")
    return given[:2]


def _not_walkable(walkable: WalkableMap, what: str, point: np.ndarray) -> InputError:
    extent = walkable.cell * (np.array(walkable.regions.shape) - 1)
    off = (point < walkable.origin).any() or (point > walkable.origin + extent).any()
    place = walkable.nearest(point, 5.0, area=ROOM_AREA)
    where = "off the map" if off else f"in or too near {walkable.blocker(point)}"
    return InputError(
        what, found=f"({point[0]:.2f}, {point[1]:.2f}), {where}",
        expected=f"a place with {walkable.radius:.2f} m free around it",
        fix="Choose another place." if place is None else f"The nearest is ({place[0]:.2f}, {place[1]:.2f}).",
    )  # fmt: skip


def _unreachable(walkable: WalkableMap, begin: np.ndarray, end: np.ndarray) -> InputError:
    from scipy.ndimage import label

    first, second = (walkable.describe(walkable.region_at(p)) for p in (begin, end))
    fits = 0.0
    for radius in np.arange(walkable.radius, 0.04, -0.01):
        labels, _ = label(walkable.clearance >= radius)
        if labels[walkable.cell_of(begin)] == labels[walkable.cell_of(end)]:
            fits = float(radius)
            break
    advice = f"A body of radius {fits:.2f} m would pass." if fits else "Open a door between them, or choose one room."
    return InputError(
        walkable.scene.source, found=f"a start in {first} and a goal in {second}",
        expected=f"a way between them that is {2 * walkable.radius:.2f} m wide", fix=advice,
    )  # fmt: skip


def _price(walkable: WalkableMap, clearance: np.ndarray) -> np.ndarray:
    """Return the cost of a metre at these clearances, infinite below the radius."""
    price = 1 + PENALTY * np.exp(-(clearance - walkable.radius) / FALLOFF)
    return np.where(clearance >= walkable.radius - 1e-9, price, np.inf)


def _grid_route(walkable: WalkableMap, begin: tuple[int, int], end: tuple[int, int]) -> np.ndarray:
    require("skimage", "to find a way")
    from skimage.graph import route_through_array

    cells, _ = route_through_array(
        _price(walkable, walkable.clearance), begin, end, fully_connected=True, geometric=True
    )
    return np.array(cells)


def _cost(walkable: WalkableMap, points: np.ndarray) -> float:
    """Return the cost of a polyline: the integral of the price, sampled at half a cell."""
    dense = _resampled(points, 0.5 * walkable.cell)
    steps = np.linalg.norm(np.diff(dense, axis=0), axis=1)
    price = _price(walkable, walkable.clearance_at(dense))
    return float((steps * 0.5 * (price[1:] + price[:-1])).sum())


def _straightened(walkable: WalkableMap, points: np.ndarray) -> np.ndarray:
    """Return the corners left when every stretch that a straight line replaces at no higher cost is replaced."""
    # The first and the last half cell may be too narrow; an infinite cost there would excuse any straight line.
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    costs = [_cost(walkable, points[k : k + 2]) for k in range(len(steps))]
    along = np.r_[0.0, np.cumsum(np.minimum(costs, (1 + PENALTY) * steps))]
    last, kept = len(points) - 1, [0]
    while kept[-1] < last:
        i = kept[-1]
        for j in [*range(last, i + 1, -STRIDE), i + 1]:
            if j == i + 1 or _cost(walkable, points[[i, j]]) <= along[j] - along[i]:
                break
        kept.append(j)
    return points[kept]


def _rounded(walkable: WalkableMap, points: np.ndarray, rounds: int = 100) -> np.ndarray:
    """Return points moved towards the middle of their neighbours, unless that takes clearance below comfort."""
    points = points.copy()
    comfort = walkable.radius + COMFORT
    for _ in range(rounds):
        moved = points[1:-1] + 0.5 * (0.5 * (points[:-2] + points[2:]) - points[1:-1])
        before, after = walkable.clearance_at(points[1:-1]), walkable.clearance_at(moved)
        points[1:-1] = np.where((after >= np.minimum(before, comfort))[:, None], moved, points[1:-1])
    return points


def _resampled(points: np.ndarray, spacing: float) -> np.ndarray:
    """Return a polyline's points at equal steps of arc length, at most `spacing`; both ends are kept."""
    along = np.r_[0.0, np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))]
    count = max(int(np.ceil(along[-1] / spacing - 1e-9)), 1) + 1
    at = np.linspace(0, along[-1], count)
    return np.stack([np.interp(at, along, points[:, axis]) for axis in range(2)], 1)
