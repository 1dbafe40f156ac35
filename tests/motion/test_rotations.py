"""Rotations against SciPy, and the properties that their use rests on."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation, Slerp

from motion.rotations import (
    about_axis,
    best_turn,
    from_euler,
    from_quaternions,
    from_rotation_6d,
    geodesic,
    interpolate,
    least_turn,
    quaternions,
    rotation_6d,
    to_euler,
)
from tests.motion.figures import rotations_of

ORDERS = ["".join(order) for order in permutations("XYZ")]


def some(count, seed=0):
    return rotations_of(torch.Generator().manual_seed(seed), count)


def test_6d_holds_the_first_two_columns_and_comes_back():
    rotations = some(50)
    values = rotation_6d(rotations)
    assert torch.equal(values[:, :3], rotations[..., 0])
    assert torch.equal(values[:, 3:], rotations[..., 1])
    assert torch.allclose(from_rotation_6d(values), rotations, atol=1e-14)


def test_6d_of_any_numbers_is_a_rotation_nearest_in_its_first_axis():
    values = torch.randn(200, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rotations = from_rotation_6d(values)
    identity = torch.eye(3, dtype=torch.float64).expand(200, 3, 3)
    assert torch.allclose(rotations @ rotations.transpose(-1, -2), identity, atol=1e-12)
    assert torch.allclose(torch.linalg.det(rotations), torch.ones(200, dtype=torch.float64))
    assert torch.allclose(rotations[..., 0], torch.nn.functional.normalize(values[:, :3], dim=-1))


def test_6d_is_continuous_across_pi_where_the_rotation_vector_jumps():
    angles = torch.deg2rad(torch.tensor([179.9, 180.1], dtype=torch.float64))
    pair = about_axis(1, angles)
    vectors = Rotation.from_matrix(pair.numpy()).as_rotvec()
    assert np.linalg.norm(vectors[1] - vectors[0]) > 6.0
    change = (rotation_6d(pair)[1] - rotation_6d(pair)[0]).norm()
    assert change == pytest.approx(2 * math.sin(math.radians(0.1)), rel=1e-6)


def test_quaternions_are_scipys_up_to_sign_and_both_signs_are_one_rotation():
    rotations = some(50)
    values = quaternions(rotations)
    theirs = torch.from_numpy(Rotation.from_matrix(rotations.numpy()).as_quat())
    assert torch.allclose((values * theirs).sum(-1).abs(), torch.ones(50, dtype=torch.float64))
    assert torch.allclose(from_quaternions(-3 * values), rotations, atol=1e-14)


@pytest.mark.parametrize("order", ORDERS)
def test_euler_angles_are_scipys_in_every_order(order):
    degrees = torch.rand(40, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 300 - 150
    rotations = from_euler(order, degrees)
    assert np.allclose(rotations.numpy(), Rotation.from_euler(order, degrees.numpy(), degrees=True).as_matrix())
    back = to_euler(order, rotations)
    assert np.allclose(back.numpy(), Rotation.from_matrix(rotations.numpy()).as_euler(order, degrees=True))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("middle", [90.0, -90.0, 89.999999])
def test_euler_angles_at_gimbal_lock_give_the_rotation_back(order, middle):
    degrees = torch.tensor([[25.0, middle, -70.0]], dtype=torch.float64)
    rotations = from_euler(order, degrees)
    assert float(geodesic(from_euler(order, to_euler(order, rotations)), rotations)) < 1e-6


def test_interpolation_is_slerp_and_exact_at_its_ends():
    first, second = some(2, seed=3)
    shares = torch.linspace(0, 1, 11, dtype=torch.float64)
    path = interpolate(first, second, shares)
    slerp = Slerp([0, 1], Rotation.from_matrix(torch.stack([first, second]).numpy()))
    assert np.allclose(path.numpy(), slerp(shares.numpy()).as_matrix(), atol=1e-12)
    assert torch.equal(path[0], first)
    assert torch.allclose(path[-1], second, atol=1e-14)


def test_interpolation_turns_at_constant_speed_on_the_shorter_arc_and_with_the_world():
    first, second, world = some(3, seed=4)
    path = interpolate(first, second, torch.linspace(0, 1, 21, dtype=torch.float64))
    steps = geodesic(path[:-1], path[1:])
    assert torch.allclose(steps, steps[:1].expand(20), rtol=1e-9)
    assert float(steps.sum()) == pytest.approx(float(geodesic(first, second)))
    shares = torch.tensor([0.3], dtype=torch.float64)
    assert torch.allclose(
        interpolate(world @ first, world @ second, shares), world @ interpolate(first, second, shares)
    )
    assert torch.allclose(
        interpolate(first @ world, second @ world, shares), interpolate(first, second, shares) @ world
    )


@pytest.mark.parametrize("degrees", [0.0, 1e-5, 179.9])
def test_gradients_of_the_interpolation_are_finite_at_no_turn_and_near_half_a_turn(degrees):
    first = torch.eye(3, dtype=torch.float64)
    second = about_axis(0, torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))).requires_grad_()
    interpolate(first, second, 0.5).square().sum().backward()
    assert torch.isfinite(second.grad).all()


def test_least_turn_takes_one_direction_to_the_other_by_the_angle_between_them():
    generator = torch.Generator().manual_seed(5)
    for _ in range(20):
        start, end = torch.randn(2, 3, generator=generator, dtype=torch.float64)
        turn = least_turn(start, end)
        assert torch.allclose(turn @ start / start.norm(), end / end.norm(), atol=1e-12)
        angle = torch.arccos((start @ end) / (start.norm() * end.norm()))
        assert torch.allclose(geodesic(turn, torch.eye(3, dtype=torch.float64)), angle)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_least_turn_between_opposite_directions_is_half_a_turn(axis):
    start = torch.eye(3, dtype=torch.float64)[axis]
    assert torch.allclose(least_turn(start, -start) @ start, -start)
    assert torch.allclose(least_turn(start, start), torch.eye(3, dtype=torch.float64))


def test_best_turn_finds_the_turn_of_vectors_and_the_least_one_of_a_line():
    turn = some(1, seed=6)[0]
    vectors = torch.randn(4, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    assert torch.allclose(best_turn(vectors, vectors @ turn.T), turn, atol=1e-10)
    line = torch.stack([vectors[0], -2 * vectors[0]])
    assert torch.allclose(best_turn(line, line @ turn.T), least_turn(vectors[0], turn @ vectors[0]), atol=1e-10)
