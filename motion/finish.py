r"""Finishing: feet held where they touch the floor, hands and hips put exactly where they should be.

A limb of two bones, lengths l_1 and l_2, reaches a target at distance r from its top by bending its hinge until

    r^2 = l_1^2 + l_2^2 + 2 u . R(a, theta) f

of upper bone u, lower bone f and hinge a, made perpendicular to u; then the whole limb makes the least turn towards
the target. The foot or hand keeps its rotation in the world. Nothing else moves, bones keep their lengths, and a target
where the limb is already changes nothing. Beyond 99.8 % of its length (or what it already spans) a limb comes
exponentially closer to straight instead of reaching, so that out of reach there is no jump.

Foot lock. A foot's joint is in contact while it is no more than 3 cm over where it rests and slower than 0.3 m/s. While
it is, the ankle is moved by d(t) so that the joint stays put; when a foot rolls, contact goes from joint to joint
without a break in d, whose mean over a contact is zero. Between contacts d is a cubic with the contacts' values and
speeds at its ends, or falls to zero within `blend` seconds.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from motion.anatomy import Anatomy, Limb, anatomy_of
from motion.clips import Motion
from motion.rotations import about_vectors
from shared.errors import InputError

NEAR, SLOW = 0.03, 0.3  # m over the resting height and m/s, of a contact
SHORTEST = 3  # frames of a contact; gaps shorter than this are closed
STRAIGHT = 0.998  # share of a limb's length from which on it gives way


def foot_contacts(motion: Motion, anatomy: Anatomy, floor: float = 0.0) -> Tensor:
    """Return when the joints of `Anatomy.feet` touch the floor, (F, K) bool.

    Args:
        motion: F frames of the anatomy's skeleton.
        anatomy: says how high each rests.
        floor: height, m.
    """
    feet = motion.positions()[:, list(anatomy.feet)]
    if motion.frames < 2:
        return torch.zeros(feet.shape[:2], dtype=torch.bool)
    step = feet.diff(dim=0).norm(dim=-1) * motion.fps
    speed = torch.cat([step[:1], torch.minimum(step[:-1], step[1:]), step[-1:]])
    low = feet[..., 2] - floor - anatomy.foot_heights.to(feet) < NEAR
    touching = low & (speed < SLOW)
    for column in touching.T:
        _switch_short(column, value=False)
        _switch_short(column, value=True)
    return touching


def feet_locked(
    motion: Motion,
    *,
    anatomy: Anatomy | None = None,
    contacts: Tensor | None = None,
    floor: float = 0.0,
    blend: float = 0.2,
) -> Motion:
    """Return the motion with its feet held still in contacts; only thighs, shins and feet turn.

    Args:
        motion: F frames of any body with legs.
        anatomy: of its skeleton; None for what its rest pose tells.
        contacts: (F, K) bool, of the joints `Anatomy.feet`; None for `foot_contacts`.
        floor: height, m, from which contacts are found.
        blend: s, before and after a contact, in which the foot comes to where it is held.

    Raises:
        InputError: contacts of another shape, a blend that is no time, or an unknown body.
    """
    known = anatomy_of(motion.skeleton) if anatomy is None else anatomy
    touching = foot_contacts(motion, known, floor) if contacts is None else contacts
    if tuple(touching.shape) != (motion.frames, len(known.feet)):
        raise InputError(
            "contacts", found=str(tuple(touching.shape)), expected=str((motion.frames, len(known.feet))),
            fix="Give one column a joint of the feet.",
        )  # fmt: skip
    ramp = _ramp(blend, motion.fps)
    split = len(motion.skeleton.feet[0])
    positions, turned = motion.pose()
    changes = []
    for leg, columns in zip(known.legs, (slice(0, split), slice(split, None)), strict=True):
        shift = _bridged(_held(_holders(touching[:, columns], known.feet[columns]), positions), ramp)
        changes.append(_reaching(motion, leg, positions, turned, positions[:, leg.tip] + shift))
    return _with(motion, *changes)


def limb_pinned(
    motion: Motion, limb: str, target: Tensor, start: int, stop: int, *, blend: float = 0.3,
    anatomy: Anatomy | None = None,
) -> Motion:  # fmt: skip
    """Return the motion with a hand or ankle exactly at a place in a span of frames, as far as its limb reaches.

    Args:
        motion: of any body with legs.
        limb: left_arm, right_arm, left_leg or right_leg.
        target: (3,) m.
        start: first frame at the target.
        stop: the frame after the last.
        blend: s, before and after, in which the correction comes and goes.
        anatomy: of its skeleton; None for what its rest pose tells.

    Raises:
        InputError: no such limb, or frames that the motion does not have.
    """
    known = anatomy_of(motion.skeleton) if anatomy is None else anatomy
    found = next((item for item in known.limbs if item.name == limb), None)
    if found is None:
        raise InputError(
            f"limb {limb}", found="none in the skeleton", expected=", ".join(item.name for item in known.limbs),
            fix="Choose one of these.",
        )  # fmt: skip
    positions, turned = motion.pose()
    shift = _pull(positions[:, found.tip], target, start, stop, _ramp(blend, motion.fps))
    return _with(motion, _reaching(motion, found, positions, turned, positions[:, found.tip] + shift))


def pelvis_pinned(
    motion: Motion, target: Tensor, start: int, stop: int, *, blend: float = 0.5, anatomy: Anatomy | None = None
) -> Motion:
    """Return the motion with its pelvis exactly at a place in a span of frames, and its ankles where they were.

    Args:
        motion: of any body with legs.
        target: (3,) m, for the middle between both hip joints.
        start: first frame at the target.
        stop: the frame after the last.
        blend: s, before and after, in which the correction comes and goes.
        anatomy: of its skeleton; None for what its rest pose tells.

    Raises:
        InputError: frames that the motion does not have.
    """
    known = anatomy_of(motion.skeleton) if anatomy is None else anatomy
    positions, turned = motion.pose()
    middle = positions[:, list(known.pelvis)].mean(1)
    shift = _pull(middle, target, start, stop, _ramp(blend, motion.fps))
    moved = positions + shift[:, None]
    changes = [_reaching(motion, leg, moved, turned, positions[:, leg.tip]) for leg in known.legs]
    return _with(replace(motion, root=motion.root + shift), *changes)


def _reaching(motion: Motion, limb: Limb, positions: Tensor, turned: Tensor, target: Tensor) -> dict[int, Tensor]:
    """Return the local rotations (F, 3, 3) of a limb's three joints with which its tip is at `target` (F, 3) m.

    Args:
        motion: gives the tree.
        limb: of it.
        positions: (F, J, 3) m, from which the limb starts.
        turned: (F, J, 3, 3), likewise.
        target: (F, 3) m.
    """
    top = positions[:, limb.top]
    upper, lower = positions[:, limb.middle] - top, positions[:, limb.tip] - positions[:, limb.middle]
    first, spans = upper.norm(dim=-1), (upper + lower).norm(dim=-1)
    along = upper / first[:, None]
    hinge = (turned[:, limb.top] @ limb.hinge.to(turned)[:, None])[..., 0]
    hinge = hinge - (hinge * along).sum(-1, keepdim=True) * along
    hinge = hinge / hinge.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    second = torch.linalg.cross(hinge, lower).norm(dim=-1)  # of what of the lower bone is across the hinge
    squared = first**2 + (lower**2).sum(-1)

    def bend(span: Tensor) -> Tensor:
        return torch.acos(((span**2 - squared) / (2 * first * second).clamp_min(1e-9)).clamp(-1, 1))

    wanted = _within((target - top).norm(dim=-1), spans, first + lower.norm(dim=-1))
    # As a difference: a limb that is already there, even bent the wrong way, stays exactly as it is.
    bending = about_vectors((bend(wanted) - bend(spans))[:, None] * hinge)
    turning = _least_turns(upper + (bending @ lower[..., None])[..., 0], target - top)
    above_top, above_middle, above_tip = (
        turned[:, motion.skeleton.parents[joint]].transpose(-1, -2) for joint in (limb.top, limb.middle, limb.tip)
    )
    return {
        limb.top: above_top @ turning @ turned[:, limb.top],
        limb.middle: above_middle @ bending @ turned[:, limb.middle],
        limb.tip: above_tip @ (turning @ bending).transpose(-1, -2) @ turned[:, limb.tip],
    }


def _with(motion: Motion, *changes: dict[int, Tensor]) -> Motion:
    rotations = motion.rotations.clone()
    for change in changes:
        for joint, values in change.items():
            rotations[:, joint] = values
    return replace(motion, rotations=rotations)


def _within(distance: Tensor, spans: Tensor, length: Tensor) -> Tensor:
    """Return distances that a limb can span: as they are up to 99.8 % of its length, then ever less beyond it."""
    limit = torch.maximum(STRAIGHT * length, spans)
    left = (length - limit).clamp_min(1e-9)
    return torch.where(distance <= limit, distance, limit + left * -torch.expm1(-(distance - limit) / left))


def _least_turns(start: Tensor, end: Tensor) -> Tensor:
    """Return the rotations (F, 3, 3) by the smallest angles from directions `start` to `end`, (F, 3), not opposite."""
    axis = torch.linalg.cross(start, end)
    sine = axis.norm(dim=-1, keepdim=True)
    angle = torch.atan2(sine, (start * end).sum(-1, keepdim=True))
    return about_vectors(angle * axis / sine.clamp_min(1e-12))


def _holders(touching: Tensor, joints: tuple[int, ...]) -> Tensor:
    """Return the joint that holds a foot in each frame, (F,): the foremost that touches; -1 where none does."""
    held = torch.full((len(touching),), -1)
    for place, joint in enumerate(joints):
        held[touching[:, place]] = joint
    return held


def _held(holders: Tensor, positions: Tensor) -> Tensor:
    """Return by how much a foot must move, (F, 3) m, so that what holds it stays put; NaN where nothing does."""
    shift = torch.full_like(positions[:, 0], math.nan)
    begin, place = 0, torch.zeros(3)
    for frame, joint in enumerate(holders.tolist()):
        if joint < 0:
            continue
        before = int(holders[frame - 1]) if frame else -1
        if before < 0:
            begin, place = frame, positions[frame, joint]
        elif before != joint:
            place = positions[frame - 1, joint] + shift[frame - 1]
        shift[frame] = place - positions[frame, joint]
        if frame + 1 == len(holders) or holders[frame + 1] < 0:
            shift[begin : frame + 1] -= shift[begin : frame + 1].mean(0)
    return shift


def _bridged(shift: Tensor, ramp: int) -> Tensor:
    """Return shifts (F, 3) m with their gaps (NaN) filled: by a cubic, or to zero and back where they are long."""
    known = ~shift[:, 0].isnan()
    filled = shift.nan_to_num()
    ends = [frame for frame in range(len(shift)) if known[frame]]
    if not ends:
        return filled
    zero = torch.zeros_like(filled[0])

    def slope(frame: int, other: int) -> Tensor:
        inside = 0 <= other < len(shift) and bool(known[other])
        return (filled[frame] - filled[other]) * (frame - other) if inside else zero

    def draw(start: int, stop: int, first: tuple[Tensor, Tensor], last: tuple[Tensor, Tensor]) -> None:
        frames = torch.arange(max(start + 1, 0), min(stop, len(shift)))
        share = ((frames - start) / (stop - start)).to(filled)[:, None]
        filled[frames] = _cubic(share, first, last, stop - start)

    draw(ends[0] - ramp, ends[0], (zero, zero), (filled[ends[0]], slope(ends[0], ends[0] + 1)))
    draw(ends[-1], ends[-1] + ramp, (filled[ends[-1]], slope(ends[-1], ends[-1] - 1)), (zero, zero))
    for before, after in pairwise(ends):
        if after == before + 1:
            continue
        first, last = (filled[before], slope(before, before - 1)), (filled[after], slope(after, after + 1))
        if after - before <= 2 * ramp:
            draw(before, after, first, last)
        else:
            draw(before, before + ramp, first, (zero, zero))
            draw(after - ramp, after, (zero, zero), last)
    return filled


def _cubic(share: Tensor, first: tuple[Tensor, Tensor], last: tuple[Tensor, Tensor], span: int) -> Tensor:
    """Return the cubic Hermite polynomial with values and slopes (a frame) at both ends."""
    rest = 1 - share
    return (
        rest**2 * (1 + 2 * share) * first[0] + share**2 * (1 + 2 * rest) * last[0]
        + span * (share * rest**2 * first[1] - share**2 * rest * last[1])
    )  # fmt: skip


def _pull(track: Tensor, target: Tensor, start: int, stop: int, ramp: int) -> Tensor:
    """Return the shift (F, 3) m that brings a point with the track (F, 3) to a place in a span of frames."""
    if not 0 <= start < stop <= len(track):
        raise InputError(
            "frames", found=f"{start} to {stop}", expected=f"a span within 0 to {len(track)}", fix="Correct it."
        )
    shift = torch.full_like(track, math.nan)
    shift[start:stop] = target.to(track) - track[start:stop]
    return _bridged(shift, ramp)


def _ramp(blend: float, fps: float) -> int:
    if not 0 <= blend < math.inf:
        raise InputError("blend", found=f"{blend:g} s", expected="0 or more", fix="0.2 is usual for feet.")
    return max(1, round(blend * fps))


def _switch_short(column: Tensor, *, value: bool) -> None:
    """Turn runs of `value` shorter than `SHORTEST` into the other; those at either end stay if they are True."""
    frames, start = len(column), 0
    while start < frames:
        stop = start + 1
        while stop < frames and column[stop] == column[start]:
            stop += 1
        if bool(column[start]) == value and stop - start < SHORTEST and (value or (start > 0 and stop < frames)):
            column[start:stop] = not value
        start = stop
