import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from robotics.policy.cli import app
from robotics.policy.files import MODEL, load_policy, save_policy
from shared.errors import InputError
from tests.robotics.policy.test_networks import policy_config
from tests.robotics.policy.test_policy import small_policy
from tests.robotics.policy.test_training import MLP, circles


@pytest.fixture
def data(tmp_path):
    episodes = circles()
    np.savez(tmp_path / "circles.npz", episode_ends=episodes.ends, **episodes.arrays)
    return tmp_path / "circles.npz"


@pytest.fixture
def config(tmp_path):
    values = {
        "name": "robotics/circles", "policy": policy_config(MLP).model_dump(mode="json"), "steps": 6, "batch": 8,
        "validate_every": 3, "warmup": 1,
    }  # fmt: skip
    (tmp_path / "circles.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "circles.yaml"


def call(*arguments: object) -> list[str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def test_train_stops_goes_on_and_writes_policy_and_card(tmp_path, data, config):
    output = tmp_path / "policy.safetensors"
    call("train", config, "--data", data, "-o", output, "--steps", 2, "-q")
    assert call("train", config, "--data", data, "-o", output, "-q", "--overwrite") == [
        str(output), str(output.with_suffix(".md")),
    ]  # fmt: skip
    assert load_policy(output).config == policy_config(MLP)
    card = output.with_suffix(".md").read_text()
    assert "6 of 6 steps" in card
    assert "| validation_loss |" in card
    with pytest.raises(InputError, match="existing output"):
        call("train", config, "--data", data, "-o", output, "-q")


def test_calibrate_and_evaluate_write_the_numbers(tmp_path, data, config):
    pytest.importorskip("gym_pusht")
    output = tmp_path / "policy.safetensors"
    call("train", config, "--data", data, "-o", output, "-q")
    call(
        "calibrate",
        output,
        "--data",
        data,
        "-o",
        tmp_path / "warm.json",
        "--pairs",
        8,
        "--calls",
        2,
        "--contraction",
        2,
    )  # a policy of six steps of training forgets nothing
    warm = json.loads((tmp_path / "warm.json").read_text())
    assert warm["mode"] == "shift+renoise"
    assert warm["measured"]["contraction"]["p50"] > 0
    call(
        "evaluate", output, "--episodes", 2, "--steps", 6, "--execute", 2, "--calls", 3, "--warm-start",
        tmp_path / "warm.json", "--latency", 1, "--json", tmp_path / "numbers.json", "-q",
    )  # fmt: skip
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    wanted = {"mean_max_score", "success_rate", "calls_per_tick", "tick_ms_p50", "tick_ms_p99", "overruns", "jerk"}
    assert wanted <= set(numbers)
    assert numbers["first_seed"] == 100_000
    assert numbers["levels"] == ",".join(map(str, warm["levels"]))
    assert 0 <= numbers["mean_max_score"] <= 1


def test_distil_writes_a_student_that_every_execution_can_run(tmp_path, data, config):
    pytest.importorskip("gym_pusht")
    policy, student = tmp_path / "policy.safetensors", tmp_path / "student.safetensors"
    call("train", config, "--data", data, "-o", policy, "-q")
    call("distil", policy, "--data", data, "-o", student, "--steps", 2, "-q")
    assert load_policy(student).config.prediction == "v"
    call(
        "evaluate", student, "--episodes", 1, "--steps", 4, "--execute", 2, "--calls", 2, "--execution", "bid",
        "--weak", policy, "--disturb", 5, "--json", tmp_path / "numbers.json", "-q",
    )  # fmt: skip
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["calls_per_chunk"] == 15 * 2 * 2
    assert (numbers["execution"], numbers["disturb"]) == ("bid", 5.0)


def test_worlds_are_run_and_filmed(tmp_path):
    pytest.importorskip("gym_pusht")
    from PIL import Image

    from robotics.policy.pusht import PushT

    command = [
        "robotics/pusht_small",
        "--env",
        "pusht",
        "--video",
        tmp_path / "film.gif",
        "--json",
        tmp_path / "n.json",
    ]
    lines = call("run", *command, "--ticks", 4, "--as-fast-as-possible", "--world-seed", 100_003)
    numbers = json.loads((tmp_path / "n.json").read_text())
    assert (numbers["ticks"], numbers["world_seed"], numbers["rung_full_ticks"]) == (4, 100_003, 3)
    assert any(line.startswith("plan_ms_p99") for line in lines)
    call("evaluate", *command, "--episodes", 2, "--steps", 3, "--execute", 3, "--first-seed", 100_003, "-q")
    world = PushT()
    world.reset(100_003)
    first = world.picture()
    world.close()
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 4  # of the first world only
        difference = np.asarray(film.convert("RGB").resize(first.shape[1::-1])).astype(float) - first
    assert np.abs(difference).mean() < 8


def test_experts_are_collected_for_training(tmp_path):
    pytest.importorskip("metaworld")
    path = tmp_path / "demos.npz"
    assert call("collect", "--env", "metaworld/reach", "--episodes", 2, "-o", path, "-q") == [str(path)]
    with np.load(path) as file:
        assert file["action"].shape == (file["episode_ends"][-1], 4)
        assert len(file["episode_ends"]) == 2
    with pytest.raises(InputError, match="existing output"):
        call("collect", "--env", "metaworld/reach", "-o", path)


def test_convert_makes_a_policy_of_exported_weights(tmp_path):
    policy = small_policy(MLP)
    save_policy(
        tmp_path / "export.safetensors",
        policy.config,
        policy.network.state_dict(),
        policy.observation,
        policy.action,
        {},
    )
    values = {"name": "robotics/x", "steps": 1, "policy": policy.config.model_dump(mode="json")}
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(values))
    call(
        "convert", tmp_path / "export.safetensors", "--config", tmp_path / "x.yaml", "-o", tmp_path / "made.safetensors"
    )
    made = load_policy(tmp_path / "made.safetensors").network.state_dict()
    assert all((made[name] == value).all() for name, value in policy.network.state_dict().items())
    assert MODEL + next(iter(made)) in {f"{MODEL}{name}" for name in policy.network.state_dict()}
    with pytest.raises(InputError, match="--config"):
        call("convert", tmp_path / "export.safetensors", "-o", tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "absent.safetensors"], "no such weights"),
        (["evaluate", "POLICY", "--env", "kitchen"], "kitchen"),
        (["evaluate", "POLICY", "--video", "film.mp4"], "expected .gif"),
        (["run", "POLICY", "--env", "kitchen"], "kitchen"),
        (["run", "POLICY", "--env", "CartPole-v1", "--video", "film.mp4"], "expected .gif"),
        (["run", "POLICY", "--env", "CartPole-v1"], r"action in Discrete\(2\); expected a Box"),
        (["run", "POLICY", "--env", "Pendulum-v1"], r"observation keypoint: found an environment that gives observ"),
        (["collect", "--env", "pusht", "-o", "demos.npz"], "without a scripted expert"),
        (["collect", "--env", "pusht", "-o", "demos.zarr"], "expected .npz"),
        (["evaluate", "POLICY", "--solver", "magic"], "magic"),
        (["evaluate", "POLICY", "--grid", "magic"], "magic"),
        (["evaluate", "POLICY", "--warm-start", "hot"], "hot"),
        (["evaluate", "POLICY", "--execution", "magic"], "magic"),
        (["evaluate", "POLICY", "--execution", "rtc", "--latency", "15", "--execute", "1"], "at most 14"),
        (["evaluate", "POLICY", "--weak", "POLICY"], "expected bid"),
        (["distil", "POLICY", "--data", "x.npz", "-o", "o.pt"], "suffix"),
        (["evaluate", "POLICY", "--levels", "1,2"], "levels must fall"),
        (["evaluate", "POLICY", "--levels", "200,0"], "entries from 0 to 99"),
        (["train", "robotics/none", "--data", "x.npz", "-o", "o.safetensors"], "no such configuration"),
        (["train", "robotics/pusht_small", "--data", "x.npz", "-o", "o.safetensors"], "nothing there"),
        (["train", "robotics/pusht_small", "--data", "x.npz", "-o", "o.pt"], "suffix"),
        (["calibrate", "POLICY", "--data", "x.npz", "-o", "w.json", "--mode", "cold"], "cold"),
    ],
)
def test_bad_input_is_told_in_one_line(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    policy = small_policy(MLP)
    save_policy("p.safetensors", policy.config, policy.network.state_dict(), policy.observation, policy.action, {})
    with pytest.raises(InputError, match=message) as caught:
        call(*("p.safetensors" if argument == "POLICY" else argument for argument in arguments))
    assert "\n" not in str(caught.value)


def test_command_module_imports_no_torch():
    code = "import sys, robotics.policy.cli; sys.exit('torch' in sys.modules)"
    root = Path(__file__).resolve().parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
