"""Geometry and affines: where a voxel lies in the patient, computed by hand and by independent formulas."""

from __future__ import annotations

import math

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medical.images import Geometry, Image, affine_from_geometry, display_oriented, plane, toward
from shared.errors import InputError


def ras(affine: np.ndarray, x: float, y: float, z: float) -> np.ndarray:
    return (affine @ [x, y, z, 1])[:3]


def rotation(angles: tuple[float, float, float]) -> np.ndarray:
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        c, s = math.cos(angle), math.sin(angle)
        i, j = [(1, 2), (2, 0), (0, 1)][axis]
        one = np.eye(3)
        one[i, i] = one[j, j] = c
        one[i, j], one[j, i] = -s, s
        turn = turn @ one
    return turn


def vectors(matrix: np.ndarray) -> dict[str, tuple[float, float, float]]:
    return dict(zip(("read_dir", "phase_dir", "slice_dir"), map(tuple, matrix.T.tolist()), strict=True))


def test_lps_header_axes_become_ras_codes():
    affine = affine_from_geometry(Geometry(fov_mm=(256, 256, 3)), (1, 128, 128), (256, 256, 3), volumetric=False)
    assert nibabel.aff2axcodes(affine) == ("L", "P", "S")
    sagittal = Geometry((256, 256, 3), read_dir=(0, 1, 0), phase_dir=(0, 0, -1), slice_dir=(-1, 0, 0))
    affine = affine_from_geometry(sagittal, (1, 128, 128), (256, 256, 3), volumetric=False)
    assert nibabel.aff2axcodes(affine) == ("P", "I", "R")


@pytest.mark.parametrize(("ny", "nx"), [(128, 128), (127, 96), (5, 4)])
def test_pixel_n_over_2_lies_at_the_header_position(ny, nx):
    geometry = Geometry((200, 180, 4), positions_mm=((-2.59, 53.92, -54.0),))
    affine = affine_from_geometry(geometry, (1, ny, nx), (200, 180, 4), volumetric=False)
    np.testing.assert_allclose(ras(affine, nx // 2, ny // 2, 0), (2.59, -53.92, -54.0), atol=1e-12)


def test_point_source_reconstructs_at_the_position_that_the_affine_gives_it():
    """Physics, not convention: sample exp(-2 pi i k.(r - P)) of a point r, invert, and ask the affine where it is."""
    nx, ny, fov = 64, 48, (160.0, 144.0, 5.0)
    turn = rotation((0.3, -0.2, 0.5))
    position = np.array([7.0, -11.0, 23.0])
    geometry = Geometry(fov, **vectors(turn), positions_mm=(tuple(position),))
    affine = affine_from_geometry(geometry, (1, ny, nx), fov, volumetric=False)
    u, v = 12 * fov[0] / nx, -9 * fov[1] / ny  # mm along read and phase from the position, on pixel centres
    point = position + u * turn[:, 0] + v * turn[:, 1]
    kx, ky = (np.arange(nx) - nx // 2) / fov[0], (np.arange(ny) - ny // 2) / fov[1]
    signal = np.exp(-2j * np.pi * (ky[:, None] * v + kx * u))
    image = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(signal)))
    y, x = np.unravel_index(np.abs(image).argmax(), image.shape)
    assert np.abs(image)[y, x] == pytest.approx(1)
    np.testing.assert_allclose(ras(affine, x, y, 0), point * (-1, -1, 1), atol=1e-9)


def test_oblique_multislice_affine_equals_the_hand_computed_one():
    # Coronal-ish slices tilted 30 degrees: read = +L, phase = (0, sin 30, -cos 30), slice = (0, cos 30, sin 30).
    c, s = math.sqrt(3) / 2, 0.5
    positions = tuple((10.0, 20 + 6 * c * n, 30 + 6 * s * n) for n in range(3))
    geometry = Geometry((240, 120, 5), (1, 0, 0), (0, s, -c), (0, c, s), positions)
    affine = affine_from_geometry(geometry, (3, 60, 80), (240, 120, 5), volumetric=False)
    expected = [
        [-3, 0, 0, -10 + 3 * 40],
        [0, -2 * s, -6 * c, -20 + 2 * s * 30],
        [0, -2 * c, 6 * s, 30 + 2 * c * 30],
        [0, 0, 0, 1],
    ]
    np.testing.assert_allclose(affine, expected, atol=1e-12)


def test_slice_spacing_comes_from_the_positions_not_from_the_thickness():
    positions = tuple((0.0, 0.0, 7.5 * n) for n in range(4))
    geometry = Geometry((240, 240, 5), positions_mm=positions)
    image = Image.placed(torch.zeros(4, 8, 8), geometry, fov_mm=(240, 240, 5), volumetric=False)
    assert image.affine[2, 2] == 7.5
    assert image.slice_thickness_mm == 5


def test_single_slice_uses_its_thickness():
    affine = affine_from_geometry(Geometry((240, 240, 5)), (1, 8, 8), (240, 240, 5), volumetric=False)
    assert affine[2, 2] == 5


@pytest.mark.parametrize("nz", [10, 11])
def test_slab_partitions_divide_the_slab_and_the_middle_partition_lies_at_the_position(nz):
    geometry = Geometry((240, 240, 99), positions_mm=((1.0, 2.0, 3.0),))
    image = Image.placed(torch.zeros(nz, 8, 6), geometry, fov_mm=(240, 240, 22.0), volumetric=True)
    np.testing.assert_allclose(ras(image.affine, 3, 4, nz // 2), (-1, -2, 3))
    assert image.affine[2, 2] == pytest.approx(22 / nz)
    assert image.slice_thickness_mm == pytest.approx(22 / nz)


def test_header_rounding_does_not_become_shear():
    exact = rotation((0.3, -0.2, 0.5))
    rounded = np.round(exact, 4)
    affine = affine_from_geometry(Geometry((1, 1, 1), **vectors(rounded)), (1, 1, 1), (1, 1, 1), volumetric=False)
    np.testing.assert_allclose(affine[:3, :3].T @ affine[:3, :3], np.eye(3), atol=1e-12)
    np.testing.assert_allclose(affine[:3, :3], np.diag([-1, -1, 1]) @ exact, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"read_dir": (1.0, 0.1, 0.0)}, "unit vectors"),
        ({"phase_dir": (0.0, 0.99, 0.0)}, "unit vectors"),
        ({"slice_dir": (0.0, 0.0, float("nan"))}, "unit vectors"),
        ({"positions_mm": ((0, 0, 0), (0, 0, 5), (0, 0, 11))}, "spacing"),
        ({"positions_mm": ((0, 0, 0), (0, 0, 0), (0, 0, 0))}, "spacing"),
        ({"positions_mm": ((0, 0, 0), (0, 1, 5), (0, 2, 10))}, "stacked"),
        ({"positions_mm": ((0, 0, 0),)}, "positions"),
        ({"positions_mm": ((0, 0, 0), (0, 0, 5), (0, 0, float("inf")))}, "finite"),
    ],
)
def test_geometry_that_no_affine_describes_is_refused(change, named):
    good = {"fov_mm": (240, 240, 5), "positions_mm": ((0, 0, 0), (0, 0, 5), (0, 0, 10))}
    affine_from_geometry(Geometry(**good), (3, 8, 8), (240, 240, 5), volumetric=False)
    with pytest.raises(InputError, match=named):
        affine_from_geometry(Geometry(**{**good, **change}), (3, 8, 8), (240, 240, 5), volumetric=False)


