"""The policies that ship do in the published worlds what their cards say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robotics.policy.evaluation import evaluate
from robotics.policy.files import load_policy
from robotics.policy.pusht import PushT
from robotics.policy.rolling import RollingPolicy
from robotics.policy.warmstart import WarmStart
from shared import weights
from shared.solvers.ddim import DDIM

WIDE, NAME, STUDENT = "robotics/pusht_wide", "robotics/pusht_small", "robotics/pusht_student"
WORLDS = (100_001, 100_002)


@pytest.mark.parametrize(("name", "score"), [(WIDE, "0.966"), (NAME, "0.825"), (STUDENT, "0.778")])
def test_it_has_a_card_and_a_sum(name, score):
    path = weights.find(name)
    assert weights.sha256(path) in (path.parent / "SHA256SUMS").read_text()
    card = path.with_suffix(".md").read_text()
    assert all(word in card for word in ("MIT", "seed 0", score))


@pytest.mark.parametrize("rule", ["clip", "scale"])
def test_the_grasping_policies_have_cards_sums_and_their_rules(rule):
    name = f"robotics/metaworld_{rule}"
    path = weights.find(name)
    assert weights.sha256(path) in (path.parent / "SHA256SUMS").read_text()
    assert path.stat().st_size < 2e6
    card = path.with_suffix(".md").read_text()
    assert all(word in card for word in ("Meta-World", "MIT", "seed 0", f'"rule":"{rule}"'))
    assert [action.rule for action in load_policy(name).config.action.discrete] == [rule]


@pytest.mark.parametrize(("rule", "levels"), [("clip", (40, 20, 10, 4, 0)), ("scale", (20, 10, 4, 0))])
def test_they_grasp_and_place_from_warm_starts(rule, levels):
    """Three of the worlds of the card; a gripper that does not close solves none."""
    pytest.importorskip("metaworld")
    from robotics.policy.environments import find_environment

    policy = load_policy(f"robotics/metaworld_{rule}")
    rolling = RollingPolicy(policy, warm=WarmStart(levels=levels), environments=3)
    found = evaluate(rolling, find_environment("metaworld/pick-place").make, range(100_000, 100_003), execute=4)
    assert found.numbers()["success_rate"] > 0.5


def test_it_pushes_the_block_home_from_noise_and_from_warm_starts_with_few_calls():
    """Two of the fifty worlds of the card; an untrained network reaches about 0.1."""
    pytest.importorskip("gym_pusht")
    policy = load_policy(WIDE)
    cold = RollingPolicy(policy, warm=WarmStart(mode="cold"), environments=2)
    warm = RollingPolicy(policy, warm=WarmStart(levels=(40, 20, 10, 4, 0)), environments=2)
    found = evaluate(cold, PushT, WORLDS, execute=8).numbers()
    few = evaluate(warm, PushT, WORLDS, execute=4).numbers()
    assert found["mean_max_score"] > 0.85
    assert few["mean_max_score"] > 0.85
    assert few["calls_per_chunk"] < 5.5 < 9.5 < found["calls_per_chunk"]


def test_one_call_of_the_student_ends_where_ten_of_its_teacher_do(data_file):
    stored = np.load(data_file("robotics/pusht_cchi_v7_lowdim.npz"))
    seen = np.concatenate([stored["keypoint"].reshape(-1, 18), stored["state"][:, :2]], 1)
    frames = np.random.default_rng(1).integers(1, len(seen), 200)
    observations = torch.from_numpy(np.stack([seen[frames - 1], seen[frames]], 1)).float()
    teacher, student = load_policy(NAME), load_policy(STUDENT)
    noise = teacher.noise(200, torch.Generator().manual_seed(5))
    ends = teacher.act(observations, solver=DDIM(), grid=teacher.grid(10), x=noise).normalised
    own, teachers = (
        (one.act(observations, solver=DDIM(), grid=one.grid(1), x=noise).normalised - ends).square().mean((1, 2)).sqrt()
        for one in (student, teacher)
    )
    assert own.median() < 0.03
    assert own.median() < 0.3 * teachers.median()  # what one call of the teacher itself is off by
