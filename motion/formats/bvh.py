"""BVH in and out: any channels a joint, any order of rotations a joint, positions on any joint.

    R = R_a R_b R_c of the rotation channels in their order; a position channel replaces the offset.

Written files are stable: what is read of a written file is written again byte for byte.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from motion.clips import Motion
from motion.formats.files import read_text, snapped_rate
from motion.formats.raw import RawClip, to_motion
from motion.rotations import from_euler, to_euler
from motion.skeleton import ROOT_CHANNELS, Skeleton
from shared.errors import InputError
from shared.files import atomic_path

AXES = "XYZ"


@dataclass
class Hierarchy:
    """What stands above MOTION, in the file's units and axes."""

    names: list[str] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    offsets: list[list[float]] = field(default_factory=list)
    channels: list[tuple[str, ...]] = field(default_factory=list)
    end_joints: list[int] = field(default_factory=list)
    end_offsets: list[list[float]] = field(default_factory=list)


def read_bvh(
    path: str | os.PathLike[str], *, units: str = "auto", up: str = "auto", fps: float | None = None,
    roles: Mapping[str, str] | None = None, rest_frame: bool | None = None,
) -> Motion:  # fmt: skip
    """Read a BVH file, plain or gzipped.

    Args:
        path: of the file.
        units: m, cm, mm, in, cmu (inches / 0.45), or auto.
        up: y, z, or auto.
        fps: frames a second, instead of the file's.
        roles: joints by role, where names do not tell them.
        rest_frame: whether frame 0 is a rest pose and no motion; None to look.

    Raises:
        InputError: it is no BVH file, or it is cut off.
    """
    path = Path(path)
    raw = _parse(path, read_text(path))
    if fps is not None:
        raw = replace(raw, fps=fps)
    return to_motion(raw, path, units=units, up=up, roles=roles, rest_frame=rest_frame)


def write_bvh(path: str | os.PathLike[str], motion: Motion, *, overwrite: bool = False) -> None:
    """Write a BVH file in the units, axes and channels of the skeleton's conventions, six decimals.

    The root's offset is written as 0, because readers do not agree on what another one means. A joint with other than
    three rotation channels gets Z, X, Y; one that leaves its offset gets position channels; a last joint without an end
    site gets one of length 0.

    Raises:
        InputError: the file exists.
    """
    with atomic_path(path, overwrite=overwrite) as scratch:
        scratch.write_text(bvh_text(motion), encoding="utf-8", newline="\n")


def bvh_text(motion: Motion) -> str:
    """Return the text of `write_bvh`."""
    skeleton = motion.skeleton
    axes, unit = skeleton.conventions.axes, skeleton.conventions.metres_per_unit
    channels = _written_channels(motion)
    offsets = skeleton.offsets.double() @ axes / unit
    ends: dict[int, list[Tensor]] = {}
    for joint, end in zip(skeleton.end_joints, skeleton.end_offsets.double() @ axes / unit, strict=True):
        ends.setdefault(joint, []).append(end)
    moved = skeleton.offsets if motion.offsets is None else motion.offsets
    places = moved.double().expand(motion.frames, -1, -1).clone()
    places[:, 0] = motion.root
    places = places @ axes / unit
    turned = axes.T @ motion.rotations.double() @ axes
    orders = ["".join(name[0] for name in names if name.endswith("rotation")) for names in channels]
    angles = torch.empty_like(places)
    for order in set(orders):
        same = [joint for joint, other in enumerate(orders) if other == order]
        angles[:, same] = to_euler(order, turned[:, same])
    columns = []
    for joint, names in enumerate(channels):
        for name in names:
            turns = name.endswith("rotation")
            place = (orders[joint] if turns else AXES).index(name[0])
            columns.append((angles if turns else places)[:, joint, place])
    text = io.StringIO()
    text.write("HIERARCHY\n")
    _write_joint(text, skeleton, 0, channels, offsets, ends)
    text.write(f"MOTION\nFrames: {motion.frames}\nFrame Time: {1 / motion.fps:.8f}\n")
    values = np.round(torch.stack(columns, 1).numpy(), 6) + 0.0  # no -0
    angular = np.array([name.endswith("rotation") for names in channels for name in names])
    values[:, angular] = np.where(values[:, angular] == -180.0, 180.0, values[:, angular])
    np.savetxt(text, values, fmt="%.6f")
    return text.getvalue()


def _parse(path: Path, text: str) -> RawClip:
    head, *rest = re.split(r"^\s*MOTION\s*$", text, maxsplit=1, flags=re.MULTILINE)
    lines = [line.strip() for line in rest[0].split("\n")] if rest else []
    header = {key.strip().lower(): value for key, mark, value in (line.partition(":") for line in lines[:8]) if mark}
    if "HIERARCHY" not in head or not {"frames", "frame time"} <= set(header):
        raise InputError(
            path, found="no HIERARCHY and MOTION with Frames and Frame Time", expected="a BVH file",
            fix="Give another file.",
        )  # fmt: skip
    try:
        tree = _hierarchy(head)
        count, fps = int(header["frames"]), snapped_rate(header["frame time"].strip())
        numbers = " ".join(line for line in lines if line and ":" not in line)
        values = torch.from_numpy(np.array(numbers.split(), dtype=np.float64))
    except (ValueError, IndexError) as error:
        found = str(error)
        raise InputError(path, found=found, expected="numbers and joints as in BVH", fix="Repair it.") from error
    width = sum(len(names) for names in tree.channels)
    if len(values) != count * width or not count:
        raise InputError(
            path, found=f"{len(values)} numbers", expected=f"{count} frames of {width} channels",
            fix="The file is cut off or its counts are wrong: get it again.",
        )  # fmt: skip
    return _clip(tree, values.reshape(count, width), fps)


