"""The kinematic rival of `benchmarks.motion_tasks`: recordings cut to a schedule, their feet locked.

For each sub-task the longest run of its action among the recordings is taken (for walking the one whose speed is
nearest). Where the body moves, frames are chosen by how far along it is, and the hips are put over the plan and turned
as planned; where it stays, the run is played once and its last pose held. Seats and beds have the planned height.
Between sub-tasks poses go over within a third of a second.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from motion.actions import ACTION
from motion.anatomy import Anatomy
from motion.blending import blend
from motion.clips import Motion
from motion.collection import Collection
from motion.features import HEADING, PATH
from motion.finish import feet_locked
from motion.schedule import Schedule, SubTask

OVER = 10  # frames from one sub-task into the next


def retrieved(collection: Collection, schedule: Schedule, anatomy: Anatomy, floor: float = 0.0) -> Motion:
    """Return recordings cut to a schedule."""
    parts, fps = [], collection.fps
    for task in schedule.subtasks:
        run = _run(collection, task)
        frames = len(task.pelvis)
        features = run[torch.from_numpy(_frames(run, task, fps))].clone()
        features[:, PATH] = torch.from_numpy(task.pelvis[:, :2]).float()
        right = np.stack([task.facing[:, 1], -task.facing[:, 0]], 1)
        features[:, HEADING] = torch.from_numpy(right).float()
        motion = collection.body.decode(features, fps)
        low = torch.from_numpy(task.pelvis[:, 2] - floor)
        middle = motion.positions()[:, list(anatomy.pelvis)].mean(1)
        shift = torch.zeros(frames, 3, dtype=torch.float64)
        shift[:, :2] = torch.from_numpy(task.pelvis[:, :2]) - middle[:, :2]
        if task.action in ("sit", "lie", "stand_up", "get_up"):
            shift[:, 2] = low - middle[:, 2]
        parts.append(Motion(motion.skeleton, motion.root + shift, motion.rotations, fps))
    whole = parts[0]
    for part in parts[1:]:
        over = min(OVER, part.frames)
        held = torch.full((over,), whole.frames - 1)
        last = Motion(whole.skeleton, part.root[:over], whole.rotations[held], fps)
        shares = torch.arange(1, over + 1, dtype=torch.float64) / (over + 1)
        eased = blend(last, part.cut(0, over), shares)
        whole = Motion(
            whole.skeleton, torch.cat([whole.root, eased.root, part.root[over:]]),
            torch.cat([whole.rotations, eased.rotations, part.rotations[over:]]), fps,
        )  # fmt: skip
    raised = Motion(whole.skeleton, whole.root + whole.root.new_tensor([0.0, 0.0, floor]), whole.rotations, fps)
    return feet_locked(raised, anatomy=anatomy, floor=floor)


def _run(collection: Collection, task: SubTask) -> Tensor:
    """Return the features (S, D) of the recording that fits a sub-task best."""
    wanted, found = ACTION[task.action], []
    stays = task.action in ("sit", "lie") and task.speed == 0
    for clip in collection.clips:
        hits = (clip.actions == wanted).int()
        edges = torch.diff(hits, prepend=hits.new_zeros(1), append=hits.new_zeros(1))
        for start, stop in zip(edges.eq(1).nonzero()[:, 0], edges.eq(-1).nonzero()[:, 0], strict=True):
            if stop - start >= OVER:
                found.append(clip.features[start:stop])
    if task.action in ("walk", "run"):
        steps = [run[:, PATH].diff(dim=0).norm(dim=-1).mean() * collection.fps for run in found]
        long = [k for k, run in enumerate(found) if len(run) >= 45] or list(range(len(found)))
        return found[min(long, key=lambda k: abs(float(steps[k]) - task.speed))]
    best = max(found, key=len)
    return best[-1:] if stays else best


def _frames(run: Tensor, task: SubTask, fps: float) -> np.ndarray:
    """Return which frame of the recording is shown when, (F,)."""
    frames = len(task.pelvis)
    if task.action in ("walk", "run") and len(run) > 1:
        along = np.r_[0.0, np.cumsum(run[:, PATH].diff(dim=0).norm(dim=-1).numpy())]
        way = np.r_[0.0, np.cumsum(np.linalg.norm(np.diff(task.pelvis[:, :2], axis=0), axis=1))]
        place = np.interp(way % max(along[-1], 1e-3), along, np.arange(len(run)))
        return place.round().astype(np.int64)
    return np.minimum(np.arange(frames) * len(run) // max(frames, len(run)), len(run) - 1)
