"""Metrics on motions whose numbers are known, and on the clips that the note measured."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter1d

from motion.metrics import (
    area_under_jerk,
    contact_score,
    evaluate,
    floor_of,
    gmd_skating,
    jerk,
    keyframe_errors,
    kimodo_skating,
)
from shared.errors import InputError
from tests.motion.figures import FLAVOURS, quietly, walk


def sliding(speed, height, frames=40, fps=20.0):
    """Return a left toe that slides along x and a right one that rests high above the floor, (F, 2, 3)."""
    toes = torch.zeros(frames, 2, 3, dtype=torch.float64)
    toes[:, 0, 0] = speed * torch.arange(frames) / fps
    toes[:, 0, 2] = height
    toes[:, 1, 2] = 0.5
    return toes


@pytest.mark.parametrize(
    ("speed", "height", "share"), [(0.6, 0.02, 1.0), (0.4, 0.02, 0.0), (0.6, 0.06, 0.0), (2.0, 0.049, 1.0)]
)
def test_gmd_counts_frames_of_low_toes_faster_than_half_a_metre_a_second(speed, height, share):
    # Behind the ends GMD's mean of five sees zeros: at 0.6 m/s two of five missing make 0.36, one makes 0.48.
    lost = 4 / 39 if share and speed * 4 / 5 < 0.5 else 0.0
    assert gmd_skating(sliding(speed, height), 20.0) == pytest.approx(share - lost)


def test_gmd_is_its_own_formula_on_random_feet():
    rng = np.random.default_rng(0)
    toes = np.cumsum(rng.normal(0, 0.02, (200, 2, 3)), 0)
    toes[..., 2] = np.abs(rng.normal(0.04, 0.02, (200, 2)))
    speed = np.linalg.norm(np.diff(toes[..., :2], axis=0), axis=-1) * 20
    mean = uniform_filter1d(speed, 5, axis=0, mode="constant")
    low = (toes[:-1, :, 2] < 0.05) & (toes[1:, :, 2] < 0.05)
    expected = (low & (speed > 0.5) & (mean > 0.5)).any(1).mean()
    assert 0.05 < expected < 0.95
    assert gmd_skating(torch.from_numpy(toes), 20.0) == pytest.approx(expected)


def test_kimodo_counts_contacts_not_frames_and_gives_their_speed():
    assert kimodo_skating(sliding(0.3, 0.02, fps=30.0), 30.0) == (1.0, pytest.approx(0.3))
    assert kimodo_skating(sliding(0.1, 0.02, fps=30.0), 30.0) == (0.0, pytest.approx(0.1))
    assert kimodo_skating(sliding(9.0, 0.3, fps=30.0), 30.0) == (0.0, 0.0)
    both = sliding(0.3, 0.02, fps=30.0)
    both[:, 1, 2] = 0.0  # the right toe rests: half of the contacts skate
    assert kimodo_skating(both, 30.0) == (0.5, pytest.approx(0.15))


@pytest.mark.parametrize(
    ("speed", "height", "score"),
    [(0.0, 0.0, 1.0), (0.075, 0.05, 1.0), (0.575, 0.0, math.exp(-0.5)), (0.0, 0.55, math.exp(-0.5)),
     (0.0, -0.55, math.exp(-0.5)), (1.075, 1.05, math.exp(-2.0))],
)  # fmt: skip
def test_contact_falls_with_the_slowest_foots_speed_and_the_lowest_ones_distance(speed, height, score):
    feet = sliding(speed, height, fps=40.0)
    feet[:, 1] = feet[:, 0] + torch.tensor([0.0, 0.2, 0.0])
    assert contact_score(feet, 40.0) == pytest.approx(score)


def test_jerk_of_a_cubic_is_its_third_derivative():
    time = torch.arange(20, dtype=torch.float64) / 50
    positions = torch.stack([2 * time**3, -(time**2), time], -1)[:, None]
    assert torch.allclose(jerk(positions, 50.0), torch.full((17, 1), 12.0, dtype=torch.float64), rtol=1e-6)


def test_the_area_under_jerk_is_that_between_the_curve_and_the_usual_at_any_rate():
    for fps, frames in ((30.0, 34), (60.0, 64)):  # 31 and 61 jerks: about one second
        time = torch.arange(frames, dtype=torch.float64) / fps
        cubic = torch.zeros(frames, 3, 3, dtype=torch.float64)
        cubic[:, 0, 0] = 2 * time**3
        cubic[:, 2, 1] = -5 * time**3  # the largest joint: 30 m/s^3
        peak, area = area_under_jerk(cubic, fps, usual=10.0)
        assert peak == pytest.approx(30.0, rel=1e-4)
        assert area == pytest.approx(20.0 * (frames - 3) / fps, rel=1e-4)
        smooth, _ = area_under_jerk(torch.stack([cubic, torch.zeros_like(cubic)]), fps, usual=10.0)
        assert smooth == pytest.approx(15.0, rel=1e-4)


def test_errors_of_keyframes_and_shares_of_motions_that_miss_any():
    targets = torch.zeros(2, 4, 3)
    found = targets.clone()
    found[0, 1, 0] = 0.3
    found[1, 2, 1] = 0.6
    found[1, 3, 2] = 0.1
    numbers = keyframe_errors(found, targets)
    assert numbers["keyframe_error"] == pytest.approx(1.0 / 8)
    assert numbers["keyframe_fail_20"] == 2 / 8
    assert numbers["keyframe_fail_50"] == 1 / 8
    assert numbers["trajectory_fail_20"] == 1.0
    assert numbers["trajectory_fail_50"] == 0.5
    with pytest.raises(InputError, match="keyframes"):
        keyframe_errors(found, targets[:, :3])


@pytest.mark.data
@pytest.mark.parametrize(
    ("flavour", "expected"),
    [
        ("gazebo", {"skating_gmd": (0.182, 0.01), "skating_kimodo": (0.370, 0.002), "contact_score": (0.962, 0.003),
                    "jerk_mean": (131, 0.5), "jerk_p95": (811, 1), "speed": (1.21, 0.01)}),
        ("sit_down", {"skating_gmd": (0.0, 0.0), "skating_kimodo": (0.027, 0.002), "contact_score": (0.986, 0.002),
                      "contact_speed": (0.10, 0.005), "jerk_mean": (220, 0.5), "jerk_p95": (954, 1)}),
    ],
)  # fmt: skip
def test_recorded_clips_have_the_numbers_measured_before_by_other_code(flavour, expected, data_file):
    numbers = evaluate(quietly(data_file(FLAVOURS[flavour])))
    for name, (value, tolerance) in expected.items():
        assert numbers[name] == pytest.approx(value, abs=tolerance), name


@pytest.mark.data
def test_walks_of_cmu_have_the_mean_jerk_and_contact_measured_before(data_file):
    folder = "motion/mocap/cmu_asfamc_bvh60"
    both = [evaluate(quietly(data_file(f"{folder}/02_0{trial}.bvh.gz"))) for trial in (1, 2)]
    for name, value, tolerance in (("jerk_mean", 181, 1), ("jerk_p95", 1139, 2), ("contact_score", 0.958, 0.002)):
        assert np.mean([numbers[name] for numbers in both]) == pytest.approx(value, abs=tolerance), name


def test_the_floor_is_where_toes_reach_down_to_and_can_be_given():
    motion = walk(60)
    raised = replace(motion, root=motion.root + torch.tensor([0, 0, 0.3], dtype=torch.float64))
    assert floor_of(raised) == pytest.approx(floor_of(motion) + 0.3)
    one, other = evaluate(motion), evaluate(raised)
    assert other["floor"] == pytest.approx(one["floor"] + 0.3)
    assert {k: v for k, v in one.items() if k != "floor"} == pytest.approx(
        {k: v for k, v in other.items() if k != "floor"}
    )
    above = evaluate(raised, floor=0.0)
    assert above["skating_kimodo"] == 0.0
    assert above["contact_score"] < 0.8 * one["contact_score"]


def test_clips_too_short_are_told():
    with pytest.raises(InputError, match=r"at least 0\.4 s"):
        evaluate(walk(8))
