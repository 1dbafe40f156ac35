"""The commands solve, calibrate and generate --start: files in, files out, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion
from typer.testing import CliRunner

from medical.brain.cli import app
from medical.brain.config import BrainConfig
from medical.brain.files import load_brain, save_brain
from medical.brain.solve_files import read_prepared, read_stack
from medical.brain.volume import WHITE, Volume, centred_affine, write_volume
from shared.calibration import teacher
from shared.errors import InputError

nibabel = pytest.importorskip("nibabel")
pytest.importorskip("monai")
pytest.importorskip("einops")
from medical.brain.network import brain_network  # noqa: E402
from medical.brain.solve_files import read_labels  # noqa: E402
from tests.medical.brain.small_head import head as small_head  # noqa: E402

SIZE = (8, 12, 8)
SMALL = BrainConfig(strategy="flow", channels=(8, 16), attention=(False, False), blocks=1, size=SIZE, spacing_mm=4)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    torch.manual_seed(0)
    network = brain_network(SMALL)
    torch.nn.init.normal_(network.out[2].conv.weight, std=0.05)  # MONAI starts it at zero
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    save_brain(path, SMALL, network.state_dict(), {})
    return path


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A prepared volume: an ellipsoid with a gradient."""
    place = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in SIZE), indexing="ij"))
    inside = (place**2).sum(0) < 0.8
    voxels = np.rint(inside * (0.6 + 0.3 * place[1]) * WHITE).astype(np.uint16)
    path = tmp_path_factory.mktemp("head") / "head.nii.gz"
    affine = centred_affine(SIZE, 4.0)
    affine[:3, 3] += [3, -5, 7]
    write_volume(Volume(voxels, affine), path, "test")
    return path


def run(*words) -> object:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_solving_writes_mean_deviation_and_what_they_are(model_file, head, tmp_path):
    mask = np.zeros(SIZE, np.uint8)
    mask[2:5, 3:8, 2:6] = 1
    nibabel.Nifti1Image(mask, nibabel.load(head).affine).to_filename(tmp_path / "mask.nii.gz")
    out = tmp_path / "out.nii.gz"
    words = ["solve", "inpaint", head, "--mask", tmp_path / "mask.nii.gz", "--model", model_file, "-o", out, "-n", 2]
    done = run(*words, "--steps", 6, "--device", "cpu", "--each", "--simulate")
    assert done.exit_code == 0, done.output
    assert "misfit" in done.stdout
    image, truth = nibabel.load(out), nibabel.load(head)
    assert image.shape == SIZE
    np.testing.assert_allclose(image.affine, truth.affine, atol=1e-4)
    off = np.abs(np.asarray(image.dataobj, float) - np.asarray(truth.dataobj, float)) / WHITE
    assert off[mask == 0].mean() < 0.03  # measured voxels are kept, up to the noise
    std = np.asarray(nibabel.load(tmp_path / "out_std.nii.gz").dataobj, float)
    first, second = (np.asarray(nibabel.load(tmp_path / f"out_sample{n}.nii.gz").dataobj, float) for n in (1, 2))
    kept = (np.minimum(first, second) > 0) & (np.maximum(first, second) < WHITE) & (std < WHITE)  # what is not cut off
    assert kept.mean() > 0.5
    np.testing.assert_allclose(std[kept], 2 * np.abs(first - second)[kept] / 2**0.5, atol=3)  # the range of x is 2
    facts = json.loads((tmp_path / "out.json").read_text())
    assert facts["Synthetic"] is True
    assert "synthetic" in facts["SyntheticPrior"]
    assert "NOT FOR DIAGNOSIS" in facts["Notice"]
    assert facts["source"] == "head.nii.gz"
    assert facts["model"]["sha256"] == load_brain(model_file).sha256
    assert facts["simulated_measurement"] is True
    assert facts["method"] == {"method": "diffpir", "samples": 2, "steps": 6, "renoise": 0.3, "lamda": 1.0}
    assert facts["numbers"]["rmse"] > 0
    assert facts["numbers"]["calls"] == 12
    description = bytes(image.header["descrip"]).decode()
    assert "SYNTHETIC PRIOR" in description
    assert "not for diagnosis" in description
    again = run(*words)
    assert isinstance(again.exception, InputError)  # it exists


@pytest.mark.parametrize(
    "words",
    [
        ("slices", "--thickness", "10", "--separation", "12"),
        ("blocks", "--blocks", "2x2x1"),
        ("kspace", "--acceleration", "3"),
        ("kspace-magnitude", "--method", "released"),
        ("denoise", "--noise", "0.2"),
    ],
)
def test_every_task_can_be_simulated(words, model_file, head, tmp_path):
    out = tmp_path / "out.nii"
    done = run(
        "solve", words[0], head, "--model", model_file, "-o", out, "--simulate", "-n", 1, "--steps", 4, *words[1:]
    )
    assert done.exit_code == 0, done.output
    facts = json.loads((tmp_path / "out.json").read_text())
    assert set(facts["numbers"]) == {"misfit", "misfit_of_mean", "calls", "rmse", "psnr_db"}
    assert not (tmp_path / "out_std.nii").exists()
    if words[0] in ("slices", "blocks", "kspace"):
        assert facts["numbers"]["misfit"] < 12  # four steps of a network that knows nothing; without data about 40


