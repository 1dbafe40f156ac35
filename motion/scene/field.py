"""Signed distance to a scene on a grid: positive in the free, negative inside things, metres.

The distance to the triangles is exact (libigl's AABB tree). Its sign is found object by object, because scenes are
rarely closed and one object's missing face must not spoil the others:

- A piece of furniture is solid where its winding number exceeds one half in magnitude (Barill et al. 2018, fast winding
  numbers, libigl). Connected components that are inside out (negative volume) are turned first. Closed and open
  components are asked apart, so that holes in one do not weaken the other.
- A room (an open or closed sheet around most of the scene: scans, boxes seen from within) is free in front of it:
  there the sign is that of the nearest triangle's normal, and the sheet is turned towards the inside.

The winding number is only used as a yes or no. libigl's own signed_distance multiplies the distance by 1 - 2 |w|, which
makes it zero all over a room whose floor is an open sheet (w = 1/2 on both sides).

Below the floor is solid too: the field is min(grid, z - floor). Outside the grid, with v the value at its nearest point
and d the distance to that point, it is v + d where v >= 0: an upper bound whose gradient leads back. Where v <= -voxel,
behind the walls of a room, it is v - d, whose gradient leads back too; between, the sign of d changes linearly.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from motion.scene.loading import Scene, SceneObject
from motion.scene.packages import require
from shared.errors import InputError
from shared.files import atomic_path

VERSION = 1  # of the computation: part of the key of a cached grid
CHUNK = 1_000_000  # points asked at once, about 100 MB
ROOM_EXTENT = 2.0  # m: what is narrower is no room
WELD = 1e-5  # m: vertices nearer than this are one


@dataclass(frozen=True)
class DistanceField:
    """A signed distance on a regular grid, read by trilinear interpolation.

    Attributes:
        values: (nx, ny, nz) float32, m, at origin + voxel * (i, j, k).
        origin: (3,) float32, m.
        voxel: edge length, m.
        floor: height of the floor, m; None for no floor.
    """

    values: Tensor
    origin: Tensor
    voxel: float
    floor: float | None = None

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or min(self.values.shape) < 2:
            raise InputError("distance field", found=f"a grid of shape {tuple(self.values.shape)}",
                             expected="(nx, ny, nz), at least 2 each", fix="Build it with build_field.")  # fmt: skip

    @property
    def upper(self) -> Tensor:
        """Return the last grid point (3,), m."""
        steps = torch.tensor(self.values.shape, device=self.origin.device) - 1
        return self.origin + self.voxel * steps

    def to(self, device: torch.device | str) -> DistanceField:
        """Return the field on a device."""
        return replace(self, values=self.values.to(device), origin=self.origin.to(device))

    def scaled(self, factor: float) -> DistanceField:
        """Return the field of the scene made larger about the origin."""
        floor = None if self.floor is None else factor * self.floor
        return DistanceField(factor * self.values, factor * self.origin, factor * self.voxel, floor)

    def __call__(self, points: Tensor) -> Tensor:
        """Return the signed distance (...) of points (..., 3) in metres; float32 and differentiable once.

        The gradient of a distance is a unit vector; of the interpolated one it is nearly so, away from edges.
        """
        flat = points.reshape(-1, 3).to(torch.float32)
        inside = torch.minimum(torch.maximum(flat, self.origin), self.upper)
        scaled = 2 * (inside - self.origin) / (self.upper - self.origin) - 1
        grid = scaled.flip(-1)[None, :, None, None]  # grid_sample wants the last axis of the array first
        value = torch.nn.functional.grid_sample(
            self.values[None, None], grid, mode="bilinear", padding_mode="border", align_corners=True
        ).reshape(-1)
        beyond = ((flat - inside) ** 2).sum(-1)
        # The gradient of a root at zero is infinite: inside the grid the root is of one and its result unused.
        outside = beyond > 0
        distance = torch.where(outside, torch.where(outside, beyond, torch.ones_like(beyond)).sqrt(), 0.0)
        # Detached: the derivative of the sign would outweigh everything else far away.
        value = value + distance * (1 + 2 * value.detach() / self.voxel).clamp(-1, 1)
        if self.floor is not None:
            value = torch.minimum(value, flat[:, 2] - self.floor)
        return value.reshape(points.shape[:-1])

    def gradient(self, points: Tensor) -> Tensor:
        """Return the gradient (..., 3) of the distance at points (..., 3), float32, without a graph."""
        with torch.enable_grad():
            leaf = points.detach().to(torch.float32).requires_grad_(True)
            (gradient,) = torch.autograd.grad(self(leaf).sum(), leaf)
        return gradient


def build_field(
    scene: Scene, *, voxel: float = 0.04, margin: float = 0.4, max_points: int = 12_000_000, cache: bool = True
) -> DistanceField:
    """Return the signed distance to a scene, without its floor coverings, and with its floor.

    Args:
        scene: from `read_scene`.
        voxel: edge length, m; enlarged where the grid would have more than `max_points` (see the field's `voxel`).
        margin: of the grid around the scene, m.
        max_points: bound of the grid: 4 bytes a point.
        cache: keep the grid in `cache_folder` and read it from there.

    Raises:
        InputError: nothing but floor in the scene, or a voxel or margin that makes no sense.
        MissingExtra: libigl is absent.
    """
    if not (voxel > 0 and margin >= 0 and max_points >= 1000):
        raise InputError("distance field", found=f"voxel {voxel:g}, margin {margin:g}, max_points {max_points}",
                         expected="a positive voxel, a margin >= 0, 1000 points or more", fix="Mend it.")  # fmt: skip
    solids = scene.solids
    if not solids:
        raise InputError(scene.source, found="only floor", expected="something that stands on it", fix="Add objects.")
    bounds = np.stack([o.bounds for o in solids])
    low, high = bounds[:, 0].min(0) - margin, bounds[:, 1].max(0) + margin
    voxel = max(voxel, float((np.prod(high - low) / max_points) ** (1 / 3)))
    counts = np.ceil((high - low) / voxel).astype(int) + 1
    path = cache_folder() / f"{_key(solids, scene.floor, voxel, low, counts)}.safetensors"
    values = _read(path, counts) if cache else None
    if values is None:
        values = torch.from_numpy(_signed_distance(solids, scene.floor, low, voxel, counts))
        if cache:
            _write(path, values)
    return DistanceField(values, torch.tensor(low, dtype=torch.float32), voxel, scene.floor)


def cache_folder() -> Path:
    """Return the folder of cached grids; it may be deleted at any time."""
    return Path(os.environ.get("FEWSTEP_CACHE", Path.home() / ".cache" / "fewstep")) / "fields"


def _key(solids: tuple[SceneObject, ...], floor: float, voxel: float, low: np.ndarray, counts: np.ndarray) -> str:
    digest = hashlib.sha256(f"{VERSION} {floor!r} {voxel!r} {low.tolist()!r} {counts.tolist()!r}".encode())
    for o in solids:
        digest.update(np.ascontiguousarray(o.vertices).tobytes() + np.ascontiguousarray(o.faces).tobytes() + b"|")
    return digest.hexdigest()


def _read(path: Path, counts: np.ndarray) -> Tensor | None:
    """Return a cached grid; None where there is none or it is damaged, since it can be computed again."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        values = load_file(path)["values"]
    except (OSError, SafetensorError, KeyError):
        return None
    return values if values.shape == tuple(counts) and values.dtype == torch.float32 else None


def _write(path: Path, values: Tensor) -> None:
    from safetensors.torch import save_file

    try:
        with atomic_path(path, overwrite=True) as scratch:
            save_file({"values": values}, scratch)
    except (InputError, OSError):
        return  # a folder that cannot be written costs time, not the result


def _signed_distance(
    solids: tuple[SceneObject, ...], floor: float, low: np.ndarray, voxel: float, counts: np.ndarray
) -> np.ndarray:
    require("igl", "to measure distances to a mesh")
    import igl

    meshes = [_welded(o) for o in solids]
    starts = np.cumsum([0] + [len(v) for v, _ in meshes])
    vertices = np.concatenate([v for v, _ in meshes])
    faces = np.concatenate([f + start for (_, f), start in zip(meshes, starts, strict=False)])
    tree = igl.AABB()
    tree.init(vertices, faces)
    axes = [low[a] + voxel * np.arange(counts[a]) for a in range(3)]
    values = np.empty(tuple(counts), np.float32)
    slab = max(1, CHUNK // int(counts[1] * counts[2]))
    for i in range(0, counts[0], slab):
        points = _points(axes[0][i : i + slab], axes[1], axes[2])
        squared, _, _ = tree.squared_distance(vertices, faces, points)
        values[i : i + slab] = np.sqrt(squared).reshape(-1, counts[1], counts[2])
    extent = np.ptp(vertices, axis=0)[:2]
    for v, f in meshes:
        room = _facing_inwards(v, f, floor, extent)
        if room is None:
            _make_solid(values, axes, _outward(v, f), v)
        else:
            _make_room(values, axes, v, room, slab)
    return values


def _points(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    return np.stack(np.meshgrid(x, y, z, indexing="ij"), -1).reshape(-1, 3)


def _welded(o: SceneObject) -> tuple[np.ndarray, np.ndarray]:
    """Return the mesh with equal vertices made one and without degenerate faces: exporters split them at seams."""
    _, first, to = np.unique(
        np.round(o.vertices / WELD).astype(np.int64), axis=0, return_index=True, return_inverse=True
    )
    faces = to.reshape(-1)[o.faces]
    whole = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    return np.ascontiguousarray(o.vertices[first]), np.ascontiguousarray(faces[whole])


def _outward(vertices: np.ndarray, faces: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Return the meshes of the closed and of the open components, each component's normals out of its volume.

    A component is closed if its faces have no boundary: along every edge as many go one way as the other.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    links = coo_matrix((np.ones(len(edges)), edges.T), shape=(len(vertices),) * 2)
    count, label = connected_components(links, directed=False)
    of_face = label[faces[:, 0]]
    # The volume of a component about its own middle, so that an open one has it too.
    members = np.bincount(of_face, minlength=count)
    centres = vertices[faces].mean(1)
    middle = (
        np.stack([np.bincount(of_face, centres[:, a], count) for a in range(3)], 1) / np.maximum(members, 1)[:, None]
    )
    corners = vertices[faces] - middle[of_face][:, None]
    six = np.einsum("ti,ti->t", corners[:, 0], np.cross(corners[:, 1], corners[:, 2]))
    inverted = np.bincount(of_face, six, count) < 0
    turned = np.where(inverted[of_face][:, None], faces[:, ::-1], faces)

    pairs, to = np.unique(np.sort(edges, 1), axis=0, return_inverse=True)
    balance = np.bincount(to.reshape(-1), np.where(edges[:, 0] < edges[:, 1], 1.0, -1.0))
    is_open = np.zeros(count, bool)
    is_open[label[pairs[balance != 0, 0]]] = True
    parts = (turned[~is_open[of_face]], turned[is_open[of_face]])
    return tuple((vertices, np.ascontiguousarray(part)) for part in parts if len(part))


def _make_solid(
    values: np.ndarray, axes: list[np.ndarray], parts: tuple[tuple[np.ndarray, np.ndarray], ...], vertices: np.ndarray
) -> None:
    """Turn the sign of the points inside an object; only its bounds are asked."""
    import igl

    low, high = vertices.min(0), vertices.max(0)
    window = tuple(slice(*np.searchsorted(axis, [low[a], high[a]])) for a, axis in enumerate(axes))
    shape = values[window].shape
    if 0 in shape:
        return
    x, y, z = (axis[part] for axis, part in zip(axes, window, strict=True))
    points = _points(x, y, z)
    inside = np.zeros(len(points), bool)
    for v, f in parts:
        tree = igl.FastWindingNumberBVH()
        tree.init(v, f)
        inside |= np.abs(tree.winding_number(points)) > 0.5
    inner = inside.reshape(shape)
    values[window] = np.where(inner, -np.abs(values[window]), values[window])


def _facing_inwards(vertices: np.ndarray, faces: np.ndarray, floor: float, extent: np.ndarray) -> np.ndarray | None:
    """Return the faces of a room, turned towards its inside; None for a thing.

    A room is at least 2 m wide and half as wide as the scene, and the median of |w| in the air at chest height within
    its bounds exceeds 0.2: around a thing w is near 0, above a wide floor 0.5, between walls more. It is positive where
    normals point away from the point.
    """
    import igl

    low, high = vertices.min(0), vertices.max(0)
    size = (high - low)[:2]
    if (size < np.maximum(ROOM_EXTENT, 0.5 * extent)).any():
        return None
    x, y = (np.linspace(low[a] + 0.1 * size[a], high[a] - 0.1 * size[a], 12) for a in range(2))
    tree = igl.FastWindingNumberBVH()
    tree.init(vertices, faces)
    winding = float(np.median(tree.winding_number(_points(x, y, floor + np.array([0.8, 1.2, 1.6])))))
    if abs(winding) <= 0.2:
        return None
    return np.ascontiguousarray(faces[:, ::-1]) if winding > 0 else faces


def _make_room(values: np.ndarray, axes: list[np.ndarray], vertices: np.ndarray, faces: np.ndarray, slab: int) -> None:
    """Turn the sign of the points behind the sheet of a room."""
    import igl

    kind = igl.SignedDistanceType.SIGNED_DISTANCE_TYPE_PSEUDONORMAL
    for i in range(0, len(axes[0]), slab):
        points = _points(axes[0][i : i + slab], axes[1], axes[2])
        signed, _, _, _ = igl.signed_distance(points, vertices, faces, sign_type=kind)
        block = values[i : i + slab]
        values[i : i + slab] = np.where(signed.reshape(block.shape) < 0, -np.abs(block), block)
