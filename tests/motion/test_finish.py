"""Finishing: feet stay where they touch, bones keep their lengths, and what is out of reach makes no jump."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from motion.anatomy import anatomy_of
from motion.finish import feet_locked, foot_contacts, limb_pinned, pelvis_pinned
from motion.metrics import jerk
from shared.errors import InputError
from tests.motion.figures import FLAVOURS, body, turns, walk
from tests.motion.test_energies import on_floor

ANATOMY = anatomy_of(body())
BONES = list(zip(range(1, len(body())), body().parents[1:], strict=True))


def crouched(frames=60):
    """Return the body with bent knees and level feet, which slide with the hips: to and fro, and drift."""
    motion = walk(frames)
    rotations = torch.eye(3, dtype=torch.float64).repeat(frames, len(body()), 1, 1)
    for leg in ANATOMY.legs:
        for joint, angle in ((leg.top, 0.5), (leg.middle, -1.0), (leg.tip, 0.5)):
            rotations[:, joint] = turns((1.0, 0.0, 0.0), torch.full((frames,), -angle, dtype=torch.float64))
    time = torch.arange(frames, dtype=torch.float64) / 30
    root = torch.stack([0.02 * torch.sin(4 * time), -0.1 * time, 0.8 + 0.01 * torch.cos(5 * time)], -1)
    still = replace(motion, root=root, rotations=rotations)
    low = still.positions()[:, list(ANATOMY.feet), 2] - ANATOMY.foot_heights
    root[:, 2] -= low.min()
    return still


def held(frames, *spans):
    contacts = torch.zeros(frames, len(ANATOMY.feet), dtype=torch.bool)
    for column, start, stop in spans:
        contacts[start:stop, column] = True
    return contacts


def bones(positions, skeleton=None):
    pairs = BONES if skeleton is None else list(zip(range(1, len(skeleton)), skeleton.parents[1:], strict=True))
    return torch.stack([(positions[:, a] - positions[:, b]).norm(dim=-1) for a, b in pairs], -1)


def steps(points):
    return points.diff(dim=0).norm(dim=-1)


def test_locked_feet_stay_to_a_micrometre_and_nothing_but_legs_moves():
    motion = crouched()
    contacts = held(60, (0, 5, 12), (1, 10, 25), (3, 30, 60), (2, 0, 15))
    locked = feet_locked(motion, anatomy=ANATOMY, contacts=contacts)
    before, after = motion.positions(), locked.positions()
    feet = ANATOMY.feet
    for joint, start, stop in ((feet[0], 5, 10), (feet[1], 10, 25), (feet[3], 30, 60), (feet[2], 0, 15)):
        assert float(steps(before[start:stop, joint]).max()) > 2e-3
        assert float(steps(after[start:stop, joint]).max()) < 1e-6
    assert torch.allclose(bones(after), bones(before), atol=1e-12)
    assert torch.equal(locked.root, motion.root)
    legs = [joint for leg in ANATOMY.legs for joint in (leg.top, leg.middle, leg.tip)]
    others = [joint for joint in range(len(body())) if joint not in legs]
    assert torch.equal(locked.rotations[:, others], motion.rotations[:, others])
    turned = [motion.pose()[1], locked.pose()[1]]
    assert torch.allclose(turned[0][:, list(feet)], turned[1][:, list(feet)], atol=1e-12)  # feet keep their slant
    free = (locked.positions() - before)[28, [feet[0], feet[1]]]
    assert float((after - before)[48, [feet[0], feet[1]]].norm()) < 1e-9  # long after a contact
    assert float(free.norm()) > 1e-4  # and still on its way back right after it


def test_corrections_come_and_go_without_a_jump():
    motion = crouched(90)
    contacts = held(90, (1, 20, 45), (1, 60, 70), (3, 0, 30))
    before, after = motion.positions(), feet_locked(motion, anatomy=ANATOMY, contacts=contacts).positions()
    legs = [joint for leg in ANATOMY.legs for joint in (leg.middle, leg.tip)]
    assert float(steps(after)[:, legs].max()) < 2.5 * float(steps(before)[:, legs].max()) + 0.01
    assert float(jerk(after, 30.0)[:, legs].max()) < float(jerk(before, 30.0)[:, legs].max()) + 250
    rolled = held(90, (0, 20, 30), (1, 30, 45))  # from heel to toe: the contact goes on
    rolled_steps = steps(feet_locked(motion, anatomy=ANATOMY, contacts=rolled).positions()[20:45, ANATOMY.feet[1]])
    assert float(rolled_steps.max()) < 1e-6  # the foot is level, so all of it stays


def test_a_body_whose_feet_rest_is_left_as_it_is():
    motion = crouched()
    frozen = replace(motion, root=motion.root[:1].expand(60, 3))
    contacts = foot_contacts(frozen, ANATOMY)
    assert contacts.all()
    assert torch.allclose(feet_locked(frozen, anatomy=ANATOMY).positions(), frozen.positions(), atol=1e-9)


def test_contacts_are_low_and_slow_and_not_short():
    motion = crouched()
    root = motion.root[:1].repeat(60, 1)
    root[20:30, 2] += 0.2
    root[40:42, 2] += 0.2  # too short to be a step
    contacts = foot_contacts(replace(motion, root=root), ANATOMY)
    assert not contacts[20:30].any()
    assert contacts[:19].all()
    assert contacts[32:].all()
    assert not foot_contacts(replace(motion, root=root), ANATOMY, floor=-0.1).any()


def test_what_is_out_of_reach_is_come_near_to_without_a_jump():
    motion = crouched(301)
    away = torch.linspace(0, 1.5, 301, dtype=torch.float64)[:, None] * torch.tensor([0.0, 1.0, 0.0])
    leaving = replace(  # 5 mm a frame, from a foot that cannot follow
        motion, root=motion.root[0] + away, rotations=motion.rotations[:1].expand(301, -1, 3, 3)
    )
    leg, target = ANATOMY.legs[0], motion.positions()[0, ANATOMY.legs[0].tip]
    positions = limb_pinned(leaving, "left_leg", target, 0, 301, anatomy=ANATOMY).positions()
    assert float(steps(positions)[:, [leg.middle, leg.tip]].max()) < 0.025
    length = body().length("left_hip", "left_ankle")
    spans = (positions[:, leg.tip] - positions[:, leg.top]).norm(dim=-1)
    assert float(spans.max()) < length + 1e-9
    assert float(spans[-1]) > 0.999 * length
    reached = (target - positions[:, leg.top]).norm(dim=-1) < 0.998 * length
    assert 50 < int(reached.sum()) < 200
    assert float((positions[reached, leg.tip] - target).norm(dim=-1).max()) < 1e-6
    towards = torch.nn.functional.cosine_similarity(positions[:, leg.tip] - positions[:, leg.top],
                                                    target - positions[:, leg.top], dim=-1)  # fmt: skip
    assert float(towards.min()) > 1 - 1e-9


def test_hands_and_hips_come_exactly_where_they_should():
    motion = walk(60)
    hand = ANATOMY.limbs[2].tip
    target = motion.positions()[30, hand] + torch.tensor([0.05, -0.1, 0.1], dtype=torch.float64)
    pinned = limb_pinned(motion, "left_arm", target, 28, 33, anatomy=ANATOMY)
    assert torch.allclose(pinned.positions()[28:33, hand], target.expand(5, 3), atol=1e-6)
    assert torch.allclose(pinned.rotations[:15], motion.rotations[:15], atol=1e-12)
    assert torch.allclose(bones(pinned.positions()), bones(motion.positions()), atol=1e-12)
    low = crouched()
    aim = torch.tensor([0.03, -0.15, 0.72], dtype=torch.float64)
    sat = pelvis_pinned(low, aim, 25, 40, anatomy=ANATOMY)
    middle = sat.positions()[25:40][:, list(ANATOMY.pelvis)].mean(1)
    assert torch.allclose(middle, aim.expand(15, 3), atol=1e-9)
    feet = list(ANATOMY.feet)
    assert torch.allclose(sat.positions()[:, feet], low.positions()[:, feet], atol=1e-6)


def test_wrong_limbs_frames_and_contacts_are_told():
    motion, target = crouched(10), torch.zeros(3, dtype=torch.float64)
    for wrong in (
        lambda: limb_pinned(motion, "tail", target, 0, 1),
        lambda: limb_pinned(motion, "left_leg", target, 5, 11),
        lambda: pelvis_pinned(motion, target, 5, 5),
        lambda: feet_locked(motion, contacts=torch.zeros(10, 3, dtype=torch.bool)),
        lambda: feet_locked(motion, blend=-1.0),
    ):
        with pytest.raises(InputError):
            wrong()


@pytest.mark.data
def test_feet_of_a_recording_that_drifts_are_held_again(data_file):
    motion = on_floor(data_file(FLAVOURS["cmu_asf"]))
    anatomy = anatomy_of(motion.skeleton, [motion])
    contacts = foot_contacts(motion, anatomy)
    drift = torch.linspace(0, 0.25, motion.frames, dtype=torch.float64)[:, None]
    sliding = replace(motion, root=motion.root + drift * torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))
    locked = feet_locked(sliding, anatomy=anatomy, contacts=contacts)
    both = contacts[1:] & contacts[:-1]
    before, after = (steps(m.positions()[:, list(anatomy.feet)])[both] * 30 for m in (sliding, locked))
    assert float(after.median()) < 0.35 * float(before.median())
    was, now = jerk(sliding.positions(), 30.0), jerk(locked.positions(), 30.0)
    assert float(now.mean()) < 1.3 * float(was.mean())
    assert torch.allclose(bones(locked.positions(), motion.skeleton), bones(sliding.positions(), motion.skeleton))
