"""Batches of volumes: files, headers, sidecars, seeds, resuming, memory."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from medical.brain.cli import app
from medical.brain.config import BrainConfig
from medical.brain.files import load_brain, save_brain
from medical.brain.generate import generate
from medical.brain.memory import SLABS, Plan, choose, largest_size, measure
from medical.brain.model import BrainModel, Sampling
from medical.brain.output import image_seed, to_voxels
from shared.errors import InputError
from shared.memory import call_bytes, sliced

nibabel = pytest.importorskip("nibabel")
pytest.importorskip("monai")
pytest.importorskip("einops")
from medical.brain.network import brain_network  # noqa: E402

SMALL = BrainConfig(strategy="flow", channels=(8, 16), attention=(False, True), blocks=1, size=(8, 10, 8), spacing_mm=4)
FEW = Sampling(steps=3, eta=0.5)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    torch.manual_seed(0)
    network = brain_network(SMALL)
    torch.nn.init.normal_(network.out[2].conv.weight, std=0.2)  # MONAI starts it at zero
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    save_brain(path, SMALL, network.state_dict(), {})
    return path


@pytest.fixture(scope="module")
def model(model_file) -> BrainModel:
    return load_brain(model_file)


def test_the_command_writes_a_bids_data_set_that_says_it_is_synthetic(model_file, tmp_path):
    folder = tmp_path / "made"
    words = ["generate", "--model", str(model_file), "-n", "2", "--seed", "1", "-o", str(folder), "--steps", "3"]
    done = CliRunner().invoke(app, [*words, "--device", "cpu"])
    assert done.exit_code == 0, done.output
    path = folder / "sub-syn002" / "anat" / "sub-syn002_T1w.nii.gz"
    assert done.stdout.split()[-1] == str(path)
    image = nibabel.load(path)
    assert image.shape == (8, 10, 8)
    assert nibabel.aff2axcodes(image.affine) == ("L", "P", "S")
    assert image.header.get_zooms() == (4, 4, 4)
    np.testing.assert_allclose(image.affine @ [3.5, 4.5, 3.5, 1], [0, 0, 0, 1], atol=1e-5)
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-5)
    description = bytes(image.header["descrip"]).decode()
    assert "SYNTHETIC" in description
    assert "not for diagnosis" in description
    facts = json.loads(path.with_name("sub-syn002_T1w.json").read_text())
    assert facts["Synthetic"] is True
    assert "NOT FOR DIAGNOSIS" in facts["Notice"]
    assert facts["seed"] == image_seed(1, 2) != image_seed(1, 1)
    assert facts["model"]["sha256"] == load_brain(model_file).sha256
    assert facts["sampling"] == {"name": "reference", "steps": 3, "eta": 0.0, "calls": 3}
    assert json.loads((folder / "dataset_description.json").read_text())["BIDSVersion"]
    other = nibabel.load(folder / "sub-syn001" / "anat" / "sub-syn001_T1w.nii.gz")
    assert np.any(np.asanyarray(other.dataobj) != np.asanyarray(image.dataobj))


def test_a_resumed_batch_is_the_uninterrupted_one(model, tmp_path):
    whole = [written.path for written in generate(model, tmp_path / "whole", 3, 7, sampling=FEW)]
    parts = tmp_path / "parts"
    first = next(generate(model, parts, 3, 7, sampling=FEW))  # stopped after one
    (first.path.parent / ".sub-syn001_T1w.nii.gz.abc").mkdir()  # what a kill may leave
    stamp = first.path.stat().st_mtime_ns
    rest = list(generate(model, parts, 3, 7, sampling=FEW))
    assert [written.new for written in rest] == [False, True, True]
    assert first.path.stat().st_mtime_ns == stamp
    for a, b in zip(whole, rest, strict=True):
        va, vb = (np.asanyarray(nibabel.load(path).dataobj) for path in (a, b.path))
        assert va.std() > 100
        np.testing.assert_array_equal(va, vb)
        assert (
            a.with_name(a.name.replace(".nii.gz", ".json")).read_text()
            == b.path.with_name(b.path.name.replace(".nii.gz", ".json")).read_text()
        )
    # A volume without its sidecar is not done.
    rest[2].path.with_name("sub-syn003_T1w.json").unlink()
    assert [written.new for written in generate(model, parts, 3, 7, sampling=FEW)] == [False, False, True]


def test_other_settings_in_the_same_folder_are_refused_unless_replaced(model, tmp_path):
    list(generate(model, tmp_path, 1, 7, sampling=FEW))
    for change in ({"seed": 8}, {"sampling": Sampling(steps=4)}, {"spacing_mm": 2.0}):
        arguments = {"seed": 7, "sampling": FEW, **change}
        with pytest.raises(InputError, match=r"made with another .*(seed|sampling|spacing_mm)"):
            generate(model, tmp_path, 1, **arguments)
    assert [w.new for w in generate(model, tmp_path, 1, 8, sampling=FEW, overwrite=True)] == [True]


def test_a_grid_off_the_training_is_warned_of_in_the_sidecar(model, tmp_path):
    (written,) = generate(model, tmp_path, 1, 0, sampling=FEW, size=(8, 8, 16), spacing_mm=2.0)
    facts = json.loads(written.path.with_name("sub-syn001_T1w.json").read_text())
    assert any("2 mm" in warning and "4 mm" in warning for warning in facts["warnings"])
    assert any("8x8x16" in warning for warning in facts["warnings"])
    assert nibabel.load(written.path).header.get_zooms() == (2, 2, 2)


def test_sizes_steps_and_names_that_cannot_be_are_told(model, model_file, tmp_path):
    with pytest.raises(InputError, match="multiples of 2"):
        generate(model, tmp_path, 1, 0, size=(8, 9, 8))
    with pytest.raises(InputError, match="2 to 1000"):
        generate(model, tmp_path, 1, 0, sampling=Sampling(steps=2000))
    for words, message in (
        (["--size", "8x8"], "XxYxZ"),
        (["--strategy", "v"], "noise, clean"),
        (["--strategy", "noise"], "Drop --strategy"),
    ):
        done = CliRunner().invoke(app, ["generate", "--model", str(model_file), "-o", str(tmp_path), *words])
        assert isinstance(done.exception, InputError)
        assert message in str(done.exception)
    assert not list(tmp_path.iterdir())


def test_intensities_are_a_fixed_scale_and_what_lies_beyond_is_counted():
    x = torch.tensor([-1.5, -1.0, 0.0, 1.0, 2.0, 0.5, 0.5, 0.5]).reshape(2, 2, 2)
    volume, beyond = to_voxels(x, 1.0)
    assert volume.voxels.flatten().tolist() == [0, 0, 32768, 65535, 65535, 49151, 49151, 49151]
    assert beyond == 0.25
    with pytest.raises(InputError, match="NaN"):
        to_voxels(torch.full((2, 2, 2), torch.nan), 1.0)


@pytest.mark.parametrize("slabs", [0, 4])
def test_the_plan_of_a_volume_from_thin_ones_is_what_a_call_on_it_takes(model, slabs):
    plan = measure(SMALL, model.network, (16, 24, 20), slabs)
    network = sliced(model.network, slabs) if slabs else model.network
    assert plan.call == pytest.approx(
        call_bytes(lambda: network(torch.zeros(1, 1, 16, 24, 20), torch.zeros(1))), rel=0.1
    )
    assert plan.weights == sum(value.numel() * 4 for value in model.network.parameters())
    assert plan.total == plan.call + plan.weights + 6 * 4 * 16 * 24 * 20


def test_slabs_are_taken_where_the_whole_does_not_fit_and_else_a_size_is_named(model, tmp_path, monkeypatch):
    size = (16, 24, 20)
    whole, least = (measure(SMALL, model.network, size, slabs) for slabs in (0, SLABS[-1]))
    assert choose(SMALL, model.network, size, whole.total, spacing_mm=4).slabs == 0
    assert choose(SMALL, model.network, size, None, spacing_mm=4).slabs == 0
    some = choose(SMALL, model.network, size, (whole.total + least.total) / 2, spacing_mm=4)
    assert some.slabs > 0
    assert some.total <= (whole.total + least.total) / 2
    tight = 0.7 * least.total
    fits = largest_size(SMALL, model.network, size, tight, SLABS[-1])
    assert fits is not None
    assert measure(SMALL, model.network, fits, SLABS[-1]).total <= tight
    with pytest.raises(InputError, match="x".join(map(str, fits))):
        choose(SMALL, model.network, size, tight, spacing_mm=4)
    with pytest.raises(InputError, match="no size"):
        choose(SMALL, model.network, size, 1e4, spacing_mm=4)
    monkeypatch.setattr("medical.brain.generate.available", lambda device: 1e4)
    with pytest.raises(InputError, match="GiB free"):
        generate(model, tmp_path, 1, 0)
    assert not list(tmp_path.iterdir())


def test_a_folded_network_with_conditions_draws_the_same_in_slabs():
    config = BrainConfig(
        strategy="velocity", channels=(8, 16), attention=(False, True), blocks=1, size=(16, 24, 16), spacing_mm=4,
        fold="haar", conditions=({"name": "age", "between": (20, 80)},),
    )  # fmt: skip
    torch.manual_seed(0)
    network = brain_network(config).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model = BrainModel(config, network)
    drawn = [
        one.draw(sampling=FEW, conditions={"age": 50}, guidance=1.5, generator=torch.Generator().manual_seed(0))
        for one in (model, Plan(config.size, 4, 0, 0, 0).applied(model))
    ]
    torch.testing.assert_close(drawn[1], drawn[0], atol=1e-5, rtol=0)


def test_a_series_has_every_voxel_at_its_place_and_says_that_nobody_was_scanned(model, tmp_path):
    pydicom = pytest.importorskip("pydicom")
    (written,) = generate(model, tmp_path, 1, 3, sampling=FEW, dicom=True)
    image = nibabel.load(written.path)
    voxels = np.asanyarray(image.dataobj)
    files = sorted((tmp_path / "sourcedata" / "dicom" / "sub-syn001").glob("*.dcm"))
    assert len(files) == voxels.shape[2]
    to_voxel = np.linalg.inv(image.affine) @ np.diag([-1, -1, 1, 1])  # from LPS mm
    for path in files:
        series = pydicom.dcmread(path)
        across, down = np.reshape(np.array(series.ImageOrientationPatient, float), (2, 3))
        stored = series.pixel_array * float(series.RescaleSlope)
        for row, column in ((0, 0), (3, 1), (9, 7)):
            place = np.array(series.ImagePositionPatient, float) + 4 * (column * across + row * down)
            index = tuple(np.round(to_voxel @ [*place, 1])[:3].astype(int))
            assert stored[row, column] == pytest.approx(voxels[index], abs=float(series.RescaleSlope))
    assert str(series.PatientName) == "SYNTHETIC^NOBODY"
    assert "Nobody was scanned" in series.ImageComments
    assert model.sha256 in series.ImageComments
    assert "NOT FOR DIAGNOSIS" in series.DerivationDescription
    assert [float(value) for value in (*series.PixelSpacing, series.SliceThickness)] == [4, 4, 4]
    stamp = files[0].stat().st_mtime_ns
    assert not next(generate(model, tmp_path, 1, 3, sampling=FEW, dicom=True)).new
    assert files[0].stat().st_mtime_ns == stamp
    for path in files:
        path.unlink()
    files[0].parent.rmdir()
    assert not next(
        generate(model, tmp_path, 1, 3, sampling=FEW, dicom=True)
    ).new  # the volume is there, its series not
    assert files[0].exists()
