"""Preparation: landmarks keep their world positions, MedForj's steps by hand, bad input."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from medical.brain.cli import app
from medical.brain.head_mask import HEAD_MM, head_mask
from medical.brain.prepare import prepare, prepare_file, resampled
from medical.brain.volume import Volume, centred_affine, read_volume
from shared.errors import InputError

nibabel = pytest.importorskip("nibabel")
from nibabel.affines import apply_affine  # noqa: E402

OBLIQUE = np.array([[0.0, 0.1, -0.78, 12.0], [0.79, 0.0, 0.05, -21.0], [0.02, -0.8, -0.1, 40.0], [0, 0, 0, 1.0]])
LANDMARKS = np.array([[4.0, -8.0, 9.0], [-5.0, 2.0, 16.0], [8.0, 6.0, 12.0]])  # RAS mm


def spots(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A volume with a smooth spot at every landmark, of heights 1, 2, 3."""
    world = apply_affine(affine, np.stack(np.indices(shape), -1))
    return sum(
        (k + 1) * np.exp(-np.sum((world - mark) ** 2, -1) / (2 * 1.6**2)) for k, mark in enumerate(LANDMARKS)
    ).astype(np.float32)


def found_at(volume: Volume, mark: np.ndarray) -> np.ndarray:
    """World position of the centroid of what is within 4 mm of a landmark."""
    world = apply_affine(volume.affine, np.stack(np.indices(volume.voxels.shape), -1))
    near = np.sum((world - mark) ** 2, -1) < 16
    weight = volume.voxels[near].astype(float)
    return (world[near] * weight[:, None]).sum(0) / weight.sum()


@pytest.mark.parametrize("spacing", [None, 1.2])
def test_landmarks_stay_where_they_are_in_the_world(spacing):
    shape = (48, 54, 50)
    # The axes run anterior, inferior, left: permuted, flipped, oblique and 0.8 mm.
    raw = Volume(spots(OBLIQUE, shape), OBLIQUE)
    assert nibabel.aff2axcodes(OBLIQUE) == ("A", "I", "L")
    world = apply_affine(OBLIQUE, np.stack(np.indices(shape), -1))
    mask = np.sum((world - LANDMARKS.mean(0)) ** 2, -1) < 12**2
    made = prepare(raw, mask, fov_mm=(36, 40, 36), spacing_mm=spacing).volume
    assert nibabel.aff2axcodes(made.affine) == ("L", "P", "S")
    assert made.spacing_mm == pytest.approx((spacing or 1.0,) * 3, abs=1e-6)
    assert made.voxels.shape == tuple(int(side / (spacing or 1.0) + 1e-6) for side in (36, 40, 36))
    for k, mark in enumerate(LANDMARKS):
        np.testing.assert_allclose(found_at(made, mark), mark, atol=0.1, err_msg=str(k))
    world = apply_affine(made.affine, np.stack(np.indices(made.voxels.shape), -1))
    masses = [made.voxels[np.sum((world - mark) ** 2, -1) < 16].astype(float).sum() for mark in LANDMARKS]
    assert masses[0] < masses[1] < masses[2]


def test_the_steps_are_the_published_ones_where_nothing_is_resampled():
    source = np.random.default_rng(0)
    voxels = source.normal(100, 30, (30, 40, 20)).astype(np.float32)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    mask = np.zeros(voxels.shape, dtype=bool)
    mask[4:15, 10:31, 3:9] = True
    mask[25:28, 2:4, 15:17] = True  # a smaller piece, which does not count
    made = prepare(Volume(voxels, affine), mask, fov_mm=(16, 20, 24))
    low, high = np.percentile(voxels, [0.1, 99.9])
    scaled = np.rint(np.clip((voxels - low) / (high - low), 0, 1) * 65535).astype(np.uint16)
    expected = np.zeros((16, 20, 24), np.uint16)
    begin = [9 - 7, 20 - 9, 5 - 11]  # (first + last) // 2 - (n - 1) // 2
    expected[:, :, 6:24] = scaled[2:18, 11:31, 0:18]
    assert made.volume.voxels.dtype == np.uint16
    np.testing.assert_array_equal(made.volume.voxels, expected)
    np.testing.assert_allclose(made.volume.affine[:3, 3], affine[:3, :3] @ begin)
    assert made.facts["mask_voxels_outside"] == 21 * 11 * 6 - 20 * 11 * 6


