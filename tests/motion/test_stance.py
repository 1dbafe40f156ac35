"""How a body stands: rest poses found, made from clips, and zero poses made to stand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from motion.clips import Motion
from motion.kinematics import forward_kinematics
from motion.rotations import about_axis, geodesic
from motion.stance import rest_frames, rest_of_clip, soles, standing, symmetric, upright, with_rest
from shared.errors import InputError
from tests.motion.figures import FLAVOURS, body, quietly, reframed, rotations_of, shortened, walk


def frames_of(motion, seed=0):
    return rotations_of(torch.Generator().manual_seed(seed), len(motion.skeleton))


def test_a_rest_pose_made_from_a_clip_is_the_one_the_joints_were_made_with():
    motion = walk(60)
    frames = frames_of(motion)
    other = reframed(motion, frames)
    found, notes = with_rest(other)
    assert "made from the clip" in notes[0]
    made = rest_frames(found.skeleton)
    true = rest_frames(motion.skeleton) @ frames  # G_j K_j
    names = motion.skeleton.names
    for limb in ("UpLeg", "Leg", "Arm", "ForeArm"):
        for side in ("Left", "Right"):
            joint = names.index(side + limb)
            assert float(torch.rad2deg(geodesic(made[joint], true[joint]))) < 3.0, side + limb
    for name in ("Hips", "LeftFoot", "RightFoot"):
        joint = names.index(name)
        assert float(torch.rad2deg(geodesic(made[joint], true[joint]))) < 12.0, name


def test_limbs_that_never_bend_are_stretched_by_the_least_turn():
    motion = walk(40)
    names = motion.skeleton.names
    rotations = motion.rotations.clone()
    for name in ("LeftForeArm", "RightForeArm", "LeftLeg", "RightLeg"):
        rotations[:, names.index(name)] = torch.eye(3)
    straight = reframed(replace(motion, rotations=rotations), frames_of(motion))
    rest = rest_of_clip(straight)
    positions, _ = forward_kinematics(straight.skeleton, torch.zeros(3, dtype=torch.float64), rest)
    arm = positions[names.index("LeftHand")] - positions[names.index("LeftArm")]
    leg = positions[names.index("LeftFoot")] - positions[names.index("LeftUpLeg")]
    assert torch.allclose(arm / arm.norm(), torch.tensor([-1.0, 0, 0]).double(), atol=1e-6)
    assert torch.allclose(leg / leg.norm(), torch.tensor([0.0, 0, -1]).double(), atol=1e-6)


def test_a_zero_pose_that_stands_is_the_rest_pose_and_one_of_a_lying_clip_is_unknown():
    motion = walk(10)
    found, notes = with_rest(replace(motion, skeleton=replace(motion.skeleton, rest=None)))
    assert not notes
    assert torch.equal(found.skeleton.rest, motion.skeleton.rest)
    lying = motion.placed(about_axis(0, torch.tensor(1.5).double()), torch.zeros(3).double())
    found, notes = with_rest(reframed(lying, frames_of(motion)))
    assert found.skeleton.rest is None
    assert "unknown" in notes[0]
    with pytest.raises(InputError, match="rest pose"):
        rest_frames(found.skeleton)
    kept, _ = with_rest(lying)  # the clip lies, but the skeleton stands
    assert kept.skeleton.rest is not None


def test_a_first_frame_that_jumps_from_a_t_pose_is_the_rest_pose_and_a_fast_motion_is_none():
    motion = walk(30)
    skeleton = motion.skeleton
    zero = torch.eye(3, dtype=torch.float64).expand(1, len(skeleton), 3, 3)
    jumping = Motion(
        skeleton, torch.cat([motion.root[:1], motion.root]), torch.cat([zero, motion.rotations]), motion.fps
    )
    found, notes = with_rest(jumping)
    assert found.frames == 30
    assert "frame 0" in notes[0]
    assert with_rest(jumping, False)[0].frames == 31
    fast = motion.resampled(6.0)  # 40 degrees a frame and more, but every frame
    assert with_rest(fast)[0].frames == fast.frames


def test_a_body_is_as_upright_as_its_height_by_its_length():
    skeleton = body()
    zero = torch.eye(3, dtype=torch.float64).expand(len(skeleton), 3, 3)
    positions, turned = forward_kinematics(skeleton, torch.tensor([0, 0, 0.9], dtype=torch.float64), zero)
    path = 0.2 + (0.2**2 + 0.02**2) ** 0.5 + 0.25 + 0.09 + 0.83
    assert float(upright(positions, skeleton)) == pytest.approx((0.65 + 0.83) / path, rel=1e-6)
    assert float(soles(skeleton, positions, turned).min()) == pytest.approx(0.0, abs=1e-9)


def test_soles_leave_out_invented_tips_and_guess_the_height_of_bare_ankles():
    skeleton = body()
    toeless = replace(
        skeleton, roles={role: joint for role, joint in skeleton.roles.items() if "toe" not in role},
        end_joints=(14, 18), end_offsets=torch.tensor([[0, -0.4, -0.3], [0, -0.14, -0.07]], dtype=torch.float64),
    )  # fmt: skip
    zero = torch.eye(3, dtype=torch.float64).expand(len(skeleton), 3, 3)
    positions, turned = forward_kinematics(toeless, torch.tensor([0, 0, 0.9], dtype=torch.float64), zero)
    left, right, tip = soles(toeless, positions, turned)[[0, 1, 2]].tolist()
    assert left == pytest.approx(0.07 - 0.09 * 0.83)  # its end site is 0.5 m long
    assert right == pytest.approx(0.07)
    assert tip == pytest.approx(0.0, abs=1e-9)


def test_symmetric_joints_point_half_way_to_the_other_sides_and_a_symmetric_body_stays():
    skeleton = body()
    straight = rest_frames(skeleton)
    assert torch.allclose(symmetric(skeleton, straight), straight, atol=1e-12)
    bent = straight.clone()
    bent[5] = about_axis(1, torch.tensor(0.4).double()) @ bent[5]
    even = symmetric(skeleton, bent)
    expected = about_axis(1, torch.tensor(0.2).double()) @ straight[5]
    assert torch.allclose(even[5], expected, atol=1e-9)


@pytest.mark.data
@pytest.mark.parametrize("flavour", ["cmu_asf", "sit_down", "cmu91", "jl", "bandai"])
def test_every_flavour_stands_upright_and_symmetric_at_rest(flavour, data_file, tmp_path):
    frames = 400 if flavour == "jl" else 100
    path = data_file(FLAVOURS[flavour])
    skeleton = quietly(shortened(path, tmp_path, frames) if flavour in ("jl",) else path).skeleton
    positions, turned = forward_kinematics(skeleton, torch.zeros(3, dtype=torch.float64), skeleton.rest)
    assert float(upright(positions, skeleton)) > 0.88
    left, right = soles(skeleton, positions, turned).reshape(2, -1).amin(1)
    assert abs(float(left - right)) < 0.03
    hands = [positions[skeleton.roles[f"{side}_hand"]] for side in ("left", "right")]
    assert float((hands[0] - hands[1]).norm()) > 1.0
    assert float((hands[0][2] - hands[1][2]).abs()) < 0.07


@pytest.mark.data
def test_standing_moves_no_joint_and_its_zero_pose_is_the_rest_pose(data_file):
    motion = quietly(data_file(FLAVOURS["sit_down"]))
    other = standing(motion)
    assert torch.allclose(other.positions(), motion.positions(), atol=1e-12)
    half_turn = about_axis(2, torch.tensor(torch.pi, dtype=torch.float64))
    positions, _ = forward_kinematics(other.skeleton, torch.zeros(3).double(), other.skeleton.rest)
    before, _ = forward_kinematics(motion.skeleton, torch.zeros(3).double(), motion.skeleton.rest)
    assert torch.allclose(rest_frames(other.skeleton), half_turn.expand_as(other.skeleton.rest), atol=1e-9)
    assert torch.allclose(positions.norm(dim=-1), before.norm(dim=-1), atol=1e-12)
    toe = positions[other.skeleton.roles["left_toe"]] - positions[other.skeleton.roles["left_ankle"]]
    assert float(toe[1]) < -0.08  # faces -y, the +z of a y-up file
