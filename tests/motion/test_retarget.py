"""The same motion on other skeletons: nothing changes on its own, bones keep their directions, feet reach the floor."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from motion.retarget import lowest_foot, retargeted
from motion.stance import with_rest
from shared.errors import InputError
from tests.motion.figures import FLAVOURS, body, quietly, reframed, rotations_of, walk

LIMBS = [("hip", "knee"), ("knee", "ankle"), ("shoulder", "elbow"), ("elbow", "hand")]


def directions(motion, top, below):
    positions = motion.positions()
    bone = positions[:, motion.skeleton.roles[below]] - positions[:, motion.skeleton.roles[top]]
    return bone / bone.norm(dim=-1, keepdim=True)


def test_on_its_own_skeleton_a_motion_stays():
    motion = walk(30)
    same = retargeted(motion, motion.skeleton)
    assert torch.allclose(same.rotations, motion.rotations, atol=1e-12)
    assert torch.allclose(same.root, motion.root, atol=1e-12)
    floating = replace(motion, root=motion.root + torch.tensor([0, 0, 0.04], dtype=torch.float64))
    assert torch.allclose(retargeted(floating, motion.skeleton).root, motion.root, atol=1e-12)  # set onto the floor


def test_a_body_of_half_the_size_takes_half_the_steps():
    motion = walk(30)
    small = retargeted(motion, body(0.5))
    assert torch.allclose(small.rotations, motion.rotations, atol=1e-12)
    assert torch.allclose(small.root, motion.root / 2, atol=1e-12)


def test_a_jump_and_a_climb_stay_off_the_floor():
    motion = walk(30)
    high = replace(motion, root=motion.root + torch.tensor([0, 0, 0.5], dtype=torch.float64))
    assert lowest_foot(retargeted(high, body(0.8))) == pytest.approx(lowest_foot(high), abs=1e-9)


def test_the_axes_of_the_targets_joints_do_not_matter():
    motion = walk(60)
    frames = rotations_of(torch.Generator().manual_seed(3), len(motion.skeleton))
    other, _ = with_rest(reframed(motion, frames))  # its rest pose is made from the clip
    back = retargeted(other, motion.skeleton)
    for top, below in LIMBS:
        for side in ("left", "right"):
            one, two = (directions(clip, f"{side}_{top}", f"{side}_{below}") for clip in (back, motion))
            assert torch.allclose(one, two, atol=1e-9), (side, top)
    error = (back.positions() - motion.positions()).norm(dim=-1)
    assert float(error.mean()) < 0.06


@pytest.mark.data
@pytest.mark.parametrize("flavour", ["sit_down", "cmu91", "bandai"])
def test_between_trees_limbs_point_where_the_sources_do_and_feet_stand(flavour, data_file):
    source = quietly(data_file(FLAVOURS[flavour]))
    target = quietly(data_file(FLAVOURS["cmu_asf"])).skeleton
    done = retargeted(source, target)
    for top, below in LIMBS:
        for side in ("left", "right"):
            one, two = (directions(clip, f"{side}_{top}", f"{side}_{below}") for clip in (done, source))
            # Elbow to hand has a wrist between in the target, elsewhere nothing.
            assert float((one * two).sum(-1).min()) > (0.97 if top == "elbow" else 0.999), (side, top)
    assert lowest_foot(done) == pytest.approx(0.0, abs=1e-9)
    spine = [directions(clip, "hips", "chest") for clip in (done, source)]
    assert float((spine[0] * spine[1]).sum(-1).mean()) > 0.95
    hips = [clip.positions()[:, clip.skeleton.roles["hips"]] for clip in (done, source)]
    ratio = target.leg / source.skeleton.leg
    assert torch.allclose(hips[0][:, :2], ratio * hips[1][:, :2], atol=1e-9)
    assert done.skeleton is target


@pytest.mark.data
def test_there_and_back_between_trees_is_within_a_centimetre(data_file):
    walking = quietly(data_file(FLAVOURS["cmu_asf"]))
    other = quietly(data_file(FLAVOURS["bandai"])).skeleton
    there = retargeted(walking, other)
    assert there.skeleton.names[0] == "joint_Root"
    back = retargeted(there, walking.skeleton)
    error = (back.positions() - walking.positions()).norm(dim=-1)
    assert 100 * float(error.mean()) < 1.0


def test_joints_without_a_role_keep_their_rest_and_unknown_bodies_are_told():
    motion = walk(10)
    target = body()
    index = target.names.index("LeftShoulder")
    roles = {role: joint for role, joint in target.roles.items() if role != "left_clavicle"}
    other = replace(target, names=("Pelvis", *target.names[1:]), roles=roles)
    done = retargeted(motion, other)
    assert torch.allclose(done.rotations[:, index], torch.eye(3).double().expand(10, 3, 3), atol=1e-12)
    with pytest.raises(InputError, match="no joint for head"):
        retargeted(motion, replace(other, roles={role: joint for role, joint in roles.items() if role != "head"}))
    with pytest.raises(InputError, match="rest pose"):
        retargeted(motion, replace(other, rest=None))
