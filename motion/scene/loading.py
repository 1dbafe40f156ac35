"""Scenes from files: GLB, glTF, OBJ, PLY, STL and OFF through trimesh, or several files placed in one room.

Named objects stay apart, because goals are asked for by name and because the sign of the distance is found object by
object. Behind this module everything is in metres with z up.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from motion.scene.orientation import AXES, MANY, facing, find_frame
from motion.scene.packages import require
from shared.errors import InputError
from shared.files import atomic_path

if TYPE_CHECKING:
    from trimesh import Trimesh

SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl", ".off")
FLAT = 0.03  # m: a thinner object on the floor is a covering, to be walked on
ROOM = 2.5  # m: a narrower scene is a piece of furniture without a floor
FARTHEST = 5000.0  # m
STANDING = 0.05  # m: how far above the lowest floor surface objects may stand and still mean the floor


@dataclass(frozen=True)
class SceneObject:
    """A named mesh.

    Attributes:
        name: of the node or file.
        vertices: (V, 3) float64, m, z up.
        faces: (T, 3) int64.
    """

    name: str
    vertices: np.ndarray
    faces: np.ndarray

    @property
    def triangles(self) -> np.ndarray:
        """Return the corners (T, 3, 3), m."""
        return self.vertices[self.faces]

    @property
    def bounds(self) -> np.ndarray:
        """Return the lowest and the highest coordinates (2, 3), m."""
        return np.stack([self.vertices.min(0), self.vertices.max(0)])


@dataclass(frozen=True)
class Placed:
    """A file put into a room: turned about z, then moved, its own lowest point on the floor.

    Attributes:
        path: of the mesh.
        position: (x, y) of the middle of its bounds, m.
        yaw: counter-clockwise seen from above, degrees.
        name: None for the file's stem; several of one name are numbered.
        up: of the file, see `read_scene`.
        unit: of the file, see `read_scene`.
    """

    path: str | os.PathLike[str]
    position: tuple[float, float] = (0.0, 0.0)
    yaw: float = 0.0
    name: str | None = None
    up: str | None = None
    unit: str | None = None


@dataclass(frozen=True)
class Scene:
    """Objects in one room on one floor.

    Attributes:
        objects: with unique names.
        floor: height of the floor, m.
        up: axis of the file that is z here.
        unit: of the file.
        report: what was decided while reading, one line each.
        source: where it came from.
    """

    objects: tuple[SceneObject, ...]
    floor: float
    up: str
    unit: str
    report: tuple[str, ...]
    source: str

    @property
    def solids(self) -> tuple[SceneObject, ...]:
        """Return the objects without floor coverings: ground planes and carpets."""
        return tuple(o for o in self.objects if not _is_covering(o, self.floor))

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the objects."""
        return tuple(o.name for o in self.objects)

    def scaled(self, factor: float) -> Scene:
        """Return the scene made larger about the origin."""
        objects = tuple(replace(o, vertices=o.vertices * factor) for o in self.objects)
        return replace(self, objects=objects, floor=self.floor * factor)

    def find(self, name: str) -> SceneObject:
        """Return the object of this name, or the only one whose name contains it whatever the case.

        Raises:
            InputError: none or several; the candidates are listed.
        """
        exact = [o for o in self.objects if o.name == name]
        found = exact or [o for o in self.objects if name.lower() in o.name.lower()]
        if len(found) != 1:
            listed = [o.name for o in (found or self.objects)]
            raise InputError(
                self.source, found=f"{len(found) or 'no'} objects called {name!r}",
                expected=f"one of {', '.join(listed[:20])}{' ...' if len(listed) > 20 else ''}",
                fix="Give the whole name.",
            )  # fmt: skip
        return found[0]


