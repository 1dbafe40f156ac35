"""Forward kinematics: an arm in the plane, a plain recursion, and gradients."""

from __future__ import annotations

import math

import numpy as np
import torch

from motion.kinematics import end_positions, forward_kinematics, local_rotations
from motion.rotations import about_axis
from motion.skeleton import Skeleton
from tests.motion.figures import body, rotations_of


def test_an_arm_of_two_links_reaches_where_trigonometry_says():
    arm = Skeleton(
        ("base", "elbow"), (-1, 0), torch.tensor([[0.0, 0, 0], [2.0, 0, 0]], dtype=torch.float64), (1,),
        torch.tensor([[1.0, 0, 0]], dtype=torch.float64),
    )  # fmt: skip
    a, b = 0.7, -1.1
    rotations = about_axis(2, torch.tensor([[a, b]], dtype=torch.float64))
    positions, turned = forward_kinematics(arm, torch.tensor([[0.5, 0, 3.0]], dtype=torch.float64), rotations)
    elbow = [0.5 + 2 * math.cos(a), 2 * math.sin(a), 3.0]
    tip = [elbow[0] + math.cos(a + b), elbow[1] + math.sin(a + b), 3.0]
    assert np.allclose(positions[0, 1], elbow)
    assert np.allclose(end_positions(arm, positions, turned)[0, 0], tip)


def test_levels_give_what_a_recursion_over_joints_gives_with_and_without_moving_offsets():
    skeleton, generator = body(), torch.Generator().manual_seed(0)
    root = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    rotations = rotations_of(generator, 5, len(skeleton))
    moved = skeleton.offsets + 0.1 * torch.randn(5, len(skeleton), 3, generator=generator, dtype=torch.float64)
    for offsets in (None, moved):
        positions, turned = forward_kinematics(skeleton, root, rotations, offsets)
        for frame in range(5):
            places, axes = [root[frame].numpy()], [rotations[frame, 0].numpy()]
            for joint, parent in enumerate(skeleton.parents[1:], 1):
                offset = (skeleton.offsets[joint] if offsets is None else offsets[frame, joint]).numpy()
                places.append(places[parent] + axes[parent] @ offset)
                axes.append(axes[parent] @ rotations[frame, joint].numpy())
            assert np.allclose(positions[frame], places)
            assert np.allclose(turned[frame], axes)
        assert torch.allclose(local_rotations(skeleton, turned), rotations)


def test_kinematics_is_differentiable_and_keeps_precision_and_batch():
    skeleton, generator = body(), torch.Generator().manual_seed(1)
    rotations = rotations_of(generator, 2, 3, len(skeleton)).float().requires_grad_()
    positions, _ = forward_kinematics(skeleton, torch.zeros(2, 3, 3), rotations)
    assert positions.dtype == torch.float32
    assert positions.shape == (2, 3, len(skeleton), 3)
    positions[..., 7, :].sum().backward()  # the left hand moves with its ancestors only
    moves = rotations.grad.abs().sum((0, 1, 3, 4)) > 0
    assert [skeleton.names[joint] for joint in moves.nonzero()[:, 0]] == [
        "Hips", "Spine", "Chest", "LeftShoulder", "LeftArm", "LeftForeArm",
    ]  # fmt: skip


def test_rotations_of_joints_turn_with_the_root():
    skeleton, generator = body(), torch.Generator().manual_seed(2)
    rotations = rotations_of(generator, 4, len(skeleton))
    world = rotations_of(generator)
    positions, _ = forward_kinematics(skeleton, torch.zeros(4, 3, dtype=torch.float64), rotations)
    rotations[:, 0] = world @ rotations[:, 0]
    turned, _ = forward_kinematics(skeleton, torch.zeros(4, 3, dtype=torch.float64), rotations)
    assert torch.allclose(turned, positions @ world.T)
