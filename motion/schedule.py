"""From tasks to frames: where a body should be when, with what goals and contacts, in a scene.

A sub-task has one action (the names of `motion.actions`). What a task needs first is put before it and told in `notes`:
getting up before walking, walking to a seat before sitting, turning round before sitting down.

| action | planned speed of the pelvis, m/s (DIP's) |
| --- | --- |
| walk | 1.1 to 1.4, from and to rest within half a second |
| sit, stand_up | 0.45 to 0.6 in the mean, starting and ending at rest |
| lie, get_up | 0.25 to 0.3, likewise |
| turn | on the spot, 120 degrees a second |
| stand | still |

Without a generator the middle of the range is taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch

from motion.anatomy import Anatomy
from motion.goals import Contact, Facing, Follow, Goals, Hint, Outcome
from motion.scene.field import DistanceField
from motion.scene.goals import PELVIS_OVER_SEAT, Seat, find_seats
from motion.scene.loading import Scene
from motion.scene.lying import LyingSurface, find_lying
from motion.scene.paths import Path, curve, require_walkable, route
from motion.scene.walkable import ROOM_AREA, WalkableMap
from motion.tasks import Lie, Sit, StandUp, Task, TaskList, Wait, Walk
from motion.timing import angle_between, eased, rotated, turning, walked
from shared.errors import InputError

SPEEDS = {"walk": (1.1, 1.4), "sit": (0.45, 0.6), "stand_up": (0.45, 0.6), "lie": (0.25, 0.3), "get_up": (0.25, 0.3)}
TURN, TURN_WALKING = math.radians(120.0), math.radians(180.0)  # rad/s
TURN_FIRST = math.radians(60.0)  # of a larger angle to its path a body turns on the spot
SHORTEST_WAY = 0.1  # m: nearer places are reached
QUICKEST = 0.8  # s, of sitting down and the like
SETTLE = 0.3  # s stayed beyond the asked time
PELVIS_OVER_BED = 0.1  # m, hip joints of a body on its back
BESIDE = 0.8  # m from the edge of a thing that is only walked to

Thing = TypeVar("Thing", Seat, LyingSurface)


@dataclass(frozen=True, eq=False)
class SubTask:
    """Frames of one action.

    Attributes:
        task: number of the task that it serves, from 1.
        name: such as "2 sit on sofa".
        action: walk, turn, stand, sit, stand_up, lie or get_up.
        start: first frame.
        pelvis: (S, 3) m, planned.
        facing: (S, 2) unit vectors, planned; of a lying body, those of its feet.
        speed: m/s in the mean; 0 where it stays.
        level: height over the floor, m, of what a body lies on that has lain down; 0 elsewhere.
    """

    task: int
    name: str
    action: str
    start: int
    pelvis: np.ndarray
    facing: np.ndarray
    speed: float
    level: float = 0.0

    @property
    def stop(self) -> int:
        """Return the frame after the last."""
        return self.start + len(self.pelvis)


@dataclass(frozen=True, eq=False)
class Schedule:
    """What to do when.

    Attributes:
        subtasks: one after the other, without gaps.
        goals: of all frames.
        notes: what was added or chosen, one line each.
    """

    subtasks: tuple[SubTask, ...]
    goals: Goals
    notes: tuple[str, ...]


def resolve(
    tasks: TaskList, scene: Scene, distance: DistanceField, walkable: WalkableMap, anatomy: Anatomy, *,
    fps: float = 30.0, generator: torch.Generator | None = None,
) -> Schedule:  # fmt: skip
    """Return the schedule of tasks in a scene.

    Args:
        tasks: from `read_tasks`.
        scene: from `read_scene`.
        distance: of it.
        walkable: of it.
        anatomy: of the body.
        fps: frames a second.
        generator: draws the speeds; None for the middle of their ranges.

    Raises:
        InputError: a task that cannot be done, by number, with what would do.
    """
    planner = _Planner(scene, distance, walkable, anatomy, fps, generator)
    with _named(f"{tasks.source}: start"):
        planner.begin(tasks)
    for number, task in enumerate(tasks.tasks, 1):
        with _named(f"{tasks.source}: task {number}"):
            planner.do(number, task)
    return planner.schedule()


@contextmanager
def _named(source: str) -> Iterator[None]:
    """Put the task in front of an error's own source."""
    try:
        yield
    except InputError as error:
        raise InputError(
            f"{source}: {error.source}", found=error.found, expected=error.expected, fix=error.fix
        ) from error