def _hierarchy(text: str) -> Hierarchy:
    tree = Hierarchy()
    above: list[int] = []  # joints whose braces are open; the last is the one that lines describe
    ending = False
    for line in text.replace("{", "\n{\n").replace("}", "\n}\n").split("\n"):
        word, _, rest = line.strip().replace("\t", " ").partition(" ")
        match word.upper():
            case "ROOT" | "JOINT":
                if tree.names and not above:
                    raise ValueError(f"a second root {rest.strip()}")
                if rest.strip() in tree.names:
                    raise ValueError(f"two joints named {rest.strip()}")
                tree.names.append(rest.strip())
                tree.parents.append(above[-1] if above else -1)
                tree.channels.append(())
                tree.offsets.append([0.0, 0.0, 0.0])
                above.append(len(tree.names) - 1)
            case "END":
                ending = True
            case "OFFSET":
                offset = [float(value) for value in rest.split()]
                if len(offset) != 3:
                    raise ValueError(f"the offset {rest.strip()}")
                if ending:
                    tree.end_joints.append(above[-1])
                    tree.end_offsets.append(offset)
                else:
                    tree.offsets[above[-1]] = offset
            case "CHANNELS":
                tree.channels[above[-1]] = _channels(rest.split())
            case "}":
                if not ending:
                    above.pop()
                ending = False
    if above or not tree.names:
        raise ValueError("unbalanced braces")
    return tree


def _channels(words: list[str]) -> tuple[str, ...]:
    names = tuple(word.capitalize() for word in words[1:])
    known = {f"{axis}{kind}" for axis in AXES for kind in ("position", "rotation")}
    if len(names) != int(words[0]) or not set(names) <= known:
        raise ValueError(f"the channels {' '.join(words)}")
    return names


def _clip(tree: Hierarchy, values: Tensor, fps: float) -> RawClip:
    offsets = torch.tensor(tree.offsets, dtype=torch.float64)
    positions = offsets.expand(len(values), -1, -1).clone()
    positions[:, 0] = 0
    rotations = torch.empty(len(values), len(tree.names), 3, 3, dtype=torch.float64)
    same_order: dict[str, list[tuple[int, list[int]]]] = {}
    start = 0
    for joint, names in enumerate(tree.channels):
        turns = [start + place for place, name in enumerate(names) if name.endswith("rotation")]
        same_order.setdefault("".join(names[turn - start][0] for turn in turns), []).append((joint, turns))
        for place, name in enumerate(names):
            if name.endswith("position"):
                positions[:, joint, AXES.index(name[0])] = values[:, start + place]
        start += len(names)
    for order, joints in same_order.items():
        rotations[:, [joint for joint, _ in joints]] = from_euler(order, values[:, [turns for _, turns in joints]])
    return RawClip(
        tuple(tree.names), tuple(tree.parents), tuple(tree.channels), offsets, tuple(tree.end_joints),
        torch.tensor(tree.end_offsets, dtype=torch.float64).reshape(-1, 3), positions, rotations, fps,
    )  # fmt: skip


def _written_channels(motion: Motion) -> list[tuple[str, ...]]:
    skeleton = motion.skeleton
    given = skeleton.conventions.channels or (ROOT_CHANNELS, *[ROOT_CHANNELS[3:]] * (len(skeleton) - 1))
    written = []
    for joint, (names, moving) in enumerate(zip(given, motion.moving.tolist(), strict=True)):
        places = tuple(name for name in names if name.endswith("position"))
        turns = tuple(name for name in names if name.endswith("rotation"))
        if (moving or joint == 0) and len(set(places)) != 3:
            places, names = ROOT_CHANNELS[:3], ()
        if len(set(turns)) != 3 or len(turns) != 3:
            turns, names = ROOT_CHANNELS[3:], ()
        written.append(names or places + turns)
    return written


def _write_joint(
    text: io.StringIO, skeleton: Skeleton, joint: int, channels: list[tuple[str, ...]], offsets: Tensor,
    ends: dict[int, list[Tensor]], depth: int = 0,
) -> None:  # fmt: skip
    indent = "\t" * depth
    text.write(f"{indent}{'JOINT' if depth else 'ROOT'} {skeleton.names[joint]}\n{indent}{{\n")
    text.write(f"{indent}\tOFFSET {_triple(offsets[joint])}\n")
    text.write(f"{indent}\tCHANNELS {len(channels[joint])} {' '.join(channels[joint])}\n")
    children = [child for child, parent in enumerate(skeleton.parents) if parent == joint]
    for child in children:
        _write_joint(text, skeleton, child, channels, offsets, ends, depth + 1)
    for end in ends.get(joint, [] if children else [torch.zeros(3)]):
        text.write(f"{indent}\tEnd Site\n{indent}\t{{\n{indent}\t\tOFFSET {_triple(end)}\n{indent}\t}}\n")
    text.write(f"{indent}}}\n")


def _triple(vector: Tensor) -> str:
    return " ".join(f"{value:.6f}" for value in np.round(vector.numpy(), 6) + 0.0)
