"""A motion as features and back, and what a frame's features mean."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from motion.clips import heading
from motion.collection import body_of
from motion.features import GROUPS, HEADING, PATH, Body, seen_from
from motion.retarget import retargeted
from motion.rotations import about_axis, geodesic
from motion.skeleton_data import skeleton_from_data, skeleton_to_data
from shared.errors import InputError
from tests.motion.figures import body, quietly, rotations_of, walk


def placed(motion, degrees: float = 130.0):
    turn = about_axis(2, torch.deg2rad(torch.tensor(degrees, dtype=torch.float64)))
    return motion.placed(turn, torch.tensor([3.0, -2.0, 0.1], dtype=torch.float64))


def test_encode_and_decode_are_inverse_where_all_joints_are_driven():
    motion = placed(walk(20))
    figure = Body(motion.skeleton)
    features = figure.encode(motion)
    assert features.shape == (20, figure.size)
    assert figure.size == 3 + 2 + 6 * (1 + len(figure.driven)) + 4
    assert len(figure.driven) == len(motion.skeleton) - 1
    back = figure.decode(features, motion.fps)
    assert torch.allclose(back.root, motion.root, atol=1e-12)
    assert float(geodesic(back.rotations, motion.rotations).max()) < 1e-6


def test_any_rotations_come_back_wherever_the_body_points():
    skeleton = body()
    motion = walk(30)
    generator = torch.Generator().manual_seed(1)
    motion = replace(motion, rotations=rotations_of(generator, 30, len(skeleton)))
    figure = Body(skeleton)
    back = figure.decode(figure.encode(motion).float(), 30.0)
    assert torch.allclose(back.positions(), motion.positions(), atol=2e-5)


def test_seen_from_a_frame_is_the_features_of_the_canonical_motion():
    motion = placed(walk(20))
    figure = Body(motion.skeleton)
    expected = figure.encode(motion.canonical(7)[0])
    assert torch.allclose(seen_from(figure.encode(motion), 7), expected, atol=1e-12)
    assert torch.allclose(expected[7, PATH], torch.zeros(2, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(expected[7, HEADING], torch.tensor([1.0, 0.0], dtype=torch.float64), atol=1e-12)


def test_only_path_and_heading_depend_on_the_place():
    motion = walk(20)
    figure = Body(motion.skeleton)
    here, there = figure.encode(motion), figure.encode(placed(motion).placed(torch.eye(3).double(), torch.zeros(3)))
    there[:, 2] -= 0.1
    assert torch.allclose(here[:, [2, *range(5, figure.size)]], there[:, [2, *range(5, figure.size)]], atol=1e-12)
    assert [int((figure.groups == index).sum()) for index in range(len(GROUPS))] == [2, 9, 6 * len(figure.driven), 4]


def test_features_of_a_network_need_not_be_rotations():
    figure = Body(body())
    features = torch.randn(2, 5, figure.size, generator=torch.Generator().manual_seed(0), requires_grad=True)
    root, rotations = figure.pose(features)
    assert rotations.shape == (2, 5, len(figure.skeleton), 3, 3)
    assert torch.allclose(rotations @ rotations.transpose(-1, -2), torch.eye(3).expand_as(rotations), atol=1e-5)
    assert torch.equal(root, features[..., :3])
    figure.positions(features).square().sum().backward()
    assert torch.isfinite(features.grad).all()


def test_feet_rest_while_the_hips_move_on():
    motion = walk(60)
    still = replace(motion, root=motion.root[:1].expand(60, 3), rotations=motion.rotations[:1].expand(60, -1, -1, -1))
    figure = Body(motion.skeleton)
    assert figure.encode(still)[:, -4:].min() == 1
    sliding = replace(still, root=motion.root)  # 1.2 m/s
    assert figure.encode(sliding)[:, -4:].max() == 0


def test_a_skeleton_is_the_same_after_writing_it_as_data():
    import json

    skeleton = body()
    back = skeleton_from_data(json.loads(json.dumps(skeleton_to_data(skeleton))))
    assert (back.names, back.parents, dict(back.roles)) == (skeleton.names, skeleton.parents, dict(skeleton.roles))
    for name in ("offsets", "end_offsets", "rest"):
        assert torch.equal(getattr(back, name), getattr(skeleton, name))
    with pytest.raises(InputError, match="damaged data"):
        skeleton_from_data({"names": ["a"]})


def test_a_body_needs_the_hips_as_root_and_motions_of_its_own():
    skeleton = body()
    with pytest.raises(InputError, match="rest pose unknown"):
        Body(replace(skeleton, rest=None))
    with pytest.raises(InputError, match="offsets that move"):
        Body(skeleton).encode(replace(walk(3), offsets=skeleton.offsets.expand(3, -1, -1)))


def test_a_recording_on_the_body_comes_back_but_for_its_fingers(data_file):
    clip = quietly(data_file("motion/mocap/gazebo_cmu_bvh120/sit_down.bvh.gz")).resampled(30.0)
    figure = body_of(clip.skeleton)
    assert "LThumb" not in {figure.skeleton.names[joint] for joint in figure.driven}
    motion = retargeted(clip, figure.skeleton)
    back = figure.decode(figure.encode(motion).float(), 30.0)
    kept = [0, *figure.driven]
    assert float((back.positions() - motion.positions())[:, kept].abs().max()) < 1e-5
    angle = heading(motion.positions(), figure.skeleton)
    assert torch.allclose(figure.encode(motion)[:, HEADING], angle[:, :2, 0])
