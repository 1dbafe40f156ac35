"""What a body does in each frame, told by geometry: heights, speeds and the trunk's lean; and by the names of clips.

| action | a frame in which, of those not named before |
| --- | --- |
| lie | the trunk is level and the hips are low |
| jump, climb | both soles are high over the floor, for less or for more than 0.8 s |
| sit | the hips are low for a second or where the clip ends, the trunk is upright and the feet are in front |
| crouch | the hips are low or the trunk is bent |
| run, walk | the hips move on |
| turn | the heading turns |
| reach | a hand is over the head, or stretched out at the height of the shoulder or higher |
| stand | is left |

The way down to a seat or the ground is `sit` and `lie`, the way up `stand_up` and `get_up`. Geometry cannot tell what
else there is: clips whose names say so are `other`. `any` is no label: a network hears it where nothing is asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from motion.clips import Motion, heading
from motion.kinematics import forward_kinematics
from motion.skeleton import Skeleton
from motion.stance import soles
from shared.errors import InputError

ACTIONS = (
    "any", "stand", "walk", "run", "turn", "sit", "stand_up", "lie", "get_up", "crouch", "reach", "jump", "climb",
    "other",
)  # fmt: skip
ACTION = {name: index for index, name in enumerate(ACTIONS)}
OTHER = re.compile("crawl|roll|cartwheel|flip|kick|punch|spin|dance|moonwalk|^02_0[5789]$|^02_10$")

LYING, LOW, CROUCHED, UP = 0.45, 0.75, 0.82, 0.9  # height of the hips in units of that of a standing body
LEVEL, BENT = 0.5, 0.75  # upward part of the direction from hips to head
FEET_AHEAD = 0.25  # m in front of the hips
HIGH = 0.15  # m under both soles
JUMP_SECONDS, AROUND_JUMP = 0.8, 0.3
RUN, WALK = 2.0, 0.4  # m/s
TURN = 0.7  # rad/s
STRETCHED, SHOULDER_HIGH = 0.93, -0.1  # of the arm's length; m over the shoulder
OVER = 0.25  # s before and after a frame over which it moves and turns
SHORTEST = 5  # frames of an action; shorter runs take the label around them
RISE_SECONDS, SIT_SECONDS = 4.0, 1.0  # a body that ducks is low for less


def label(motion: Motion, name: str = "") -> Tensor:
    """Return the action of each frame, (F,) int64 indices of `ACTIONS`.

    Args:
        motion: of a skeleton with known feet and head, the floor at z = 0.
        name: of the clip, without folder and suffix.
    """
    if OTHER.search(name):
        return torch.full((motion.frames,), ACTION["other"])
    height, trunk = _height_and_trunk(motion)
    found = _despeckled(_postures(motion, height, trunk))
    for value, start, stop in list(runs(found)):
        if value == ACTION["sit"] and start > 0 and stop < motion.frames and stop - start < SIT_SECONDS * motion.fps:
            found[start:stop] = ACTION["crouch"]
    for posture, rise in (("sit", "stand_up"), ("lie", "get_up")):
        _mark_ways(found, height, trunk, motion.fps, ACTION[posture], ACTION[rise])
    return torch.from_numpy(found)


def action_indices(actions: str | Sequence[str], frames: int, table: Sequence[str]) -> Tensor:
    """Return the indices in a network's table of actions, (F,): one for all frames, or one a frame.

    Raises:
        InputError: an unknown action, or not one a frame.
    """
    names = [actions] * frames if isinstance(actions, str) else list(actions)
    unknown = sorted(set(names) - set(table))
    if unknown or len(names) != frames:
        raise InputError(
            "actions", found=f"{', '.join(unknown) or len(names)} for {frames} frames",
            expected=f"one of {', '.join(table)} for all frames or for each", fix="Correct them.",
        )  # fmt: skip
    return torch.tensor([table.index(name) for name in names])


def runs(labels: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Yield label, first frame and the frame after the last of each run of equal labels."""
    start = 0
    for value, group in groupby(labels.tolist()):
        stop = start + sum(1 for _ in group)
        yield value, start, stop
        start = stop


def standing_height(skeleton: Skeleton) -> float:
    """Return how high, m, the hips of the body at rest are over its soles."""
    assert skeleton.rest is not None
    placed, turned = forward_kinematics(skeleton, torch.zeros(3, dtype=skeleton.rest.dtype), skeleton.rest)
    hips = placed[skeleton.joints("hips")[0], 2]
    return float(hips - soles(skeleton, placed, turned).min())


