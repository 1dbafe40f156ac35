"""Motion that does tasks in a scene: window after window, each going on from the last and drawn by the policy.

A window begins with the last `HISTORY` frames of the motion so far, which it is told and keeps (`motion.model.Known`),
is seen from where the body stands in the first of them, and is drawn so that it fits what its frames should do
(`motion.policy`). Where it walks, it is told the way of its hips. Frames that both have are blended
(`motion.blending`). A window is drawn again if its jerk as it leaves its history is over `ROUGH` times the motion's, or
if it is more than `MISSED` beside its hints; where that does not help, with the window before it (`Policy.returns`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from motion.anatomy import Anatomy
from motion.blending import joined
from motion.clips import Motion
from motion.energies import USUAL, Objective, Weights
from motion.features import Body
from motion.goals import Goals
from motion.kept import Kept, SoFar, fingerprint, keep, kept_of
from motion.metrics import jerk
from motion.model import Known, MotionModel, known_path, known_poses
from motion.policy import FAST, PlacedObjective, Policy, guided
from motion.scene.body import Distance
from motion.schedule import Schedule, SubTask
from shared.calibration.identity import weights_hash
from shared.grid import trailing_grid
from shared.progress import tracked

HISTORY = 10  # frames
NEAR = 15  # frames by which a window is made longer or shorter to end where a task does
EDGE = 15  # frames before and after a way in which the hips come to it and leave it
BACK = 30  # frames in which a body that is beside its way comes back to it
ROUGH = 1.35  # jerk at a seam, in units of the motion's so far
MISSED = 0.3  # m, sum over the hints of a window beyond their tolerances
STEEP = 6  # power of a seam's roughness: 1.5 is as bad as hints missed by 0.56 m
LOST = 1.85  # how wrong a window is that goes on from what is wrong
UP = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
SAME = torch.eye(3, dtype=torch.float64)
Span = tuple[int, int]
Window = tuple[int, int, float]
"""First frame, the frame after the last, and the level of what carries the body, m."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """A motion with how it came about.

    Attributes:
        motion: in the scene.
        windows: first frame of each window, and the frame after its last.
        energies: the terms of each window's objective, without weights.
        network_calls: of all windows, those drawn again among them, and candidates.
        seconds: of the processor, likewise.
    """

    motion: Motion
    windows: tuple[Span, ...]
    energies: tuple[dict[str, float], ...]
    network_calls: int
    seconds: float


def draw_schedule(
    model: MotionModel,
    schedule: Schedule,
    anatomy: Anatomy,
    field: Distance | None = None,
    *,
    floor: float = 0.0,
    policy: Policy = FAST,
    weights: Weights = USUAL,
    seed: int = 0,
    work: Path | None = None,
    progress: str | None = None,
) -> Drawn:
    """Return a motion of the model's body that does what a schedule says.

    Args:
        model: the prior.
        schedule: of a body with this anatomy (`motion.schedule.resolve`).
        anatomy: of the model's body.
        field: signed distance to the scene; None where there is none.
        floor: height, m.
        policy: how each window is drawn.
        weights: of the energies.
        seed: of all noise.
        work: file that keeps the windows that are done (`motion.kept`); from one of this motion it goes on. None keeps
            nothing.
        progress: label of a progress bar; None is silent.

    Raises:
        InputError: `work` is of another motion, or damaged.
    """
    generator = torch.Generator(device=model.device).manual_seed(seed)
    windows = spans(schedule.subtasks, model.config.frames[1], HISTORY)
    of = "" if work is None else _fingerprint(model, schedule, field, floor, policy, weights, seed)
    kept = Kept() if work is None else kept_of(work, of, model.body.skeleton, generator)
    drawing = _Drawing(model, schedule, anatomy, field, floor, policy, weights, generator, kept.draws)
    for k in tracked(range(len(kept.last.energies), len(windows)), progress):
        begin = time.process_time()
        pair = drawing.onwards(kept.before, kept.last, windows[max(0, k - 1) : k + 1])
        kept = Kept(*pair, drawing.draws, kept.seconds + time.process_time() - begin)
        if work is not None:
            keep(work, of, kept, generator)
    assert kept.last.motion is not None
    calls = kept.draws * policy.candidates * policy.network_calls(trailing_grid(model.process, policy.calls))
    motion = kept.last.motion.placed(SAME, floor * UP)
    return Drawn(motion, tuple((start, stop) for start, stop, _ in windows), kept.last.energies, calls, kept.seconds)


@dataclass(eq=False)
class _Drawing:
    """What all windows of a motion have in common, and how many were drawn."""

    model: MotionModel
    schedule: Schedule
    anatomy: Anatomy
    field: Distance | None
    floor: float
    policy: Policy
    weights: Weights
    generator: torch.Generator
    draws: int = 0

    def __post_init__(self) -> None:
        self.actions = [task.action for task in self.schedule.subtasks for _ in range(task.stop - task.start)]

    def onwards(self, before: SoFar | None, last: SoFar, windows: Sequence[Window]) -> tuple[SoFar, SoFar]:
        """Return the motion so far, and with one window more.

        Where no draw of it is right, what it goes on from may be wrong: then the window before is drawn again as well,
        and of these pairs the least wrong is taken.

        Args:
            before: without the last window; None at the beginning.
            last: so far.
            windows: the last one, and the next.
        """
        further = self.longer(last, windows[-1], self.policy.redraws)
        for _ in range(self.policy.returns):
            if further.wrong <= LOST or before is None:
                break
            again = self.longer(before, windows[0])
            beyond = self.longer(again, windows[-1])
            if max(again.wrong, beyond.wrong) < max(last.wrong, further.wrong):
                last, further = again, beyond
        return last, further

    def longer(self, last: SoFar, window: Window, redraws: int = 0) -> SoFar:
        """Return a motion with one window more, drawn until it is right, or the least wrong of 1 + `redraws`."""
        start, stop, level = window
        body, config, motion = self.model.body, self.model.config, last.motion
        # The network knows windows of a certain length: a shorter one goes on with its last action and no goals.
        frames = max(stop - start, config.frames[0])
        known = None
        if motion is None:
            first = self.schedule.subtasks[0]
            axes, origin = _standing_at(first.pelvis[0], first.facing[0])
        else:
            history, axes, origin = motion.cut(start).placed(SAME, -level * UP).canonical()
            known = known_poses(body, history, range(HISTORY), frames)
        goals = replace(self.schedule.goals.cut(start, stop), frames=frames)
        been = None if motion is None else motion.root[start:, :2]
        way = known_way(body, goals, axes, origin, been) if self.policy.known_ways else None
        objective = Objective(goals, self.anatomy, self.field, self.floor, self.weights)
        placed = PlacedObjective(body, objective, axes, origin + (self.floor + level) * UP)
        asked = self.actions[start:stop] + self.actions[stop - 1 : stop] * (frames - stop + start)
        table = self.model.action_table(asked, frames)
        hints = tuple(hint.seen_from(placed.axes, placed.origin) for hint in self.model.heard(goals.hints))
        best: SoFar | None = None
        for _ in range(1 + redraws):
            drawn = guided(
                self.model, table, placed, self.policy, known=known, held=way, hints=hints, generator=self.generator
            )[0]
            self.draws += 1
            made = body.decode(drawn[: stop - start].cpu(), config.fps).placed(axes, origin + level * UP)
            if way is not None:
                made = _led_into(made, way.groups.any(1)[: made.frames].cpu())
            whole = made if motion is None else joined(motion, made, HISTORY)
            terms = objective.table(*placed.pose(drawn[None]))
            rough = 0.0 if motion is None else (seam_jerk(whole, start) / ROUGH) ** STEEP
            wrong = max(terms.get("hint", 0.0) / MISSED, rough)
            if best is None or wrong < best.wrong:
                best = SoFar(whole, (*last.energies, terms), wrong)
            if wrong <= 1:
                break
        assert best is not None
        return best


def _fingerprint(model: MotionModel, *given: Any) -> str:
    return fingerprint(weights_hash(model.network), model.config.model_dump_json(), model.mean, model.spread, *given)


def seam_jerk(motion: Motion, seam: int) -> float:
    """Return the jerk where two windows overlap, from frame `seam` on, and two frames around, over all the motion's."""
    found = jerk(motion.positions(), motion.fps).mean(1)
    return float(found[max(0, seam - 2) : seam + HISTORY + 2].mean() / found.mean().clamp_min(1e-9))