def test_only_finer_axes_are_resampled_by_default():
    voxels = np.random.default_rng(1).normal(size=(20, 20, 20)).astype(np.float32)
    raw = Volume(voxels, np.diag([-0.5, -1.0, 1.25, 1.0]))
    made = prepare(raw, np.ones(voxels.shape, bool), fov_mm=(10, 20, 25))
    assert made.volume.spacing_mm == pytest.approx((1.0, 1.0, 1.25))
    assert made.volume.voxels.shape == (10, 20, 20)
    untouched = resampled(raw, raw.spacing_mm, order=3)
    assert untouched is raw


def test_coarser_voxels_are_means_and_keep_a_plane_wave_out():
    n = 64
    wave = 100 + 50 * np.cos(np.pi * np.arange(n))[:, None, None] * np.ones((n, 8, 8))
    made = resampled(Volume(wave.astype(np.float32), np.eye(4)), (4.0, 1.0, 1.0), order=3, smooth=True)
    assert made.voxels.shape == (16, 8, 8)
    assert np.abs(made.voxels[2:-2] - 100).max() < 1.0  # without the smoothing it would alias to 50


def write(path, voxels, affine):
    nibabel.Nifti1Image(voxels, affine).to_filename(path)
    return path


def head(affine, shape, spacing):
    """A bright ball on a neck, in noise."""
    world = apply_affine(affine, np.stack(np.indices(shape), -1))
    ball = np.sum(((world - [0, 0, 60]) / [70, 90, 80]) ** 2, -1) < 1
    neck = (np.hypot(world[..., 0], world[..., 1] + 20) < 45) & (world[..., 2] < 60)
    noise = np.abs(np.random.default_rng(0).normal(0, 4, shape))
    return (100 * ball + 80 * (neck & ~ball) + noise).astype(np.float32), ball


def test_the_command_writes_header_and_facts_and_says_where_it_centred(tmp_path, monkeypatch):
    monkeypatch.setattr("medical.brain.prepare.deepbet_installed", lambda: False)
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = -100, -120, -140
    voxels, ball = head(affine, (50, 60, 75), 4.0)
    raw, out = write(tmp_path / "raw.nii.gz", voxels, affine), tmp_path / "prep.nii.gz"
    done = CliRunner().invoke(app, ["prepare", str(raw), "-o", str(out), "--spacing", "4"])
    assert done.exit_code == 0, done.output
    assert "centred on the head" in done.stderr
    image = nibabel.load(out)
    assert image.shape == (48, 56, 48)
    assert image.get_data_dtype() == np.uint16
    assert (int(image.header["qform_code"]), int(image.header["sform_code"])) == (2, 1)
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-4)
    assert image.header.get_xyzt_units()[0] == "mm"
    facts = json.loads((tmp_path / "prep.json").read_text())
    assert facts["mask"] == "head"
    assert "DIAGNOSIS" in facts["Notice"]
    # The field of view is around the ball, whatever the neck: its centre within 3 voxels (HEAD_MM is 10 mm more).
    centre = apply_affine(image.affine, (np.array(image.shape) - 1) / 2)
    np.testing.assert_allclose(centre, [0, 0, 60], atol=12)
    mask = write(tmp_path / "mask.nii.gz", ball.astype(np.uint8), affine)
    facts = prepare_file(raw, out, mask=mask, spacing_mm=4.0, overwrite=True)
    assert (facts["mask"], facts["warnings"]) == ("given", [])
    centre = apply_affine(nibabel.load(out).affine, (np.array(image.shape) - 1) / 2)
    np.testing.assert_allclose(centre, [0, 0, 60], atol=4)
    with pytest.raises(InputError, match="existing output"):
        prepare_file(raw, out, mask=mask)


