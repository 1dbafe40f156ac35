"""What a motion should do, frame by frame: hints for guidance, and outcomes by which it is judged.

| class | what it wants |
| --- | --- |
| Hint | joints at a place in some frames |
| Follow | the pelvis along a path on the floor, on time |
| Facing | the body turned to a direction |
| Contact | a part of the body touching the scene |
| Outcome | what counts as done: reached, sat, lain, stood, waited |

Frames count from the first frame of the motion; spans are [start, stop). A point of the body is the mean of some of its
joints: (left hip, right hip) is the pelvis.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from shared.errors import InputError

KINDS = ("walk", "sit", "lie", "stand", "wait")

Part = TypeVar("Part")


@dataclass(frozen=True, eq=False)
class Hint:
    """A point of the body at places.

    Attributes:
        joints: whose mean is the point.
        frames: (H,) int64.
        targets: (H, 3) m, or (H, 2) where only the place on the floor counts.
        tolerance: m, within which it is satisfied.
        name: a named hint is a keyframe, which is judged; others only guide.
    """

    joints: tuple[int, ...]
    frames: Tensor
    targets: Tensor
    tolerance: float = 0.0
    name: str = ""

    def __post_init__(self) -> None:
        wrong = self.targets.ndim != 2 or self.targets.shape[-1] not in (2, 3) or self.frames.ndim != 1
        if wrong or len(self.frames) != len(self.targets) or not self.joints:
            raise InputError(
                f"hint {self.name}".strip(),
                found=f"{len(self.joints)} joints, frames {tuple(self.frames.shape)}, "
                f"targets {tuple(self.targets.shape)}",
                expected="a joint, frames (H,) and targets (H, 3) or (H, 2)", fix="Give one target a frame.",
            )  # fmt: skip
        _require_finite("hint", self.targets)

    def seen_from(self, axes: Tensor, origin: Tensor) -> Hint:
        """Return the hint as a window sees it that stands at `origin`, (3,) m, with `axes`, (3, 3), upright."""
        size = self.targets.shape[-1]
        axes, origin = axes[:size, :size].to(self.targets), origin[:size].to(self.targets)
        return replace(self, targets=(self.targets - origin) @ axes)

    def cut(self, start: int, stop: int) -> Hint | None:
        """Return the hint in a window of frames, counted from its first; None where it has none there."""
        kept = (self.frames >= start) & (self.frames < stop)
        return replace(self, frames=self.frames[kept] - start, targets=self.targets[kept]) if kept.any() else None


@dataclass(frozen=True, eq=False)
class Follow:
    """A point of the body along a path on the floor.

    Attributes:
        joints: whose mean is the point.
        start: first frame.
        points: (N, 2) m, N >= 2, corners of the path.
        along: (S,) m, how far along it the point should be in the frames start ... start + S - 1.
        across: tolerance, m, beside the path.
        ahead: tolerance, m, along it: hips do not move evenly.
    """

    joints: tuple[int, ...]
    start: int
    points: Tensor
    along: Tensor
    across: float = 0.1
    ahead: float = 0.2

    def __post_init__(self) -> None:
        if self.points.ndim != 2 or self.points.shape[-1] != 2 or len(self.points) < 2 or self.along.ndim != 1:
            raise InputError(
                "path", found=f"points {tuple(self.points.shape)}, along {tuple(self.along.shape)}",
                expected="(N, 2) with N >= 2, and (S,)", fix="Give two or more points, and one distance a frame.",
            )  # fmt: skip
        _require_finite("path", self.points)
        length = float(self.points.diff(dim=0).norm(dim=-1).sum())
        if len(self.along) and not -0.01 <= float(self.along.min()) <= float(self.along.max()) <= length + 0.01:
            raise InputError(
                "path", found=f"places from {self.along.min():.2f} to {self.along.max():.2f} m along it",
                expected=f"0 to its length of {length:.2f} m", fix="Correct them.",
            )  # fmt: skip

    def cut(self, start: int, stop: int) -> Follow | None:
        """Return the part in a window of frames, on the whole path; None where it has none there."""
        span = _overlap(self.start, self.start + len(self.along), start, stop)
        if span is None:
            return None
        return replace(self, start=span[0] - start, along=self.along[span[0] - self.start : span[1] - self.start])


@dataclass(frozen=True, eq=False)
class Facing:
    """The body turned to a direction.

    Attributes:
        start: first frame.
        directions: (S, 2) unit vectors on the floor, of the frames start ... start + S - 1.
        tolerance: rad.
    """

    start: int
    directions: Tensor
    tolerance: float = 0.2

    def __post_init__(self) -> None:
        if self.directions.ndim != 2 or self.directions.shape[-1] != 2 or not len(self.directions):
            raise InputError(
                "facing", found=f"directions {tuple(self.directions.shape)}", expected="(S, 2)",
                fix="Give one direction a frame.",
            )  # fmt: skip
        _require_finite("facing", self.directions)

    def cut(self, start: int, stop: int) -> Facing | None:
        """Return the part in a window of frames; None where it has none there."""
        span = _overlap(self.start, self.start + len(self.directions), start, stop)
        if span is None:
            return None
        return replace(
            self, start=span[0] - start, directions=self.directions[span[0] - self.start : span[1] - self.start]
        )


@dataclass(frozen=True)
class Contact:
    """A part of the body that touches the scene: the joint of it that is nearest.

    Attributes:
        name: of the part, such as seat or left_foot.
        joints: of the part.
        radii: m, from each joint to the skin.
        start: first frame.
        stop: the frame after the last.
        tolerance: m.
    """

    name: str
    joints: tuple[int, ...]
    radii: tuple[float, ...]
    start: int
    stop: int
    tolerance: float = 0.02

    def __post_init__(self) -> None:
        if not self.joints or len(self.joints) != len(self.radii) or self.start >= self.stop:
            raise InputError(
                f"contact of {self.name}",
                found=f"{len(self.joints)} joints, {len(self.radii)} radii, frames {self.start} to {self.stop}",
                expected="as many radii as joints, and at least one frame", fix="Correct it.",
            )  # fmt: skip

    def cut(self, start: int, stop: int) -> Contact | None:
        """Return the part in a window of frames; None where it has none there."""
        span = _overlap(self.start, self.stop, start, stop)
        return None if span is None else replace(self, start=span[0] - start, stop=span[1] - start)


@dataclass(frozen=True)
class Outcome:
    """What counts as a goal met (`motion.result` has the tolerances).

    Attributes:
        name: such as "2 sit on sofa".
        kind: one of `KINDS`.
        start: first frame in which it may hold.
        stop: the frame after the last.
        seconds: how long it must hold without a break; 0 for the last frame of the span only.
        place: of the pelvis, (x, y) or (x, y, z) m; None where any will do.
        direction: (x, y), of the body, or from feet to head of a body that lies; None where any will do.
    """

    name: str
    kind: str
    start: int
    stop: int
    seconds: float = 0.0
    place: tuple[float, ...] | None = None
    direction: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS or self.start >= self.stop or self.seconds < 0:
            raise InputError(
                f"goal {self.name}",
                found=f"{self.kind!r} in frames {self.start} to {self.stop} for {self.seconds:g} s",
                expected=f"one of {', '.join(KINDS)}, at least one frame, 0 s or more", fix="Correct it.",
            )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Goals:
    """All that a motion should do.

    Attributes:
        frames: of the motion.
        fps: frames a second.
        hints: of any joints.
        follows: paths.
        facings: directions.
        contacts: with the scene.
        stances: spans in which some foot is on the floor.
        outcomes: by which it is judged.
    """

    frames: int
    fps: float = 30.0
    hints: tuple[Hint, ...] = ()
    follows: tuple[Follow, ...] = ()
    facings: tuple[Facing, ...] = ()
    contacts: tuple[Contact, ...] = ()
    stances: tuple[tuple[int, int], ...] = ()
    outcomes: tuple[Outcome, ...] = ()

    def __post_init__(self) -> None:
        ends = [int(hint.frames.max()) + 1 for hint in self.hints if len(hint.frames)]
        ends += [follow.start + len(follow.along) for follow in self.follows]
        ends += [facing.start + len(facing.directions) for facing in self.facings]
        ends += [contact.stop for contact in self.contacts] + [stop for _, stop in self.stances]
        ends += [outcome.stop for outcome in self.outcomes]
        if max(ends, default=0) > self.frames or self.frames < 1 or not self.fps > 0:
            raise InputError(
                "goals", found=f"a goal up to frame {max(ends, default=0)} of {self.frames} at {self.fps:g} a second",
                expected="goals within the motion", fix="Give more frames, or earlier goals.",
            )  # fmt: skip

    def cut(self, start: int, stop: int) -> Goals:
        """Return what a window of frames should do, counted from its first; outcomes belong to the whole only."""
        start, stop = max(start, 0), min(stop, self.frames)
        spans = (_overlap(*stance, start, stop) for stance in self.stances)
        return Goals(
            stop - start,
            self.fps,
            tuple(_kept(item.cut(start, stop) for item in self.hints)),
            tuple(_kept(item.cut(start, stop) for item in self.follows)),
            tuple(_kept(item.cut(start, stop) for item in self.facings)),
            tuple(_kept(item.cut(start, stop) for item in self.contacts)),
            tuple((span[0] - start, span[1] - start) for span in spans if span is not None),
        )


def _kept(items: Iterable[Part | None]) -> list[Part]:
    return [item for item in items if item is not None]


def _overlap(start: int, stop: int, low: int, high: int) -> tuple[int, int] | None:
    first, last = max(start, low), min(stop, high)
    return (first, last) if first < last else None


def _require_finite(what: str, values: Tensor) -> None:
    if not torch.isfinite(values).all():
        raise InputError(what, found="NaN or infinity", expected="finite numbers", fix="Mend them.")
