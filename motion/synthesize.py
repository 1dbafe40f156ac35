"""From a skeleton, a scene and tasks to a motion, and the folder that shows it: `fewstep motion synthesize`.

| file | what |
| --- | --- |
| motion.bvh | the motion on the skeleton, in its own unit and axes |
| motion.glb | the same with its animation, for any glTF viewer |
| viewer.html | a page that plays it in its scene |
| result.json | every goal, met or not, penetration, skating; what was planned, with which model |

A body of other proportions than the model's: the scene is made larger by the ratio of the legs, the model's body moves
in it, and the motion is put on the other skeleton, whose hips travel in proportion to its legs (`motion.retarget`). So
it arrives where the tasks say. Goals are judged on that skeleton in the scene as it is.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from motion.anatomy import anatomy_of
from motion.clips import Motion
from motion.energies import USUAL, Weights
from motion.finish import feet_locked
from motion.goals import Goals, Outcome
from motion.long_motion import Drawn, draw_schedule
from motion.model import MotionModel
from motion.policy import FAST, Policy
from motion.result import judge
from motion.retarget import leg_ratio, retargeted
from motion.scene.field import build_field
from motion.scene.loading import Scene
from motion.scene.walkable import RADIUS, walkable_map
from motion.schedule import Schedule, resolve
from motion.skeleton import Skeleton
from motion.tasks import TaskList, Walk
from shared.errors import InputError
from shared.files import atomic_path

VOXEL = 0.05  # m


@dataclass(frozen=True, eq=False)
class Synthesis:
    """A motion that did tasks.

    Attributes:
        motion: in the scene, on the skeleton that was asked for.
        scene: as given.
        schedule: of the model's body; in a scene made larger by `ratio`.
        goals: the outcomes as they are judged, in the scene as it is.
        ratio: length of the model's legs by the skeleton's.
        result: of `motion.result.judge`, on the skeleton in the scene.
        drawn: the motion of the model's body, with its windows and calls.
    """

    motion: Motion
    scene: Scene
    schedule: Schedule
    goals: Goals
    ratio: float
    result: dict[str, Any]
    drawn: Drawn


def synthesize(
    model: MotionModel,
    scene: Scene,
    tasks: TaskList,
    *,
    skeleton: Skeleton | None = None,
    policy: Policy = FAST,
    weights: Weights = USUAL,
    seed: int = 0,
    voxel: float = VOXEL,
    radius: float = RADIUS,
    lock_feet: bool = False,
    work: Path | None = None,
    progress: str | None = None,
) -> Synthesis:
    """Make a motion that does tasks in a scene.

    Args:
        model: of `motion.files.load_model`.
        scene: of `read_scene`.
        tasks: of `read_tasks`.
        skeleton: that is to move, with a rest pose; None for the model's own.
        policy: how it is drawn.
        weights: of the energies.
        seed: of speeds and noise.
        voxel: of the distance field, m.
        radius: of the body seen from above, m, on its way.
        lock_feet: hold feet still where they touch the floor (`motion.finish`).
        work: file that keeps the windows that are done, to go on from (`motion.kept`); None keeps nothing.
        progress: label of a progress bar; None is silent.

    Raises:
        InputError: a task that cannot be done in this scene, by number, or a skeleton without legs or a rest pose, or
            `work` of another motion.
    """
    own = model.body.skeleton
    target = own if skeleton is None else skeleton
    body = model.anatomy if skeleton is None else anatomy_of(target)
    ratio = 1 / leg_ratio(own, target)
    field = build_field(scene, voxel=voxel)
    fps = model.config.fps
    larger, large = (scene, field) if ratio == 1 else (scene.scaled(ratio), field.scaled(ratio))
    generator = torch.Generator().manual_seed(seed)
    try:
        schedule = resolve(
            _scaled_tasks(tasks, ratio), larger, large, walkable_map(larger, large, radius=radius * ratio),
            model.anatomy, fps=fps, generator=generator,
        )  # fmt: skip
    except InputError:
        if ratio != 1:  # the same is told in the places of the scene as it is
            resolve(tasks, scene, field, walkable_map(scene, field, radius=radius), body, fps=fps)
        raise
    drawn = draw_schedule(
        model, schedule, model.anatomy, large, floor=larger.floor, policy=policy, weights=weights, seed=seed,
        work=work, progress=progress,
    )  # fmt: skip
    motion = drawn.motion
    if skeleton is not None:
        same, up = torch.eye(3).to(motion.root), motion.root.new_tensor([0.0, 0.0, 1.0])
        motion = retargeted(motion.placed(same, -larger.floor * up), target).placed(same, scene.floor * up)
    if lock_feet:
        motion = feet_locked(motion, anatomy=body, floor=scene.floor)
    goals = _scaled_outcomes(schedule.goals, 1 / ratio)
    result = judge(motion, goals, field, floor=scene.floor, anatomy=body)
    return Synthesis(motion, scene, schedule, goals, ratio, result, drawn)


def write_synthesis(
    folder: str | os.PathLike[str], synthesis: Synthesis, facts: dict[str, Any] | None = None, *,
    overwrite: bool = False,
) -> None:  # fmt: skip
    """Write the folder of the module's table; it appears as a whole or not at all.

    Args:
        folder: to make.
        synthesis: what was made.
        facts: more for result.json, such as the model's name and hash.
        overwrite: replace an earlier folder.

    Raises:
        InputError: the folder exists.
        MissingExtra: trimesh or pygltflib is absent.
    """
    from motion.formats import write_clip
    from motion.viewer.page import GoalMarker, write_viewer
    from shared.jsontext import json_text

    target, result = Path(folder), synthesis.result
    markers = [
        GoalMarker(row["name"], outcome.place, row["met"])
        for row, outcome in zip(result["goals"], synthesis.goals.outcomes, strict=True)
        if outcome.place is not None
    ]
    written = {
        **result,
        "subtasks": [
            {"name": task.name, "action": task.action, "start": task.start, "stop": task.stop}
            for task in synthesis.schedule.subtasks
        ],
        "notes": [*synthesis.scene.report, *synthesis.schedule.notes],
        "fps": synthesis.motion.fps,
        "scene": synthesis.scene.source,
        "body_ratio": synthesis.ratio,
        "windows": synthesis.drawn.windows,
        "energies": synthesis.drawn.energies,
        "network_calls": synthesis.drawn.network_calls,
        **(facts or {}),
    }
    with atomic_path(target, overwrite=overwrite) as scratch:
        scratch.mkdir()
        write_clip(scratch / "motion.bvh", synthesis.motion)
        write_clip(scratch / "motion.glb", synthesis.motion)
        write_viewer(scratch / "viewer.html", synthesis.motion, synthesis.scene, markers, title=target.name)
        (scratch / "result.json").write_text(json_text(written), encoding="utf-8")


def _scaled_tasks(tasks: TaskList, factor: float) -> TaskList:
    """Return the tasks in a scene made larger."""
    if factor == 1:
        return tasks

    def scaled(task: Any) -> Any:
        if not isinstance(task, Walk):
            return task
        place = task.walk_to if isinstance(task.walk_to, str) else tuple(factor * value for value in task.walk_to)
        via = tuple((factor * x, factor * y) for x, y in task.via)
        return task.model_copy(update={"walk_to": place, "via": via, "speed": task.speed and factor * task.speed})

    start = None if tasks.start is None else tuple(factor * value for value in tasks.start)
    return tasks.model_copy(update={"start": start, "tasks": tuple(scaled(task) for task in tasks.tasks)})


def _scaled_outcomes(goals: Goals, factor: float) -> Goals:
    """Return the outcomes alone, in a scene made larger."""

    def scaled(outcome: Outcome) -> Outcome:
        if outcome.place is None:
            return outcome
        return replace(outcome, place=tuple(factor * value for value in outcome.place))

    return Goals(goals.frames, goals.fps, outcomes=tuple(scaled(outcome) for outcome in goals.outcomes))
