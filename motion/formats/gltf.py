"""Animated GLB: a node a joint, a capsule a bone, and samplers of rotations and of the root's translation.

glTF is y-up, in metres, and faces +z. There is no skin: each joint carries the capsules of the bones that it moves, so
every viewer shows the motion. Before the animation runs, nodes stand in the rest pose.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from motion.clips import Motion
from motion.kinematics import forward_kinematics
from motion.roles import side_of
from motion.rotations import least_turn, quaternions
from motion.skeleton import Conventions, Skeleton
from motion.stance import soles
from shared.errors import MissingExtra
from shared.files import atomic_path

THICKNESS = 0.12  # radius of a capsule by its length
RADII = (0.008, 0.05)  # m
SECTIONS = 8  # of a capsule, around and along each cap
COLOURS = {"left": (0.80, 0.27, 0.22), "right": (0.22, 0.45, 0.75), "": (0.72, 0.72, 0.70)}


def write_glb(path: str | os.PathLike[str], motion: Motion, *, overwrite: bool = False) -> None:
    """Write an animated GLB file.

    Raises:
        InputError: the file exists.
        MissingExtra: pygltflib or trimesh is absent.
    """
    try:
        import pygltflib
    except ImportError as error:
        raise MissingExtra("pygltflib", extra="motion", purpose="to write GLB") from error
    motion = motion.to(torch.float64)
    axes, skeleton = Conventions().axes, motion.skeleton
    offsets = skeleton.offsets @ axes
    rest, height = _shown_at_rest(motion)
    buffer = _Buffer()
    nodes: list[dict[str, Any]] = []
    for joint, name in enumerate(skeleton.names):
        place = torch.tensor([0.0, height, 0.0]) if joint == 0 else offsets[joint]
        children = [child for child, parent in enumerate(skeleton.parents) if parent == joint]
        nodes.append({"name": name, "translation": place.tolist(), "children": children})
        nodes[-1]["rotation"] = quaternions(axes.T @ rest[joint] @ axes).tolist()
    for joint, end in zip(skeleton.end_joints, (skeleton.end_offsets @ axes).tolist(), strict=True):
        nodes[joint]["children"].append(len(nodes))
        nodes.append({"name": f"{skeleton.names[joint]}_end", "translation": end})
    meshes: list[dict[str, Any]] = []
    for joint, name in enumerate(skeleton.names):
        bones = [end for end in _bones(skeleton, joint) @ axes if end.norm() > RADII[0]]
        if bones:
            nodes[joint]["mesh"] = len(meshes)
            side = side_of(name, skeleton.names)
            meshes.append({"name": name, "primitives": [_capsules(buffer, bones, side[0] if side else "")]})
    content = {
        "asset": {"version": "2.0", "generator": "fewstep"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{key: value for key, value in node.items() if value != []} for node in nodes],
        "meshes": meshes,
        "materials": [
            {"name": side or "middle", "pbrMetallicRoughness": {"baseColorFactor": [*rgb, 1.0], "metallicFactor": 0.0}}
            for side, rgb in COLOURS.items()
        ],
        "animations": [_animation(buffer, motion, axes)],
        "accessors": buffer.accessors,
        "bufferViews": buffer.views,
        "buffers": [{"byteLength": len(buffer.content)}],
    }
    file = pygltflib.GLTF2.from_dict(content)
    file.set_binary_blob(bytes(buffer.content))
    with atomic_path(path, overwrite=overwrite) as scratch:
        file.save_binary(scratch)


class _Buffer:
    """The binary part: arrays one after the other, each with its view and accessor."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def add(self, values: np.ndarray, target: int | None = None) -> int:
        """Append float32 or uint32 of (N,), (N, 3) or (N, 4), with bounds, and return its accessor."""
        floats = values.dtype == np.float32
        view: dict[str, Any] = {"buffer": 0, "byteOffset": len(self.content), "byteLength": values.nbytes}
        self.views.append(view | ({} if target is None else {"target": target}))
        self.content += np.ascontiguousarray(values).tobytes()
        rows = values.reshape(len(values), -1)
        self.accessors.append(
            {
                "bufferView": len(self.views) - 1,
                "componentType": 5126 if floats else 5125,
                "count": len(values),
                "type": {1: "SCALAR", 3: "VEC3", 4: "VEC4"}[rows.shape[1]],
                "min": rows.min(0).tolist(),
                "max": rows.max(0).tolist(),
            }
        )
        return len(self.accessors) - 1


