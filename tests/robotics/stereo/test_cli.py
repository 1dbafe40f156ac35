"""`fewstep stereo train` and `calibrate` on small data sets in the layout of `generate`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from typer.testing import CliRunner

from robotics.stereo.calibrating import confidence_quality
from robotics.stereo.cli import app
from robotics.stereo.confidence import Confidence, trouble
from robotics.stereo.estimation import EstimateSettings, estimate
from robotics.stereo.files import load_stereo, read_stereo
from robotics.stereo.scenes.shards import SceneFolders
from shared.errors import InputError
from tests.robotics.stereo.test_model import sample
from tests.robotics.stereo.test_networks import SMALL


def call(*arguments: object) -> list[str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


@pytest.fixture
def config(tmp_path):
    values = {
        "name": "robotics/boxes", "model": SMALL.model_dump(mode="json"), "crop": [32, 64], "max_disparity": 32,
        "steps": 4, "batch": 1, "warmup": 1, "log_every": 2,
    }  # fmt: skip
    (tmp_path / "boxes.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "boxes.yaml"


def test_folders_are_one_sequence_and_none_may_be_too_small(make_scenes):
    a, b = make_scenes("a", 3, 0), make_scenes("b", 2, 1)
    both = SceneFolders([a, b])
    assert len(both) == 5
    found = [both[index].disparity_left.tobytes() for index in range(5)]
    assert found == [sample(seed).disparity_left.tobytes() for seed in (0, 1, 2, 10, 11)]
    assert [part["scenes"] for part in both.facts()] == [3, 2]
    with pytest.raises(IndexError):
        both[5]
    with pytest.raises(InputError, match=r"a: found images of 128x64 pixels; expected at least 192x128"):
        SceneFolders([a, b], (192, 128))


def test_train_stops_goes_on_and_the_card_says_what_it_saw(tmp_path, make_scenes, config):
    a, b, output = make_scenes("a", 2, 0), make_scenes("b", 2, 1), tmp_path / "model.safetensors"
    given = ["train", config, "--data", a, "--data", b, "-q"]
    call(*given, "-o", output, "--steps", 2)
    assert "2 of 4 steps" in output.with_suffix(".md").read_text()
    assert call(*given, "-o", output, "--overwrite", "--half") == [str(output), str(output.with_suffix(".md"))]
    file = read_stereo(output)
    assert file.config == SMALL
    assert {value.dtype for value in file.tensors.values()} == {torch.float16}
    assert [(part["folder"], part["seed"]) for part in file.training["data"]] == [("a", 0), ("b", 1)]
    card = output.with_suffix(".md").read_text()
    assert "4 of 4 steps" in card
    assert "`a` (2 pairs of 128x64 pixels, seed 0), `b` (2 pairs" in card
    assert "Not fitted" in card
    straight = tmp_path / "straight.safetensors"
    call(*given, "-o", straight)
    whole = read_stereo(straight).tensors
    assert all(torch.equal(whole[name].half(), value) for name, value in file.tensors.items())
    more = tmp_path / "more.safetensors"
    call(*given, "-o", more, "--start", straight, "--steps", 1)
    assert read_stereo(more).training["start"] == {"name": str(straight), "sha256": read_stereo(straight).sha256}
    assert f"the weights of `{straight}`" in more.with_suffix(".md").read_text()
    after = read_stereo(more).tensors
    moved = [float((after[name] - value).abs().max()) for name, value in whole.items()]
    assert 0 < max(moved) < 5e-3  # one step of the warm-up away from it
    with pytest.raises(InputError, match="existing output"):
        call(*given, "-o", output)
    with pytest.raises(InputError, match="another configuration"):
        call("train", config, "--data", a, "-o", output, "-q", "--overwrite")


def test_calibrate_puts_a_confidence_into_the_file_that_estimate_then_uses(tmp_path, make_scenes, config):
    scenes, model, judged = make_scenes("a", 4, 0), tmp_path / "model.safetensors", tmp_path / "judged.safetensors"
    call("train", config, "--data", scenes, "-o", model, "-q")
    others = make_scenes("others", 6, 7)
    chosen = ["--calls", 1, "--samples", 2, "--max-disparity", 32, "-q"]
    lines = call(
        "calibrate", model, "--data", others, "-o", judged, *chosen, "--scenes", 4, "--json", tmp_path / "n.json"
    )
    measured = json.loads((tmp_path / "n.json").read_text())
    assert any(line.startswith("interval_coverage") for line in lines)
    before, after = read_stereo(model), read_stereo(judged)
    assert before.fitted is None
    assert after.training == before.training
    assert all(torch.equal(after.tensors[name], value) for name, value in before.tensors.items())
    assert after.fitted.data["folders"] == [{"folder": "others", "scenes": 6, "size": [128, 64], "seed": 7}]
    assert after.fitted.data["scenes"] == 4
    assert after.fitted.settings["samples"] == 2
    assert after.fitted.measured == pytest.approx(measured)
    assert "calibrated on the others, for calls 1, samples 2" in judged.with_suffix(".md").read_text()

    settings = EstimateSettings(calls=1, samples=2, max_disparity=32)
    one = sample(99).pair
    plain, sure = (
        estimate(load_stereo(path), one, settings, generator=torch.Generator().manual_seed(0))
        for path in (model, judged)
    )
    assert plain.confidence is None
    signs = trouble(sure.spread, sure.disagreement, sure.known)
    np.testing.assert_array_equal(sure.confidence, after.fitted.numbers.probability(signs))
    holes = estimate(
        load_stereo(judged), one, settings.model_copy(update={"threshold": float(np.median(sure.confidence))}),
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert 0.2 < np.isfinite(holes.disparity).mean() < 0.8
    np.testing.assert_array_equal(holes.dense, plain.dense)
    result = CliRunner().invoke(
        app, ["calibrate", str(model), "--data", str(scenes), "-o", str(tmp_path / "w.safetensors"), *map(str, chosen)]
    )
    assert "trained on scenes of seed 0" in result.stderr


def test_quality_is_that_of_a_confidence_whose_law_is_known():
    source = np.random.default_rng(0)
    signs = trouble(np.exp(source.normal(-1, 1, 40_000)), np.zeros(40_000), np.ones(40_000, bool))
    true = Confidence(weights=(0.1, 0.8, 0.0, 0.0), offset=0.0, slope=1.0, factor=float(-np.log(0.1)))
    errors = source.exponential(true.scale(signs))
    found = confidence_quality(true, signs, errors)
    assert found["calibration_error"] < 0.01
    assert found["interval_coverage"] == pytest.approx(0.9, abs=0.005)
    assert found["mean_confidence"] == pytest.approx(found["within_1px"], abs=0.005)
    assert found["ause"] < 0.8 * found["ause_constant"]
    bold = confidence_quality(true.model_copy(update={"offset": 0.7}), signs, errors)
    assert bold["calibration_error"] > 0.1
    assert bold["ause"] == pytest.approx(found["ause"], rel=0.03)  # the order is the same


def test_a_damaged_header_is_told(tmp_path, make_scenes, config):
    from safetensors.torch import load_file, save_file

    model = tmp_path / "model.safetensors"
    call("train", config, "--data", make_scenes("a", 2, 0), "-o", model, "-q", "--steps", 1)
    with safe_open(model, "pt") as file:
        header = dict(file.metadata())
    save_file(load_file(model), tmp_path / "bad.safetensors", {**header, "confidence": '{"numbers": {}}'})
    with pytest.raises(InputError, match="damaged header"):
        load_stereo(tmp_path / "bad.safetensors")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "robotics/none", "--data", "x", "-o", "o.safetensors"], "no such configuration"),
        (["train", "robotics/stereo_small", "--data", "x", "-o", "o.safetensors"], "no header of generated scenes"),
        (["train", "robotics/stereo_small", "--data", "x", "-o", "o.pt"], "suffix"),
        (["train", "robotics/stereo_small", "--data", "x", "-o", "o.safetensors", "--export"], "no checkpoint"),
        (["calibrate", "none", "--data", "x", "-o", "o.safetensors"], "no such weights"),
        (["calibrate", "robotics/pusht_small", "--data", "x", "-o", "o.safetensors"], "kind"),
        (["calibrate", "none", "--data", "x", "-o", "o.safetensors", "--guidance", "glow=1"], "left_right, smooth"),
        (["calibrate", "none", "--data", "x", "-o", "o.safetensors", "--guidance", "smooth=-1"], "smooth=-1"),
    ],
)
def test_bad_input_is_told_in_one_line(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)


def test_command_module_imports_no_torch():
    code = "import sys, robotics.stereo.cli; sys.exit('torch' in sys.modules)"
    root = Path(__file__).resolve().parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
