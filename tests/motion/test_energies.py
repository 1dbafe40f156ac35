"""Energies: closed forms, gradients by finite differences, nothing where satisfied, and real clips near zero."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
import torch

from motion.anatomy import anatomy_of
from motion.clips import Motion
from motion.energies import (
    Objective,
    Weights,
    bend_angles,
    facing_energy,
    nearest_on_path,
    path_energy,
    skating_energy,
    smoothness_energy,
)
from motion.goals import Contact, Facing, Follow, Goals, Hint, Outcome
from motion.kinematics import forward_kinematics
from motion.rotations import from_rotation_6d, rotation_6d
from motion.stance import soles
from shared.errors import InputError
from tests.motion.figures import FLAVOURS, TALL, body, quietly, turns, walk

ANATOMY = anatomy_of(body())
NAMES = [item.name for item in fields(Weights)]


def floor_field(points):
    return points[..., 2]


def only(name, weight=1.0):
    return Weights(**{other: weight * (other == name) for other in NAMES})


def standing(frames=6):
    """Return the body at rest on the floor: positions and rotations of its joints."""
    skeleton = body()
    rotations = torch.eye(3, dtype=torch.float64).expand(frames, len(skeleton), 3, 3)
    root = torch.tensor([0.0, 0.0, TALL], dtype=torch.float64).expand(frames, 3)
    return forward_kinematics(skeleton, root, rotations)


def straight(start, stop, count):
    return torch.stack([torch.linspace(start, stop, count, dtype=torch.float64), torch.zeros(count)], -1)


def all_goals(frames):
    """Return goals of every kind that a standing body at the origin, facing -y, meets."""
    feet = ANATOMY.feet[:2]
    hips = torch.tensor([0.0, 0.0, TALL], dtype=torch.float64)
    return Goals(
        frames,
        hints=(Hint(ANATOMY.pelvis, torch.tensor([1, 4]), hips.repeat(2, 1)),
               Hint((7,), torch.tensor([2]), standing()[0][0, 7, None, :2], name="hand")),
        follows=(Follow(ANATOMY.pelvis, 0, straight(-1, 1, 5), torch.full((frames,), 1.0, dtype=torch.float64)),),
        facings=(Facing(1, torch.tensor([[0.0, -1.0]]).repeat(3, 1)),),
        contacts=(Contact("left_foot", feet, tuple(ANATOMY.foot_heights[:2].tolist()), 2, 5),),
        stances=((0, frames),),
    )  # fmt: skip


def test_a_standing_body_that_does_all_it_should_has_no_energy_and_no_gradient():
    positions, turned = (values.clone().requires_grad_() for values in standing())
    objective = Objective(all_goals(6), ANATOMY, floor_field)
    terms = objective.terms(positions, turned)
    assert set(terms) == set(NAMES)
    assert all(float(value.detach()) < 1e-9 for value in terms.values()), terms
    gradients = torch.autograd.grad(objective(positions, turned), (positions, turned))
    assert all(float(gradient.abs().max()) == 0.0 for gradient in gradients)


def test_every_term_has_the_gradient_of_finite_differences_through_the_kinematics():
    skeleton, generator = body(), torch.Generator().manual_seed(3)
    motion = walk(6)
    root = motion.root.clone()
    root[:, 2] -= 0.12  # into the floor
    root += 0.08 * torch.randn(6, 3, generator=generator, dtype=torch.float64)
    rotations = motion.rotations.clone()
    knee = ANATOMY.legs[0].middle
    rotations[:, knee] = turns((-1.0, 0.0, 0.0), torch.full((6,), 0.5, dtype=torch.float64))  # bent forward
    inputs = torch.cat([root.flatten(), rotation_6d(rotations).flatten()])

    def energy(values, name):
        places, sixes = values[:18].reshape(6, 3), values[18:].reshape(6, len(skeleton), 6)
        pose = forward_kinematics(skeleton, places, from_rotation_6d(sixes))
        away = Goals(6, hints=all_goals(6).hints, follows=all_goals(6).follows, contacts=all_goals(6).contacts,
                     facings=(Facing(0, torch.tensor([[1.0, 0.5]], dtype=torch.float64)),))  # fmt: skip
        return Objective(away, ANATOMY, floor_field, weights=only(name))(*pose)

    direction = torch.randn(len(inputs), generator=generator, dtype=torch.float64)
    for name in NAMES:
        leaf = inputs.clone().requires_grad_()
        value = energy(leaf, name)
        assert float(value.detach()) > 1e-4, name
        (gradient,) = torch.autograd.grad(value, leaf)
        step = 1e-6
        slope = (energy(inputs + step * direction, name) - energy(inputs - step * direction, name)) / (2 * step)
        if name != "skating":  # whose weight has no gradient on purpose
            assert float(gradient @ direction) == pytest.approx(float(slope), rel=1e-3, abs=1e-7), name
        assert torch.isfinite(gradient).all()


def test_hints_are_mean_distances_beyond_the_tolerance_in_space_or_seen_from_above():
    positions, turned = standing()
    moved = positions + torch.tensor([0.3, 0.4, 0.7], dtype=torch.float64)
    objective = Objective(all_goals(6), ANATOMY, floor_field, weights=only("hint"))
    assert float(objective(moved, turned)) == pytest.approx(math.hypot(0.5, 0.7) + 0.5)
    loose = replace(objective.goals, hints=tuple(replace(hint, tolerance=0.1) for hint in objective.goals.hints))
    assert float(replace(objective, goals=loose)(moved, turned)) == pytest.approx(math.hypot(0.5, 0.7) + 0.3)


def test_a_path_costs_what_is_beside_it_and_what_is_early_or_late():
    corner = torch.tensor([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0]], dtype=torch.float64)
    wanted = torch.tensor([0.5, 1.0, 2.5, 4.0], dtype=torch.float64)
    points = torch.tensor([[0.9, 0.3], [1.0, -0.4], [1.8, 0.8], [2.0, 2.5]], dtype=torch.float64)
    distance, along = nearest_on_path(points, corner, wanted)
    assert torch.allclose(distance, torch.tensor([0.3, 0.4, 0.2, 0.5], dtype=torch.float64))
    assert torch.allclose(along, torch.tensor([0.9, 1.0, 2.8, 4.0], dtype=torch.float64))
    positions = torch.zeros(4, 2, 3, dtype=torch.float64)
    positions[:, 1, :2] = points
    energy = path_energy(positions, Follow((1,), 0, corner, wanted, across=0.1, ahead=0.2))
    assert float(energy) == pytest.approx((0.2 + 0.3 + 0.1 + 0.4 + 0.2 + 0.1) / 4)


def test_a_path_that_comes_by_again_is_followed_in_order():
    there_and_back = torch.tensor([[0.0, 0.0], [5.0, 0.0], [5.0, 0.1], [0.0, 0.1]], dtype=torch.float64)
    point = torch.tensor([[1.0, 0.09]], dtype=torch.float64)  # nearer to the way back
    _, along = nearest_on_path(point, there_and_back, torch.tensor([1.2], dtype=torch.float64))
    assert float(along) == pytest.approx(1.0)


@pytest.mark.parametrize("degrees", [0, 40, 179, -90])
def test_facing_is_the_angle_to_the_direction(degrees):
    positions, _ = standing(1)
    angle = math.radians(degrees - 90)  # the body faces -y
    wanted = Facing(0, torch.tensor([[math.cos(angle), math.sin(angle)]]), 0.1)
    expected = max(0.0, abs(math.radians(degrees)) - 0.1)
    assert float(facing_energy(positions, ANATOMY, wanted)) == pytest.approx(expected, abs=1e-6)


def test_feet_skate_only_on_the_floor_and_only_when_no_part_of_them_rests():
    positions, _ = standing(11)
    slide = torch.arange(11, dtype=torch.float64) / 30 * 0.7
    sliding = positions.clone()
    sliding[..., 0] += slide[:, None]
    assert float(skating_energy(sliding, ANATOMY, 30.0)) == pytest.approx(2 * 0.5)
    raised = sliding + torch.tensor([0.0, 0.0, 0.025], dtype=torch.float64)
    assert float(skating_energy(raised, ANATOMY, 30.0)) == 0.0
    assert float(skating_energy(raised, ANATOMY, 30.0, floor=0.025)) == pytest.approx(1.0)
    rolling = positions.clone()
    rolling[:, [joint for joint in ANATOMY.feet if "Foot" in body().names[joint]], 0] += slide[:, None]
    assert float(skating_energy(rolling, ANATOMY, 30.0)) == 0.0


def test_jerk_counts_beyond_what_recordings_have():
    time = torch.arange(12, dtype=torch.float64) / 30
    positions = torch.zeros(12, 2, 3, dtype=torch.float64)
    positions[:, 0, 1] = 250 * time**3  # 1500 m/s^3
    assert float(smoothness_energy(positions, 30.0)) == pytest.approx(500 / 30**3 / 2, rel=1e-6)


def test_knees_bend_back_and_elbows_forward_and_no_other_way():
    skeleton = body()
    for limb, axis, sign in ((ANATOMY.limbs[0], (-1.0, 0, 0), 1), (ANATOMY.limbs[3], (0.0, 0.0, 1.0), 1)):
        for angle in (-0.6, 0.4, 2.9):
            rotations = torch.eye(3, dtype=torch.float64).repeat(1, len(skeleton), 1, 1)
            rotations[:, limb.middle] = turns(axis, torch.tensor([sign * angle], dtype=torch.float64))
            pose = forward_kinematics(skeleton, torch.zeros(1, 3, dtype=torch.float64), rotations)
            place = ANATOMY.limbs.index(limb)
            found = float(bend_angles(*pose, ANATOMY)[0, place])
            assert found == pytest.approx(-angle if limb.name.endswith("leg") else angle)
            beyond = max(0.0, -math.radians(10) - found, found - math.radians(155))
            energy = Objective(Goals(1), ANATOMY, weights=only("limits"))(*pose)
            assert float(energy) == pytest.approx(beyond, abs=1e-9)


def test_depth_is_that_of_the_capsules_less_what_flesh_gives_way():
    positions, turned = standing(2)
    sunk = positions - torch.tensor([0.0, 0.0, 0.05], dtype=torch.float64)
    objective = Objective(Goals(2), ANATOMY, floor_field, weights=only("penetration"))
    distance = ANATOMY.capsules.distance(ANATOMY.flesh(sunk, turned), floor_field)
    assert float(objective(sunk, turned)) == pytest.approx(float(torch.relu(-distance - 0.03).sum(-1).mean()))
    assert float(objective(sunk, turned)) > 0.02
    assert float(objective(positions, turned)) == 0.0


def test_samples_are_independent_and_windows_see_their_part_of_the_goals():
    motion, goals = walk(20), all_goals(20)
    positions, turned = motion.pose()
    both = torch.stack([positions, positions + 0.3]), torch.stack([turned, turned])
    objective = Objective(goals, ANATOMY, floor_field)
    values = objective(*both)
    assert values.shape == (2,)
    assert float(values[1]) == pytest.approx(float(objective(both[0][1], turned)))
    assert float(objective(*(value.float() for value in both))[1]) == pytest.approx(float(values[1]), rel=1e-4)
    part = goals.cut(2, 8)
    assert part.frames == 6
    assert part.hints[0].frames.tolist() == [2]
    assert part.hints[1].frames.tolist() == [0]
    assert (part.facings[0].start, len(part.facings[0].directions)) == (0, 2)
    assert (part.contacts[0].start, part.contacts[0].stop) == (0, 3)
    assert part.stances == ((0, 6),)
    hint = Objective(part, ANATOMY, floor_field, weights=only("hint"))(positions[2:8], turned[2:8])
    expected = (positions[4, list(ANATOMY.pelvis)].mean(0) - goals.hints[0].targets[0]).norm()
    expected = expected + (positions[2, 7, :2] - goals.hints[1].targets[0]).norm()
    assert float(hint) == pytest.approx(float(expected))


def test_weight_zero_asks_nothing_not_even_the_scene():
    def forbidden(points):
        raise AssertionError("the scene was asked")

    positions, turned = standing()
    weights = replace(Weights(), penetration=0.0, contact=0.0)
    objective = Objective(all_goals(6), ANATOMY, forbidden, weights=weights)
    assert set(objective.table(positions, turned)) == set(NAMES) - {"penetration", "contact"}
    none = Objective(all_goals(6), ANATOMY, forbidden, weights=only("none"))
    assert none.terms(positions, turned) == {}
    assert float(none(positions, turned)) == 0.0


@pytest.mark.parametrize(
    "make",
    [lambda: Hint((0,), torch.tensor([1, 2]), torch.zeros(3, 3)),
     lambda: Follow((0,), 0, straight(0, 1, 3), torch.tensor([1.5])),
     lambda: Contact("seat", (0,), (0.1,), 3, 3),
     lambda: Outcome("x", "fly", 0, 3),
     lambda: Goals(5, stances=((0, 6),)),
     lambda: Weights(hint=-1.0),
     lambda: Objective(all_goals(6), ANATOMY),
     lambda: Objective(Goals(5), ANATOMY)(*standing(6)),
     lambda: Objective(Goals(5, hints=(Hint((99,), torch.tensor([0]), torch.zeros(1, 3)),)), ANATOMY)],
)  # fmt: skip
def test_goals_that_make_no_sense_are_told(make):
    with pytest.raises(InputError):
        make()


def on_floor(path) -> Motion:
    motion = quietly(path).resampled(30.0)
    lowest = soles(motion.skeleton, *motion.pose()).amin(-1).quantile(0.02)
    return motion.placed(torch.eye(3, dtype=torch.float64), torch.tensor([0, 0, -lowest], dtype=torch.float64))


@pytest.mark.data
@pytest.mark.parametrize(
    ("flavour", "skating"), [("cmu_asf", 0.07), ("gazebo", 0.25), ("sit_down", 0.01), ("bandai", 0.03)]
)
def test_recordings_cost_little(flavour, skating, data_file):
    motion = on_floor(data_file(FLAVOURS[flavour]))
    anatomy = anatomy_of(motion.skeleton, [motion])
    numbers = Objective(Goals(motion.frames), anatomy, floor_field).table(*motion.pose())
    assert numbers.pop("skating") < skating  # Gazebo's walk does skate: 0.37 of Kimodo's contacts
    assert max(numbers.values()) < 0.005
    slid = motion.root + torch.linspace(0, 1, motion.frames)[:, None] * torch.tensor([3.0, 0.0, 0.0])
    moved = replace(motion, root=slid)
    assert Objective(Goals(motion.frames), anatomy).table(*moved.pose())["skating"] > 4 * skating


@pytest.mark.data
def test_a_recorded_body_that_sits_touches_a_seat_of_its_height(data_file):
    motion = on_floor(data_file(FLAVOURS["sit_down"]))
    anatomy = anatomy_of(motion.skeleton, [motion])
    positions, turned = motion.pose()
    seat = float(positions[-1, list(anatomy.pelvis), 2].mean()) - 0.09
    assert 0.4 < seat < 0.55  # a chair
    contact = Contact("seat", anatomy.pelvis, (0.09, 0.09), motion.frames - 3, motion.frames)
    feet = Contact("left_foot", anatomy.feet[:2], tuple(anatomy.foot_heights[:2].tolist()), 0, motion.frames)

    def chair(points):
        return torch.minimum(points[..., 2], (points[..., 2] - seat).abs() + 1.0 * (points[..., 2] < 0.3))

    table = Objective(Goals(motion.frames, contacts=(contact, feet)), anatomy, chair).table(positions, turned)
    assert table["contact"] < 0.01
    higher = Objective(Goals(motion.frames, contacts=(contact,)), anatomy, lambda p: chair(p) + 0.1)
    assert higher.table(positions, turned)["contact"] == pytest.approx(0.08, abs=0.01)
