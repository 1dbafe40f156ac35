"""What reaches the disk: voxels, world coordinates, provenance, and nothing at all when something fails."""

from __future__ import annotations

import json
from importlib.metadata import version

import h5py
import nibabel
import numpy as np
import pytest
import torch
from PIL import Image as Bitmap

from medical import nifti
from medical.images import Geometry, Image, display_oriented, write_image
from medical.preview import edge_letters, preview
from medical.sidecar import sidecar
from shared.errors import InputError


def oblique(slices: int = 3, ny: int = 20, nx: int = 30) -> Image:
    """An oblique anisotropic complex volume whose every voxel differs."""
    c, s = np.cos(0.4), np.sin(0.4)
    positions = tuple((3.0, 5 - 6 * s * n, 7 + 6 * c * n) for n in range(slices))
    geometry = Geometry((90, 40, 5), (1, 0, 0), (0, c, s), (0, -s, c), positions, patient_position="HFP")
    ramp = torch.arange(float(slices * ny * nx)).reshape(slices, ny, nx)
    return Image.placed(
        torch.polar(ramp + 1, 0.01 * ramp),
        geometry,
        fov_mm=(90, 40, 5),
        volumetric=False,
        phase_encoding="j-",
        provenance={
            "method": "wavelet",
            "parameters": {"lambda": 0.002, "iterations": 60},
            "acceleration": 2.56,
            "acquired_matrix": (16, 60),
            "residual": 0.031,
            "residual_expected": 0.03,
            "warnings": ["Partial Fourier was zero-filled."],
            "history": ["read 50 lines", "prewhitened"],
            "simulated": False,
            "source": "/home/someone/Patient Jane/brain.h5",
            "header": {
                "TE_ms": [12.4],
                "TI_ms": [1, 2],
                "flip_angle_deg": 15,
                "field_strength_T": 3.0,
                "vendor": "Siemens",
            },
        },
    )


def test_nifti_holds_magnitude_and_one_affine_in_both_forms(tmp_path):
    image = oblique()
    path, _ = write_image(image, tmp_path / "brain.nii.gz")
    loaded = nibabel.load(path)
    assert loaded.shape == (30, 20, 3)
    assert loaded.get_data_dtype() == np.float32
    np.testing.assert_array_equal(loaded.get_fdata(), image.data.abs().numpy().transpose(2, 1, 0))
    for affine, code in (loaded.get_qform(coded=True), loaded.get_sform(coded=True)):
        np.testing.assert_allclose(affine, image.affine, atol=1e-5)
        assert code == 1
    assert loaded.header.get_xyzt_units()[0] == "mm"
    assert loaded.header.get_dim_info() == (0, 1, 2)
    assert f"fewstep {version('fewstep')}" in loaded.header["descrip"].item().decode()


def test_complex_nifti_round_trips_the_phase(tmp_path):
    image = oblique()
    path, beside = write_image(image, tmp_path / "brain.nii", complex_output=True)
    assert nibabel.load(path).get_data_dtype() == np.complex64
    np.testing.assert_array_equal(np.asarray(nibabel.load(path).dataobj).transpose(2, 1, 0), image.data.numpy())
    assert json.loads(beside.read_text())["stored"] == "complex64"


def test_hdf5_round_trips_complex_voxels_affine_and_provenance(tmp_path):
    image = oblique()
    path, _ = write_image(image, tmp_path / "brain.h5")
    with h5py.File(path, "r") as file:
        np.testing.assert_array_equal(file["image"][()], image.data.numpy())
        assert file["image"].attrs["axes"] == "z,y,x"
        np.testing.assert_array_equal(file["affine"][()], image.affine)
        assert (file.attrs["format"], file.attrs["format_version"]) == ("fewstep-image", 1)
        assert json.loads(file.attrs["provenance"])["method"] == "wavelet"


def test_sidecar_says_how_the_image_was_made_in_bids_keys_and_hides_folders(tmp_path):
    path, beside = write_image(oblique(), tmp_path / "sub-01_T1w.nii.gz")
    assert (path.name, beside.name) == ("sub-01_T1w.nii.gz", "sub-01_T1w.json")
    facts = json.loads(beside.read_text())
    assert facts["EchoTime"] == pytest.approx(0.0124)
    assert "InversionTime" not in facts  # two of them: which one would be a guess
    assert facts["MagneticFieldStrength"] == 3
    assert facts["PhaseEncodingDirection"] == "j-"
    assert (facts["SliceThickness"], facts["SpacingBetweenSlices"]) == (5, pytest.approx(6))
    assert facts["ConversionSoftwareVersion"] == version("fewstep")
    assert facts["source"] == "brain.h5"
    assert "Jane" not in beside.read_text()
    assert "NOT FOR DIAGNOSIS" in facts["Notice"]
    for key in ("method", "parameters", "acceleration", "residual", "residual_expected", "warnings", "history"):
        assert facts[key] == oblique().provenance[key]
    assert facts["simulated"] is False


def test_sidecar_hides_windows_folders_and_replaces_what_json_lacks():
    image = oblique()
    image.provenance.update(source="C:\\Users\\Jane\\meas.dat", residual_expected=float("nan"), extra=np.float32(2))
    facts = json.loads(json.dumps(sidecar(image), allow_nan=False))
    assert (facts["source"], facts["residual_expected"], facts["extra"]) == ("meas.dat", None, 2.0)