def test_a_stack_of_thick_slices_lands_where_it_was_measured(tmp_path):
    """A head of 1 mm and its averages over slices of 8 mm along y: a bright ball keeps its place in the world."""
    affine = np.diag([2.0, -1.0, 2.0, 1.0])  # not in voxel order LPS
    affine[:3, 3] = [-20, 60, -14]
    world = np.array([4.0, 10.0, 6.0])
    fine = Volume(np.zeros((24, 96, 20), np.float32), affine)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in fine.voxels.shape), indexing="ij"), -1)
    place = index @ affine[:3, :3].T + affine[:3, 3]
    ball = np.exp(-((place - world) ** 2).sum(-1) / (2 * 8.0**2)).astype(np.float32)
    thick = ball.reshape(24, 12, 8, 20).mean(2)
    coarse = affine @ np.diag([1, 8, 1, 1.0])
    coarse[:3, 3] = affine[:3, 3] + affine[:3, 1] * 3.5
    nibabel.Nifti1Image(thick, coarse).to_filename(tmp_path / "stack.nii.gz")
    x, axis, separation, drawn, warnings = read_stack(tmp_path / "stack.nii.gz", (16, 24, 16), 4.0)
    assert (axis, separation) == (1, 8.0)
    assert x.shape == (16, 12, 16)
    assert nibabel.aff2axcodes(drawn) == ("L", "P", "S")
    assert len(warnings) == 1
    # spread the slices over the fine voxels of the volume to be drawn: the ball's centre of mass in the world
    weight = (x.numpy() + 1).repeat(2, axis=1)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in weight.shape), indexing="ij"), -1)
    places = index @ drawn[:3, :3].T + drawn[:3, 3]
    centre = (weight[..., None] * places).sum((0, 1, 2)) / weight.sum()
    np.testing.assert_allclose(centre, world, atol=1.0)
    with pytest.raises(InputError, match="12 mm or more"):
        read_stack(tmp_path / "stack.nii.gz", (16, 24, 16), 8.0)


def test_real_stacks_and_coarse_volumes_are_solved_on_the_grid_of_the_model(model_file, head, tmp_path):
    x, volume = read_prepared(head)
    stack = x.view(8, 12, 4, 2).mean(3).numpy()
    affine = volume.affine @ np.diag([1, 1, 2, 1.0])
    affine[:3, 3] = volume.affine[:3, 3] + volume.affine[:3, 2] * 0.5
    nibabel.Nifti1Image(stack, affine).to_filename(tmp_path / "stack.nii.gz")
    out = tmp_path / "out.nii.gz"
    done = run("solve", "slices", tmp_path / "stack.nii.gz", "--model", model_file, "-o", out, "-n", 1, "--steps", 6)
    assert done.exit_code == 0, done.output
    assert "centre of the stack" in done.output
    image = nibabel.load(out)
    assert image.shape == SIZE
    np.testing.assert_allclose(image.affine, volume.affine, atol=1e-3)
    assert set(json.loads((tmp_path / "out.json").read_text())["numbers"]) == {"misfit", "misfit_of_mean", "calls"}

    low = np.rint((x.view(4, 2, 6, 2, 4, 2).mean((1, 3, 5)).numpy() + 1) / 2 * WHITE).astype(np.uint16)
    coarse = volume.affine @ np.diag([2, 2, 2, 1.0])
    coarse[:3, 3] = volume.affine[:3, 3] + volume.affine[:3, :3] @ np.full(3, 0.5)
    write_volume(Volume(low, coarse), tmp_path / "low.nii.gz", "test")
    out = tmp_path / "fine.nii.gz"
    done = run("solve", "blocks", tmp_path / "low.nii.gz", "--model", model_file, "-o", out, "-n", 1, "--steps", 6)
    assert done.exit_code == 0, done.output
    np.testing.assert_allclose(nibabel.load(out).affine, volume.affine, atol=1e-3)


def test_what_does_not_fit_is_told_and_nothing_is_written(model_file, head, tmp_path):
    raw = tmp_path / "raw.nii.gz"
    nibabel.Nifti1Image(np.arange(768, dtype=np.float32).reshape(SIZE), np.eye(4)).to_filename(raw)
    out = tmp_path / "out.nii.gz"
    for words, said in (
        (("sharpen", head), "one of inpaint"),
        (("inpaint", head), "a mask of what to fill in"),
        (("kspace", head), "--simulate"),
        (("denoise", raw), "brain prepare"),
        (("denoise", head, "--method", "moments"), "diffpir, dds, dps or released"),
        (("denoise", head, "--method", "magic"), "one of diffpir"),
    ):
        done = run("solve", *words, "--model", model_file, "-o", out, "--steps", 4)
        assert isinstance(done.exception, InputError), done.output
        assert said in str(done.exception)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw.nii.gz"]


