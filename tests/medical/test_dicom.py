"""DICOM files against the standard's own equation, pydicom's strict mode, and two independent programs."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import torch

from medical.images import Geometry, Image, write_image
from shared.errors import InputError

C, S = math.cos(0.4), math.sin(0.4)
STACKS = {
    "axial": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "oblique, left-handed, read to posterior": ((0, C, S), (1, 0, 0), (0, -S, C)),
    "sagittal, upside down": ((0, S, C), (0, -C, S), (-1, 0, 0)),
    "coronal, slices to posterior": ((-1, 0, 0), (0, 0, 1), (0, 1, 0)),
}


def stack(name: str, slices: int = 4) -> Image:
    """An anisotropic volume (2 x 3 x 5 mm, 4 mm thick) with all voxels different and one far brighter slice."""
    read, phase, along = (np.array(v, dtype=float) for v in STACKS[name])
    positions = tuple(tuple(np.array([3.0, -5.0, 7.0]) + 5 * n * along) for n in range(slices))
    geometry = Geometry((48, 54, 4), tuple(read), tuple(phase), tuple(along), positions, patient_position="HFS")
    values = torch.randperm(slices * 18 * 24, generator=torch.Generator().manual_seed(0)).reshape(slices, 18, 24) + 1.0
    values[-1] *= 40
    return Image.placed(
        torch.polar(values, values),
        geometry,
        fov_mm=(48, 54, 4),
        volumetric=False,
        phase_encoding="j",
        provenance={
            "method": "sense",
            "parameters": {"lambda": 0.005},
            "acceleration": 2.56,
            "acquired_matrix": (14, 24),
            "source": "/data/Jane Doe/scan.h5",
            "header": {"TE_ms": [12.4], "TR_ms": [500.0, 600.0], "vendor": "Siemens", "field_strength_T": 2.89},
            "warnings": ["Partial Fourier was zero-filled."],
            "residual": 0.031,
            "residual_expected": 0.0301,
        },
    )


@pytest.fixture
def strict(monkeypatch):
    monkeypatch.setattr(pydicom.config.settings, "writing_validation_mode", pydicom.config.RAISE)
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.RAISE)


def read_series(folder: Path) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(path) for path in sorted(folder.iterdir())]


def world_of(files: list[pydicom.Dataset]) -> dict[tuple[float, ...], float]:
    """RAS point -> value of every pixel, from PS3.3 equation C.7.6.2.1-1 and the modality LUT."""
    points = {}
    for file in files:
        row_cosine, column_cosine = np.reshape(np.array(file.ImageOrientationPatient, dtype=float), (2, 3))
        between_rows, between_columns = (float(v) for v in file.PixelSpacing)
        values = file.pixel_array * float(file.RescaleSlope) + float(file.RescaleIntercept)
        for r, c in np.ndindex(values.shape):
            point = np.array(file.ImagePositionPatient, dtype=float)
            point = point + row_cosine * between_columns * c + column_cosine * between_rows * r
            points[tuple(np.round(point * (-1, -1, 1), 3) + 0.0)] = values[r, c]
    return points


def world_of_nifti(path: Path) -> dict[tuple[float, ...], float]:
    image = nibabel.load(path)
    data = image.get_fdata()
    return {tuple(np.round((image.affine @ [*index, 1])[:3], 3) + 0.0): data[index] for index in np.ndindex(data.shape)}


def assert_same_world(one: dict, other: dict, *, within: float) -> None:
    """Same values at the same points in the patient; points are matched within a hundredth of a millimetre."""
    ours, theirs = (np.array(sorted(points)) for points in (one, other))
    assert ours.shape == theirs.shape
    distance = np.abs(ours[:, None] - theirs[None]).max(-1)
    nearest = distance.argmin(1)
    assert distance.min(1).max() < 0.01
    values = np.array([one[tuple(point)] for point in ours]), np.array([other[tuple(theirs[n])] for n in nearest])
    assert np.abs(values[0] - values[1]).max() <= within


@pytest.mark.parametrize("name", STACKS)
def test_every_pixel_lies_where_the_nifti_voxel_of_the_same_value_lies(tmp_path, strict, name):
    image = stack(name)
    folder, _ = write_image(image, tmp_path / "series")
    nifti, _ = write_image(image, tmp_path / "volume.nii")
    files = read_series(folder)
    step = float(files[0].RescaleSlope)
    assert_same_world(world_of(files), world_of_nifti(nifti), within=0.51 * step)


def test_series_is_derived_new_and_free_of_patient_data(tmp_path, strict):
    folder, beside = write_image(stack("axial"), tmp_path / "series")
    files = read_series(folder)
    assert len(files) == 4
    for shared in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "RescaleSlope", "WindowWidth"):
        assert len({str(file[shared].value) for file in files}) == 1
    assert len({file.SOPInstanceUID for file in files}) == 4
    assert [int(file.InstanceNumber) for file in files] == [1, 2, 3, 4]
    file = files[0]
    assert file.SOPClassUID.name == "MR Image Storage"
    assert list(file.ImageType[:2]) == ["DERIVED", "SECONDARY"]
    for empty in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyID"):
        assert not file[empty].value
    assert "NOT FOR DIAGNOSIS" in file.ImageComments
    assert "zero-filled" in file.ImageComments
    assert "R=2.56" in file.DerivationDescription
    assert "lambda=0.005" in file.DerivationDescription
    assert "Jane" not in str(file)
    assert (float(file.EchoTime), file.RepetitionTime) == (12.4, None)
    assert (float(file.SliceThickness), float(file.SpacingBetweenSlices)) == (4, 5)
    assert (file.Manufacturer, file.ContributingEquipmentSequence[0].Manufacturer) == ("fewstep", "Siemens")
    again, _ = write_image(stack("axial"), tmp_path / "again")
    assert read_series(again)[0].SeriesInstanceUID != file.SeriesInstanceUID
    assert json.loads(beside.read_text())["series_instance_uid"] == file.SeriesInstanceUID


def test_acquired_and_displayed_matrix_and_phase_direction_follow_the_pixels(tmp_path, strict):
    """Phase along columns for the plain axial stack, along rows once the picture is turned to the standard display."""
    plain = read_series(write_image(stack("axial"), tmp_path / "a")[0])[0]
    assert (plain.Rows, plain.Columns) == (18, 24)
    assert (plain.InPlanePhaseEncodingDirection, list(plain.AcquisitionMatrix)) == ("COL", [0, 24, 14, 0])
    turned = read_series(write_image(stack("oblique, left-handed, read to posterior"), tmp_path / "b")[0])[0]
    assert (turned.Rows, turned.Columns) == (24, 18)
    assert (turned.InPlanePhaseEncodingDirection, list(turned.AcquisitionMatrix)) == ("ROW", [24, 0, 0, 14])
    assert list(turned.PixelSpacing) == [2, 3]


def test_one_slope_for_the_volume_keeps_the_ratio_between_slices_and_nothing_is_clipped(tmp_path):
    image = stack("axial")
    folder, beside = write_image(image, tmp_path / "series")
    means = [float(file.pixel_array.mean() * file.RescaleSlope) for file in read_series(folder)]
    np.testing.assert_allclose(means, image.magnitude().mean((1, 2)).numpy(), rtol=1e-3)
    facts = json.loads(beside.read_text())
    assert facts["clipped_voxels"] == 0
    assert facts["rescale_slope"] == pytest.approx(float(image.magnitude().max()) / 32767)


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e9])
def test_tiny_huge_and_empty_volumes_keep_their_values(tmp_path, strict, scale):
    image = stack("axial")
    image = replace(image, data=image.data * scale)
    files = read_series(write_image(image, tmp_path / "series")[0])
    values = np.stack([file.pixel_array * float(file.RescaleSlope) for file in files])
    np.testing.assert_allclose(values, image.magnitude().numpy(), atol=float(image.magnitude().max()) * 2e-5)


def test_simulated_and_assumed_are_said_in_the_file_and_the_vendor_is_not_claimed(tmp_path, strict):
    image = stack("axial", slices=1)
    image.provenance.update(simulated=True, nominal_geometry=True)
    path, _ = write_image(image, tmp_path / "one.dcm")
    file = pydicom.dcmread(path)
    assert "simulated, not measured" in file.ImageComments
    assert "left and right unknown" in file.ImageComments
    assert "ContributingEquipmentSequence" not in file


def test_volume_in_one_file_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match="4 slices"):
        write_image(stack("axial"), tmp_path / "brain.dcm")
    assert list(tmp_path.iterdir()) == []


def test_folder_with_other_things_is_never_replaced(tmp_path):
    folder = tmp_path / "holiday"
    folder.mkdir()
    (folder / "photo.jpg").write_text("precious")
    with pytest.raises(InputError, match="not replaced"):
        write_image(stack("axial"), folder, overwrite=True)
    assert (folder / "photo.jpg").read_text() == "precious"
    series, _ = write_image(stack("axial"), tmp_path / "series")
    write_image(stack("axial", slices=2), series, overwrite=True)
    assert len(list(series.iterdir())) == 2


def test_series_killed_midway_leaves_nothing(tmp_path, monkeypatch):
    save = pydicom.dataset.FileDataset.save_as

    def third_fails(self, path, **options):
        if Path(path).name == "0003.dcm":
            raise KeyboardInterrupt
        save(self, path, **options)

    monkeypatch.setattr(pydicom.dataset.FileDataset, "save_as", third_fails)
    with pytest.raises(KeyboardInterrupt):
        write_image(stack("axial"), tmp_path / "series")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.peer
@pytest.mark.parametrize("name", STACKS)
def test_dcm2niix_puts_every_voxel_where_our_nifti_puts_it(tmp_path, name):
    program = shutil.which("dcm2niix")
    if program is None:
        pytest.skip("dcm2niix is not installed")
    image = stack(name)
    folder, _ = write_image(image, tmp_path / "series")
    nifti, _ = write_image(image, tmp_path / "volume.nii")
    peer = tmp_path / "peer"
    peer.mkdir()
    subprocess.run([program, "-o", peer, "-f", "image", "-b", "y", folder], check=True, capture_output=True)
    (converted,) = peer.glob("*.nii")
    step = float(image.magnitude().max()) / 32767
    assert_same_world(world_of_nifti(converted), world_of_nifti(nifti), within=0.51 * step)
    facts = json.loads(converted.with_suffix(".json").read_text())
    assert facts["EchoTime"] == pytest.approx(0.0124)
    assert facts["SliceThickness"] == 4


@pytest.mark.peer
@pytest.mark.parametrize("scale", [1.0, 1e-7])
@pytest.mark.parametrize("name", STACKS)
def test_dciodvfy_finds_no_error_in_the_object(tmp_path, name, scale):
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy is not installed")
    image = stack(name)
    folder, _ = write_image(replace(image, data=image.data * scale), tmp_path / "series")
    for path in sorted(folder.iterdir()):
        verdict = subprocess.run([program, path], capture_output=True, text=True).stderr
        assert "MRImage" in verdict
        assert [line for line in verdict.splitlines() if line.startswith("Error")] == []
