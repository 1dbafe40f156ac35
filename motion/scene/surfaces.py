"""What a mesh looks like from above: the height of its highest surface in every cell, as rain would find it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from motion.scene.loading import Scene, SceneObject

CELL = 0.02  # m
OVERHEAD = 1.9  # m over the floor
NOTHING = -1.0  # m: below any floor
# Ends of words in names: "chest" is one in IKEA_chest_HEMNES, not in winchesterSofa.
NEVER_OCCUPIED = re.compile(
    "(?i:table|desk|shelf|shelves|cupboard|console|chest|drawer|drawers|cabinet|plant|lamp)(?![a-z])"
)


@dataclass(frozen=True)
class HeightMap:
    """Heights over the floor on a grid of cells.

    Attributes:
        heights: (nx, ny) float64, m; `NOTHING` where nothing is.
        origin: (2,) centre of cell (0, 0), m.
        cell: edge length, m.
    """

    heights: np.ndarray
    origin: np.ndarray
    cell: float

    def centres(self, cells: np.ndarray) -> np.ndarray:
        """Return the positions (N, 2) of cells (N, 2), m."""
        return self.origin + self.cell * np.asarray(cells)

    def at(self, positions: np.ndarray) -> np.ndarray:
        """Return the heights (...) of the cells under positions (..., 2), m; `NOTHING` outside the map."""
        cells = np.round((positions - self.origin) / self.cell).astype(int)
        inside = ((cells >= 0) & (cells < self.heights.shape)).all(-1)
        cells = np.where(inside[..., None], cells, 0)
        return np.where(inside, self.heights[cells[..., 0], cells[..., 1]], NOTHING)

    def closed(self) -> HeightMap:
        """Return the map with gaps up to 0.1 m wide, slats and seams, at the height of what is around them."""
        from scipy import ndimage

        return replace(self, heights=ndimage.grey_closing(self.heights, size=round(0.1 / self.cell)))

    def level(self, low: float, high: float) -> np.ndarray:
        """Return the mask (nx, ny) of what lies between two heights, m, and is level.

        Level: neighbours within two cells differ by less than 0.06 m, so that a seat ends at its armrests.
        """
        from scipy import ndimage

        steepness = ndimage.maximum_filter(self.heights, 3) - ndimage.minimum_filter(self.heights, 3)
        return (self.heights >= low) & (self.heights <= high) & (steepness < 0.06)


def height_map(objects: Sequence[SceneObject], floor: float, *, cell: float = CELL, margin: float = 0.1) -> HeightMap:
    """Return the heights of objects seen from above; the direction of normals does not matter.

    What lies wholly above `OVERHEAD` is left out, or the ceiling of a scan would hide the room.

    Args:
        objects: meshes, m.
        floor: height that counts as zero, m.
        cell: edge length of a cell, m.
        margin: empty border, m.
    """
    triangles = np.concatenate([o.triangles for o in objects])
    below = triangles[..., 2].min(1) < floor + OVERHEAD
    points = _samples(triangles[below], 0.5 * cell)
    low, high = points[:, :2].min(0) - margin, points[:, :2].max(0) + margin
    heights = np.full(np.ceil((high - low) / cell).astype(int) + 1, NOTHING)
    cells = np.round((points[:, :2] - low) / cell).astype(int)
    np.maximum.at(heights, (cells[:, 0], cells[:, 1]), points[:, 2] - floor)
    return HeightMap(heights, low, cell)


def _samples(triangles: np.ndarray, step: float) -> np.ndarray:
    """Return points (N, 3) on triangles (T, 3, 3), at most `step` apart seen from above.

    v0 + i/m (v1 - v0) + j/n (v2 - v0) with i/m + j/n <= 1, v0 opposite the longest edge. Of a triangle that stands
    upright only the edges are sampled: its highest points lie there.
    """
    flat = triangles[..., :2]
    lengths = np.linalg.norm(flat[:, [2, 0, 1]] - flat[:, [1, 2, 0]], axis=-1)  # of the edge opposite each corner
    order = (lengths.argmax(1)[:, None] + [0, 1, 2]) % 3
    corners = np.take_along_axis(triangles, order[..., None], 1)
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    doubled = np.abs(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0])
    upright = doubled <= 0.1 * step * lengths.max(1)
    m, n = (np.ceil(np.linalg.norm(e[:, :2], axis=1) / step).astype(int).clip(1) for e in (first, second))
    lying = ~upright
    clouds = [_lattice(corners[lying, 0], first[lying], second[lying], m[lying], n[lying])]
    zero = np.zeros_like(first[upright])
    one = np.ones(len(zero), int)
    for start, edge, count in (
        (corners[upright, 0], first[upright], m[upright]),
        (corners[upright, 0], second[upright], n[upright]),
        (corners[upright, 1], (second - first)[upright], (m + n)[upright]),
    ):
        clouds.append(_lattice(start, edge, zero, count, one))
    return np.concatenate(clouds)


def _lattice(start: np.ndarray, first: np.ndarray, second: np.ndarray, m: np.ndarray, n: np.ndarray) -> np.ndarray:
    sizes = (m + 1) * (n + 1)
    which = np.repeat(np.arange(len(m)), sizes)
    index = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    i, j = index // (n + 1)[which] / m[which], index % (n + 1)[which] / n[which]
    kept = i + j <= 1 + 1e-9
    which, i, j = which[kept], i[kept, None], j[kept, None]
    return start[which] + i * first[which] + j * second[which]


def candidates(scene: Scene, name: str | None) -> Sequence[SceneObject]:
    """Return the named object, or all whose name does not say that one neither sits nor lies there."""
    if name is not None:
        return [scene.find(name)]
    return [o for o in scene.solids if not NEVER_OCCUPIED.search(o.name)]


def describe_top(heights: HeightMap, wanted: tuple[float, float]) -> str:
    """Return words for a thing that cannot be used: where its largest level surface is, and what else it lacks."""
    level = heights.level(0.0, 2.5)
    if not level.any():
        return "nothing level"
    found = heights.heights[level]
    commonest = 0.05 * np.bincount(np.round(found / 0.05).astype(int)).argmax()
    top = np.median(found[np.abs(found - commonest) <= 0.05])
    right = wanted[0] <= top <= wanted[1]
    return f"a level surface at {top:.2f} m" + (", too small or walled in" if right else "")
