"""From files to a folder: with a network that knows nothing, what must hold all the same."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from motion.cli import app
from motion.files import save_model
from motion.formats import write_clip
from motion.network import MotionTransformer
from motion.policy import FAST, Policy
from motion.scene.loading import write_scene
from motion.synthesize import synthesize
from motion.tasks import parse_tasks
from shared.errors import InputError
from tests.motion.figures import body, quietly, walk
from tests.motion.gaussian import SMALL, gaussian_model
from tests.motion.scene.conftest import box, own_cache, scene_of

__all__ = ["own_cache"]  # the fixture: grids of these tests stay out of the user's cache
POLICY = Policy(calls=3, corrections=1)
TASKS = [{"walk_to": [0.0, 1.0]}, {"sit_on": "bench", "seconds": 0.5}]


def room(scale: float = 1.0):
    return scene_of(
        box("floor", [-3, -3, -0.02], [3, 3, 0]),
        box("bench", [-0.6, 2.0, 0], [0.6, 2.45, 0.45]),
        box("cupboard", [2.0, -1.0, 0], [2.6, 0.0, 2.0]),
        box("wall", [-3.0, -1.6, 0], [3.0, -1.5, 2.2]),
    ).scaled(scale)


@pytest.fixture
def files(tmp_path):
    """Return paths of an untrained model, a skeleton, a room and tasks."""
    model = gaussian_model()
    torch.manual_seed(0)
    network = MotionTransformer(SMALL, model.body.size)
    save_model(
        tmp_path / "model.safetensors", SMALL, model.body, network.state_dict(), (model.mean, model.spread),
        {"foot_heights_m": [0.08, 0.01, 0.08, 0.01]},
    )  # fmt: skip
    write_clip(tmp_path / "body.bvh", walk(4, skeleton=body(0.8)))
    write_scene(tmp_path / "room.glb", room())
    (tmp_path / "tasks.yaml").write_text("start: [0, 0]\nfacing: 90\ntasks: [{walk_to: [0, 1]}, {wait: 0.5}]")
    return tmp_path


def run(folder, *words):
    given = {
        "--model": "model.safetensors", "--scene": "room.glb", "--skeleton": "body.bvh", "--tasks": "tasks.yaml",
    }  # fmt: skip
    options = [text for name, file in given.items() if name not in words for text in (name, str(folder / file))]
    result = CliRunner().invoke(
        app, ["synthesize", *options, "--calls", "3", "--voxel", "0.1", "-q", *map(str, words)]
    )  # fmt: skip
    if isinstance(result.exception, InputError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def test_a_folder_with_motion_page_and_judgement(files):
    result = run(files, "-o", files / "out", "--json", files / "numbers.json")
    written = json.loads((files / "out" / "result.json").read_text())
    assert {"motion.bvh", "motion.glb", "viewer.html", "result.json"} == {p.name for p in (files / "out").iterdir()}
    assert written["goals_total"] == 2
    for name in ("goals_met", "penetration_max_m", "penetration_mean_m", "skating_ratio", "seconds"):
        assert isinstance(written[name], int | float)
    draws, left_over = divmod(written["network_calls"], 3 + 2 * 2)
    assert left_over == 0
    most = 1 + FAST.redraws + 2 * FAST.returns
    assert len(written["windows"]) <= draws <= most * len(written["windows"])  # some are drawn again
    assert len(written["model"]["sha256"]) == 64
    moved = quietly(files / "out" / "motion.bvh")
    assert moved.seconds == pytest.approx(written["seconds"], abs=0.05)
    assert moved.skeleton.names == body().names
    assert moved.skeleton.leg == pytest.approx(0.8 * body().leg, rel=1e-3)
    assert result.output.count("met ") + result.output.count("NOT MET") >= 2
    assert json.loads((files / "numbers.json").read_text())["goals_total"] == 2
    assert "1 walk to a place" in (files / "out" / "viewer.html").read_text()


def test_half_a_body_in_half_a_room_moves_half_as_far():
    model = gaussian_model()
    tasks = parse_tasks({"start": [0, 0], "facing": 90, "tasks": TASKS})
    halved = parse_tasks({"start": [0, 0], "facing": 90, "tasks": [{"walk_to": [0.0, 0.5]}, TASKS[1]]})
    whole = synthesize(model, room(), tasks, skeleton=body(), policy=POLICY, voxel=0.1)
    half = synthesize(
        model, room(0.5), halved, skeleton=body(0.5), policy=POLICY, voxel=0.05, radius=0.1
    )  # fmt: skip
    assert whole.ratio == pytest.approx(1)
    assert half.ratio == pytest.approx(2)
    assert torch.allclose(half.motion.positions(), whole.motion.positions() / 2, atol=5e-3)
    assert half.goals.outcomes[0].place == pytest.approx((0.0, 0.5))
    assert half.schedule.goals.outcomes[0].place == pytest.approx((0.0, 1.0))
    step = parse_tasks({"start": [0, 0], "tasks": [{"walk_to": [0.0, 0.25]}]})
    with pytest.raises(InputError, match=r"no place on the floor at 0\.00 m with 0\.90 m free"):
        synthesize(model, room(0.5), step, skeleton=body(0.5), policy=POLICY, voxel=0.05, radius=0.9)
    assert half.result["penetration_max_m"] == pytest.approx(whole.result["penetration_max_m"] / 2, abs=5e-3)


def test_the_models_own_body_needs_no_skeleton():
    model = gaussian_model()
    tasks = parse_tasks({"start": [0, 0], "facing": 90, "tasks": [{"wait": 0.5}]})
    made = synthesize(model, room(), tasks, policy=POLICY, voxel=0.1, lock_feet=True)
    assert made.motion.skeleton is model.body.skeleton
    assert made.result["goals_total"] == 1


@pytest.mark.parametrize(
    ("tasks", "message"),
    [("- walk_to: [0, -1.55]", r"task 1: goal: found \(0.00, -1.55\).*wall"), ("[]", "no tasks"),
     ("- walk_to: [2.3, -0.5]", "task 1: goal.*cupboard"), ("- sit_on: throne", "throne"),
     ("{start: [0, 0], tasks: [{walk_to: [0, -2.2]}]}", "task 1")],
)  # fmt: skip
def test_what_cannot_be_done_is_told_and_nothing_is_written(files, tasks, message):
    (files / "tasks.yaml").write_text(tasks)
    with pytest.raises(InputError, match=message):
        run(files, "-o", files / "out")
    assert not (files / "out").exists()


def test_a_skeleton_without_feet_is_refused(files):
    text = (files / "body.bvh").read_text().replace("LeftFoot", "Lump").replace("LeftToe", "Bump")
    (files / "lump.bvh").write_text(text)
    with pytest.raises(InputError, match=r"left_ankle.*--role left_ankle"):
        run(files, "--skeleton", files / "lump.bvh", "-o", files / "out")
    (files / "there").mkdir()
    with pytest.raises(InputError, match="existing"):
        run(files, "-o", files / "there")