def test_one_image_stands_in_all_formats_side_by_side(tmp_path):
    written = [
        path
        for name in ("brain.nii.gz", "brain.h5", "brain.png", "brain.dcm", "brain")
        for path in write_image(oblique(slices=1), tmp_path / name)
    ]
    assert sorted(path.name for path in written) == sorted(path.name for path in tmp_path.iterdir())
    assert len(written) == 10


@pytest.mark.parametrize(
    ("name", "sidecar_name"),
    [("brain.nii.gz", "brain.json"), ("brain.h5", "brain.h5.json"), ("brain.png", "brain.png.json")],
)
def test_existing_image_or_sidecar_is_refused_and_left_alone(tmp_path, name, sidecar_name):
    for existing in (name, sidecar_name):
        folder = tmp_path / existing
        folder.mkdir()
        (folder / existing).write_text("precious")
        with pytest.raises(InputError, match="existing output"):
            write_image(oblique(), folder / name)
        assert [p.name for p in folder.iterdir()] == [existing]
        assert (folder / existing).read_text() == "precious"
        write_image(oblique(), folder / name, overwrite=True)
        assert sorted(p.name for p in folder.iterdir()) == sorted([name, sidecar_name])


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("overwrite", [False, True])
def test_writer_killed_midway_leaves_nothing_new_behind(tmp_path, monkeypatch, failure, overwrite):
    if overwrite:
        write_image(oblique(), tmp_path / "brain.nii")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def half(image, path):
        path.write_bytes(b"half an image")
        raise failure

    monkeypatch.setattr(nifti, "write_magnitude", half)
    with pytest.raises(failure):
        write_image(oblique(), tmp_path / "brain.nii", overwrite=overwrite)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_sidecar_that_fails_takes_the_image_with_it(tmp_path, monkeypatch):
    def fail(value):
        raise OSError("disk full")

    monkeypatch.setattr("medical.sidecar.json_text", fail)
    with pytest.raises(OSError, match="disk full"):
        write_image(oblique(), tmp_path / "brain.nii")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_voxels_that_are_not_finite_are_refused(tmp_path, bad):
    image = oblique()
    image.data[1, 2, 3] = complex(0, bad)
    with pytest.raises(InputError, match="NaN or infinite"):
        write_image(image, tmp_path / "brain.nii")
    assert list(tmp_path.iterdir()) == []


def test_unknown_suffix_and_complex_picture_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"\.nii\.gz"):
        write_image(oblique(), tmp_path / "brain.mnc")
    with pytest.raises(InputError, match="complex"):
        write_image(oblique(), tmp_path / "brain.png", complex_output=True)


def test_preview_keeps_the_proportions_of_the_patient_and_puts_his_right_on_the_left(tmp_path):
    """A bright ball at the patient's right front in a 2:1 anisotropic axial slice must be round, at the top left."""
    ny, nx = 60, 120  # 2 mm by 1 mm
    y, x = np.mgrid[:ny, :nx]
    # read toward the patient's right, phase toward anterior: upside down and mirrored before display
    geometry = Geometry((120, 120, 4), (-1, 0, 0), (0, -1, 0), (0, 0, 1))
    ball = ((x - 90) ** 2 + (2 * y - 80) ** 2 < 15**2).astype(np.float32)
    image = Image.placed(torch.tensor(ball)[None], geometry, fov_mm=(120, 120, 4), volumetric=False)
    path, beside = write_image(image, tmp_path / "slice.png")
    bitmap = np.asarray(Bitmap.open(path).convert("L"), dtype=float)
    size = bitmap.shape[1]
    picture = bitmap[-size:]
    assert picture.shape == (512, 512)
    rows, columns = np.nonzero(picture > 250)
    inside = (rows < size // 2 - 20) & (columns < size // 2 - 20) & (rows > 60) & (columns > 60)
    rows, columns = rows[inside], columns[inside]
    assert np.ptp(rows) == pytest.approx(np.ptp(columns), abs=8)
    centre = np.array([rows.mean(), columns.mean()]) / size
    # row: phase index 40 of 60 counted from the other end; column: read index 90 of 120 from the other end
    np.testing.assert_allclose(centre, [(60 - 40) / 60, (120 - 90) / 120], atol=0.02)
    assert edge_letters(display_oriented(image)) == {"left": "R", "right": "L", "top": "A", "bottom": "P"}
    assert json.loads(beside.read_text())["preview_window"] == [0, 1]


def test_preview_shows_up_to_twelve_slices_in_one_window():
    image = oblique(slices=40)
    bitmap, window, slices = preview(image)
    assert len(slices) == 12
    assert slices == sorted(set(slices))
    assert slices[0] > 0
    assert slices[-1] < 39
    assert window.high == pytest.approx(np.percentile(image.data.abs().numpy(), 99.5))
    assert preview(oblique(slices=5))[2] == [0, 1, 2, 3, 4]
    assert bitmap.mode == "RGB"


def test_assumed_geometry_is_said_and_no_orientation_letter_is_drawn(tmp_path):
    dark = torch.zeros(1, 50, 50)
    drawn = {}
    for nominal in (False, True):
        geometry = Geometry((100, 100, 4), nominal=nominal)
        image = Image.placed(dark, geometry, fov_mm=(100, 100, 4), volumetric=False)
        drawn[nominal] = np.asarray(preview(image)[0])[-512:].max()
    assert drawn[False] > 200
    assert drawn[True] < 50
    _, beside = write_image(image, tmp_path / "a.png")
    assert json.loads(beside.read_text())["nominal_geometry"] is True