def test_a_calibration_is_made_beside_the_weights_and_used(model_file, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher, "STEPS", 20)
    weights = tmp_path / "mine.safetensors"
    weights.write_bytes(model_file.read_bytes())
    drawn = ["generate", "--model", weights, "-o", tmp_path / "made", "--sampler", "calibrated", "--steps", 5, "-q"]
    early = run(*drawn)
    assert isinstance(early.exception, InputError)
    assert "fewstep brain calibrate" in str(early.exception)
    done = run("calibrate", "--model", weights, "--calls", 5, "-n", 1, "--held-out", 1, "--size", "4x4x4", "-q")
    assert done.exit_code == 0, done.output
    path = tmp_path / "mine_calibrated_5.json"
    assert done.stdout.split()[-1] == str(path)
    facts = json.loads(path.read_text())
    errors = facts["held_out"]
    assert errors["calibrated"] < min(errors["baselines"].values())
    done = run(*drawn)
    assert done.exit_code == 0, done.output
    sidecar = json.loads((tmp_path / "made" / "sub-syn001" / "anat" / "sub-syn001_T1w.json").read_text())
    assert sidecar["sampling"]["name"] == "calibrated"
    assert sidecar["sampling"]["calls"] == 5
    assert len(sidecar["sampling"]["table"]) == 64  # the hash of the coefficients
    assert run(*drawn).exit_code == 0  # found, not refused

    torch.manual_seed(1)
    network = brain_network(SMALL)
    save_brain(weights, SMALL, network.state_dict(), {})
    other = run(*drawn, "--overwrite")
    assert isinstance(other.exception, InputError)
    assert "this model" in str(other.exception)


def test_a_volume_to_start_from_is_recorded(model_file, head, tmp_path):
    folder = tmp_path / "made"
    words = ["generate", "--model", model_file, "-o", folder, "--steps", 6, "-q", "--start", head, "--strength"]
    assert run(*words, 0.05).exit_code == 0
    path = folder / "sub-syn001" / "anat" / "sub-syn001_T1w.nii.gz"
    facts = json.loads((folder / "sub-syn001" / "anat" / "sub-syn001_T1w.json").read_text())
    assert facts["start"]["name"] == "head.nii.gz"
    assert facts["start"]["strength"] == 0.05
    assert facts["sampling"]["name"] == "reference"
    near = np.asarray(nibabel.load(path).dataobj, float) / WHITE
    truth = np.asarray(nibabel.load(head).dataobj, float) / WHITE
    assert np.abs(near - truth).mean() < 0.15
    assert "another start" in str(run(*words, 0.5).exception)
    assert "between 0 and 1" in str(run(*words, 1.5).exception)


def test_a_label_map_becomes_a_head_to_start_from(tmp_path):
    """The start is every tissue's mean, where the map has it: equal labels are equal, and white matter beats fluid."""
    mapped = small_head()
    labels = tmp_path / "sub-1_dseg.nii.gz"
    nibabel.Nifti1Image(mapped.astype(np.int16), np.diag([-2.0, -2.0, 2.0, 1.0])).to_filename(labels)
    config = SMALL.model_copy(update={"size": (24, 28, 24)})
    start = read_labels(labels, 0.3, config)
    assert torch.equal(start.volume, read_labels(labels, 0.3, config).volume)
    blocks = mapped.reshape(24, 2, 28, 2, 24, 2)
    white, fluid = (start.volume.numpy()[(blocks == code).all((1, 3, 5))] for code in (2, 4))
    inner = binary_erosion((blocks == 2).all((1, 3, 5)))
    assert start.volume.numpy()[inner].std() < 0.05
    assert white.mean() > 0.2 > -0.2 > fluid.mean()
    assert float(start.volume[0, 0, 0]) == -1
    torch.manual_seed(0)
    network = brain_network(config)
    save_brain(tmp_path / "model.safetensors", config, network.state_dict(), {})
    words = ["generate", "--model", tmp_path / "model.safetensors", "-o", tmp_path / "made", "--steps", 3, "-q"]
    done = run(*words, "--labels", labels, "--strength", 0.05)
    assert done.exit_code == 0, done.output
    facts = json.loads((tmp_path / "made" / "sub-syn001" / "anat" / "sub-syn001_T1w.json").read_text())
    assert facts["start"]["name"] == "sub-1_dseg.nii.gz"
    assert "one of them" in str(run(*words, "--labels", labels, "--start", labels).exception)