@dataclass
class _Planner:
    """The body while its tasks are laid out: where it is, how, and what was planned so far."""

    scene: Scene
    distance: DistanceField
    walkable: WalkableMap
    anatomy: Anatomy
    fps: float
    generator: torch.Generator | None
    place: np.ndarray = field(default_factory=lambda: np.zeros(2))
    facing: np.ndarray | None = None
    on: Seat | LyingSurface | None = None
    frame: int = 0
    subtasks: list[SubTask] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    hints: list[Hint] = field(default_factory=list)
    follows: list[Follow] = field(default_factory=list)
    facings: list[Facing] = field(default_factory=list)
    contacts: list[Contact] = field(default_factory=list)
    stances: list[tuple[int, int]] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    def begin(self, tasks: TaskList) -> None:
        if tasks.facing is not None:
            angle = math.radians(tasks.facing)
            self.facing = np.array([math.cos(angle), math.sin(angle)])
        if tasks.start is not None:
            require_walkable(self.walkable, "place", np.array(tasks.start))
            self.place = np.array(tasks.start)
            return
        centres = self.walkable.centres(np.argwhere(self.walkable.regions == 1))
        self.place = centres[np.linalg.norm(centres - centres.mean(0), axis=1).argmin()]
        self.notes.append(f"start: ({self.place[0]:.2f}, {self.place[1]:.2f}), the middle of the largest room")

    def do(self, number: int, task: Task) -> None:
        if isinstance(task, StandUp) and self.on is None:
            raise InputError(
                "stand_up", found="a body that stands already", expected="one that sits or lies", fix="Leave it out."
            )
        if not isinstance(task, Wait) and self.on is not None:
            if not isinstance(task, StandUp):
                self.notes.append(f"task {number}: it gets up from {self.on.name} first")
            self._rise(number)
        if isinstance(task, Walk):
            self._walk_task(number, task)
        elif isinstance(task, Sit):
            seats = find_seats(self.scene, self.distance, self.walkable, name=task.sit_on)
            seat, path = self._reachable(seats)
            self._approach(number, seat, path, seat.facing)
            self._settle(number, f"{number} sit on {seat.name}", "sit", seat, task.seconds)
        elif isinstance(task, Lie):
            beds = find_lying(self.scene, self.distance, self.walkable, name=task.lie_on)
            bed, path = self._reachable(beds)
            # A body that goes straight back lies with its head where its back was.
            self._approach(number, bed, path, -bed.axis)
            self._settle(number, f"{number} lie on {bed.name}", "lie", bed, task.seconds)
        elif isinstance(task, Wait):
            name = f"{number} wait {task.wait:g} s"
            start, seconds = self.frame, task.wait
            self._stay(number, name, seconds)
            self._outcome(name, "wait", start, seconds, tuple(self._pelvis()[:2].tolist()))

    def schedule(self) -> Schedule:
        goals = Goals(
            self.frame, self.fps, tuple(self.hints), tuple(self.follows), tuple(self.facings), tuple(self.contacts),
            tuple(self.stances), tuple(self.outcomes),
        )  # fmt: skip
        return Schedule(tuple(self.subtasks), goals, tuple(self.notes))

    def _walk_task(self, number: int, task: Walk) -> None:
        if isinstance(task.walk_to, str):
            target, words = self._place_at(task.walk_to), task.walk_to
        else:
            target, words = np.array(task.walk_to), "a place"
        if task.via:
            path = curve(np.array([self.place, *task.via, target]), walkable=self.walkable)
        else:
            path = route(self.walkable, self.place, target)
        self._walk(number, f"{number} walk to {words}", path, task.speed or self._speed("walk"))

    def _place_at(self, name: str) -> np.ndarray:
        """Return where to stand at a thing: before its seat, beside its lying surface, or the nearest free place."""
        thing = self.scene.find(name)
        with suppress(InputError):  # no seat: beds and tables are walked to as well
            return self._reachable(find_seats(self.scene, self.distance, self.walkable, name=name))[0].stand
        with suppress(InputError):
            return self._reachable(find_lying(self.scene, self.distance, self.walkable, name=name))[0].stand
        low, high = thing.bounds[:, :2]
        place = self.walkable.nearest((low + high) / 2, float(np.linalg.norm(high - low)) / 2 + BESIDE, area=ROOM_AREA)
        if place is None:
            raise InputError(
                thing.name, found=f"no free place within {BESIDE:g} m", expected="somewhere to stand beside it",
                fix="Give a point [x, y].",
            )  # fmt: skip
        return place

    def _reachable(self, things: Sequence[Thing]) -> tuple[Thing, Path]:
        """Return the first thing with a way to where one stands at it, and the way."""
        reason: InputError | None = None
        for thing in things:
            try:
                return thing, route(self.walkable, self.place, thing.stand)
            except InputError as error:
                reason = reason or error
        assert reason is not None  # finders of a named thing return one or raise
        raise reason

    def _approach(self, number: int, thing: Seat | LyingSurface, path: Path, facing: np.ndarray) -> None:
        if path.length > SHORTEST_WAY:
            self._walk(number, f"{number} walk to {thing.name}", path, self._speed("walk"))
        self.place = thing.stand
        self._turn(number, f"{number} turn at {thing.name}", facing)

    def _walk(self, number: int, name: str, path: Path, speed: float) -> None:
        self.notes += [f"task {number}: {note}" for note in path.notes]
        start = self.frame
        if path.length > SHORTEST_WAY:
            ahead = path.points[min(6, len(path.points) - 1)] - path.points[0]
            if self.facing is None:
                self.facing = ahead / np.linalg.norm(ahead)
            if abs(angle_between(self.facing, ahead)) > TURN_FIRST:
                self._turn(number, f"{number} turn", ahead / np.linalg.norm(ahead))
            start = self.frame
            along = walked(path.length, speed, self.fps)
            at = np.linspace(0, path.length, len(path.points))
            tangents = np.stack([np.interp(along, at, path.headings[:, axis]) for axis in range(2)], 1)
            facing = turning(self.facing, tangents, TURN_WALKING / self.fps)
            plan = np.stack([np.interp(along, at, path.points[:, axis]) for axis in range(2)], 1)
            pelvis = np.column_stack([plan, np.full(len(plan), self._height())])
            points = torch.from_numpy(path.points)
            length = float(points.diff(dim=0).norm(dim=-1).sum())
            self.follows.append(
                Follow(self.anatomy.pelvis, start, points, torch.from_numpy(along * length / path.length))
            )
            self.facings.append(Facing(start, torch.from_numpy(facing), 0.5))
            self._add(number, name, "walk", pelvis, facing, speed)
            self.stances.append((start, self.frame))
        self.place = path.points[-1]
        if self.frame == start:
            self._stay(number, name, SETTLE)
        self._outcome(name, "walk", start, 0.0, tuple(self.place.tolist()))

    def _turn(self, number: int, name: str, facing: np.ndarray) -> None:
        if self.facing is None:
            self.facing = facing
        angle = angle_between(self.facing, facing)
        frames = math.ceil(abs(angle) / TURN * self.fps)
        if frames < 3:
            return
        start = self.frame
        turned = rotated(self.facing, angle * eased(frames))
        self._add(number, name, "turn", np.tile(self._pelvis(), (frames, 1)), turned, 0.0)
        self._hold_place(start)
        self.facings.append(Facing(start, torch.from_numpy(turned), 0.4))

    def _settle(self, number: int, name: str, action: str, thing: Seat | LyingSurface, seconds: float) -> None:
        """Go down on a thing and stay there."""
        start, top = self.frame, self._pelvis()
        self.on = thing
        self._glide(number, name, action, top, self._pelvis())
        if isinstance(thing, LyingSurface):
            self._lie_back(start, thing.axis, eased(self.frame - start))
        self._stay(number, name, seconds)
        direction = thing.facing if isinstance(thing, Seat) else thing.axis
        place = tuple(self._pelvis().tolist())
        self._outcome(name, action, start, seconds, place, (float(direction[0]), float(direction[1])))

    def _rise(self, number: int) -> None:
        assert self.on is not None
        name, start, low = f"{number} stand up from {self.on.name}", self.frame, self._pelvis()
        thing, self.on = self.on, None
        action = "stand_up" if isinstance(thing, Seat) else "get_up"
        # One gets up from a bed in one's own way, not with pelvis and head in a line.
        self._glide(number, name, action, low, self._pelvis(), 0.15 if isinstance(thing, Seat) else 0.3)
        if isinstance(thing, LyingSurface):
            self._lie_back(start, thing.axis, 1 - eased(self.frame - start), 0.4)
        up = min(self.frame - start, round(SETTLE * self.fps))
        self._hint(self.frame - up, np.tile(self._pelvis(), (up, 1)), 0.03)
        self._outcome(name, "stand", start, 0.0)

    def _glide(
        self, number: int, name: str, action: str, first: np.ndarray, last: np.ndarray, tolerance: float = 0.15
    ) -> None:
        """Plan the pelvis from one place to another in a line, from rest to rest."""
        speed, start = self._speed(action), self.frame
        length = float(np.linalg.norm(last - first))
        frames = math.ceil(max(QUICKEST, length / speed) * self.fps)
        pelvis = first + eased(frames)[:, None] * (last - first)
        assert self.facing is not None
        self._add(number, name, action, pelvis, np.tile(self.facing, (frames, 1)), length / (frames / self.fps))
        self._hint(start, pelvis, tolerance)
        self.facings.append(Facing(start, torch.from_numpy(np.tile(self.facing, (frames, 1))), 0.4))

    def _stay(self, number: int, name: str, seconds: float) -> None:
        """Plan to stay as the body is, a little longer than asked."""
        start, frames = self.frame, math.ceil((seconds + SETTLE) * self.fps)
        facing = np.array([0.0, 1.0]) if self.facing is None else self.facing
        self.facing = facing
        action = "stand" if self.on is None else "sit" if isinstance(self.on, Seat) else "lie"
        pelvis = np.tile(self._pelvis(), (frames, 1))
        level = self.on.height - self.scene.floor if isinstance(self.on, LyingSurface) else 0.0
        self._add(number, name, action, pelvis, np.tile(facing, (frames, 1)), 0.0, level)
        if self.on is None:
            self._hold_place(start)
            return
        self._hint(start, pelvis, 0.03)
        self.facings.append(Facing(start, torch.from_numpy(np.tile(facing, (frames, 1)))))
        over = PELVIS_OVER_SEAT if isinstance(self.on, Seat) else PELVIS_OVER_BED
        self.contacts.append(Contact("seat", self.anatomy.pelvis, (over, over), start, self.frame))
        if isinstance(self.on, LyingSurface):
            self._lean(start, pelvis, self.on.axis, np.full(frames, math.pi / 2), 0.1)
            straight = pelvis - self.anatomy.skeleton.leg * np.array([*self.on.axis, 0.0])
            for ankle in self.anatomy.skeleton.joints("left_ankle", "right_ankle"):
                self._hint(start, straight, 0.2, (ankle,))
        else:
            self._feet_down(start)

    def _lie_back(self, start: int, axis: np.ndarray, shares: np.ndarray, tolerance: float = 0.2) -> None:
        """Want the trunk to go from upright to level, or back, with the planned pelvis."""
        self._lean(start, self.subtasks[-1].pelvis, axis, shares * math.pi / 2, tolerance)

    def _lean(self, start: int, pelvis: np.ndarray, axis: np.ndarray, angles: np.ndarray, tolerance: float) -> None:
        """Want the head over the pelvis, leaning by angles (S,) rad towards a direction on the floor."""
        skeleton = self.anatomy.skeleton
        upright = np.cos(angles)[:, None] * np.array([0.0, 0.0, 1.0])
        level = np.sin(angles)[:, None] * np.array([*axis, 0.0])
        head = pelvis + skeleton.length("hips", "head") * (upright + level)
        self._hint(start, head, tolerance, skeleton.joints("head"))

    def _feet_down(self, start: int) -> None:
        heights = self.anatomy.foot_heights.tolist()
        split = len(self.anatomy.skeleton.feet[0])
        for name, part in (("left_foot", slice(0, split)), ("right_foot", slice(split, None))):
            joints, radii = self.anatomy.feet[part], tuple(heights[part])
            self.contacts.append(Contact(name, joints, radii, start, self.frame))

    def _hold_place(self, start: int) -> None:
        self._hint(start, np.tile(self._pelvis()[:2], (self.frame - start, 1)), 0.1)
        self.stances.append((start, self.frame))

    def _hint(self, start: int, targets: np.ndarray, tolerance: float, joints: Sequence[int] = ()) -> None:
        """Want the middle of joints, else the pelvis, at places from a frame on."""
        frames = torch.arange(start, start + len(targets))
        self.hints.append(Hint(tuple(joints) or self.anatomy.pelvis, frames, torch.from_numpy(targets), tolerance))

    def _outcome(
        self, name: str, kind: str, start: int, seconds: float, place: tuple[float, ...] | None = None,
        direction: tuple[float, float] | None = None,
    ) -> None:  # fmt: skip
        self.outcomes.append(Outcome(name, kind, start, self.frame, seconds, place, direction))

    def _add(
        self, number: int, name: str, action: str, pelvis: np.ndarray, facing: np.ndarray, speed: float,
        level: float = 0.0,
    ) -> None:  # fmt: skip
        self.subtasks.append(SubTask(number, name, action, self.frame, pelvis, facing, speed, level))
        self.frame += len(pelvis)
        self.facing = facing[-1]

    def _pelvis(self) -> np.ndarray:
        if isinstance(self.on, Seat):
            return self.on.pelvis
        if isinstance(self.on, LyingSurface):
            return self.on.centre + np.array([0.0, 0.0, PELVIS_OVER_BED])
        return np.array([*self.place, self._height()])

    def _height(self) -> float:
        return self.scene.floor + self.anatomy.standing

    def _speed(self, action: str) -> float:
        low, high = SPEEDS[action]
        share = 0.5 if self.generator is None else float(torch.rand((), generator=self.generator))
        return low + share * (high - low)
