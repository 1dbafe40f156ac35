"""The simulated acquisition against analytic objects, its own truth, and the reconstructions that must recover it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from medical.reconstruction.continuous_object import Plane
from medical.reconstruction.fourier import fft_centred, ifft_centred
from medical.simulation.acquisition import acquire, simulate
from medical.simulation.coils import draw_array
from medical.simulation.motion import Pose, draw_poses, moved, shot_of_line
from medical.simulation.objects import SliceObject, draw_object
from medical.simulation.patterns import PATTERNS
from medical.simulation.protocol import Protocol, Ranges
from medical.simulation.volumes import AnatomySlice, Subject

HEAD = Subject("ellipse", "none", "t1", "ours", "train")


def ellipse() -> AnatomySlice:
    """Two discs in an ellipse, in T1-weighted units."""
    y, x = np.mgrid[-100:101, -80:81].astype(float)
    values = 1.0 * ((y / 90) ** 2 + (x / 70) ** 2 < 1)
    values[(y - 30) ** 2 + x**2 < 400] = 0.3
    values[(y + 30) ** 2 + (x - 20) ** 2 < 225] = 0.63
    return AnatomySlice(values[None].astype(np.float32), (1.0, 1.0), 3.0, 0.2, HEAD)


def thing(seed: int = 0, contrast="T1w") -> SliceObject:
    return draw_object(ellipse(), contrast, np.random.default_rng(seed), cell_mm=1.25)


def scan(seed: int = 1, **changes):
    protocol = replace(Protocol(matrix=(64, 60), fov_mm=(206.0, 168.0), coils=6, snr=20.0), **changes)
    return acquire(thing(), protocol, np.random.default_rng(seed))


def coil_images(slice_):
    return ifft_centred(slice_.full_kspace)


def test_the_truth_is_the_matched_combination_of_noise_free_coil_images():
    slice_ = scan()
    combined = (slice_.coil_maps.conj() * coil_images(slice_)).sum(0)
    # Band limit and product with the maps do not commute exactly; maps are smooth, so almost.
    assert float((combined - slice_.image).norm() / slice_.image.norm()) < 0.02
    assert torch.allclose(slice_.coil_maps.abs().square().sum(0), torch.ones(64, 60), atol=1e-5)


def test_noise_is_white_with_variance_one_after_whitening():
    slice_ = scan(acceleration=1.0, pattern="random", calibration=24)
    noise = (slice_.kspace - slice_.full_kspace).flatten(1).to(torch.complex128)
    covariance = noise @ noise.mH / noise.shape[1]
    # 4096 samples of the noise scan and 3840 here: entries scatter with sqrt(1/4096 + 1/3840) = 0.022.
    assert float((covariance - torch.eye(6)).abs().max()) < 0.1
    assert float(torch.diagonal(covariance).real.mean()) == pytest.approx(1, abs=0.03)


def test_noise_was_correlated_before_whitening():
    covariance = draw_array(6, (90, 70), 0.0, np.random.default_rng(0)).covariance
    scale = np.sqrt(np.diagonal(covariance).real)
    correlation = np.abs(covariance / scale / scale[:, None])
    assert np.linalg.eigvalsh(covariance).min() > 0
    assert 0.1 < (correlation - np.eye(6)).max() < 0.95
    assert scale.max() / scale.min() > 1.2


def test_the_mean_snr_is_the_one_asked():
    slice_ = scan(snr=33.0)
    magnitude = slice_.image.abs()
    inside = magnitude > 0.05 * magnitude.max()
    assert float(magnitude[inside].mean()) == pytest.approx(33, rel=0.05)


def test_kspace_is_zero_where_the_mask_is_and_only_there():
    for pattern in PATTERNS:
        slice_ = scan(pattern=pattern)
        assert bool((slice_.kspace[:, ~slice_.mask] == 0).all())
        assert bool((slice_.kspace[:, slice_.mask] != 0).all())
        assert slice_.acceleration == pytest.approx(4, rel=0.04)


def test_kspace_is_that_of_the_continuous_object_and_not_of_an_image_on_the_grid():
    # An object of one cell at r: y(k) = h^2 sqrt(N) / FOV sinc(k h) exp(-2 pi i k . r) S(r), at every k.
    plane = Plane(np.ones((1, 1), complex), np.array([7.3]), np.array([-11.9]), 0.5, np.eye(3), np.zeros(3))
    k_y = (np.arange(9) - 4) / 200.0
    k_x = (np.arange(8) - 4) / 160.0
    wave = np.exp(-2j * np.pi * (k_y[:, None] * -11.9 + k_x * 7.3))
    expected = 0.25 * np.sqrt(72) / (200 * 160) * np.sinc(k_y * 0.5)[:, None] * np.sinc(k_x * 0.5) * wave
    assert np.allclose(plane.encode(plane.values, (9, 8), (200.0, 160.0)), expected, rtol=1e-10)
    # A finer scan of the same object holds the coarser one in its centre, up to the scale of the transform, and more.
    coarse = scan(fov_mm=(240.0, 220.0), snr=1e6)
    fine = acquire(
        thing(), Protocol(matrix=(128, 120), coils=6, snr=1e6, fov_mm=(240.0, 220.0)), np.random.default_rng(1)
    )
    centre = fine.full_kspace[:, 32:96, 30:90] / 2
    ratio = (centre.conj() * coarse.full_kspace).sum() / centre.abs().square().sum()
    assert float((ratio * centre - coarse.full_kspace).norm() / coarse.full_kspace.norm()) < 2e-2
    outer = fine.full_kspace.clone()
    outer[:, 32:96, 30:90] = 0
    assert float(outer.norm() / fine.full_kspace.norm()) > 0.005


def test_images_are_complex_with_a_smooth_phase():
    slice_ = scan(seed=3)
    inside = slice_.image.abs() > 0.3 * slice_.image.abs().max()
    pair = inside[1:] & inside[:-1]
    step = (slice_.image[1:] * slice_.image[:-1].conj()).angle()[pair]
    assert float(slice_.image.angle()[inside].std()) > 0.2
    assert float(step.abs().median()) < 0.3


def test_interpolated_sensitivities_equal_those_of_the_loops():
    from medical.reconstruction.receive_coils import sensitivities

    array = draw_array(8, (95, 75), 0.3, np.random.default_rng(2))
    y, x = np.linspace(-90, 90, 41), np.linspace(-70, 70, 37)
    points = np.zeros((41, 37, 3))
    points[..., 0], points[..., 1] = x, y[:, None]
    exact = sensitivities(points, list(array.loops)) * array.gains[:, None, None]
    head = (y[:, None] / 90) ** 2 + (x / 70) ** 2 < 1
    found = array.sensitivities(y, x)
    assert np.abs(found - exact)[:, head].max() < 2e-3 * np.abs(exact)[:, head].max()


def test_one_coil_is_a_volume_coil_and_32_coils_work():
    single = scan(coils=1)
    assert torch.allclose(single.coil_maps.abs(), torch.ones(1, 64, 60), atol=1e-5)
    many = scan(coils=32)
    assert many.kspace.shape == (32, 64, 60)
    assert torch.isfinite(torch.view_as_real(many.kspace)).all()


def test_motion_of_one_shift_is_a_linear_phase_and_a_turn_turns_the_object():
    item = thing()
    plane = item.plane
    shifted = moved(plane.values, plane.v, plane.u, Pose((2.5, -5.0), 0.0))
    before, after = (plane.encode(v, (32, 30), (260.0, 240.0)) for v in (plane.values, shifted))
    k_y, k_x = (np.arange(32) - 16) / 260.0, (np.arange(30) - 15) / 240.0
    expected = before * np.exp(-2j * np.pi * (k_y[:, None] * 2.5 + k_x * -5.0))
    assert np.linalg.norm(after - expected) < 1e-3 * np.linalg.norm(expected)
    # A point on the y axis, turned by 90 degrees from y towards x, lies on the x axis.
    axis = np.arange(-10.0, 11.0)
    point = np.zeros((21, 21), complex)
    point[16, 10] = 1
    y, x = np.unravel_index(np.abs(moved(point, axis, axis, Pose((0.0, 0.0), 90.0))).argmax(), (21, 21))
    assert (axis[y], axis[x]) == (0, 6)


def test_motion_changes_kspace_of_the_lines_of_moved_shots_only():
    still = scan(pattern="random", acceleration=1.0, calibration=24)
    moving = scan(pattern="random", acceleration=1.0, calibration=24, shots=3, motion_mm=3.0)
    assert torch.equal(still.image, moving.image)
    residual = (moving.kspace - moving.full_kspace).abs().square().mean((0, 2))
    shot = shot_of_line(64, 3)
    assert float(residual[shot == 0].mean()) == pytest.approx(1, abs=0.2)
    assert float(residual[shot > 0].mean()) > 2
    assert draw_poses(3, 1.0, 1.0, np.random.default_rng(0))[0] == Pose((0.0, 0.0), 0.0)


def test_everything_random_comes_from_the_generator():
    ranges = Ranges(pixel_mm=(4.0, 5.0), coils=(2, 4), cell_mm=2.0)
    one, two = (simulate(ellipse(), ranges, torch.Generator().manual_seed(4)) for _ in range(2))
    other = simulate(ellipse(), ranges, 5)
    assert torch.equal(one.kspace, two.kspace)
    assert torch.equal(one.image, two.image)
    assert not (one.kspace.shape == other.kspace.shape and torch.equal(one.kspace, other.kspace))
    assert one.provenance["simulated"] is True
    assert one.provenance["subject"] == "ellipse"


def test_protocols_stay_within_their_ranges_and_the_object_within_its_field_of_view():
    ranges = Ranges(pixel_mm=(5.0, 6.0), coils=(3, 5), accelerations=(2.0, 3.0), snr=(10, 20), cell_mm=2.5)
    for seed in range(12):
        slice_ = simulate(ellipse(), ranges, seed)
        assert min(slice_.provenance["fov_mm"]) > 177
        assert np.allclose(slice_.provenance["fov_mm"], np.multiply(slice_.mask.shape, slice_.spacing))
        assert 3 <= len(slice_.kspace) <= 5
        assert min(slice_.spacing) >= 5.0 - 1e-9
        assert max(slice_.spacing) <= 6.0 + 1e-9
        energy = slice_.image.abs().square()
        border = torch.ones_like(energy, dtype=torch.bool)
        border[1:-1, 1:-1] = False
        assert float(energy[border].sum() / energy.sum()) < 0.01


def test_matrix_and_field_of_view_follow_from_what_is_given():
    half = (90.0, 70.0)
    assert Protocol(matrix=(64, 60), fov_mm=(200.0, 150.0)).grid(half) == ((64, 60), (200.0, 150.0))
    assert Protocol(fov_mm=(200.0, 150.0), pixel_mm=(2.0, 1.5)).grid(half) == ((100, 100), (200.0, 150.0))
    assert Protocol(matrix=(64, 60), pixel_mm=(2.0, 1.5)).grid(half) == ((64, 60), (128.0, 90.0))
    # 180 mm of object and a margin of 1.1 is 198 mm; 140 mm is below the least field of view.
    assert Protocol(pixel_mm=(2.0, 2.0)).grid(half) == ((99, 90), (198.0, 180.0))


def test_least_squares_with_the_true_maps_recovers_the_truth():
    slice_ = scan(acceleration=2.0, snr=1e4, calibration=8)
    S, M = slice_.coil_maps, slice_.mask
    x = torch.zeros_like(slice_.image)
    r = (S.conj() * ifft_centred(M * slice_.kspace)).sum(0)
    p, rr = r.clone(), r.abs().square().sum()
    for _ in range(60):
        Ap = (S.conj() * ifft_centred(M * fft_centred(S * p))).sum(0)
        a = rr / (p.conj() * Ap).sum().real
        x, r = x + a * p, r - a * Ap
        new = r.abs().square().sum()
        p, rr = r + new / rr * p, new
    inside = slice_.image.abs() > 0.1 * slice_.image.abs().max()
    zero_filled = (S.conj() * ifft_centred(slice_.kspace)).sum(0)
    errors = [float((image - slice_.image)[inside].norm() / slice_.image[inside].norm()) for image in (x, zero_filled)]
    # Beyond this, the ringing outside the object is not in the model of maps on pixels.
    assert errors[0] < 0.02
    assert errors[0] < 0.15 * errors[1]
