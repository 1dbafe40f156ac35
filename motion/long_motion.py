"""Motion that does tasks in a scene: window after window, each going on from the last and drawn by the policy.

A window begins with the last `HISTORY` frames of the motion so far, which it is told and keeps (`motion.model.Known`),
is seen from where the body stands in the first of them, and is drawn so that it fits what its frames should do
(`motion.policy`). Where it walks, it is told the way of its hips. Frames that both have are blended
(`motion.blending`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from motion.anatomy import Anatomy
from motion.blending import joined
from motion.clips import Motion
from motion.energies import USUAL, Objective, Weights
from motion.features import Body
from motion.goals import Goals
from motion.model import Known, MotionModel, known_path, known_poses
from motion.policy import FAST, PlacedObjective, Policy, guided
from motion.scene.body import Distance
from motion.schedule import Schedule
from shared.grid import trailing_grid
from shared.progress import tracked

HISTORY = 10  # frames
Span = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Drawn:
    """A motion with how it came about.

    Attributes:
        motion: in the scene.
        windows: first frame of each window, and the frame after its last.
        energies: the terms of each window's objective, without weights.
        network_calls: of all windows and candidates.
    """

    motion: Motion
    windows: tuple[Span, ...]
    energies: tuple[dict[str, float], ...]
    network_calls: int


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
        progress: label of a progress bar; None is silent.
    """
    generator = torch.Generator(device=model.device).manual_seed(seed)
    frames = max(schedule.goals.frames, model.config.frames[0])
    wanted = replace(schedule.goals, frames=frames)
    actions = [task.action for task in schedule.subtasks for _ in range(task.stop - task.start)]
    actions += actions[-1:] * (frames - len(actions))
    table = model.action_table(actions, frames)
    windows = spans(frames, model.config.frames[1], HISTORY)
    calls = policy.candidates * policy.network_calls(trailing_grid(model.process, policy.calls))
    motion: Motion | None = None
    energies = []
    for start, stop in tracked(windows, progress):
        known = None
        if motion is None:
            first = schedule.subtasks[0]
            axes, origin = _standing_at(first.pelvis[0], first.facing[0])
        else:
            history, axes, origin = motion.cut(start).canonical()
            known = known_poses(model.body, history, range(HISTORY), stop - start)
        goals = wanted.cut(start, stop)
        way = known_way(model.body, goals, axes, origin) if policy.known_ways else None
        known = way if known is None else known if way is None else way | known
        objective = Objective(goals, anatomy, field, floor, weights)
        placed = PlacedObjective(model.body, objective, axes, origin + origin.new_tensor([0.0, 0.0, floor]))
        drawn = guided(model, table[start:stop], placed, policy, known=known, generator=generator)[0]
        energies.append(objective.table(*placed.pose(drawn[None])))
        window = model.body.decode(drawn.cpu(), model.config.fps).placed(axes, origin)
        motion = window if motion is None else joined(motion, window, HISTORY)
    assert motion is not None
    moved = motion.placed(torch.eye(3).to(motion.root), motion.root.new_tensor([0.0, 0.0, floor]))
    return Drawn(moved.cut(0, schedule.goals.frames), tuple(windows), tuple(energies), calls * len(windows))


def spans(frames: int, longest: int, overlap: int) -> list[Span]:
    """Return windows of about equal length, at most `longest` frames, each `overlap` frames into the one before."""
    count = max(1, -(-(frames - overlap) // (longest - overlap)))
    stops = [overlap + round((frames - overlap) * (k + 1) / count) for k in range(count)]
    return [(0 if k == 0 else stops[k - 1] - overlap, stop) for k, stop in enumerate(stops)]


def known_way(body: Body, goals: Goals, axes: Tensor, origin: Tensor) -> Known | None:
    """Return that the hips are over the paths of a window, on time, seen from its first frame; None without a path.

    The network walks along a way that it is told; steps that an energy pulls along it slide.
    """
    places, at = torch.zeros(goals.frames, 2), torch.zeros(goals.frames, dtype=torch.bool)
    for follow in goals.follows:
        span = slice(follow.start, follow.start + len(follow.along))
        places[span] = ((place_on_path(follow.points, follow.along) - origin[:2]) @ axes[:2, :2]).float()
        at[span] = True
    if not at.any():
        return None
    told = known_path(body, places)
    return replace(told, groups=told.groups & at[:, None])


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
