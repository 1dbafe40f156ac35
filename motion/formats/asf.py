"""Acclaim skeletons (ASF) and their motions (AMC), as CMU publishes them.

A bone of ASF turns at its near end, so it becomes the joint there: its offset is the parent bone, its end site the bone
itself if it is the last. With M the bone's rotation in its own axes C,

    R = C M C^-1,   C = C_z C_y C_x,   M = M_z M_y M_x   (turns about fixed axes, in the order that the file lists).

Lengths count in inches divided by the number behind `length` (0.45 at CMU). AMC does not say its frame rate.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from motion.clips import Motion
from motion.formats.files import read_text
from motion.formats.raw import RawClip, to_motion
from motion.rotations import from_euler
from shared.errors import InputError

CMU_RATE = 120.0
INCH = 0.0254


@dataclass
class Bone:
    """One bone: unit vector, length, axes and the degrees of freedom that AMC lists, in the file's units."""

    direction: tuple[float, ...] = (0.0, 0.0, 0.0)
    length: float = 0.0
    axis: tuple[float, ...] = (0.0, 0.0, 0.0)
    axis_order: str = "XYZ"
    dof: tuple[str, ...] = ()


@dataclass
class Acclaim:
    """A skeleton file.

    Attributes:
        length: the number behind `length` in the units.
        degrees: whether angles are degrees.
        bones: by name, the root first.
        parents: of each bone by name.
    """

    length: float = 1.0
    degrees: bool = True
    bones: dict[str, Bone] = field(default_factory=lambda: {"root": Bone()})
    parents: dict[str, str] = field(default_factory=dict)


def read_asf(path: str | os.PathLike[str]) -> Acclaim:
    """Read a skeleton, plain or gzipped.

    Raises:
        InputError: it is no ASF file.
    """
    found = Acclaim()
    section, bone, name = "", Bone(), ""
    try:
        for line in read_text(path).splitlines():
            words = line.split("#")[0].split()
            if not words:
                continue
            if words[0].startswith(":"):
                section = words[0][1:].lower()
            elif section == "units":
                found.length = float(words[1]) if words[0] == "length" else found.length
                found.degrees = words[1].lower().startswith("deg") if words[0] == "angle" else found.degrees
            elif section == "hierarchy" and words[0] not in ("begin", "end"):
                found.parents |= dict.fromkeys(words[1:], words[0])
            elif section == "root":
                _describe(found.bones["root"], words)
            elif section == "bonedata":
                if words[0] == "begin":
                    bone = Bone()
                elif words[0] == "end":
                    found.bones[name] = bone
                elif words[0] == "name":
                    name = words[1]
                else:
                    _describe(bone, words)
    except (ValueError, IndexError) as error:
        raise InputError(path, found=str(error), expected="numbers as in ASF", fix="Repair the file.") from error
    if not found.bones["root"].dof:
        raise InputError(
            path, found="no order of the root", expected=":root with order TX TY TZ RX RY RZ", fix="Give an ASF file."
        )
    unknown = [name for name in found.parents if name not in found.bones]
    if len(found.bones) < 2 or set(found.parents) != set(found.bones) - {"root"}:
        raise InputError(
            path, found=f"{len(found.bones) - 1} bones and a hierarchy of {len(found.parents)}"
            + (f", {unknown[0]} without data" if unknown else ""),
            expected="a place in the hierarchy for each bone", fix="Give an ASF file.",
        )  # fmt: skip
    return found


def read_amc(
    path: str | os.PathLike[str], asf: str | os.PathLike[str] | None = None, *, units: str = "auto", up: str = "auto",
    fps: float | None = None, roles: Mapping[str, str] | None = None, rest_frame: bool | None = None,
) -> Motion:  # fmt: skip
    """Read a motion with its skeleton, plain or gzipped.

    Args:
        path: of the AMC file.
        asf: of the ASF file; None for the one beside it named as far as the first underscore, or the only one there.
        units: instead of what the skeleton says; m, cm, mm, in or cmu.
        up: y, z, or auto.
        fps: frames a second; None for CMU's 120, with a warning.
        roles: joints by role, where names do not tell them.
        rest_frame: whether frame 0 is a rest pose and no motion; None to look.

    Raises:
        InputError: a file is missing, is another's, or they do not belong together.
    """
    path = Path(path)
    skeleton_path = _beside(path) if asf is None else Path(asf)
    skeleton = read_asf(skeleton_path)
    frames = _frames(path, skeleton)
    if fps is None:
        note = f"{path.name}: the frame rate is not in the file: {CMU_RATE:g} a second is taken (fps=)"
        warnings.warn(note, stacklevel=2)
    raw = _clip(skeleton, frames, CMU_RATE if fps is None else fps)
    return to_motion(
        raw, path, units=units, metres=INCH / skeleton.length, up=up, roles=roles,
        rest_frame=rest_frame,
    )  # fmt: skip