def _animation(buffer: _Buffer, motion: Motion, axes: Tensor) -> dict[str, Any]:
    skeleton = motion.skeleton
    times = buffer.add((np.arange(motion.frames) / motion.fps).astype(np.float32))
    samplers: list[dict[str, Any]] = []
    channels: list[dict[str, Any]] = []

    def track(joint: int, path: str, values: Tensor) -> None:
        output = buffer.add(values.numpy().astype(np.float32))
        channels.append({"sampler": len(samplers), "target": {"node": joint, "path": path}})
        samplers.append({"input": times, "output": output, "interpolation": "LINEAR"})

    turned = quaternions(axes.T @ motion.rotations @ axes)
    # q and -q are one rotation; between keys of one sign every viewer takes the short way.
    flips = torch.where((turned[1:] * turned[:-1]).sum(-1) < 0, -1.0, 1.0).cumprod(0)
    turned = torch.cat([turned[:1], turned[1:] * flips[..., None]])
    for joint in range(len(skeleton)):
        track(joint, "rotation", turned[:, joint])
    track(0, "translation", motion.root @ axes)
    if motion.offsets is not None:
        for joint in motion.moving.nonzero()[:, 0].tolist():
            track(joint, "translation", motion.offsets[:, joint] @ axes)
    return {"name": "motion", "samplers": samplers, "channels": channels}


def _shown_at_rest(motion: Motion) -> tuple[Tensor, float]:
    """Return the local rotations of the rest pose, or of the first frame, and the root's height over the soles, m."""
    skeleton = motion.skeleton
    if skeleton.rest is None:
        return motion.rotations[0], float(motion.root[0, 2])
    positions, turned = forward_kinematics(skeleton, torch.zeros(3).to(motion.root), skeleton.rest)
    points = soles(skeleton, positions, turned) if all(skeleton.feet) else positions[:, 2]
    return skeleton.rest, -float(points.min())


def _bones(skeleton: Skeleton, joint: int) -> Tensor:
    """Return where the bones end that a joint moves, (B, 3) m in its axes."""
    children = [child for child, parent in enumerate(skeleton.parents) if parent == joint]
    ends = [place for place, other in enumerate(skeleton.end_joints) if other == joint]
    return torch.cat([skeleton.offsets[children], skeleton.end_offsets[ends]])


def _capsules(buffer: _Buffer, bones: list[Tensor], side: str) -> dict[str, Any]:
    normals, upper, triangles = _unit_capsule()
    points: list[np.ndarray] = []
    directions: list[np.ndarray] = []
    faces: list[np.ndarray] = []
    for place, bone in enumerate(bones):
        length = float(bone.norm())
        radius = min(max(THICKNESS * length, RADII[0]), RADII[1])
        turn = least_turn(torch.tensor([0.0, 0.0, 1.0], dtype=bone.dtype), bone).numpy()
        along = normals @ turn.T
        faces.append(triangles + place * len(normals))
        points.append(radius * along + upper[:, None] * bone.numpy())
        directions.append(along)
    attributes = {
        "POSITION": buffer.add(np.concatenate(points).astype(np.float32), 34962),
        "NORMAL": buffer.add(np.concatenate(directions).astype(np.float32), 34962),
    }
    indices = buffer.add(np.concatenate(faces).reshape(-1).astype(np.uint32), 34963)
    return {"attributes": attributes, "indices": indices, "material": list(COLOURS).index(side)}


@cache
def _unit_capsule() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a capsule along z: normals (N, 3), whether points are on the upper cap (N,), and triangles (T, 3)."""
    try:
        from trimesh.creation import capsule
    except ImportError as error:
        raise MissingExtra("trimesh", extra="motion", purpose="to draw bones") from error
    mesh = capsule(height=1.0, radius=1.0, count=[SECTIONS, SECTIONS])
    points = np.array(mesh.vertices)
    points[:, 2] -= mesh.bounds[:, 2].mean()  # its middle has moved between releases
    upper = points[:, 2] > 0
    return points - np.where(upper, 0.5, -0.5)[:, None] * [0, 0, 1], upper, np.array(mesh.faces)
