"""The model that ships: it walks to a place in a room and sits on a bench, as a body does."""

from __future__ import annotations

import torch

from motion.files import load_model, read_model
from motion.metrics import evaluate
from motion.policy import Policy
from motion.synthesize import synthesize
from motion.tasks import parse_tasks
from tests.motion.scene.conftest import own_cache
from tests.motion.test_synthesize import room

__all__ = ["own_cache"]


def test_it_walks_and_sits_in_a_room_of_boxes_with_half_of_the_usual_calls():
    model = load_model("motion/base_small")
    tasks = parse_tasks({"start": [0, -0.5], "facing": 90, "tasks": [{"sit_on": "bench", "seconds": 0.5}]})
    made = synthesize(model, room(), tasks, policy=Policy(calls=10), voxel=0.1, seed=1)
    assert [row["name"] for row in made.result["goals"] if row["met"]] == ["1 walk to bench", "1 sit on bench"]
    assert made.result["penetration_max_m"] < 0.1
    numbers = evaluate(made.motion, 0.0)
    assert numbers["jerk_mean"] < 300  # recordings have 130 to 400
    hips = made.motion.root[:, 2]
    assert 0.9 < float(hips[:20].mean()) < 1.15
    assert float(hips[-5:].mean()) < float(hips[:20].mean()) - 0.25


def test_its_file_says_what_it_was_made_of():
    file = read_model("motion/base_small")
    assert file.training["parameters"] == sum(value.numel() for value in file.network.values())
    assert file.training["steps"] == file.training["of_steps"] == 2800
    assert not any("BY-NC" in name for name in file.training["data"])
    assert len(file.training["foot_heights_m"]) == len(file.body.feet)
    assert torch.isfinite(torch.cat([value.flatten() for value in file.network.values()])).all()
