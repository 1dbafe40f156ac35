"""Where a body can stand: the floor seen from above, what stands in the way, and the rooms that result.

A cell is blocked if some surface or inside of a thing lies above it between step height and head height, each to within
a voxel, or if the scene has a floor and none is there. The clearance of a cell is its distance to what blocks, or a
little less. Cells with at least a body's radius are walkable; connected ones are a region.

There is one level floor: stairs and upper storeys are obstacles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from motion.scene.field import DistanceField
from motion.scene.loading import Scene, SceneObject
from motion.scene.orientation import facing
from motion.scene.packages import require
from shared.errors import InputError

RADIUS = 0.2  # m, of a body seen from above
STEP = 0.12  # m: lower things are stepped over
HEAD = 1.8  # m
AROUND = 1.5  # m of free ground about the field, so that one can walk around the outermost thing
ROOM_AREA = 0.5  # m2: of a smaller region nobody can have come
FLOOR_GAP = 0.3  # m: narrower holes in a floor (of scans) are closed


@dataclass(frozen=True)
class WalkableMap:
    """A map of the floor; cell (i, j) has its centre at origin + cell * (i, j).

    Attributes:
        scene: what it is of.
        clearance: (nx, ny) float64, m, to what is blocked; 0 where blocked.
        regions: (nx, ny) int32: 0 not walkable, then 1, 2, ... from the largest region on.
        origin: (2,) m.
        cell: edge length, m.
        radius: of the body, m.
    """

    scene: Scene
    clearance: np.ndarray
    regions: np.ndarray
    origin: np.ndarray
    cell: float
    radius: float

    @property
    def areas(self) -> np.ndarray:
        """Return the areas of the regions 1, 2, ..., m2: of the places where the body's middle can be."""
        return np.bincount(self.regions.reshape(-1))[1:] * self.cell**2

    def cell_of(self, point: np.ndarray) -> tuple[int, int]:
        """Return the cell nearest to a point (2,); it may lie outside the map."""
        i, j = np.round((np.asarray(point, np.float64)[:2] - self.origin) / self.cell).astype(int)
        return int(i), int(j)

    def centres(self, cells: np.ndarray) -> np.ndarray:
        """Return the positions (..., 2) of cells (..., 2), m."""
        return self.origin + self.cell * np.asarray(cells)

    def clearance_at(self, points: np.ndarray) -> np.ndarray:
        """Return the clearance (N,) at points (N, 2), bilinear, m; 0 outside the map."""
        from scipy.ndimage import map_coordinates

        cells = (np.asarray(points, np.float64) - self.origin).T / self.cell
        return map_coordinates(self.clearance, cells, order=1, mode="constant", cval=0.0)

    def region_at(self, point: np.ndarray) -> int:
        """Return the region at a point (2,); 0 where it is not walkable or off the map."""
        i, j = self.cell_of(point)
        inside = 0 <= i < self.regions.shape[0] and 0 <= j < self.regions.shape[1]
        return int(self.regions[i, j]) if inside else 0

    def nearest(self, point: np.ndarray, within: float, *, area: float = 0.0) -> np.ndarray | None:
        """Return the walkable cell centre (2,) nearest to a point; None if there is none within this distance.

        Args:
            point: (2,), m.
            within: m.
            area: least size of its region, m2.
        """
        (i, j), reach = self.cell_of(point), int(np.ceil(within / self.cell)) + 1
        low = np.clip([i - reach, j - reach], 0, self.regions.shape)
        high = np.clip([i + reach + 1, j + reach + 1], 0, self.regions.shape)
        large = np.r_[False, self.areas >= area]
        cells = np.argwhere(large[self.regions[low[0] : high[0], low[1] : high[1]]]) + low
        if not len(cells):
            return None
        centres = self.centres(cells)
        distances = np.linalg.norm(centres - np.asarray(point, np.float64)[:2], axis=1)
        return centres[distances.argmin()] if distances.min() <= within else None

    def describe(self, region: int) -> str:
        """Return words for a region: its number, area, middle, and the names of the largest things at it."""
        cells = np.argwhere(self.regions == region)
        centres = self.centres(cells)
        middle = centres[np.linalg.norm(centres - centres.mean(0), axis=1).argmin()]
        names = [o.name for o in _things_at(self.scene, centres)]
        by = f", by {', '.join(names)}" if names else ""
        return f"room {region} ({self.areas[region - 1]:.1f} m2 around ({middle[0]:.2f}, {middle[1]:.2f}){by})"

    def blocker(self, point: np.ndarray) -> str:
        """Return the name of the thing nearest to a point (2,) between step and head height."""
        import igl

        heights = self.scene.floor + np.linspace(STEP, HEAD, 15)
        points = np.column_stack([np.tile(np.asarray(point, np.float64)[:2], (15, 1)), heights])
        distance = {
            o.name: float(igl.point_mesh_squared_distance(points, o.vertices, o.faces)[0].min())
            for o in self.scene.solids
        }
        return min(distance, key=lambda name: distance[name])


