"""`fewstep motion`: what is printed and written, and notes on what was guessed."""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from motion.cli import app
from motion.formats import write_clip
from motion.mirror import mirrored
from shared.errors import InputError
from tests.motion.figures import body, quietly, walk


@pytest.fixture
def clip(tmp_path):
    write_clip(tmp_path / "walk.bvh", walk(40))
    return tmp_path / "walk.bvh"


def run(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(result.exception, InputError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def test_info_says_what_is_inside_and_what_was_guessed(clip, tmp_path):
    result = run("info", clip, "--json", tmp_path / "facts.json")
    assert "frames          40" in result.output
    assert "left_toe        LeftToe" in result.output
    assert "note: walk.bvh: the upward axis is not in the file: y is taken" in result.stderr
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["fps"] == 30.0
    assert facts["hips speed"] == pytest.approx(1.2, abs=0.01)
    quiet = run("info", clip, "--units", "cm", "--up", "y", "--role", "left_toe=LeftFoot")
    assert quiet.stderr == ""
    assert "left_toe        LeftFoot" in quiet.output


def test_convert_resamples_mirrors_retargets_and_stands(clip, tmp_path):
    run("convert", clip, "-o", tmp_path / "a.bvh", "--fps", 15, "--mirror")
    other, expected = quietly(tmp_path / "a.bvh"), mirrored(quietly(clip).resampled(15.0))
    assert torch.allclose(other.positions(), expected.positions(), atol=1e-6)
    write_clip(tmp_path / "small.bvh", walk(5, skeleton=body(0.9)))
    run("convert", clip, "-o", tmp_path / "b.bvh", "--skeleton", tmp_path / "small.bvh", "--stand")
    small = quietly(tmp_path / "b.bvh")
    assert small.skeleton.leg == pytest.approx(0.9 * 0.83, abs=1e-6)
    assert small.frames == 40
    result = run("convert", clip, "-o", tmp_path / "c.glb", "--source-fps", 60)
    assert result.output.splitlines()[-1] == str(tmp_path / "c.glb")
    assert (tmp_path / "c.glb").read_bytes()[:4] == b"glTF"


def test_evaluate_writes_the_numbers_that_it_prints(clip, tmp_path):
    result = run("evaluate", clip, "--json", tmp_path / "numbers.json", "--floor", 0)
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert {"skating_gmd", "skating_kimodo", "contact_score", "jerk_mean"} <= set(numbers)
    assert f"{'jerk_mean':20}{numbers['jerk_mean']:.4g}" in result.output
    assert numbers["frames"] == 40
    assert "clips" not in numbers


def test_view_writes_a_page_of_the_clip_in_its_scene(clip, tmp_path):
    (tmp_path / "box.obj").write_text("o box\nv 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3\nf 1 2 4\nf 1 3 4\n")
    result = run("view", clip, "--scene", tmp_path / "box.obj", "-o", tmp_path / "page.html", "--title", "A <b> page")
    assert result.output.splitlines()[-1] == str(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "<h1>A &lt;b&gt; page</h1>" in text
    assert '"name": "box"' in text
    with pytest.raises(InputError, match=r"expected \.html"):
        run("view", clip, "-o", tmp_path / "page.glb")


def test_mistakes_are_told(clip, tmp_path):
    with pytest.raises(InputError, match="Rename"):
        run("convert", clip, "-o", tmp_path / "a.fbx")
    with pytest.raises(InputError, match="existing output"):
        run("convert", clip, "-o", clip)
    with pytest.raises(InputError, match="ROLE=JOINT"):
        run("info", clip, "--role", "left_toe")
    with pytest.raises(InputError, match="no such file"):
        run("info", tmp_path / "none.bvh")


def test_the_command_is_registered():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert 'motion = "motion.cli:app"' in text
    installed = {entry.name: entry.value for entry in entry_points(group="fewstep.commands")}
    assert installed.get("motion", "motion.cli:app") == "motion.cli:app"
