"""Judgement: met goals, and every way to miss one, told in its row."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from motion.anatomy import anatomy_of
from motion.goals import Goals, Hint, Outcome
from motion.metrics import gmd_skating
from motion.result import judge
from shared.errors import InputError
from tests.motion.figures import FLAVOURS, TALL, body, turns, walk
from tests.motion.test_energies import on_floor

ANATOMY = anatomy_of(body())


def still(frames=60, place=(0.0, 0.0, TALL), turn=None):
    """Return the body at rest, its pelvis at a place, facing -y unless turned."""
    motion = walk(frames)
    rotations = torch.eye(3, dtype=torch.float64).repeat(frames, len(body()), 1, 1)
    if turn is not None:
        rotations[:, 0] = turn
    return replace(motion, root=torch.tensor(place, dtype=torch.float64).repeat(frames, 1), rotations=rotations)


def row(motion, outcome, **options):
    found = judge(motion, Goals(max(outcome.stop, motion.frames), outcomes=(outcome,)), anatomy=ANATOMY, **options)
    assert found["goals_total"] == 1
    assert found["goals_met"] == int(found["goals"][0]["met"])
    return found["goals"][0]


@pytest.mark.parametrize(("off", "met"), [(0.0, True), (0.19, True), (0.21, False), (2.0, False)])
def test_a_walk_arrives_within_20_cm_at_its_last_frame(off, met):
    motion = still()
    motion.root[:50, 0] += 5.0
    found = row(motion, Outcome("1 walk", "walk", 0, 60, 0.0, (off, 0.0)))
    assert found["met"] == met
    assert found["error_m"] == pytest.approx(off)
    assert bool(found["why"]) != met
    assert not row(motion, Outcome("1 walk", "walk", 0, 45, 0.0, (off, 0.0)))["met"]


def test_sitting_needs_place_height_direction_and_time():
    seat = (0.0, 0.0, 0.55)
    outcome = Outcome("2 sit", "sit", 0, 60, 1.5, seat, (0.0, -1.0))
    assert row(still(place=(0.15, 0.0, 0.6)), outcome)["met"]
    for motion, name, error in (
        (still(place=(0.25, 0.0, 0.55)), "error_m", 0.25),
        (still(place=(0.0, 0.0, 0.68)), "height_error_m", 0.13),
        (still(place=seat, turn=turns((0, 0, 1.0), torch.tensor([0.8]))), "angle_error_deg", math.degrees(0.8)),
    ):
        found = row(motion, outcome)
        assert not found["met"]
        assert found[name] == pytest.approx(error, abs=1e-6)
        assert name in found["why"]
    short = still(place=seat)
    short.root[40:] += 1.0  # gets up after 1.33 s
    found = row(short, outcome)
    assert not found["met"]
    assert found["held_s"] == pytest.approx(40 / 30)
    short.root[44:] = short.root[0]
    assert row(short, outcome)["held_s"] == pytest.approx(40 / 30)  # two parts do not add up
    assert row(short, replace(outcome, seconds=1.3))["met"]


def test_lying_needs_a_level_trunk_along_the_bed():
    back = turns((-1.0, 0, 0), torch.tensor([math.pi / 2]))  # the head goes to +y
    outcome = Outcome("3 lie", "lie", 0, 60, 1.0, (0.0, 0.0, 0.6), (0.0, 1.0))
    lying = still(place=(0.0, 0.0, 0.6), turn=back)
    assert row(lying, outcome)["met"]
    found = row(lying, replace(outcome, direction=(1.0, 0.0)))
    assert not found["met"]
    assert found["angle_error_deg"] == pytest.approx(90, abs=6)
    upright = row(still(place=(0.0, 0.0, 0.6)), outcome)
    assert not upright["met"]
    assert upright["angle_error_deg"] > 60


def test_standing_is_tall_from_the_floor_and_waiting_stays():
    assert row(still(), Outcome("4 stand", "stand", 0, 60))["met"]
    assert not row(still(), Outcome("4 stand", "stand", 0, 60), floor=0.2)["met"]
    found = row(still(place=(0, 0, 0.75)), Outcome("4 stand", "stand", 0, 60))
    assert not found["met"]
    assert found["height_error_m"] == pytest.approx(TALL - 0.75)
    wandering = still()
    wandering.root[:, 0] += torch.linspace(0, 0.5, 60)
    assert not row(wandering, Outcome("5 wait", "wait", 0, 60, 1.9, (0.0, 0.0)))["met"]
    assert row(still(), Outcome("5 wait", "wait", 0, 60, 1.9, (0.0, 0.0)))["met"]


def test_goals_after_the_end_and_missed_keyframes_count_as_failed():
    found = row(still(30), Outcome("1 walk", "walk", 0, 60, 0.0, (0.0, 0.0)))
    assert not found["met"]
    assert "ends at frame 30" in found["why"]
    hands = still().positions()[[10, 50], ANATOMY.limbs[2].tip]
    frames = torch.tensor([10, 50])
    off = hands + torch.tensor([[0.0, 0, 0], [0.12, 0, 0]])
    hints = (Hint((ANATOMY.limbs[2].tip,), frames, hands, name="hand"),
             Hint((ANATOMY.limbs[2].tip,), frames, off, name="missed"),
             Hint((ANATOMY.limbs[2].tip,), frames, off))  # fmt: skip
    numbers = judge(still(), Goals(60, hints=hints), anatomy=ANATOMY)
    assert (numbers["goals_met"], numbers["goals_total"]) == (1, 2)
    assert numbers["goals"][1]["error_m"] == pytest.approx(0.12)
    late = judge(still(20), Goals(60, hints=hints[:1]), anatomy=ANATOMY)
    assert (late["goals_met"], late["goals_total"]) == (0, 1)


def test_depths_skating_and_time_are_those_of_the_motion():
    motion = walk(60)
    numbers = judge(motion, Goals(60), lambda points: points[..., 2] + 0.5, anatomy=ANATOMY)
    assert numbers["penetration_max_m"] == numbers["penetration_mean_m"] == 0.0
    assert numbers["seconds"] == pytest.approx(2.0)
    toes = motion.resampled(20.0).positions()[:, list(body().toes)]
    assert numbers["skating_ratio"] == pytest.approx(gmd_skating(toes, 20.0))
    standing = still(40)
    standing.root[20:, 2] -= 0.2
    sunk = judge(standing, Goals(40), lambda points: points[..., 2], anatomy=ANATOMY)
    shallow = judge(still(40), Goals(40), lambda points: points[..., 2], anatomy=ANATOMY)
    assert sunk["penetration_max_m"] == pytest.approx(0.2 + shallow["penetration_max_m"], abs=1e-5)
    assert sunk["penetration_mean_m"] == pytest.approx(0.1 + shallow["penetration_max_m"], abs=1e-5)
    assert shallow["penetration_max_m"] < 0.02
    unknown = judge(still(5), Goals(5), anatomy=ANATOMY)
    assert unknown["penetration_max_m"] is None
    assert unknown["skating_ratio"] is None
    with pytest.raises(InputError, match="Resample"):
        judge(motion, Goals(60, fps=20.0))


@pytest.mark.data
def test_a_recording_sits_down_on_the_seat_it_was_made_for_and_on_no_other(data_file):
    motion = on_floor(data_file(FLAVOURS["sit_down"]))
    anatomy = anatomy_of(motion.skeleton, [motion])
    pelvis = motion.positions()[-1, list(anatomy.pelvis)].mean(0)
    axes = motion.canonical(motion.frames - 1)[1]
    facing = (float(axes[0, 1]), float(axes[1, 1]))
    outcome = Outcome("sit", "sit", 0, motion.frames, 0.4, tuple(pelvis.tolist()), facing)
    outcomes = (outcome, replace(outcome, place=(*pelvis[:2].tolist(), float(pelvis[2]) + 0.15)),
                replace(outcome, direction=(-facing[0], -facing[1])), replace(outcome, seconds=1.2))  # fmt: skip
    goals = Goals(motion.frames, outcomes=outcomes)
    numbers = judge(motion, goals, anatomy=anatomy)
    assert [found["met"] for found in numbers["goals"]] == [True, False, False, False]
    assert numbers["skating_ratio"] == 0.0
