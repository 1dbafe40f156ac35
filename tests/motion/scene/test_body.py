"""Capsules, energies and scores against closed forms, and against a real capture in its real scene."""

from __future__ import annotations

import gzip
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from motion.scene.body import Capsules, capsules_of, contact, penetration, scene_scores
from motion.scene.field import build_field
from motion.scene.loading import read_scene
from shared.errors import InputError


def ground(points):
    return points[..., 2]


def ball(points):
    return points.norm(dim=-1) - 1.0


def one(radius=0.1):
    return Capsules(torch.tensor([[0, 1]]), torch.tensor([radius]))


def segment_distance(points, start, stop):
    axis = stop - start
    share = ((points - start) @ axis / (axis @ axis)).clamp(0, 1)
    return (points - start - share[:, None] * axis).norm(dim=-1)


def test_a_capsules_distance_is_its_axis_less_its_radius():
    joints = torch.tensor([[[0.0, 0, 0.5], [1.0, 0, 0.3]], [[0.0, 0, 0.05], [0, 0, 2.0]]])
    assert torch.allclose(one().distance(joints, ground), torch.tensor([[0.2], [-0.05]]))
    tangent = torch.tensor([[[-3.0, 1.5, 0], [3.0, 1.5, 0]]])  # nearest to the ball in its middle
    assert one().distance(tangent, ball, count=121).item() == pytest.approx(0.4, abs=1e-6)
    assert 0 <= one().distance(tangent, ball, count=4).item() - 0.4 <= 1.0  # half the spacing


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-2, 2), min_size=6, max_size=6), st.floats(0.01, 0.3))
def test_surface_points_lie_on_the_surface(ends, radius):
    joints = torch.tensor(ends).reshape(1, 2, 3)
    points = one(radius).surface_points(joints, around=6, along=4)
    assert points.shape == (1, 26, 3)
    start, stop = joints[0]
    if (stop - start).norm() > 1e-3:
        distance = segment_distance(points[0].double(), start.double(), stop.double())
        assert (distance - radius).abs().max() < 1e-4
        ring = points[0, :6] - start
        assert (ring @ (stop - start)).abs().max() < 1e-4  # around the axis
        assert ring.mean(0).norm() < 1e-5  # and all round it
    else:
        assert ((points[0] - start).norm(dim=-1) - radius).abs().max() < 2e-3


def test_gradients_are_finite_even_for_bones_without_length():
    joints = torch.tensor([[[0.2, 0.1, 0.0], [0.2, 0.1, 0.0]]], requires_grad=True)
    points = one().surface_points(joints)
    penetration(points, ground, margin=0.05).sum().backward()
    assert torch.isfinite(joints.grad).all()
    assert (joints.grad[..., 2] < 0).any()


def test_penetration_is_the_mean_depth_and_its_gradient_lifts():
    points = torch.tensor([[[0.0, 0, -0.2], [0, 0, 0.5]]], requires_grad=True)
    energy = penetration(points, ground)
    assert energy.tolist() == pytest.approx([0.1])
    energy.sum().backward()
    assert torch.equal(points.grad[0, :, 2], torch.tensor([-0.5, 0.0]))
    assert penetration(points, ground, margin=0.6).tolist() == pytest.approx([(0.8 + 0.1) / 2])
    radii = torch.tensor([0.0, 0.6])
    assert penetration(points, ground, margin=radii).tolist() == pytest.approx([(0.2 + 0.1) / 2])


def test_energies_of_a_satisfied_body_are_zero_with_zero_gradient():
    points = torch.tensor([[[0.0, 0, 0.005], [0, 0, 0.5]]], requires_grad=True)
    energy = penetration(points, ground) + contact(points, ground)
    assert energy.item() == 0.0
    energy.sum().backward()
    assert (points.grad == 0).all()


def test_contact_is_the_gap_or_the_depth_beyond_tolerance():
    def at(*heights):
        return torch.tensor([[[0.0, 0, h] for h in heights]])

    assert contact(at(0.3, 0.5), ground, 0.02).item() == pytest.approx(0.28)
    assert contact(at(-0.3, 0.5), ground, 0.02).item() == pytest.approx(0.28)
    assert contact(at(0.01, 0.5), ground, 0.02).item() == 0.0


def test_descending_the_energy_takes_a_body_out_of_a_box(shapes):
    field = build_field(shapes.scene_of(shapes.box("box", [0, 0, 0], [1, 1, 0.6]), floor=-9.0), voxel=0.05)
    joints = torch.tensor([[[0.5, 0.5, 0.55], [0.9, 0.5, 0.5]]], requires_grad=True)
    capsules = one(0.08)
    before = scene_scores(capsules.surface_points(joints).detach(), field)
    for _ in range(100):
        points, radii = capsules.axis_points(joints)
        (gradient,) = torch.autograd.grad(penetration(points, field, radii + 0.01).sum(), joints)
        joints = (joints - 0.06 * gradient).detach().requires_grad_(True)
    after = scene_scores(capsules.surface_points(joints).detach(), field)
    assert before.non_collision < 0.5
    assert before.max_depth > 0.1
    assert after.non_collision == 1.0
    assert capsules.distance(joints, field).min() > -0.005