@pytest.mark.parametrize("fov", [(0, 240, 5), (240, -1, 5), (240, 240, float("nan"))])
def test_zero_negative_or_nan_extent_is_refused(fov):
    with pytest.raises(InputError, match="extents"):
        affine_from_geometry(Geometry(fov), (1, 8, 8), fov, volumetric=False)


angle = st.floats(-3.1, 3.1)


@settings(max_examples=40, deadline=None)
@given(angles=st.tuples(angle, angle, angle), phase=st.sampled_from(["i", "i-", "j", "j-"]))
def test_display_orientation_moves_no_voxel_in_the_patient(angles, phase):
    """Every value stays at its RAS point, whatever the rotation, and the phase-encode vector stays the same."""
    data = torch.arange(2 * 3 * 4.0).reshape(2, 3, 4)
    affine = np.eye(4)
    affine[:3, :3] = rotation(angles) * (1.0, 2.0, 3.0)
    affine[:3, 3] = (5.0, -7.0, 11.0)
    image = Image(data, affine, phase_encoding=phase)
    shown = display_oriented(image)

    def points(i: Image) -> dict[float, np.ndarray]:
        nz, ny, nx = i.data.shape
        return {float(i.data[z, y, x]): ras(i.affine, x, y, z) for z in range(nz) for y in range(ny) for x in range(nx)}

    before, after = points(image), points(shown)
    assert all(np.allclose(before[value], after[value]) for value in before)

    def phase_vector(i: Image) -> np.ndarray:
        sign = -1 if i.phase_encoding.endswith("-") else 1
        return sign * i.affine[:3, "ij".index(i.phase_encoding[0])]

    np.testing.assert_allclose(phase_vector(image), phase_vector(shown))


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1), (0, 2, 1), (1, 2, 0), (2, 1, 0)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, -1)])
def test_radiological_display_has_right_on_the_left_and_superior_or_anterior_up(order, signs):
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, order] * signs
    shown = display_oriented(Image(torch.zeros(2, 3, 4), affine)).affine
    right, down = toward(shown[:3, 0]), toward(shown[:3, 1])
    assert {"axial": ("L", "P"), "coronal": ("L", "I"), "sagittal": ("P", "I")}[plane(shown)] == (right, down)
