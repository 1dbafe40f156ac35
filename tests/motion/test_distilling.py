"""A student of a motion model: what its loss counts, and an exact teacher whose end is known in closed form."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from motion.actions import ACTION
from motion.cli import app
from motion.collection import Clip, Collection, save_collection
from motion.distilling import StudentTrainer, StudentTraining, student_training
from motion.features import GROUPS, Body
from motion.files import load_model, read_model
from motion.model import draw
from motion.training import MotionTrainer
from shared.errors import InputError
from shared.grid import explicit_grid
from shared.process import along_batch
from tests.motion.figures import body, walk
from tests.motion.test_training import SETTINGS, collection
from tests.oracles.gaussian import GaussianDenoiser, ddim_moments

QUICK = {
    "batch": 4, "warmup": 2, "learning_rate": 3e-3, "average": 0.9, "log_every": 8, "checkpoint_minutes": 0,
    "speeds": (1.0, 1.0),
}  # fmt: skip


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    trainer = MotionTrainer(SETTINGS, collection(), folder)
    trainer.run(stop_at=2)
    trainer.export(folder / "teacher.safetensors")
    return read_model(folder / "teacher.safetensors")


def settings(teacher, **changes) -> StudentTraining:
    return student_training(teacher, steps=8, calls=2).model_copy(update=QUICK | changes)


def windows_with_gaps(trainer: StudentTrainer):
    """Return windows of a clip that ends before them, with a history and a path known in some."""
    windows = trainer.source.draw(4, 30, np.random.default_rng(0))
    windows.known[:] = False
    windows.known[0, :3] = True
    windows.known[1, :20, GROUPS.index("path")] = True
    assert windows.valid.sum(1).tolist() == [20] * 4
    return windows


def test_it_starts_from_the_teachers_weights_and_statistics_and_holds_out_its_clips(teacher, tmp_path):
    trainer = StudentTrainer(teacher, settings(teacher), collection(), tmp_path)
    for name, value in teacher.network.items():
        assert torch.equal(trainer.network.state_dict()[name], value)
        assert torch.equal(trainer.average.average[name], value)
    mean, spread = teacher.statistics
    assert torch.equal(trainer.mean, mean)
    assert torch.equal(trainer.spread, spread)
    assert {clip.name for clip in trainer.source.clips} == {"first"}


def test_a_student_that_is_the_teacher_has_no_loss_against_one_call_wherever_it_is_not_asked(teacher, tmp_path):
    trainer = StudentTrainer(teacher, settings(teacher, calls=1), collection(20), tmp_path)
    windows = windows_with_gaps(trainer)
    given = windows.known[..., trainer.body.groups]
    free = windows.valid[..., None] & ~given

    def loss(change: torch.Tensor) -> dict[str, float]:
        def network(*args, **named):
            return trainer.teacher(*args, **named) + change

        with torch.no_grad():
            found = trainer.losses(windows, np.random.default_rng(1), network)
        return {name: float(value) for name, value in found.items()}

    assert max(loss(torch.zeros(())).values()) < 1e-9
    assert max(loss(7.0 * ~free).values()) < 1e-9  # known features, and frames after the clip
    # A step in the height of the hips of all frames: no joint moves against the root or in time.
    shift = torch.zeros(30, trainer.body.size)
    shift[:, 2] = 0.5
    found = loss(shift)
    assert found["positions"] == pytest.approx(0, abs=1e-9)
    share = [17 / (17 * trainer.body.size), 20 / (20 * (trainer.body.size - 2)), *[1 / trainer.body.size] * 2]
    assert found["features"] == pytest.approx(0.25 * np.mean(share), rel=1e-3)
    # In the first window the known frames stay: one step of 20 - 1 is made by the whole height.
    speed = (0.5 * float(trainer.spread[2]) * 30) ** 2 / 19 / 4
    assert found["velocities"] == pytest.approx(speed, rel=1e-3)


def test_the_exact_student_of_an_exact_gaussian_teacher_has_no_loss_from_any_level(teacher, tmp_path):
    calls, mean, std = 4, 0.5, 0.2
    trainer = StudentTrainer(teacher, settings(teacher, calls=calls), collection(20), tmp_path)
    process, told = trainer.process, []
    exact = GaussianDenoiser(process, mean, std)

    def network(x, time, **_):
        return exact(x, time)  # the network is told t itself

    def student(x, time, *, known, **_):
        told.append(time)
        given = known[..., trainer.body.groups]
        slopes = []
        for level in time.tolist():
            grid = explicit_grid(process, [level * (1 - k / calls) for k in range(calls + 1)])
            slopes.append(ddim_moments(grid.alpha, grid.sigma, 1.0, mean, std)[1])
        slope = along_batch(torch.tensor(slopes), x)
        # What is known is put into x without noise, and what comes of it is not asked.
        return torch.where(given, torch.nan, mean + slope * (x - along_batch(process.alpha(time), x) * mean))

    trainer.teacher = network
    found = trainer.losses(windows_with_gaps(trainer), np.random.default_rng(1), student)
    assert float(found["features"]) < 1e-8
    assert float(found["root"]) < 1e-4
    assert told[0][:2].tolist() == [1.0, 1.0]
    assert all(0 < level < 1 for level in told[0][2:].tolist())
    off = trainer.losses(windows_with_gaps(trainer), np.random.default_rng(1), lambda *a, **k: student(*a, **k) + 0.1)
    assert float(off["features"]) == pytest.approx(0.01, rel=1e-3)


def test_a_stopped_distillation_goes_on_bit_for_bit_and_of_no_other_teacher(teacher, tmp_path):
    whole = StudentTrainer(teacher, settings(teacher), collection(), tmp_path / "whole")
    before = whole.held_out_loss()
    whole.run()
    first = StudentTrainer(teacher, settings(teacher), collection(), tmp_path / "parts")
    first.run(stop_at=3)
    second = StudentTrainer(teacher, settings(teacher), collection(), tmp_path / "parts")
    assert second.step == 3
    second.run()
    for name, value in whole.average.average.items():
        assert torch.equal(second.average.average[name], value)
    rows = [json.loads(line) for line in (tmp_path / "whole/log.jsonl").read_text().splitlines()]
    assert rows[-1]["held_out"] == second.held_out_loss() != before
    whole.export(tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="another configuration"):
        StudentTrainer(read_model(tmp_path / "other.safetensors"), settings(teacher), collection(), tmp_path / "parts")
    with pytest.raises(InputError, match="another configuration"):
        StudentTrainer(teacher, settings(teacher, calls=3), collection(), tmp_path / "parts")


def test_the_loss_falls(teacher, tmp_path):
    trainer = StudentTrainer(teacher, settings(teacher, steps=20, learning_rate=1e-2), collection(), tmp_path)
    before = trainer.held_out_loss()
    trainer.run()
    assert trainer.held_out_loss() < 0.8 * before


def test_the_command_writes_an_ordinary_model_that_says_whose_student_it_is(teacher, tmp_path):
    save_collection(tmp_path / "clips.safetensors", collection())
    student = tmp_path / "student.safetensors"
    run = CliRunner().invoke(
        app, ["distil", str(teacher.path), "--data", f"{tmp_path}/clips.safetensors", "-o", str(student), "--steps",
              "2", "--calls", "1", "-q"],
    )  # fmt: skip
    assert run.exit_code == 0, run.output
    facts = read_model(student).training
    assert facts["teacher"] == {"file": "teacher.safetensors", "sha256": teacher.sha256, "calls": 1}
    card = student.with_suffix(".md").read_text()
    assert teacher.sha256 in card
    assert "fewstep motion distil teacher.safetensors --steps 2" in card
    drawn = draw(load_model(student), "walk", 16, calls=1, generator=torch.Generator().manual_seed(0))
    assert drawn[0].frames == 16


def test_clips_of_another_body_and_other_files_are_refused(teacher, tmp_path):
    save_collection(tmp_path / "clips.safetensors", collection())
    for model, output, match in (
        (str(teacher.path), "student.pt", "the suffix '.pt'"),
        (str(tmp_path / "clips.safetensors"), "student.safetensors", "fewstep motion train"),
        (str(tmp_path / "none.safetensors"), "student.safetensors", "no such weights"),
    ):
        run = CliRunner().invoke(
            app, ["distil", model, "--data", f"{tmp_path}/clips.safetensors", "-o", str(tmp_path / output)]
        )
        assert isinstance(run.exception, InputError)
        assert match in str(run.exception)
    skeleton = body()
    names = tuple(name.replace("Spine", "LowerBack") for name in skeleton.names)
    other = Body(replace(skeleton, names=names))
    clip = Clip("first", "made/first.bvh", "CC0", other.encode(walk(40, skeleton=other.skeleton)).float(),
                torch.full((40,), ACTION["walk"]))  # fmt: skip
    with pytest.raises(InputError, match="a body of"):
        StudentTrainer(teacher, settings(teacher, held_out=()), Collection(other, 30.0, (clip,)), tmp_path)
