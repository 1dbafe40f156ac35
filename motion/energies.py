r"""Energies of a motion: how far it is from what it should do and from what bodies do, differentiable in the pose.

| term | energy, m unless said otherwise | 0 where |
| --- | --- | --- |
| hint | mean over hinted frames of \|p - target\| - tolerance | points are near their targets |
| path | mean over frames of the distances beside and along the path beyond the tolerances | on the path, on time |
| facing | mean over frames of the angle to the direction - tolerance, rad | turned there |
| penetration | mean over frames of the sum over bones of their depth - 3 cm | flesh is pressed in by no more |
| contact | mean over frames of \|least (phi - radius)\| - tolerance | the part touches the scene |
| skating | mean over frames of the speeds of feet near the floor - 0.2 m/s, m/s | feet on the floor rest |
| floor | mean over frames of feet under the floor - 1 cm; in stances, lowest foot over it - 3 cm | feet on the floor |
| smoothness | mean over frames and joints of \|p''' \| / fps^3 - 1000 m/s^3 / fps^3 | jerk is as in recordings |
| limits | mean over frames of the angles of knees and elbows beyond -10 ... 155 degrees, rad | they bend as joints do |

Everything is max(0, .) of what exceeds, so an energy and its gradient are zero where it is satisfied. Several hints,
paths, directions or contacts add up. Weights say what counts; a term of weight 0 is not computed. A pose is joint
positions (..., F, J, 3) m and their world rotations (..., F, J, 3, 3), as `forward_kinematics` returns them, with any
number of samples in front: an energy is (...).

Terms that look over several frames (skating, smoothness) want the frames before a window too, else they do not see its
first step. Heights count from one level floor; penetration and contact know the whole scene.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from motion.anatomy import Anatomy
from motion.goals import Contact, Facing, Follow, Goals, Hint
from motion.scene.body import Distance
from motion.stance import soles
from shared.errors import InputError

PRESSED = 0.03  # m: flesh gives way on seats and beds
RESTING = 0.2  # m/s
FADING = 0.02  # m over its resting height from which on a foot is no longer on the floor
SUNK, HOVERING = 0.01, 0.03  # m
USUAL_JERK = 1000.0  # m/s^3 of one joint; recordings have 130 to 220 in the mean, 800 to 1100 for the fastest joint
BENDS = (math.radians(-10.0), math.radians(155.0))
AROUND = 1.0  # m along a path in which the nearest place of it is looked for: elsewhere it may come by again
PATH_CHUNK = 4_000_000  # pairs of frames and path segments at once


@dataclass(frozen=True)
class Weights:
    """What each term counts; 0 leaves it out."""

    hint: float = 1.0
    path: float = 1.0
    facing: float = 0.3
    penetration: float = 1.0
    contact: float = 1.0
    skating: float = 0.1
    floor: float = 1.0
    smoothness: float = 1.0
    limits: float = 0.3

    def __post_init__(self) -> None:
        for name, value in self.items():
            if not 0 <= value < math.inf:
                raise InputError(f"weight of {name}", found=f"{value:g}", expected="0 or more", fix="Correct it.")

    def items(self) -> list[tuple[str, float]]:
        """Return names and weights."""
        return [(item.name, float(getattr(self, item.name))) for item in fields(self)]


USUAL = Weights()


@dataclass(frozen=True, eq=False)
class Objective:
    """The energy of a pose: the weighted sum of the module's terms.

    Attributes:
        goals: of the window that the poses are of.
        anatomy: of their skeleton.
        field: signed distance to the scene, for example a `DistanceField`; None where there is none.
        floor: height, m, of the level floor.
        weights: of the terms.

    Raises:
        InputError: contacts without a scene, or joints that the skeleton does not have.
    """

    goals: Goals
    anatomy: Anatomy
    field: Distance | None = None
    floor: float = 0.0
    weights: Weights = USUAL

    def __post_init__(self) -> None:
        if self.goals.contacts and self.weights.contact and self.field is None:
            raise InputError(
                "contacts", found="no scene", expected="the distance field that is touched",
                fix="Give the field, or weight 0 to contact.",
            )  # fmt: skip
        points: list[Hint | Follow | Contact] = [*self.goals.hints, *self.goals.follows, *self.goals.contacts]
        used = [joint for item in points for joint in item.joints]
        count = len(self.anatomy.skeleton)
        if any(not 0 <= joint < count for joint in used):
            raise InputError("goals", found=f"joint {max(used)}", expected=f"0 to {count - 1}", fix="Correct it.")

    def __call__(self, positions: Tensor, turned: Tensor) -> Tensor:
        """Return the weighted sum (...) of the terms."""
        total = positions.new_zeros(positions.shape[:-3])
        for name, value in self.terms(positions, turned).items():
            total = total + getattr(self.weights, name) * value
        return total

    def terms(self, positions: Tensor, turned: Tensor) -> dict[str, Tensor]:
        """Return each term that counts, (...), without its weight; those that nothing is asked of are left out.

        Raises:
            InputError: the poses have another number of frames or joints than the goals and the skeleton.
        """
        expected = (self.goals.frames, len(self.anatomy.skeleton), 3)
        if tuple(positions.shape[-3:]) != expected or turned.shape != (*positions.shape, 3):
            raise InputError(
                "pose", found=f"positions {tuple(positions.shape)}, rotations {tuple(turned.shape)}",
                expected=f"(..., {expected[0]}, {expected[1]}, 3) and (..., {expected[0]}, {expected[1]}, 3, 3)",
                fix="Cut the goals to the window (Goals.cut).",
            )  # fmt: skip
        return {name: value() for name, value in self._asked(positions, turned).items() if getattr(self.weights, name)}

    def table(self, positions: Tensor, turned: Tensor) -> dict[str, float]:
        """Return each term that counts, without its weight, in the mean over samples, for reports."""
        with torch.no_grad():
            return {name: float(value.mean()) for name, value in self.terms(positions, turned).items()}

    def _asked(self, positions: Tensor, turned: Tensor) -> Mapping[str, Callable[[], Tensor]]:
        goals, anatomy, scene = self.goals, self.anatomy, self.field
        asked: dict[str, Callable[[], Tensor]] = {}
        if goals.hints:
            asked["hint"] = lambda: _sum([hint_energy(positions, item) for item in goals.hints])
        if goals.follows:
            asked["path"] = lambda: _sum([path_energy(positions, item) for item in goals.follows])
        if goals.facings:
            asked["facing"] = lambda: _sum([facing_energy(positions, anatomy, item) for item in goals.facings])
        if scene is not None:
            asked["penetration"] = lambda: penetration_energy(positions, turned, anatomy, scene)
            if goals.contacts:
                asked["contact"] = lambda: _sum([contact_energy(positions, item, scene) for item in goals.contacts])
        if goals.frames > 1:
            asked["skating"] = lambda: skating_energy(positions, anatomy, goals.fps, self.floor)
        asked["floor"] = lambda: floor_energy(positions, turned, anatomy, goals.stances, self.floor)
        if goals.frames > 3:
            asked["smoothness"] = lambda: smoothness_energy(positions, goals.fps)
        asked["limits"] = lambda: limit_energy(positions, turned, anatomy)
        return asked


def hint_energy(positions: Tensor, hint: Hint) -> Tensor:
    """Return mean over H frames of max(0, |p - target| - tolerance), (...) m."""
    point = positions[..., hint.frames.to(positions.device), :, :][..., list(hint.joints), :].mean(-2)
    targets = hint.targets.to(positions)
    return _excess((point[..., : targets.shape[-1]] - targets).norm(dim=-1), hint.tolerance).mean(-1)


def path_energy(positions: Tensor, follow: Follow) -> Tensor:
    """Return mean over frames of max(0, d - across) + max(0, |s - along| - ahead), (...) m.

    d is the distance of the point to the nearest place of the path within 1 m, along it, of where the point should be;
    s is how far along the path that place is. Beyond an end of the path s stays and d counts.
    """
    frames = slice(follow.start, follow.start + len(follow.along))
    point = positions[..., frames, :, :2][..., list(follow.joints), :].mean(-2)
    wanted = follow.along.to(positions)
    distance, along = nearest_on_path(point, follow.points.to(positions), wanted)
    return (_excess(distance, follow.across) + _excess((along - wanted).abs(), follow.ahead)).mean(-1)


def nearest_on_path(point: Tensor, path: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distance of points to a path, and how far along it the nearest place is, (..., S) m each.

    Args:
        point: (..., S, 2) m.
        path: (N, 2) m, its corners.
        wanted: (S,) m: only segments that come within 1 m, along the path, of it are asked.
    """
    start, step = path[:-1], path.diff(dim=0)
    length = step.norm(dim=-1)
    ends = length.cumsum(0)
    far = (wanted[:, None] < ends - length - AROUND) | (wanted[:, None] > ends + AROUND)
    with torch.no_grad():
        found = []
        for piece in point.reshape(-1, *point.shape[-2:]).split(max(1, PATH_CHUNK // far.numel())):
            share = _share(piece[..., None, :], start, step)
            distance = (start + share[..., None] * step - piece[..., None, :]).norm(dim=-1)
            found.append(distance.masked_fill(far, math.inf).argmin(-1))
        index = torch.cat(found).reshape(point.shape[:-1])
    first, along = start[index], step[index]
    share = _share(point, first, along)
    distance = (first + share[..., None] * along - point).norm(dim=-1)
    return distance, ends[index] - length[index] + share * length[index]


def facing_energy(positions: Tensor, anatomy: Anatomy, facing: Facing) -> Tensor:
    """Return mean over frames of max(0, |angle| - tolerance), (...) rad, between forward and the direction."""
    frames = slice(facing.start, facing.start + len(facing.directions))
    left, right = anatomy.pelvis
    x, y = (positions[..., frames, right, :2] - positions[..., frames, left, :2]).unbind(-1)
    wanted_x, wanted_y = facing.directions.to(positions).unbind(-1)
    # Forward is f = (-y, x); the angle to w is atan2(f x w, f . w).
    angle = torch.atan2(-(x * wanted_x + y * wanted_y), x * wanted_y - y * wanted_x)
    return _excess(angle.abs(), facing.tolerance).mean(-1)


def penetration_energy(positions: Tensor, turned: Tensor, anatomy: Anatomy, scene: Distance) -> Tensor:
    """Return mean over frames of the sum over bones of max(0, -d - 3 cm), (...) m; d of `Capsules.distance`."""
    distance = anatomy.capsules.distance(anatomy.flesh(positions, turned), scene)
    return _excess(-distance, PRESSED).sum(-1).mean(-1)


def contact_energy(positions: Tensor, contact: Contact, scene: Distance) -> Tensor:
    """Return mean over frames of max(0, |least over joints of (phi - radius)| - tolerance), (...) m."""
    points = positions[..., contact.start : contact.stop, list(contact.joints), :]
    radii = torch.tensor(contact.radii, dtype=positions.dtype, device=positions.device)
    return _excess((scene(points) - radii).amin(-1).abs(), contact.tolerance).mean(-1)


def skating_energy(positions: Tensor, anatomy: Anatomy, fps: float, floor: float = 0.0) -> Tensor:
    """Return mean over frames of the sum over both feet of w max(0, v - 0.2 m/s), (...) m/s.

    v is the least speed over the floor, from one frame to the next, of a foot's joints: a foot that rolls rests on one.
    w is 1 where a joint is no higher than where it rests, and falls to 0 at 2 cm over it in either frame; it has no
    gradient, or feet would be lifted to escape.
    """
    over = positions[..., list(anatomy.feet), 2].detach() - floor - anatomy.foot_heights.to(positions)
    speed = positions[..., list(anatomy.feet), :2].diff(dim=-3).norm(dim=-1) * fps
    near = (1 - over / FADING).clamp(0, 1)
    near = near[..., :-1, :].minimum(near[..., 1:, :])
    split = len(anatomy.skeleton.feet[0])
    energy = positions.new_zeros(positions.shape[:-3])
    for foot in (slice(0, split), slice(split, None)):
        sliding = near[..., foot].amax(-1) * _excess(speed[..., foot].amin(-1), RESTING)
        energy = energy + sliding.mean(-1)
    return energy


def floor_energy(
    positions: Tensor, turned: Tensor, anatomy: Anatomy, stances: tuple[tuple[int, int], ...] = (), floor: float = 0.0
) -> Tensor:
    """Return mean over frames of feet sunk and, in stances, of feet that hover, (...) m.

    Sunk is the sum of max(0, -h - 1 cm) over the heights h over the floor of what feet stand on
    (`motion.stance.soles`); hovering is max(0, least g - 3 cm), of their joints' heights g over where they rest.
    """
    sunk = _excess(floor - soles(anatomy.skeleton, positions, turned), SUNK).sum(-1)
    over = positions[..., list(anatomy.feet), 2] - floor - anatomy.foot_heights.to(positions)
    wanted = torch.zeros(positions.shape[-3], dtype=positions.dtype, device=positions.device)
    for start, stop in stances:
        wanted[start:stop] = 1.0
    return (sunk + wanted * _excess(over.amin(-1), HOVERING)).mean(-1)


def smoothness_energy(positions: Tensor, fps: float) -> Tensor:
    """Return mean over frames and joints of max(0, |third difference| - 1000 m/s^3 / fps^3), (...) m."""
    return _excess(positions.diff(n=3, dim=-3).norm(dim=-1), USUAL_JERK / fps**3).mean((-1, -2))


def limit_energy(positions: Tensor, turned: Tensor, anatomy: Anatomy) -> Tensor:
    """Return mean over frames of the sum over knees and elbows of their bend beyond -10 ... 155 degrees, (...) rad."""
    low, high = BENDS
    bends = bend_angles(positions, turned, anatomy)
    return (_excess(low - bends, 0.0) + _excess(bends, high)).sum(-1).mean(-1)


def bend_angles(positions: Tensor, turned: Tensor, anatomy: Anatomy) -> Tensor:
    """Return how far limbs are bent about their hinge, (..., F, L) rad: 0 straight, positive as knees and elbows bend.

    atan2((u x f) . a, u . f) of the upper bone u, the lower one f and the hinge a. Bending aside, across the hinge, is
    not seen.
    """
    found = []
    for limb in anatomy.limbs:
        upper = positions[..., limb.middle, :] - positions[..., limb.top, :]
        lower = positions[..., limb.tip, :] - positions[..., limb.middle, :]
        hinge = (turned[..., limb.top, :, :] @ limb.hinge.to(positions)[:, None])[..., 0]
        across = torch.linalg.cross(upper, lower)
        found.append(torch.atan2((across * hinge).sum(-1), (upper * lower).sum(-1)))
    return torch.stack(found, -1)


def _share(point: Tensor, start: Tensor, step: Tensor) -> Tensor:
    """Return where on segments, in [0, 1], the place nearest to a point is."""
    squared = (step * step).sum(-1).clamp_min(1e-12)
    return (((point - start) * step).sum(-1) / squared).clamp(0, 1)


def _excess(value: Tensor, allowed: float) -> Tensor:
    return torch.relu(value - allowed)


def _sum(values: list[Tensor]) -> Tensor:
    return torch.stack(values).sum(0)