def _height_and_trunk(motion: Motion) -> tuple[np.ndarray, np.ndarray]:
    hips, head = motion.skeleton.joints("hips", "head")
    positions = motion.positions()
    trunk = positions[:, head] - positions[:, hips]
    height = positions[:, hips, 2] / standing_height(motion.skeleton)
    return height.numpy(), (trunk[:, 2] / trunk.norm(dim=-1)).numpy()


def _postures(motion: Motion, height: np.ndarray, trunk: np.ndarray) -> np.ndarray:
    skeleton = motion.skeleton
    positions, turned = motion.pose()
    hips, head, left, right = skeleton.joints("hips", "head", "left_ankle", "right_ankle")
    axes = heading(positions, skeleton)
    ankles = (positions[:, left] + positions[:, right]) / 2 - positions[:, hips]
    ahead = (ankles * axes[:, :, 1]).sum(-1).numpy()
    frames, span = np.arange(motion.frames), round(OVER * motion.fps)
    before, after = np.maximum(frames - span, 0), np.minimum(frames + span, motion.frames - 1)
    seconds = np.maximum(after - before, 1) / motion.fps
    path, angle = positions[:, hips, :2].numpy(), np.unwrap(torch.atan2(axes[:, 1, 0], axes[:, 0, 0]).numpy())
    speed = np.linalg.norm(path[after] - path[before], axis=-1) / seconds
    turning = np.abs(angle[after] - angle[before]) / seconds
    low = soles(skeleton, positions, turned).amin(-1).numpy()
    airborne, climbing = _off_the_floor(low > HIGH, motion.fps)
    rules = {
        "lie": (trunk < LEVEL) & (height < LYING),
        "climb": climbing,
        "jump": airborne & (speed < RUN),
        "sit": (height < LOW) & (trunk > LEVEL) & (ahead > FEET_AHEAD),
        "crouch": (height < CROUCHED) | (trunk < BENT),
        "run": speed > RUN,
        "walk": speed > WALK,
        "turn": turning > TURN,
        "reach": _reaching(skeleton, positions, head),
    }
    return np.select(list(rules.values()), [ACTION[name] for name in rules], ACTION["stand"]).astype(np.int64)


def _off_the_floor(high: np.ndarray, fps: float) -> tuple[np.ndarray, np.ndarray]:
    """Return when a body jumps, take-off and landing with it, and when it stands on something high."""
    jumps, climbs, around = np.zeros_like(high), np.zeros_like(high), round(AROUND_JUMP * fps)
    for value, start, stop in runs(high):
        if value and stop - start < JUMP_SECONDS * fps:
            jumps[max(start - around, 0) : stop + around] = True
        elif value:
            climbs[start:stop] = True
    return jumps, climbs


def _reaching(skeleton: Skeleton, positions: Tensor, head: int) -> np.ndarray:
    found = torch.zeros(len(positions), dtype=torch.bool)
    for side in ("left", "right"):
        if f"{side}_hand" not in skeleton.roles:
            continue
        shoulder, hand = skeleton.joints(f"{side}_shoulder", f"{side}_hand")
        arm = positions[:, hand] - positions[:, shoulder]
        stretched = arm.norm(dim=-1) > STRETCHED * skeleton.length(f"{side}_shoulder", f"{side}_hand")
        found |= (positions[:, hand, 2] > positions[:, head, 2]) | (stretched & (arm[:, 2] > SHOULDER_HIGH))
    return found.numpy()


def _despeckled(labels: np.ndarray) -> np.ndarray:
    """Return labels whose short runs are taken over by the longer of their neighbours, the shortest first."""
    labels = labels.copy()
    while True:
        found = list(runs(labels))
        short = [(stop - start, place) for place, (_, start, stop) in enumerate(found) if stop - start < SHORTEST]
        if not short or len(found) < 2:
            return labels
        _, place = min(short)
        around = [found[near] for near in (place - 1, place + 1) if 0 <= near < len(found)]
        labels[found[place][1] : found[place][2]] = max(around, key=lambda run: run[2] - run[1])[0]


def _mark_ways(labels: np.ndarray, height: np.ndarray, trunk: np.ndarray, fps: float, posture: int, rise: int) -> None:
    """Label the way down into a posture as the posture, and the way up from where it is lowest as the rise."""
    up, most = (height > UP) & (trunk > BENT), round(RISE_SECONDS * fps)
    for value, start, stop in list(runs(labels)):
        if value != posture:
            continue
        before = np.flatnonzero(up[max(start - most, 0) : start])
        if len(before):
            labels[max(start - most, 0) + before[-1] + 1 : start] = posture
        after = np.flatnonzero(up[stop : stop + most])
        if len(after):
            low = np.flatnonzero(height[start:stop] < height[start:stop].min() + 0.05 * (1 - height[start:stop].min()))
            labels[start + low[-1] + 1 : stop + after[0]] = rise