def read_scene(
    source: str | os.PathLike[str] | Sequence[Placed],
    *,
    up: str | Sequence[float] | None = None,
    unit: str | None = None,
    floor: float | None = None,
) -> Scene:
    """Read a scene.

    Args:
        source: a file of one of `SUFFIXES`, or files with their places.
        up: axis of the file that points up (x, y, z, with a minus sign for down) or a vector; None to find y or z.
            For placed files, see `Placed`.
        unit: m, cm, mm, in or ft; None to find one of the first three.
        floor: height of the floor, m after the conversion; None to find it.

    Raises:
        InputError: a file that cannot be read, holds no triangles or makes no sense in any unit.
        MissingExtra: trimesh is absent.
    """
    if isinstance(source, (str, os.PathLike)):
        meshes, name = _read_meshes(Path(source)), os.fspath(source)
        frame = find_frame(
            np.concatenate([o.triangles for o in meshes]), source=name, up=up, unit=unit,
            gltf=Path(source).suffix.lower() in (".glb", ".gltf"), count=len(meshes),
        )  # fmt: skip
        objects = tuple(replace(o, vertices=frame.apply(o.vertices)) for o in meshes)
        return _on_floor(objects, floor, frame.up, frame.unit, frame.notes, name)
    if not source:
        raise InputError("scene", found="no placed objects", expected="at least one", fix="Give files with places.")
    if up is not None or unit is not None:
        raise InputError("scene", found="one up axis or unit for several files", expected="one a file",
                         fix="Set them on Placed.")  # fmt: skip
    objects, notes = _place(source)
    return _on_floor(objects, 0.0 if floor is None else floor, "z", "m", notes, f"{len(source)} placed files")


def write_scene(path: str | os.PathLike[str], scene: Scene, *, overwrite: bool = False) -> None:
    """Write a scene as GLB with its names: y up and metres, as glTF demands."""
    import trimesh

    written = trimesh.Scene()
    for o in scene.objects:
        turned = o.vertices @ np.array(AXES["y"], float)  # R^T for rows: z up to y up
        mesh = trimesh.Trimesh(turned, o.faces, process=False)
        written.add_geometry(mesh, node_name=o.name, geom_name=o.name)
    with atomic_path(path, overwrite=overwrite) as scratch:
        scratch.write_bytes(written.export(file_type="glb"))


def _read_meshes(path: Path) -> list[SceneObject]:
    require("trimesh", "to read meshes")
    import trimesh

    if not path.is_file():
        raise InputError(path, found="no file", expected="a mesh", fix="Check the path.")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(path, found=f"the suffix {path.suffix!r}", expected=", ".join(SUFFIXES), fix="Convert it.")
    options: dict[str, Any] = {"split_objects": True, "split_groups": _only_groups(path)} if suffix == ".obj" else {}
    try:
        loaded = trimesh.load_scene(path, process=False, **options)
    except Exception as error:  # trimesh has no error of its own: a damaged file raises whatever it meets first
        raise InputError(
            path, found=f"a file that trimesh cannot read ({type(error).__name__}: {error})",
            expected=f"a {suffix} mesh", fix="Export it again.",
        ) from error  # fmt: skip
    objects = list(_named(loaded, path.stem))
    if not objects:
        kind = "points without faces" if loaded.geometry else "nothing"
        raise InputError(path, found=kind, expected="triangles", fix="Make a mesh of it, for example in MeshLab.")
    for o in objects:
        if not np.isfinite(o.vertices).all():
            raise InputError(path, found=f"coordinates that are not numbers in {o.name}", expected="finite ones",
                             fix="Export it again.")  # fmt: skip
    return objects


def _only_groups(path: Path) -> bool:
    """Return whether an OBJ file names its parts by groups (Sweet Home 3D) and not by objects."""
    with path.open(errors="replace") as file:
        return not any(line.startswith("o ") for line in file)


def _named(loaded: Any, stem: str) -> Iterator[SceneObject]:
    """Yield one object a node; trimesh makes a node of every glTF primitive, with a random name."""
    import trimesh

    parents = loaded.graph.transforms.parents
    parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for node in loaded.graph.nodes_geometry:
        transform, geometry = loaded.graph[node]
        mesh: Trimesh = loaded.geometry[geometry]
        if not isinstance(mesh, trimesh.Trimesh) or not len(mesh.faces):
            continue
        faces = np.asarray(mesh.faces, np.int64)
        if np.linalg.det(transform[:3, :3]) < 0:  # a mirror turns triangles inside out
            faces = faces[:, ::-1]
        name = parents[node] if mesh.metadata.get("from_gltf_primitive") else node
        parts.setdefault(str(name), []).append((trimesh.transform_points(mesh.vertices, transform), faces))
    for name, pieces in parts.items():
        starts = np.cumsum([0] + [len(vertices) for vertices, _ in pieces])
        faces = np.concatenate([f + start for (_, f), start in zip(pieces, starts, strict=False)])
        vertices = np.concatenate([v for v, _ in pieces]).astype(np.float64)
        alone = len(parts) == 1 and Path(name).suffix.lower() in SUFFIXES
        yield SceneObject(stem if alone else name, vertices, faces)


