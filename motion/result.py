"""What came of a motion's goals: one row for each, met or not, and how real and how free of the scene the motion is.

| kind | met if, without a break for the asked time, |
| --- | --- |
| walk | the pelvis is within 0.2 m of the place, seen from above (as DIP), and turned within 30 degrees if asked |
| sit | within 0.2 m of the place seen from above, 0.1 m in height, and 30 degrees of the direction |
| lie | within 0.3 m seen from above, 0.15 m in height, the trunk within 30 degrees of level and of the direction |
| stand | the pelvis is at 0.9 of its height in the standing body, or higher |
| wait | within 0.2 m of the place seen from above |
| keyframe | a named hint: within 0.1 m in all its frames (as Kimodo) |

The pelvis is midway between the hip joints. A motion that ends before a goal does has not met it. Numbers that cannot
be known (no scene, too short for a skating ratio) are None.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from motion.anatomy import Anatomy, anatomy_of
from motion.clips import Motion, heading
from motion.goals import Goals, Hint, Outcome
from motion.metrics import SHORTEST, gmd_skating
from motion.scene.body import Distance
from shared.errors import InputError

PLAN = {"walk": 0.2, "sit": 0.2, "lie": 0.3, "wait": 0.2}  # m
HEIGHT = {"sit": 0.1, "lie": 0.15}  # m
ANGLE = 30.0  # degrees
STANDING = 0.9  # of the height of the standing body's pelvis
KEYFRAME = 0.1  # m
CHUNK = 200  # frames whose surface points are asked at once


def judge(
    motion: Motion, goals: Goals, field: Distance | None = None, *, floor: float = 0.0, anatomy: Anatomy | None = None
) -> dict[str, Any]:
    """Return what came of the goals.

    | entry | what |
    | --- | --- |
    | goals_met, goals_total | of the rows |
    | penetration_max_m, penetration_mean_m | deepest surface point of the capsules: over all frames, mean over frames |
    | skating_ratio | GMD's at 20 fps, toes counted from the floor |
    | seconds | of the motion |
    | goals | rows: name, kind, met, error_m, height_error_m, angle_error_deg, held_s, asked_s, why |

    Errors are the largest over the best stretch of the asked time. Capsules do not give way: a body that sits well is
    about 2 cm deep.

    Args:
        motion: F frames.
        goals: outcomes and named hints, at the rate of the motion.
        field: signed distance to the scene; None where there is none.
        floor: height, m.
        anatomy: of the skeleton; None for what its rest pose tells.

    Raises:
        InputError: another frame rate, or an unknown body.
    """
    if abs(motion.fps - goals.fps) > 1e-6:
        raise InputError(
            "motion", found=f"{motion.fps:g} frames a second", expected=f"{goals.fps:g}, as its goals",
            fix="Resample it.",
        )  # fmt: skip
    known = anatomy_of(motion.skeleton) if anatomy is None else anatomy
    positions, turned = motion.pose()
    rows = [_outcome_row(outcome, positions, known, goals.fps, floor) for outcome in goals.outcomes]
    rows += [_keyframe_row(hint, positions) for hint in goals.hints if hint.name]
    depth = None if field is None else _depths(known.flesh(positions, turned), known, field)
    return {
        "goals_met": sum(row["met"] for row in rows),
        "goals_total": len(rows),
        "penetration_max_m": None if depth is None else float(depth.max()),
        "penetration_mean_m": None if depth is None else float(depth.mean()),
        "skating_ratio": _skating(motion, floor),
        "seconds": motion.seconds,
        "goals": rows,
    }


def _outcome_row(outcome: Outcome, positions: Tensor, anatomy: Anatomy, fps: float, floor: float) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": outcome.name, "kind": outcome.kind, "met": False, "error_m": None, "height_error_m": None,
        "angle_error_deg": None, "held_s": 0.0, "asked_s": outcome.seconds, "why": "",
    }  # fmt: skip
    if outcome.stop > len(positions):
        row["why"] = f"the motion ends at frame {len(positions)}, the goal at {outcome.stop}"
        return row
    start = outcome.start if outcome.seconds else outcome.stop - 1
    errors = _errors(outcome, positions[start : outcome.stop], anatomy, floor)
    held = torch.ones(outcome.stop - start, dtype=torch.bool)
    for error, allowed in errors.values():
        held &= error <= allowed
    asked = max(1, math.ceil(outcome.seconds * fps - 1e-6))
    longest = _longest(held)
    row["met"] = longest >= asked
    row["held_s"] = longest / fps
    best = _best_stretch(errors, min(asked, len(held)))
    for name, (error, _) in errors.items():
        row[name] = float(error[best].max())
    missed = [f"{name} {row[name]:.3g} over {allowed:.3g}" for name, (_, allowed) in errors.items()
              if row[name] > allowed]  # fmt: skip
    if not row["met"]:
        row["why"] = "; ".join(missed) or f"held for {row['held_s']:.2f} s of {outcome.seconds:g} s"
    return row


def _errors(outcome: Outcome, positions: Tensor, anatomy: Anatomy, floor: float) -> dict[str, tuple[Tensor, float]]:
    """Return the errors of an outcome, (S,) each, with what is allowed."""
    skeleton, kind = anatomy.skeleton, outcome.kind
    pelvis = positions[:, list(anatomy.pelvis)].mean(1)
    errors: dict[str, tuple[Tensor, float]] = {}
    if kind == "stand":
        errors["height_error_m"] = (anatomy.standing + floor - pelvis[:, 2], (1 - STANDING) * anatomy.standing)
    if outcome.place is not None:
        place = torch.tensor(outcome.place).to(pelvis)
        errors["error_m"] = ((pelvis[:, :2] - place[:2]).norm(dim=-1), PLAN.get(kind, PLAN["walk"]))
        if kind in HEIGHT and len(place) == 3:
            errors["height_error_m"] = ((pelvis[:, 2] - place[2]).abs(), HEIGHT[kind])
    if kind == "lie":
        trunk = positions[:, skeleton.joints("head")[0]] - pelvis
        trunk = trunk / trunk.norm(dim=-1, keepdim=True)
        angle = torch.asin(trunk[:, 2].clamp(-1, 1)).abs()
        if outcome.direction is not None:
            angle = torch.maximum(angle, _angle(trunk[:, :2], outcome.direction))
        errors["angle_error_deg"] = (torch.rad2deg(angle), ANGLE)
    elif outcome.direction is not None:
        forward = heading(positions, skeleton)[:, :2, 1]
        errors["angle_error_deg"] = (torch.rad2deg(_angle(forward, outcome.direction)), ANGLE)
    return errors


def _angle(vectors: Tensor, direction: tuple[float, float]) -> Tensor:
    x, y = vectors.unbind(-1)
    return torch.atan2(x * direction[1] - y * direction[0], x * direction[0] + y * direction[1]).abs()


def _longest(held: Tensor) -> int:
    longest = run = 0
    for value in held.tolist():
        run = run + 1 if value else 0
        longest = max(longest, run)
    return longest


def _best_stretch(errors: dict[str, tuple[Tensor, float]], frames: int) -> slice:
    """Return the stretch of so many frames in which the largest error, by what is allowed, is smallest."""
    if not errors:
        return slice(0, frames)
    worst = torch.stack([error / allowed for error, allowed in errors.values()]).amax(0)
    start = int(worst.unfold(0, frames, 1).amax(-1).argmin())
    return slice(start, start + frames)


def _keyframe_row(hint: Hint, positions: Tensor) -> dict[str, Any]:
    row: dict[str, Any] = {"name": hint.name, "kind": "keyframe", "met": False, "error_m": None, "why": ""}
    last = int(hint.frames.max())
    if last >= len(positions):
        row["why"] = f"the motion ends at frame {len(positions)}, the keyframe is {last}"
        return row
    point = positions[hint.frames][:, list(hint.joints)].mean(1)
    targets = hint.targets.to(point)
    row["error_m"] = float((point[:, : targets.shape[-1]] - targets).norm(dim=-1).max())
    row["met"] = row["error_m"] <= KEYFRAME
    if not row["met"]:
        row["why"] = f"error_m {row['error_m']:.3g} over {KEYFRAME:g}"
    return row


def _depths(flesh: Tensor, anatomy: Anatomy, field: Distance) -> Tensor:
    """Return the depth of the deepest surface point of each frame, (F,) m."""
    with torch.no_grad():
        return torch.cat(
            [torch.relu(-field(anatomy.capsules.surface_points(part)).amin(-1)) for part in flesh.split(CHUNK)]
        )


def _skating(motion: Motion, floor: float) -> float | None:
    slow = motion.resampled(20.0)
    if slow.frames < SHORTEST:
        return None
    toes = slow.positions()[:, list(motion.skeleton.toes)]
    return gmd_skating(toes - torch.tensor([0.0, 0.0, floor]).to(toes), 20.0)