def test_scores_count_points_and_frames():
    heights = torch.tensor([[0.5, 0.3, -0.1, 0.2], [0.5, 0.4, 0.3, 0.1], [-0.3, -0.2, 0.4, 0.0]])
    points = torch.stack([torch.zeros(3, 4), torch.zeros(3, 4), heights], -1)
    scores = scene_scores(points, ground, tolerance=0.02)
    assert scores.non_collision == pytest.approx(9 / 12)
    assert scores.contact == pytest.approx(2 / 3)
    assert scores.mean_depth == pytest.approx((0.1 + 0.0 + 0.3) / 3)
    assert scores.max_depth == pytest.approx(0.3)
    assert scene_scores(points, ground, slack=0.15).non_collision == pytest.approx(10 / 12)
    with pytest.raises(InputError, match=r"\(F, P, 3\)"):
        scene_scores(points[0], ground)


def test_many_frames_and_batches_at_once():
    capsules = Capsules(torch.tensor([[0, 1], [1, 2], [2, 2]]), torch.tensor([0.1, 0.08, 0.12]))
    joints = torch.randn(2, 5, 3, 3)
    assert capsules.distance(joints, ground).shape == (2, 5, 3)
    points = capsules.surface_points(joints)
    assert points.shape == (2, 5, 3 * 26, 3)
    assert torch.allclose(points[1, 2], capsules.surface_points(joints[1, 2]))
    assert penetration(points, ground).shape == (2, 5)


@pytest.mark.data
@pytest.mark.parametrize(
    "clip",
    [
        "mocap/cmu_asfamc_bvh60/02_01", "mocap/gazebo_cmu_bvh120/walk", "mocap/gazebo_cmu_bvh120/cmu-13_26",
        "mocap/cmu91_bvh30/91_48", "noncommercial_bandai_bvh30/dataset-2_walk_normal_001",
    ],
)  # fmt: skip
def test_every_skeleton_of_the_shelf_gets_a_body_of_human_volume(clip, data_file):
    with gzip.open(data_file(f"motion/{clip}.bvh.gz"), "rt") as file:
        header = file.read().split("MOTION")[0]
    names, parents, stack, offsets = [], [], [], []
    for word, rest in re.findall(r"(ROOT|JOINT|End Site|OFFSET|\})[ \t]*([^\r\n]*)", header):
        if word in ("ROOT", "JOINT", "End Site"):
            names.append(rest.strip() if word != "End Site" else names[stack[-1]] + "_end")
            parents.append(stack[-1] if stack else -1)
            stack.append(len(names) - 1)
        elif word == "OFFSET":
            offsets.append([float(x) for x in rest.split()])
        else:
            stack.pop()
    capsules = capsules_of(names, parents)
    assert len(capsules.bones) >= len(names) - 1
    joints = np.zeros((len(names), 3))
    for k, parent in enumerate(parents):
        joints[k] = np.array(offsets[k]) + (joints[parent] if parent >= 0 else 0)
    height = np.ptp(joints, axis=0).max()
    lengths = np.linalg.norm(joints[capsules.bones[:, 1]] - joints[capsules.bones[:, 0]], axis=1) * 1.75 / height
    volume = float((np.pi * capsules.radii.numpy() ** 2 * lengths).sum())  # cylinders: ends overlap at joints
    assert 0.04 < volume < 0.11  # m3; a person of 1.75 m has 0.07, and capsules overlap at hips and shoulders
    by_name = {names[a]: float(r) for (a, _), r in zip(capsules.bones.tolist(), capsules.radii, strict=True)}
    assert max(by_name.values()) < 0.13
    assert min(by_name.values()) > 0.01


def test_a_leaf_is_a_ball_only_where_it_is_thicker_than_its_bone():
    names = ["Hips", "Neck", "Head", "LeftForeArm", "LeftHand"]
    capsules = capsules_of(names, [-1, 0, 1, 0, 3], stature=2.0)
    assert capsules.bones.tolist() == [[0, 1], [1, 2], [0, 3], [3, 4], [2, 2]]
    assert capsules.radii.tolist() == pytest.approx([0.124, 0.068, 0.124, 0.044, 0.104])


@pytest.mark.parametrize(
    "name", ["LeftUpLeg", "L_Hip", "mixamorig:LeftUpLeg", "lhip", "HipLeft", "RHipJoint", "rThigh"]
)
def test_a_thigh_is_a_thigh_in_every_dialect(name):
    thigh, hips = (float(capsules_of([n], [-1]).radii) for n in (name, "character_hips"))
    assert thigh == pytest.approx(0.043 * 1.75)
    assert hips == pytest.approx(0.062 * 1.75)


def test_names_that_say_nothing_are_refused():
    with pytest.raises(InputError, match="'bone_17'"):
        capsules_of(["hips", "bone_17", "x"], [-1, 0, 1])
    with pytest.raises(InputError, match="one parent a name"):
        capsules_of(["hips"], [-1, 0])
    with pytest.raises(InputError, match="a radius that is not positive"):
        one(0.0)
    with pytest.raises(InputError, match=r"J > 1"):
        one().axis_points(torch.zeros(4, 1, 3))


@pytest.mark.data
def test_a_captured_climb_touches_its_boxes_and_does_not_enter_them(data_file):
    folder = "motion/mocap/holosoma_climb_scene/mocap_climb_seq_0"
    with np.load(data_file(f"{folder}.npz"), allow_pickle=False) as archive:
        joints = torch.from_numpy(archive["joint_positions"][::20])
    field = build_field(read_scene(data_file(f"{folder}_boxes.obj")), voxel=0.06)
    scores = scene_scores(joints, field, tolerance=0.05, slack=0.05)
    assert scores.non_collision == 1.0  # of joints: no fingertip is deeper than 5 cm
    assert scores.contact > 0.9
    shifted = scene_scores(joints - torch.tensor([0.0, 0.0, 0.3]), field, slack=0.05)
    assert shifted.non_collision < 0.95