def _place(placed: Sequence[Placed]) -> tuple[tuple[SceneObject, ...], tuple[str, ...]]:
    objects: list[SceneObject] = []
    notes: list[str] = []
    for item in placed:
        path = Path(item.path)
        read = read_scene(path, up=item.up, unit=item.unit)
        vertices = np.concatenate([o.vertices for o in read.objects])
        low, high = vertices.min(0), vertices.max(0)
        angle = np.radians(item.yaw)
        turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        middle = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]])
        base = name = item.name or path.stem
        copies = 0
        while name in {o.name for o in objects}:
            copies += 1
            name = f"{base}.{copies:03d}"
        starts = np.cumsum([0] + [len(o.vertices) for o in read.objects])
        faces = np.concatenate([o.faces + start for o, start in zip(read.objects, starts, strict=False)])
        objects.append(SceneObject(name, (vertices - middle) @ turn.T + [*item.position, 0.0], faces))
        notes += [f"{name}: {note}" for note in read.report]
    return tuple(objects), tuple(notes)


def _on_floor(
    objects: tuple[SceneObject, ...], floor: float | None, up: str, unit: str, notes: tuple[str, ...], source: str
) -> Scene:
    reach = max(float(np.abs(o.vertices).max()) for o in objects)
    if reach > FARTHEST:
        raise InputError(
            source, found=f"coordinates of {reach:.3g} m", expected=f"at most {FARTHEST:g} m from the origin",
            fix="Move the scene to the origin: single precision would lose millimetres.",
        )  # fmt: skip
    if floor is None:
        floor, why = _find_floor(objects)
        notes = (*notes, f"floor: {floor:.3f} m, found ({why})")
    return Scene(objects, float(floor), up, unit, notes, source)


def _find_floor(objects: tuple[SceneObject, ...]) -> tuple[float, str]:
    """Return the height of the floor and why.

    The ground is the height in the lower half (at most 1.2 m up) that has most horizontal surface, if that is a
    quarter of a footprint too large for furniture; else the lowest point. Where half of the objects stand a little
    above or below it, the floor is where they stand.
    """
    triangles = np.concatenate([o.triangles for o in objects])
    points = triangles.reshape(-1, 3)
    low, extent = points[:, 2].min(), np.ptp(points, axis=0)
    area, normal = facing(triangles)
    level = triangles[..., 2].mean(1)
    flat = (np.abs(normal[:, 2]) > 0.9) & (level < low + min(1.2, 0.5 * extent[2]))
    bins = np.round((level[flat] - low) / 0.02).astype(int)
    areas = np.bincount(bins, weights=area[flat]) if len(bins) else np.zeros(1)
    best = int(areas.argmax())
    ground, why = low, "the lowest point"
    if extent[:2].min() >= ROOM and areas[best] >= 0.25 * extent[0] * extent[1]:
        near = flat & (np.abs(level - (low + 0.02 * best)) <= 0.03)
        ground, why = float(np.average(level[near], weights=area[near])), f"{areas[best]:.1f} m2 of surface"
    bottoms = np.array([o.bounds[0, 2] for o in objects if np.ptp(o.bounds[:, 2]) > FLAT])
    standing = bottoms[np.abs(bottoms - ground) <= STANDING]
    if len(bottoms) >= MANY and len(standing) >= 0.5 * len(bottoms):
        ground, why = float(np.median(standing)), f"{len(standing)} of {len(bottoms)} objects stand there; {why} below"
    return ground, why


def _is_covering(o: SceneObject, floor: float) -> bool:
    low, high = o.bounds[:, 2]
    return high - low <= FLAT and abs(low - floor) <= STANDING + FLAT
