"""A scene made small enough for a page: 16-bit vertices, and fewer triangles where there are too many.

Decimation is vertex clustering (Rossignac and Borrel 1993): space is cut into cells, the vertices of one object in one
cell become their mean, and triangles that lose a corner or repeat another are left out. No vertex moves by more than
the diagonal of a cell, which is told.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from motion.scene.loading import Scene, SceneObject
from motion.viewer.packing import packed, quantised

MOST_TRIANGLES = 250_000  # about 5 MB of a page
SMALLEST_CELL = 0.005  # m
GROWTH = 1.4
ROOM = (2.0, 2.5)  # m: what is as high as the one and as wide as the other is a room, whose walls hide the body
OVERHEAD = 1.9  # m: what begins as high hides it too, such as a ceiling


def drawn_scene(scene: Scene, most: int = MOST_TRIANGLES) -> dict[str, Any]:
    """Return the scene for the page.

    | key | what |
    | --- | --- |
    | floor, height | of the floor and of the highest point, m |
    | cell | m, of the clustering; 0 if nothing was left out |
    | triangles | as read |
    | objects | name, kind, room, and vertices (V, 3) uint16, low, step with low + step q metres, faces (T, 3) |

    `kind` is the same for objects whose names differ in their number only; `room` is true for walls and ceilings.

    Args:
        scene: from `read_scene`.
        most: triangles that the page may hold.
    """
    objects, cell = decimated(scene.objects, most)
    kinds: dict[str, int] = {}
    drawn: list[dict[str, Any]] = []
    for o in objects:
        if not len(o.faces):
            continue
        base = re.sub(r"[._ -]*\d+$", "", o.name)
        drawn.append(
            {"name": o.name, "kind": kinds.setdefault(base, len(kinds)), "room": _is_room(o, scene.floor), **_mesh(o)}
        )
    return {
        "floor": scene.floor,
        "height": max(float(o.bounds[1, 2]) for o in scene.objects),
        "cell": cell,
        "triangles": sum(len(o.faces) for o in scene.objects),
        "objects": drawn,
    }


def decimated(objects: tuple[SceneObject, ...], most: int) -> tuple[tuple[SceneObject, ...], float]:
    """Return objects of at most `most` triangles altogether, and the cell, m; 0 and the same ones if they have no more.

    An object smaller than a cell vanishes: it has no triangles then.
    """
    cell, found = 0.0, objects
    while sum(len(o.faces) for o in found) > most:
        cell = GROWTH * cell if cell else SMALLEST_CELL
        found = tuple(clustered(o, cell) for o in objects)
    return found, cell


def clustered(o: SceneObject, cell: float) -> SceneObject:
    """Return the object with one vertex, the mean, for those in one cell of this size, m."""
    keys = np.floor(o.vertices / cell).astype(np.int64)
    _, group, sizes = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    group = group.reshape(-1)  # its shape differs between releases of NumPy
    means = np.stack([np.bincount(group, o.vertices[:, axis]) / sizes for axis in range(3)], 1)
    return SceneObject(o.name, means, _without_repeats(group[o.faces]))


def _mesh(o: SceneObject) -> dict[str, Any]:
    """Return the object quantised; vertices that fall together are one, since a page shades triangles flat."""
    steps, low, step = quantised(o.vertices)
    vertices, group = np.unique(steps, axis=0, return_inverse=True)
    faces = group.reshape(-1)[o.faces]
    return {
        "vertices": packed(vertices),
        "low": low.tolist(),
        "step": step,
        "faces": packed(faces.astype("<u2" if len(vertices) < 65536 else "<u4")),
    }


def _without_repeats(faces: np.ndarray) -> np.ndarray:
    """Return the triangles with three different corners, each set of corners once, in their order."""
    ordered = np.sort(faces, axis=1)
    whole = (np.diff(ordered, axis=1) > 0).all(1)
    _, first = np.unique(ordered[whole], axis=0, return_index=True)
    return faces[whole][np.sort(first)]


def _is_room(o: SceneObject, floor: float) -> bool:
    low, high = o.bounds
    wide = bool((high - low)[:2].min() >= ROOM[1] and high[2] - low[2] >= ROOM[0])
    return wide or bool(low[2] - floor >= OVERHEAD)