def spans(subtasks: Sequence[SubTask], longest: int, overlap: int) -> list[Window]:
    """Return windows with the level of what carries the body: first frame, the frame after the last, m.

    Windows are at most `longest` frames, about equal, and `overlap` frames into the one before. They end where a task
    does if that is near, because a task asks for most in its last frame: a window that stops just before it gets up too
    slowly, and the next one jumps. The network has lain on floors alone, so a body that lies on a bed is seen from the
    bed's height: levels begin with a window of their own.
    """
    found: list[Window] = []
    for level, group in groupby(subtasks, key=lambda task: task.level):
        tasks = list(group)
        before = overlap if found else 0
        start, frames = tasks[0].start - before, tasks[-1].stop - tasks[0].start + before
        count = max(1, -(-(frames - overlap) // (longest - overlap)))
        stops = [overlap + round((frames - overlap) * (k + 1) / count) for k in range(count)]
        for k, stop in enumerate(stops[:-1]):
            end = min((task.stop - start for task in tasks), key=lambda end: abs(end - stop))
            begun = stops[k - 1] - overlap if k else 0
            if abs(end - stop) <= NEAR and max(end - begun, stops[k + 1] - end + overlap) <= longest:
                stops[k] = end
        found += [(start + (stops[k - 1] - overlap if k else 0), start + stop, level) for k, stop in enumerate(stops)]
    return found


def known_way(body: Body, goals: Goals, axes: Tensor, origin: Tensor, been: Tensor | None = None) -> Known | None:
    """Return that the hips are over the paths of a window, on time, seen from its first frame; None without a path.

    The network walks along a way that it is told; steps that an energy pulls along it slide. Between keyframes of the
    hips the way is a cubic spline. In its first frames the body is where it has been, beside the path perhaps, and
    comes back within `BACK` frames: told to be on the path at once, it jumps.

    Args:
        body: whose features are told.
        goals: of the window.
        axes: of the window, (3, 3).
        origin: likewise, (3,) m.
        been: where the hips were in its first frames, (H, 2) m; None at the beginning.
    """
    places, at = torch.zeros(goals.frames, 2), torch.zeros(goals.frames, dtype=torch.bool)
    keyed = {
        int(frame): target[:2]
        for hint in goals.hints if hint.name and hint.joints == (0,)
        for frame, target in zip(hint.frames, hint.targets, strict=True)
    }  # fmt: skip
    if keyed:
        keyed.setdefault(0, origin[:2])  # where the window is seen from
        frames = sorted(keyed)
        told_frames = np.arange(frames[0], frames[-1] + 1)
        way = CubicSpline(frames, torch.stack([keyed[frame] for frame in frames]).numpy())(told_frames)
        places[told_frames] = ((torch.from_numpy(way) - origin[:2]) @ axes[:2, :2]).float()
        at[told_frames] = True
    for follow in goals.follows:
        span = slice(follow.start, follow.start + len(follow.along))
        way = place_on_path(follow.points, follow.along)
        if been is not None and follow.start < len(been):
            way = _from_beside(way, been[follow.start :])
        places[span] = ((way - origin[:2]) @ axes[:2, :2]).float()
        at[span] = True
    if not at.any():
        return None
    told = known_path(body, places)
    return replace(told, groups=told.groups & at[:, None])


def _from_beside(way: Tensor, been: Tensor) -> Tensor:
    """Return a way, (S, 2), that begins with where one has been, (H, 2), and comes back to its course smoothly."""
    count = min(len(way), len(been))
    later = torch.arange(1, len(way) - count + 1, dtype=way.dtype)
    left = (1 + torch.cos(math.pi * (later / min(BACK, max(1, len(later)))).clamp(max=1))) / 2
    return torch.cat([been[:count].to(way), way[count:] + left[:, None] * (been[count - 1].to(way) - way[count - 1])])


def _led_into(window: Motion, told: Tensor) -> Motion:
    """Return a window whose hips come into and out of a way that was told, in frames (F,), without a jump."""
    root = _without_steps(window.root, told)
    return replace(window, root=_without_steps(root.flip(0), told.flip(0)).flip(0))


def _without_steps(root: Tensor, told: Tensor) -> Tensor:
    """Return places (F, 3) that lead to the first of each stretch of told ones.

    The network's hips are some centimetres beside a way that begins, and told ones follow in the next frame. The step,
    beyond the mean speed of both sides, is spread over the `EDGE` frames before: 1 - 10 s^3 + 15 s^4 - 6 s^5 of it,
    s = k / EDGE, k frames away.
    """
    root = root.clone()
    for first in (1 + torch.nonzero(told[1:] & ~told[:-1]).flatten()).tolist():
        earlier = torch.nonzero(told[:first]).flatten()
        free = first - 1 - int(earlier[-1]) if len(earlier) else EDGE
        if first < 2 or first + 1 == len(root):
            continue
        speed = (root[first - 1] - root[first - 2] + root[first + 1] - root[first]) / 2
        step = (root[first] - root[first - 1] - speed)[:2]
        s = (torch.arange(first - 1, -1, -1, dtype=root.dtype) / min(free, EDGE)).clamp(max=1)
        root[:first, :2] += (1 - 10 * s**3 + 15 * s**4 - 6 * s**5)[:, None] * step
    return root


def place_on_path(path: Tensor, along: Tensor) -> Tensor:
    """Return the places (S, 2) m that are so far, (S,) m, along a path (N, 2) m; its ends beyond them."""
    length = path.diff(dim=0).norm(dim=-1)
    ends = length.cumsum(0)
    segment = torch.searchsorted(ends, along.clamp(0, float(ends[-1]))).clamp(max=len(length) - 1)
    share = (1 - (ends[segment] - along) / length[segment].clamp_min(1e-9)).clamp(0, 1)
    return path[segment] + share[:, None] * (path[segment + 1] - path[segment])


def _standing_at(place: object, facing: object) -> tuple[Tensor, Tensor]:
    """Return axes and origin, on the floor z = 0, of a body at a place that faces a direction."""
    x, y = torch.as_tensor(facing, dtype=torch.float64).tolist()
    axes = torch.tensor([[y, x, 0.0], [-x, y, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    return axes, torch.as_tensor(place, dtype=torch.float64) * torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
