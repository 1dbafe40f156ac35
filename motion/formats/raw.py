"""From a file's units and axes to metres with z up, whatever the format.

Most formats say neither their unit nor their upward axis. Both are guessed from the body, and told in a warning, unless
they are given: upward is where the head is above the ankles on average, and the unit is the one with legs of human
length.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from motion.clips import Motion
from motion.kinematics import forward_kinematics
from motion.roles import find_roles
from motion.skeleton import Conventions, Skeleton
from motion.stance import with_rest
from shared.errors import InputError

# "cmu" is the unit of the CMU recordings in ASF and in their usual BVH conversion: inches divided by 0.45.
UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001, "in": 0.0254, "cmu": 0.0254 / 0.45}
LEG = 0.9  # m from the middle of the hips along the bones to the ankle: 0.87 to 0.98 on the recordings at hand
HIPS = (0.8, 1.1)  # m, how high the hips of a standing adult are
STILL = 1e-4  # m, within which a joint with position channels keeps its offset
SAMPLED = 200  # frames that guesses look at


@dataclass(frozen=True)
class RawClip:
    """A clip in its file's units and axes, float64.

    Attributes:
        names: of J joints.
        parents: likewise, -1 for the root.
        channels: of each joint, as in BVH.
        offsets: (J, 3) from the parent.
        end_joints: joints that have an end site.
        end_offsets: (E, 3).
        positions: (F, J, 3): of the root in the world, of others from the parent; the offsets where none are recorded.
        rotations: (F, J, 3, 3), local.
        fps: frames a second.
    """

    names: tuple[str, ...]
    parents: tuple[int, ...]
    channels: tuple[tuple[str, ...], ...]
    offsets: Tensor
    end_joints: tuple[int, ...]
    end_offsets: Tensor
    positions: Tensor
    rotations: Tensor
    fps: float


def to_motion(
    raw: RawClip, path: str | os.PathLike[str], *, units: str = "auto", metres: float | None = None, up: str = "auto",
    roles: Mapping[str, str] | None = None, rest_frame: bool | None = None,
) -> Motion:  # fmt: skip
    """Return a clip in metres with z up; warns of everything that it had to guess.

    Args:
        raw: as its file has it.
        path: for messages.
        units: one of `UNITS`, or auto.
        metres: the unit that the format states; it counts where `units` is auto.
        up: y or z, or auto.
        roles: joints by role where names do not tell them.
        rest_frame: whether frame 0 is a rest pose and no motion; None to look.

    Raises:
        InputError: an unknown unit or axis, numbers that are none, or a role's joint is not there.
    """
    if units not in (*UNITS, "auto") or up not in ("y", "z", "auto"):
        raise InputError(
            path, found=f"units {units!r}, up {up!r}", expected=f"units {', '.join(UNITS)} or auto; up y, z or auto",
            fix="Correct --units or --up.",
        )  # fmt: skip
    if not all(torch.isfinite(values).all() for values in (raw.offsets, raw.positions, raw.rotations)):
        raise InputError(path, found="NaN or infinity", expected="finite numbers", fix="Leave out those frames.")
    still = raw.offsets.clone()
    still[0] = 0
    skeleton = Skeleton(
        raw.names, raw.parents, still, raw.end_joints, raw.end_offsets, find_roles(raw.names, raw.parents)
    ).with_roles(roles or {})
    notes: list[str] = []
    axis = up if up != "auto" else _guess_up(raw, skeleton, notes)
    unit = UNITS[units] if units != "auto" else metres if metres is not None else _guess_unit(skeleton, notes)
    root = _root(raw, skeleton, axis, notes)
    conventions = Conventions(unit, axis, raw.channels)
    motion = _converted(raw, skeleton, root, conventions)
    motion, more = with_rest(_travelling_root(motion), rest_frame)
    notes += more
    if notes:
        warnings.warn(f"{Path(path).name}: {'; '.join(notes)}", stacklevel=3)
    return motion


def _converted(raw: RawClip, skeleton: Skeleton, root: Tensor, conventions: Conventions) -> Motion:
    """Return v -> C v in metres and R -> C R C^T, with offsets over time only where some joint leaves its own."""
    axes, unit = conventions.axes, conventions.metres_per_unit
    moved = raw.positions.clone()
    moved[:, 0] = 0
    spread = (moved - moved[:1]).norm(dim=-1).amax(0) * unit
    away = (moved[0] - skeleton.offsets).norm(dim=-1) * unit
    offsets = torch.where(((spread < STILL) & (away > STILL))[:, None], moved[0], skeleton.offsets)
    travels = spread >= STILL
    moved = torch.where(travels[:, None], moved, offsets)
    return Motion(
        replace(
            skeleton, offsets=unit * offsets @ axes.T, end_offsets=unit * skeleton.end_offsets @ axes.T,
            conventions=conventions,
        ),
        unit * root @ axes.T,
        axes @ raw.rotations @ axes.T,
        raw.fps,
        unit * moved @ axes.T if bool(travels.any()) else None,
    )  # fmt: skip


def _travelling_root(motion: Motion) -> Motion:
    """Return the motion with the travel on the root where a file keeps it on the root's only child (Bandai's Hips)."""
    children = [joint for joint, parent in enumerate(motion.skeleton.parents) if parent == 0]
    if motion.offsets is None or len(children) != 1:
        return motion
    child = children[0]
    still = motion.skeleton.offsets[child]
    travel = (motion.rotations[:, 0] @ (motion.offsets[:, child] - still)[..., None])[..., 0]
    offsets = motion.offsets.clone()
    offsets[:, child] = still
    others = bool(((offsets - motion.skeleton.offsets).norm(dim=-1) > STILL).any())
    return replace(motion, root=motion.root + travel, offsets=offsets if others else None)


def _sampled(raw: RawClip, skeleton: Skeleton, root: Tensor) -> Tensor:
    """Return where the joints are, (F', J, 3), in the file's units and axes, in up to `SAMPLED` frames."""
    step = max(len(raw.rotations) // SAMPLED, 1)
    return forward_kinematics(skeleton, root[::step], raw.rotations[::step], raw.positions[::step])[0]


def _guess_up(raw: RawClip, skeleton: Skeleton, notes: list[str]) -> str:
    if not {"head", "left_ankle", "right_ankle"} <= set(skeleton.roles):
        notes.append("the upward axis is not in the file and head or feet are unknown: y is taken (up=)")
        return "y"
    head, *ankles = skeleton.joints("head", "left_ankle", "right_ankle")
    positions = _sampled(raw, skeleton, raw.positions[:, 0])
    body = (positions[:, head] - positions[:, ankles].mean(1)).mean(0)
    axis = "z" if body[2] > body[1] else "y"
    unsure = "" if body[1:].max() > 0.5 * body.norm() else ", but the body hardly stands"
    notes.append(f"the upward axis is not in the file: {axis} is taken{unsure} (up=)")
    return axis


def _guess_unit(skeleton: Skeleton, notes: list[str]) -> float:
    if not {"hips", "left_ankle", "right_ankle"} <= set(skeleton.roles):
        notes.append("the unit is not in the file and hips or feet are unknown: cm is taken (units=)")
        return UNITS["cm"]
    leg = (skeleton.length("hips", "left_ankle") + skeleton.length("hips", "right_ankle")) / 2
    name = min(UNITS, key=lambda name: abs(math.log(max(leg, 1e-9) * UNITS[name] / LEG)))
    metres = leg * UNITS[name]
    unsure = "" if HIPS[0] <= metres <= HIPS[1] else ", no adult's: check it"
    notes.append(f"the unit is not in the file: {name} is taken, so that legs are {metres:.2f} m long{unsure} (units=)")
    return UNITS[name]


def _root(raw: RawClip, skeleton: Skeleton, up: str, notes: list[str]) -> Tensor:
    """Return where the root is, (F, 3): its position channels, plus its offset in files that mean that.

    Blender writes the absolute place beside an offset, others the place from the offset on: the feet tell.
    """
    recorded = raw.positions[:, 0]
    if raw.offsets[0].norm() == 0 or not {"left_ankle", "right_ankle"} <= set(skeleton.roles):
        return recorded
    feet = [joint for foot in skeleton.feet for joint in foot]
    height = _sampled(raw, skeleton, recorded)[:, feet, "xyz".index(up)].amin(-1)
    floor = float(height.quantile(0.02))
    shift = float(raw.offsets[0]["xyz".index(up)])
    if abs(floor) <= abs(floor + shift):
        return recorded
    notes.append("the root's positions count from its offset, which puts the feet on the floor")
    return recorded + raw.offsets[0]