def _describe(bone: Bone, words: list[str]) -> None:
    match words[0]:
        case "direction":
            bone.direction = tuple(float(word) for word in words[1:4])
        case "length":
            bone.length = float(words[1])
        case "axis" if len(words) == 5:
            bone.axis, bone.axis_order = tuple(float(word) for word in words[1:4]), words[4].upper()
        case "axis":  # the root's, whose angles stand behind orientation
            bone.axis_order = words[1].upper()
        case "orientation":
            bone.axis = tuple(float(word) for word in words[1:4])
        case "dof" | "order":
            bone.dof = tuple(word.lower() for word in words[1:])
            allowed = {"rx", "ry", "rz"} | ({"tx", "ty", "tz"} if words[0] == "order" else set())
            if not set(bone.dof) <= allowed:
                raise ValueError(f"a degree of freedom that is no rotation: {' '.join(words[1:])}")


def _beside(path: Path) -> Path:
    stem = path.name.partition(".")[0].partition("_")[0]
    candidates = sorted(path.parent.glob("*.asf")) + sorted(path.parent.glob("*.asf.gz"))
    named = [candidate for candidate in candidates if candidate.name.partition(".")[0] == stem]
    if named or len(candidates) == 1:
        return (named or candidates)[0]
    raise InputError(
        path, found=f"{len(candidates)} ASF files beside it, none named {stem}.asf", expected="its skeleton",
        fix="Say which: --asf FILE.",
    )  # fmt: skip


def _frames(path: Path, skeleton: Acclaim) -> dict[str, np.ndarray]:
    """Return the numbers of each bone, (F, dof)."""
    rows: dict[str, list[list[float]]] = {name: [] for name, bone in skeleton.bones.items() if bone.dof}
    count = 0
    try:
        for line in read_text(path).splitlines():
            words = line.split("#")[0].split()
            if not words or words[0].startswith(":"):
                continue
            if len(words) == 1 and words[0].isdecimal():
                count += 1
                continue
            numbers = [float(word) for word in words[1:]]
            if words[0] not in rows or len(numbers) != len(skeleton.bones[words[0]].dof):
                raise ValueError(f"{len(numbers)} numbers for {words[0]!r} in frame {count}")
            rows[words[0]].append(numbers)
    except ValueError as error:
        raise InputError(
            path, found=str(error), expected="a line for each bone of its skeleton",
            fix="Give the ASF file of this motion.",
        ) from error  # fmt: skip
    short = [name for name, lines in rows.items() if len(lines) != count]
    if short or not count:
        raise InputError(
            path, found=f"{count} frames" + (f", but {len(rows[short[0]])} of {short[0]}" if short else ""),
            expected="every bone in every frame", fix="The file is cut off or no AMC file: get it again.",
        )  # fmt: skip
    return {name: np.array(lines) for name, lines in rows.items()}


def _clip(skeleton: Acclaim, frames: dict[str, np.ndarray], fps: float) -> RawClip:
    count = len(frames["root"])
    names = ["root"]
    for name in names:  # grows while it is walked: parents before children
        names += [child for child, parent in skeleton.parents.items() if parent == name]
    parents = [-1, *(names.index(skeleton.parents[name]) for name in names[1:])]
    bones = torch.tensor(
        [[axis * skeleton.bones[name].length for axis in skeleton.bones[name].direction] for name in names],
        dtype=torch.float64,
    )
    offsets = torch.cat([torch.zeros(1, 3, dtype=torch.float64), bones[parents[1:]]])
    last = [index for index in range(1, len(names)) if index not in parents]
    positions = offsets.expand(count, -1, -1).clone()
    root = skeleton.bones["root"]
    for place, kind in enumerate(root.dof):
        if kind[0] == "t":
            positions[:, 0, "xyz".index(kind[1])] = torch.from_numpy(frames["root"][:, place])
    rotations = torch.stack([_turns(skeleton, name, frames.get(name), count) for name in names], 1)
    return RawClip(tuple(names), tuple(parents), (), offsets, tuple(last), bones[last], positions, rotations, fps)


def _turns(skeleton: Acclaim, name: str, numbers: np.ndarray | None, count: int) -> Tensor:
    bone = skeleton.bones[name]
    turns = [place for place, kind in enumerate(bone.dof) if kind[0] == "r"]
    if numbers is None or not turns:
        return torch.eye(3, dtype=torch.float64).expand(count, 3, 3)
    unit = 1.0 if skeleton.degrees else 180 / np.pi

    def about_fixed_axes(order: str, angles: Tensor) -> Tensor:
        return from_euler(order[::-1], unit * angles.flip(-1))

    order = "".join(bone.dof[place][1] for place in turns).upper()
    axes = about_fixed_axes(bone.axis_order, torch.tensor(bone.axis, dtype=torch.float64))
    return axes @ about_fixed_axes(order, torch.from_numpy(numbers[:, turns])) @ axes.T