def test_the_head_is_what_is_brighter_than_air_without_the_neck():
    affine = np.diag([-4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = 100, -120, -140
    voxels, ball = head(affine, (50, 60, 75), 4.0)
    mask = head_mask(voxels, affine)
    z = apply_affine(affine, np.argwhere(mask))[:, 2]
    assert z.max() == pytest.approx(140, abs=6)
    assert z.min() == pytest.approx(z.max() - HEAD_MM, abs=4)
    assert (mask & ball).sum() > 0.97 * ball.sum()
    assert not head_mask(np.ones((9, 9, 9), np.float32), np.eye(4)).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("nan", "NaN or infinite"),
        ("4d", "one volume"),
        ("thick", "none longer than 1.5 mm"),
        ("complex", "real numbers"),
        ("flat", "a mask of"),
        ("text", "no readable NIfTI"),
    ],
)
def test_input_that_cannot_be_prepared_is_told(tmp_path, change, message, monkeypatch):
    monkeypatch.setattr("medical.brain.prepare.deepbet_installed", lambda: False)
    voxels = np.random.default_rng(0).uniform(0, 9, (12, 12, 12)).astype(np.float32)
    affine, path = np.eye(4), tmp_path / "raw.nii.gz"
    if change == "nan":
        voxels[3, 4, 5] = np.nan
    elif change == "4d":
        voxels = np.stack([voxels, voxels], -1)
    elif change == "complex":
        voxels = voxels.astype(np.complex64)
    elif change == "flat":
        voxels[:] = 7
    elif change == "thick":
        affine = np.diag([0.7, 0.7, 3.0, 1.0])
    write(path, voxels, affine)
    if change == "text":
        path.write_text("no image")
    with pytest.raises(InputError, match=message):
        prepare_file(path, tmp_path / "out.nii.gz")
    assert not (tmp_path / "out.nii.gz").exists()


def test_masks_of_another_grid_or_without_a_voxel_are_told(tmp_path):
    voxels = np.random.default_rng(0).uniform(0, 9, (12, 12, 12)).astype(np.float32)
    raw = write(tmp_path / "raw.nii", voxels, np.eye(4))
    for mask, affine, message in (
        (np.ones((12, 12, 11), np.uint8), np.eye(4), "another affine"),
        (np.ones((12, 12, 12), np.uint8), np.diag([2.0, 1, 1, 1]), "another affine"),
        (np.zeros((12, 12, 12), np.uint8), np.eye(4), "0 voxels set"),
    ):
        path = write(tmp_path / "mask.nii", mask, affine)
        with pytest.raises(InputError, match=message):
            prepare_file(raw, tmp_path / "out.nii", mask=path)


def test_a_centred_affine_puts_the_middle_at_the_origin():
    affine = centred_affine((6, 8, 5), 2.0)
    np.testing.assert_allclose(apply_affine(affine, [2.5, 3.5, 2.0]), 0, atol=1e-12)
    assert nibabel.aff2axcodes(affine) == ("L", "P", "S")


@pytest.mark.data
def test_a_real_head_is_prepared_around_its_brain(data_file, tmp_path):
    path = data_file("brain/open/sub-colin27_T1w.nii.gz")
    facts = prepare_file(path, tmp_path / "prep.nii.gz", spacing_mm=4.0)
    made = read_volume(tmp_path / "prep.nii.gz")
    assert made.voxels.shape == (48, 56, 48)
    assert facts["mask_voxels_outside"] == 0
    # Colin27 lies in MNI space: its brain is centred near (0, -18, 8) mm.
    centre = apply_affine(made.affine, (np.array(made.voxels.shape) - 1) / 2)
    np.testing.assert_allclose(centre, [0, -18, 8], atol=25)