def walkable_map(
    scene: Scene,
    field: DistanceField,
    *,
    radius: float = RADIUS,
    step: float = STEP,
    head: float = HEAD,
    around: float = AROUND,
) -> WalkableMap:
    """Return the map of a scene; its cells are the columns of the field.

    Args:
        scene: from `read_scene`.
        field: from `build_field`.
        radius: of the body seen from above, m.
        step: height over the floor from which on things are obstacles, m.
        head: height over the floor up to which they are, m.
        around: free ground added about the field, m.

    Raises:
        InputError: heights or a radius that make no sense, or nowhere to stand.
        MissingExtra: SciPy is absent.
    """
    if not (radius > 0 and 0 <= step < head and around >= 0):
        raise InputError("walkable map", found=f"radius {radius:g}, step {step:g}, head {head:g}, around {around:g}",
                         expected="radius > 0, 0 <= step < head, around >= 0", fix="Mend it.")  # fmt: skip
    require("scipy", "to make a map of the floor")
    from scipy import ndimage

    voxel, pad = field.voxel, int(np.ceil(around / field.voxel))
    low = field.origin.double().numpy(force=True)
    levels = low[2] + voxel * np.arange(field.values.shape[2])
    band = (levels >= scene.floor + step) & (levels <= scene.floor + head)
    nearest = np.full(field.values.shape[:2], np.inf)  # everything is lower than a step or higher than a head
    if band.any():
        nearest = field.values[:, :, torch.from_numpy(band)].amin(2).double().numpy(force=True)
    # The tip of a thin thing can be half a diagonal from all eight grid points around it.
    blocked = np.pad(nearest <= 0.5 * 3**0.5 * voxel, pad, constant_values=False)
    clearance = _distance_to(blocked, voxel, 0.5 * 2**0.5)
    # The field says it more exactly, to what is at most half a voxel above or below one of its levels; but it counts
    # the floor of a scan too, so both bounds are needed.
    finer = np.pad(np.sqrt((nearest.clip(0) ** 2 - 0.25 * voxel**2).clip(0)), pad)  # 0 around the field
    clearance = np.where(blocked, 0.0, np.maximum(clearance, finer))
    origin = low[:2] - pad * voxel
    floor = _floor_cells(scene, field, origin, voxel, blocked.shape)
    edge = np.zeros_like(blocked) if floor is None else ~floor
    # Beyond the map nobody can stand.
    clearance = np.minimum(clearance, _distance_to(np.pad(edge, 1, constant_values=True), voxel, 0.5)[1:-1, 1:-1])
    labels, count = ndimage.label(clearance >= radius)
    if count == 0:
        raise InputError(
            scene.source, found=f"no place on the floor at {scene.floor:.2f} m with {radius:.2f} m free around it",
            expected="somewhere to stand", fix="Check the floor and the up axis in the scene's report, or give floor=.",
        )  # fmt: skip
    order = np.argsort(-np.bincount(labels.reshape(-1))[1:], kind="stable")
    rank = np.zeros(count + 1, np.int32)
    rank[order + 1] = np.arange(1, count + 1)
    return WalkableMap(scene, clearance, rank[labels], origin, voxel, radius)


def _distance_to(cells: np.ndarray, cell: float, reach: float) -> np.ndarray:
    """Return the distance of every cell's centre to what is at most `reach` cells from the nearest of these, m."""
    from scipy import ndimage

    if not cells.any():
        return np.full(cells.shape, np.inf)
    return (ndimage.distance_transform_edt(~cells) - reach).clip(0) * cell


def _floor_cells(
    scene: Scene, field: DistanceField, origin: np.ndarray, cell: float, shape: tuple[int, int]
) -> np.ndarray | None:
    """Return the cells that have a floor; None if the scene has none worth the name (4 m2), as lone furniture.

    Floor is what is level, near the floor's height and in the open: undersides of things are not.
    """
    from scipy import ndimage
    from skimage.draw import polygon

    triangles = np.concatenate([o.triangles for o in scene.objects])
    _, normal = facing(triangles)
    level = np.abs(triangles[..., 2] - scene.floor).max(1) <= 0.06
    triangles = triangles[level & (np.abs(normal[:, 2]) > 0.9)]
    over = triangles.mean(1)
    over[:, 2] = scene.floor + 0.1
    triangles = triangles[field(torch.from_numpy(over)).numpy(force=True) > 0]
    floor = np.zeros(shape, bool)
    for corners in (triangles[..., :2] - origin) / cell:
        floor[polygon(corners[:, 0], corners[:, 1], shape)] = True
    cells = np.round((triangles[..., :2].reshape(-1, 2) - origin) / cell).astype(int)
    cells = cells[((cells >= 0) & (cells < shape)).all(1)]
    floor[cells[:, 0], cells[:, 1]] = True
    if floor.sum() * cell**2 < 4.0:
        return None
    reach = int(np.ceil(FLOOR_GAP / 2 / cell))
    padded = np.pad(floor, reach)  # closing treats what is outside the array as empty
    closed = ndimage.binary_closing(padded, iterations=reach)
    return closed[reach : shape[0] + reach, reach : shape[1] + reach]


def _things_at(scene: Scene, centres: np.ndarray, count: int = 3) -> list[SceneObject]:
    """Return the largest things, smaller than the room itself, whose middle lies nearest to some of these places."""
    reach = np.ptp(centres, axis=0).max() + 1.0
    near = []
    for o in scene.solids:
        low, high = o.bounds[:, :2]
        gap = np.linalg.norm(np.maximum(np.maximum(low - centres, centres - high), 0), axis=1).min()
        if gap <= 0.5 and (high - low).max() <= reach:
            near.append((float(np.prod(high - low)), o))
    return [o for _, o in sorted(near, key=lambda item: -item[0])[:count]]
