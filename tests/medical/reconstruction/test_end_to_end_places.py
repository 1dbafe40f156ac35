"""From raw file to image file, stars lie where they were in the patient: every encoding, by NIfTI and by DICOM."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from medical.images import Geometry, Vector
from medical.reconstruction.formats.ismrmrd_writer import write_ismrmrd
from medical.reconstruction.raw import RawScan
from tests.medical.reconstruction.stars import (
    cartesian_scan,
    centroid_lps,
    load_dicom,
    load_nifti,
    oblique,
    place,
    star_kspace,
)
from tests.medical.reconstruction.test_cli import fewstep

ISOCENTRE_OFFSET = np.array([12.0, -33.0, 21.0])
NEAR_MM = 12.0
TOLERANCE_MM = 0.05


def stack(fov_mm: Vector, slices: int) -> Geometry:
    geometry = oblique(fov_mm=fov_mm)
    steps = np.array(geometry.slice_dir)[None] * fov_mm[2] * np.arange(slices)[:, None]
    return replace(geometry, positions_mm=tuple(tuple(p) for p in ISOCENTRE_OFFSET + steps))


def lines(shape: tuple[int, ...], *kept: tuple[Any, ...]) -> torch.Tensor:
    mask = torch.zeros(shape, dtype=torch.bool)
    for part in kept:
        mask[part] = True
    return mask


def reconstruct(tmp_path, scan: RawScan, method: str, *options: object, dicom: bool = False) -> list[tuple]:
    path = write_ismrmrd(tmp_path / "scan.h5", scan)
    outputs = [("image.nii", load_nifti), *([("series", load_dicom)] if dicom else [])]
    found = []
    for name, load in outputs:
        done = fewstep("mri", "reconstruct", path, "-o", tmp_path / name, "--method", method, "-q", *options)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        found.append(load(tmp_path / name))
    return found


def assert_in_place(found: list[tuple], stars: list[np.ndarray], tolerance_mm: float = TOLERANCE_MM) -> None:
    for volume, affine in found:
        for star in stars:
            away = centroid_lps(volume, affine, star, NEAR_MM) - star
            assert np.linalg.norm(away) < tolerance_mm, away


ALL = (slice(None),)
SHEET = (90, 120)  # (y, x) of 2 mm
PLANE: dict[str, tuple[str, dict[str, Any], tuple[object, ...]]] = {
    "odd matrix": ("sense", {"matrix": (91, 121)}, ()),
    "interpolated": ("rss", {"recon_matrix": (1, 180, 240)}, ()),
    "interpolated to odd": ("sense", {"recon_matrix": (1, 135, 179)}, ()),
    "phase oversampled": ("rss", {"recon_matrix": (1, 75, 71), "recon_fov_mm": (170.0, 130.0, 4.0)}, ()),
    "two-fold": ("tv", {"mask": lines((1, *SHEET), (0, slice(0, None, 2)), (0, slice(35, 60)))}, ("--iterations", 30)),
    "early lines missing": ("sense", {"mask": lines((1, *SHEET), (0, slice(30, None)))}, ("--partial-fourier", "pocs")),
    "late lines missing": ("rss", {"mask": lines((1, *SHEET), (0, slice(0, 60)))}, ("--partial-fourier", "homodyne")),
    "early echo missing": (
        "rss",
        {"mask": lines((1, *SHEET), (0, slice(None), slice(40, None)))},
        ("--partial-fourier", "pocs", "--coils", "2"),
    ),
}


@pytest.mark.parametrize("case", PLANE)
def test_a_star_of_a_2d_scan_lies_where_it_was(tmp_path, case):
    method, changes, options = PLANE[case]
    changes = dict(changes)
    matrix = changes.pop("matrix", SHEET)
    geometry = stack((240.0, 180.0, 4.0), 1)
    stars = [place(geometry, (30, 20, 0)), place(geometry, (-50, -45, 0)), place(geometry, (60, -30, 0))]
    scan = cartesian_scan(matrix, geometry, stars, changes.pop("mask", None), **changes)
    assert_in_place(reconstruct(tmp_path, scan, method, *options, dicom=case == "odd matrix"), stars)


def test_stars_of_a_stack_lie_in_their_slices(tmp_path):
    geometry = stack((240.0, 180.0, 4.0), 11)
    stars = [place(geometry, (30, 20, 0), 3), place(geometry, (-50, -45, 0), 5), place(geometry, (60, -30, 0), 7)]
    found = reconstruct(tmp_path, cartesian_scan((60, 80), geometry, stars), "rss", dicom=True)
    assert found[0][0].shape == (80, 60, 11)
    assert_in_place(found, stars)


BOX = (24, 40, 50)  # (z, y, x) of 4 mm
BOX_MASKS = {
    "whole": None,
    "two by two": lines((1, *BOX), (0, slice(0, None, 2), slice(0, None, 2)), (0, slice(6, 18), slice(12, 28))),
    "early partitions missing": lines((1, *BOX), (0, slice(7, None))),
}


@pytest.mark.parametrize(
    ("method", "case"),
    [("sense", "whole"), ("wavelet", "two by two"), ("tv", "two by two"), ("sense", "early partitions missing")],
)
def test_a_star_of_a_3d_scan_lies_where_it_was(tmp_path, method, case):
    geometry = stack((200.0, 160.0, 96.0), 1)
    stars = [place(geometry, (30, 20, -15)), place(geometry, (-50, -45, 20)), place(geometry, (60, -30, 5))]
    scan = cartesian_scan(BOX, geometry, stars, BOX_MASKS[case])
    found = reconstruct(tmp_path, scan, method, "--partial-fourier", "pocs", dicom=case == "whole")
    assert found[0][0].shape == (50, 40, 24)
    assert_in_place(found, stars)
    assert 0.9 < found[0][0].max() / 1.14 < 1.1


def test_a_3d_scan_loses_its_oversampling_on_every_axis(tmp_path):
    geometry = stack((400.0, 160.0, 96.0), 1)
    stars = [place(geometry, (30, 20, -15)), place(geometry, (-50, -45, 20)), place(geometry, (60, -30, 5))]
    recon = {"recon_matrix": (20, 50, 50), "recon_fov_mm": (200.0, 160.0, 80.0)}
    found = reconstruct(tmp_path, cartesian_scan((24, 40, 100), geometry, stars, **recon), "rss")
    assert found[0][0].shape == (50, 50, 20)
    assert_in_place(found, stars)


def golden_angle(geometry: Geometry, matrix: tuple[int, int], spokes: int, oversampling: int, stars: list) -> RawScan:
    angles = np.arange(spokes) * math.pi * (3 - math.sqrt(5)) / 2
    radii = (np.arange(matrix[1] * oversampling) - matrix[1] * oversampling // 2) / oversampling
    points = np.stack([np.cos(angles)[:, None] * radii, np.sin(angles)[:, None] * radii], axis=-1)
    slices = len(geometry.positions_mm)
    kspace = star_kspace(points, matrix, geometry, stars, slices)[:, None]
    kspace = kspace * torch.tensor([1.0, 0.6j, -0.4 + 0.3j], dtype=torch.complex64).reshape(1, -1, 1, 1)
    return RawScan(
        kspace,
        torch.ones(kspace[:, 0].shape, dtype=torch.bool),
        geometry,
        (1, *matrix),
        geometry.fov_mm,
        "stars",
        trajectory=torch.from_numpy(points).to(torch.float32).expand(slices, *points.shape).contiguous(),
        simulated=True,
    )


@pytest.mark.parametrize(
    ("method", "spokes", "oversampling"), [("rss", 151, 2), ("sense", 101, 1), ("wavelet", 51, 1), ("tv", 51, 1)]
)
def test_a_golden_angle_scan_gives_the_image_of_the_cartesian_one(tmp_path, method, spokes, oversampling):
    geometry = stack((160.0, 160.0, 4.0), 1)
    stars = [place(geometry, (30, 20, 0)), place(geometry, (-40, -35, 0)), place(geometry, (45, -30, 0))]
    radial = golden_angle(geometry, (64, 64), spokes, oversampling, stars)
    ((volume, affine),) = reconstruct(tmp_path, radial, method, "--iterations", 15)
    ((truth, expected),) = reconstruct(tmp_path / "grid", cartesian_scan((64, 64), geometry, stars), "rss")
    assert np.allclose(affine, expected, atol=1e-4)
    assert_in_place([(volume, affine)], stars)
    assert (volume * truth).sum() / (truth * truth).sum() == pytest.approx(1, abs=0.02)
    assert np.linalg.norm(volume - truth) < 0.05 * np.linalg.norm(truth)


def test_a_radial_scan_of_a_larger_field_of_view_is_cropped_to_the_one_asked_for(tmp_path):
    geometry = stack((320.0, 320.0, 4.0), 1)
    stars = [place(geometry, (30, 20, 0)), place(geometry, (-40, -35, 0))]
    scan = replace(
        golden_angle(geometry, (96, 96), 151, 1, stars), recon_matrix=(1, 48, 48), recon_fov_mm=(160.0, 160.0, 4.0)
    )
    ((volume, affine),) = reconstruct(tmp_path, scan, "rss")
    assert volume.shape == (48, 48, 1)
    assert_in_place([(volume, affine)], stars)


def test_a_stack_of_radial_slices_computes_the_density_once_and_claims_no_acceleration(tmp_path, monkeypatch):
    from medical import reconstruction as mri
    from medical.reconstruction import noncartesian

    geometry = stack((160.0, 160.0, 4.0), 3)
    scan = golden_angle(geometry, (48, 48), 61, 1, [place(geometry, (20, 20, 0), 1)])
    real, calls = noncartesian.density_compensation, []
    monkeypatch.setattr(noncartesian, "density_compensation", lambda *a, **o: calls.append(1) or real(*a, **o))
    image = mri.reconstruct(mri.prepare(scan, settings := mri.Settings(method="sense")), settings)
    assert len(calls) == 1
    assert "acceleration" not in image.provenance
    assert (image.provenance["shots"], image.provenance["samples_per_shot"]) == (61, 48)
    assert image.provenance["acquired_matrix"] == (48, 48)
    assert image.phase_encoding == ""
