"""What the page draws of a motion: capsules between joints, where the joints are over time, and the way of the hips."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from motion.clips import Motion, heading
from motion.formats.gltf import COLOURS, RADII, THICKNESS
from motion.metrics import floor_of
from motion.roles import side_of
from motion.scene.body import Capsules, capsules_of
from motion.skeleton import Skeleton
from motion.viewer.packing import packed, quantised
from shared.errors import InputError

LEG = 0.491  # of stature, hip to ankle: Drillis and Contini 1966
LARGEST = 20_000_000  # bytes of positions: 12 minutes of 38 points at 120 frames a second


def drawn_body(motion: Motion) -> dict[str, Any]:
    """Return the motion for the page.

    | key | what |
    | --- | --- |
    | fps, frames | of the motion; frame k is at k / fps seconds |
    | root | (F, 3) float32 m |
    | points, low, step | (F, P, 3) uint16: joints and then end sites, less the root, are low + step q metres |
    | bones, radii, sides | (C, 2) places among the points, (C,) float32 m, (C,) indices of `colours` |
    | hips, facing | the point that the camera follows, and the direction (x, y) in which the body looks at first |

    Raises:
        InputError: the motion is larger than `LARGEST`.
    """
    skeleton = motion.skeleton
    points = joints_and_ends(motion)
    frames, count, _ = points.shape
    if frames * count * 6 > LARGEST:
        raise InputError(
            "motion", found=f"{frames} frames of {count} points, {frames * count * 6 / 1e6:.0f} MB",
            expected=f"at most {LARGEST / 1e6:.0f} MB in one page",
            fix="Cut it, or take fewer frames a second (Motion.resampled, fewstep motion convert --fps 30).",
        )  # fmt: skip
    root = points[:, 0].numpy().astype("<f4")
    local, low, step = quantised(points.numpy() - root[:, None].astype(np.float64))
    capsules = capsules_on(skeleton)
    names = [*skeleton.names, *(skeleton.names[joint] for joint in skeleton.end_joints)]
    sides = [side_of(names[start], skeleton.names) for start, _ in capsules.bones.tolist()]
    return {
        "fps": motion.fps,
        "frames": frames,
        "root": packed(root),
        "points": packed(local),
        "low": low.tolist(),
        "step": step,
        "bones": packed(capsules.bones.numpy().astype("<u2")),
        "radii": packed(capsules.radii.numpy().astype("<f4")),
        "sides": [list(COLOURS).index(side[0] if side else "") for side in sides],
        "colours": [list(rgb) for rgb in COLOURS.values()],
        "hips": skeleton.roles.get("hips", 0),
        "facing": _facing(points[0], skeleton),
    }


def joints_and_ends(motion: Motion) -> Tensor:
    """Return where joints and end sites are, (F, J + E, 3) float64 m."""
    motion = motion.to("cpu").to(torch.float64)
    skeleton = motion.skeleton
    positions, turned = motion.pose()
    ends = list(skeleton.end_joints)
    tips = positions[:, ends] + (turned[:, ends] @ skeleton.end_offsets[..., None])[..., 0]
    return torch.cat([positions, tips], 1)


def capsules_on(skeleton: Skeleton) -> Capsules:
    """Return capsules between joints and end sites: as thick as the parts of a body that names tell, else by length."""
    names = [*skeleton.names, *(f"{skeleton.names[joint]}_end" for joint in skeleton.end_joints)]
    parents = [*skeleton.parents, *skeleton.end_joints]
    try:
        capsules = capsules_of(names, parents, stature=_stature(skeleton))
    except InputError:
        bones = torch.tensor([[parent, joint] for joint, parent in enumerate(parents) if parent >= 0] or [[0, 0]])
        offsets = torch.cat([skeleton.offsets, skeleton.end_offsets])
        return Capsules(bones, (THICKNESS * offsets[bones[:, 1]].norm(dim=-1)).clamp(*RADII).float())
    return replace(capsules, radii=capsules.radii.float())


def floor_under(motion: Motion) -> float:
    """Return the height of the floor, m: by the toes where they are known, else the lowest point of the motion."""
    if all(motion.skeleton.feet):
        return floor_of(motion)
    return float(motion.positions()[..., 2].min())


def _stature(skeleton: Skeleton) -> float:
    legs = {f"{side}_{role}" for side in ("left", "right") for role in ("hip", "ankle")}
    return skeleton.leg / LEG if legs <= set(skeleton.roles) else 1.75


def _facing(positions: Tensor, skeleton: Skeleton) -> list[float]:
    if {"left_hip", "right_hip"} <= set(skeleton.roles):
        return heading(positions, skeleton)[:2, 1].tolist()
    return [0.0, -1.0]
