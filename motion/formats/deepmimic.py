"""DeepMimic's clips: JSON of frames (seconds, root position, root quaternion, joints) of its humanoid.

y is up, the body looks along x, its right is z; metres. Quaternions are w, x, y, z; knees and elbows are one angle
about z, rad. A frame holds for its seconds; the last one's are often 0. `Loop: wrap` means that the clip starts again
from where it ends, its last frame being the first of the next run. Few of the published clips close: the walk's joints
jump by 5.6 degrees in the mean where it wraps.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from motion.blending import concatenated
from motion.clips import Motion, heading
from motion.formats.files import read_text
from motion.formats.raw import RawClip, to_motion
from motion.rotations import about_axis, from_quaternions, interpolate
from shared.errors import InputError

# Joint, parent, offset in m: data/characters/humanoid3d.txt of github.com/xbpeng/DeepMimic (MIT).
HUMANOID: tuple[tuple[str, int, tuple[float, float, float]], ...] = (
    ("root", -1, (0.0, 0.0, 0.0)),
    ("chest", 0, (0.0, 0.236151, 0.0)),
    ("neck", 1, (0.0, 0.223894, 0.0)),
    ("right_hip", 0, (0.0, 0.0, 0.084887)),
    ("right_knee", 3, (0.0, -0.421546, 0.0)),
    ("right_ankle", 4, (0.0, -0.40987, 0.0)),
    ("right_shoulder", 1, (-0.02405, 0.2435, 0.18311)),
    ("right_elbow", 6, (0.0, -0.274788, 0.0)),
    ("right_wrist", 7, (0.0, -0.258947, 0.0)),
    ("left_hip", 0, (0.0, 0.0, -0.084887)),
    ("left_knee", 9, (0.0, -0.421546, 0.0)),
    ("left_ankle", 10, (0.0, -0.40987, 0.0)),
    ("left_shoulder", 1, (-0.02405, 0.2435, -0.18311)),
    ("left_elbow", 12, (0.0, -0.274788, 0.0)),
    ("left_wrist", 13, (0.0, -0.258947, 0.0)),
)
# The same file's bodies: the top of the head, and the tips of the feet on the sole.
END_SITES = {2: (0.0, 0.2775, 0.0), 5: (0.1335, -0.05, 0.0), 11: (0.1335, -0.05, 0.0)}
# Columns of a frame behind seconds, root position and root quaternion; wrists are fixed.
QUATERNIONS = {1: 8, 2: 12, 3: 16, 5: 21, 6: 25, 9: 30, 11: 35, 12: 39}
ANGLES = {4: 20, 7: 29, 10: 34, 13: 43}
COLUMNS = 44


def read_deepmimic(
    path: str | os.PathLike[str], *, fps: float | None = None, roles: Mapping[str, str] | None = None, cycles: int = 1,
) -> Motion:  # fmt: skip
    """Read a clip, plain or gzipped.

    Args:
        path: of the file.
        fps: frames a second, instead of the file's; None for those of most frames, to which others are resampled.
        roles: joints by role, instead of those by name.
        cycles: how often a clip with `Loop: wrap` is run through, each time from where the last one ended.

    Raises:
        InputError: it is no such clip, or a clip without `Loop: wrap` is to be repeated.
    """
    path = Path(path)
    try:
        content = json.loads(read_text(path))
        frames = np.array(content["Frames"], dtype=np.float64)
        wraps = str(content.get("Loop", "none")).lower() == "wrap"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            path, found="no Frames of numbers", expected="a clip of DeepMimic's humanoid in JSON",
            fix="Give another file.",
        ) from error  # fmt: skip
    if frames.ndim != 2 or frames.shape[1] != COLUMNS:
        raise InputError(
            path, found=f"frames {frames.shape}", expected=f"(frames, {COLUMNS}) numbers of the humanoid with 15 links",
            fix="Clips of DeepMimic's other characters are not read.",
        )  # fmt: skip
    if cycles > 1 and not wraps:
        raise InputError(path, found="a clip that does not repeat", expected="Loop: wrap", fix="Read it once.")
    held = frames[:-1, 0]
    if not (held > 0).all():
        raise InputError(path, found="frames of no length", expected="seconds > 0", fix="Leave out those frames.")
    rate = 1 / float(np.median(held)) if len(held) else 30.0
    rate = float(round(rate)) if abs(rate - round(rate)) < 0.01 * rate else rate
    motion = to_motion(_clip(frames, rate), path, units="m", up="y", roles=roles, rest_frame=False)
    motion = _at_even_times(motion, np.concatenate([[0.0], np.cumsum(held)]), rate)
    motion = _repeated(motion, cycles) if cycles > 1 else motion
    return motion if fps is None else replace(motion, fps=fps)


def _clip(frames: np.ndarray, fps: float) -> RawClip:
    values = torch.from_numpy(frames)
    names, parents, rows = zip(*HUMANOID, strict=True)
    offsets = torch.tensor(rows, dtype=torch.float64)
    rotations = torch.eye(3, dtype=torch.float64).repeat(len(values), len(names), 1, 1)
    for joint, column in ({0: 4} | QUATERNIONS).items():
        w, x, y, z = values[:, column : column + 4].unbind(-1)
        rotations[:, joint] = from_quaternions(torch.stack([x, y, z, w], -1))
    for joint, column in ANGLES.items():
        rotations[:, joint] = about_axis(2, values[:, column])
    positions = offsets.expand(len(values), -1, -1).clone()
    positions[:, 0] = values[:, 1:4]
    ends = torch.tensor(list(END_SITES.values()), dtype=torch.float64)
    return RawClip(names, parents, (), offsets, tuple(END_SITES), ends, positions, rotations, fps)


def _at_even_times(motion: Motion, times: np.ndarray, fps: float) -> Motion:
    """Return the motion at k / fps seconds, where its frames stand at `times`."""
    even = np.arange(motion.frames) / fps
    if np.abs(times - even).max() < 0.25 / fps:
        return motion
    even = np.arange(int(times[-1] * fps + 0.1) + 1) / fps  # a tenth of a frame short keeps the last one
    low = np.clip(np.searchsorted(times, even, side="right") - 1, 0, motion.frames - 2)
    share = torch.from_numpy((even - times[low]) / (times[low + 1] - times[low])).clamp(0, 1)
    root = motion.root[low] + share[:, None] * (motion.root[low + 1] - motion.root[low])
    rotations = interpolate(motion.rotations[low], motion.rotations[low + 1], share[:, None])
    return replace(motion, root=root, rotations=rotations)


def _repeated(motion: Motion, cycles: int) -> Motion:
    """Return the clip run through several times; each run starts in the place and heading where the last ended."""
    parts = [motion]
    for _ in range(cycles - 1):
        turn, shift = _step(motion, parts[-1])
        parts.append(motion.placed(turn, shift).cut(1))
    return concatenated(parts)


def _step(motion: Motion, before: Motion) -> tuple[Tensor, Tensor]:
    start, end = heading(motion.positions()[0], motion.skeleton), heading(before.positions()[-1], motion.skeleton)
    turn = end @ start.T
    shift = before.root[-1] - turn @ motion.root[0]
    shift[2] = 0
    return turn, shift
