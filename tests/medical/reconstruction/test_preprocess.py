"""Preprocessing keeps what is known about the data: noise statistics, where pixels lie, which samples were acquired."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from medical.reconstruction.axis_matrix import AxisMatrix
from medical.reconstruction.fourier import fft_centred, ifft_centred
from medical.reconstruction.preprocess import (
    ReadoutCrop,
    crop_to_recon,
    estimate_noise,
    noise_covariance,
    prewhiten,
    remove_readout_oversampling,
    resize_centred,
    whitening_matrix,
)
from shared.errors import InputError
from tests.medical.reconstruction.adjoint import assert_adjoint, complex_noise
from tests.medical.reconstruction.scans import blobs, scan_of


def correlated_noise(coils: int, shape: tuple[int, ...], seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise (coil, *shape) whose covariance is M M^H, and M: gains over two decades, strong correlation."""
    mixing = complex_noise((coils, coils), seed=7) + 1.5 * torch.ones(coils, coils)
    mixing = torch.logspace(-1, 1, coils, dtype=torch.float64)[:, None] * mixing
    return torch.tensordot(mixing, complex_noise((coils, *shape), seed=seed), dims=1), mixing


@pytest.mark.parametrize("bandwidth_ratio", [1.0, 0.4])
def test_prewhitened_noise_has_unit_covariance_within_sampling_error(bandwidth_ratio):
    samples = 4000
    noise, _ = correlated_noise(6, (samples,), seed=1)
    imaging, _ = correlated_noise(6, (40, 100), seed=2)
    scan = scan_of(imaging[None] * math.sqrt(bandwidth_ratio), noise=noise, noise_bandwidth_ratio=bandwidth_ratio)
    white = prewhiten(scan)
    covariance = noise_covariance(white.kspace[0].reshape(6, -1))
    # Independent estimates from n samples each: entries deviate by about sqrt(2 / n).
    assert (covariance - torch.eye(6)).abs().max() < 5 * math.sqrt(2 / samples)
    torch.testing.assert_close(noise_covariance(white.noise), torch.eye(6, dtype=torch.complex128))
    assert white.noise_bandwidth_ratio == 1.0
    assert "bandwidth ratio" in white.history[-1]


def test_prewhitening_covers_calibration_and_navigators_with_the_same_matrix():
    noise, _ = correlated_noise(3, (500,))
    data = complex_noise((2, 3, 8, 10), seed=3)
    white = prewhiten(scan_of(data, noise=noise, calibration=data[:, :, 2:6], navigators=data.transpose(1, 2)))
    torch.testing.assert_close(white.calibration, white.kspace[:, :, 2:6])
    torch.testing.assert_close(white.navigators, white.kspace.transpose(1, 2))


def test_prewhitening_is_idempotent_and_independent_of_coil_order_up_to_a_unitary():
    noise, _ = correlated_noise(4, (300,))
    data = complex_noise((1, 4, 6, 5), seed=4)
    white = prewhiten(scan_of(data, noise=noise))
    torch.testing.assert_close(prewhiten(white).kspace, white.kspace)
    order = [2, 0, 3, 1]
    permuted = prewhiten(scan_of(data[:, order], noise=noise[order]))
    gram = torch.einsum("scyx,scvu->yxvu", white.kspace.conj(), white.kspace)
    torch.testing.assert_close(torch.einsum("scyx,scvu->yxvu", permuted.kspace.conj(), permuted.kspace), gram)
    assert not torch.allclose(permuted.kspace, white.kspace[:, order])


def test_pseudo_replica_noise_of_a_matched_combination_has_standard_deviation_one():
    coils, n, replicas = 5, 16, 300
    maps = complex_noise((coils, n, n), seed=9)
    noise, mixing = correlated_noise(coils, (4000,))
    matrix = whitening_matrix(noise_covariance(noise))
    replica = torch.einsum("ij,jryx->riyx", mixing, complex_noise((coils, replicas, n, n), seed=5))
    images = AxisMatrix(matrix, 1)(ifft_centred(replica))
    white_maps = AxisMatrix(matrix, 0)(maps)
    combined = (white_maps.conj() * images).sum(1) / white_maps.abs().square().sum(0).sqrt()
    deviation = combined.abs().square().mean(0).sqrt()
    assert abs(deviation.mean() - 1) < 0.03
    assert deviation.std() < 2 / math.sqrt(replicas)


def test_scan_without_noise_is_left_alone_with_a_warning():
    scan = scan_of(complex_noise((1, 2, 4, 4)))
    out = prewhiten(scan)
    assert torch.equal(out.kspace, scan.kspace)
    assert "No noise scan" in out.warnings[-1]


def test_dead_and_doubled_channels_and_short_noise_scans_are_named():
    data, noise = complex_noise((1, 3, 4, 4)), complex_noise((3, 50))
    dead = noise * torch.tensor([1.0, 0.0, 1.0])[:, None]
    with pytest.raises(InputError, match=r"channel\(s\) \[1\]"):
        prewhiten(scan_of(data, noise=dead))
    with pytest.raises(InputError, match="combination of the others"):
        prewhiten(scan_of(data, noise=noise[[0, 1, 0]]))
    with pytest.raises(InputError, match="2 samples in 3 channels"):
        prewhiten(scan_of(data, noise=noise[:, :2]))


def largest_correlation(covariance: torch.Tensor) -> float:
    deviation = covariance.diagonal().real.sqrt()
    correlation = covariance / (deviation[:, None] * deviation)
    return float((correlation - torch.eye(len(deviation))).abs().max())


def test_noise_estimated_from_k_space_edge_has_the_true_covariance():
    noise, mixing = correlated_noise(4, (128, 128))
    kspace = noise + 1e3 * fft_centred(blobs((128, 128)))
    mask = torch.rand((1, 128, 128), generator=torch.Generator().manual_seed(0)) < 0.5
    scan = estimate_noise(scan_of(kspace[None], mask))
    truth = mixing @ mixing.mH
    gain = truth.diagonal().real.sqrt()
    error = (noise_covariance(scan.noise) - truth) / (gain[:, None] * gain)
    assert error.abs().max() < 5 * math.sqrt(2 / scan.noise.shape[1])
    assert "estimated" in scan.warnings[-1]


@pytest.mark.data
def test_noise_estimated_from_k_space_edge_agrees_with_image_background_of_a_real_brain(data_file):
    kspace = torch.from_numpy(np.load(data_file("mri/pulseq_cimaX_brain_16ch_128.npy"))).to(torch.complex128)
    scan = estimate_noise(scan_of(kspace[None]))
    image = ifft_centred(kspace)
    # The receiver filter rolls off along x, so a background strip must span the whole readout to hold all noise.
    strip = torch.cat([image[:, :4], image[:, -4:]], 1).reshape(16, -1)
    edge, background = noise_covariance(scan.noise), noise_covariance(strip)
    ratio = (edge.diagonal().real / background.diagonal().real).sqrt()
    assert ratio.min() > 0.95
    assert ratio.max() < 1.4
    assert largest_correlation(background) > 0.4
    assert largest_correlation(noise_covariance(AxisMatrix(whitening_matrix(edge), 0)(strip))) < 0.25


@pytest.mark.parametrize(("encoded", "kept"), [(64, 32), (63, 31), (64, 31), (63, 32), (60, 45)])
def test_readout_crop_keeps_pixels_in_place(encoded, kept):
    image = complex_noise((1, 2, 5, encoded))
    geometry_fov = float(kept)
    scan = scan_of(fft_centred(image), recon_fov_mm=(geometry_fov, 5.0, 1.0), recon_matrix=(1, 5, kept))
    out = remove_readout_oversampling(scan)
    expected = image[..., [encoded // 2 + i - kept // 2 for i in range(kept)]]
    torch.testing.assert_close(ifft_centred(out.kspace), expected)
    assert out.encoded_matrix == (5, kept)
    assert out.geometry.fov_mm == pytest.approx((geometry_fov, 5.0, 1.0))
    assert out.mask.all()
    assert out.mask.shape == (1, 5, kept)


def test_readout_crop_keeps_white_noise_white_with_unit_variance():
    out = remove_readout_oversampling(scan_of(complex_noise((1, 1, 400, 64)), recon_fov_mm=(32.0, 400.0, 1.0)))
    covariance = noise_covariance(out.kspace[0, 0].T)
    assert (covariance - torch.eye(32)).abs().max() < 5 / math.sqrt(400)


@pytest.mark.parametrize("side", ["left", "right"])
def test_asymmetric_echo_keeps_its_missing_side_and_no_false_samples(side):
    image = torch.zeros(1, 1, 6, 64, dtype=torch.complex128)
    image[..., 24:40] = blobs((6, 16))
    mask = torch.ones(1, 6, 64, dtype=torch.bool)
    missing = slice(0, 20) if side == "left" else slice(44, 64)
    mask[..., missing] = False
    mask[:, 4] = False
    out = remove_readout_oversampling(scan_of(fft_centred(image), mask, recon_fov_mm=(32.0, 6.0, 1.0)))
    expected = torch.ones(1, 6, 32, dtype=torch.bool)
    # Sample j of the short readout lies at 2 j of the long one.
    expected[..., [j for j in range(32) if missing.start <= 2 * j < missing.stop]] = False
    expected[:, 4] = False
    assert torch.equal(out.mask, expected)
    assert not out.kspace[~expected.unsqueeze(1)].any()
    truth = fft_centred(image[..., 16:48])
    inner = out.mask & torch.roll(out.mask, 2, -1) & torch.roll(out.mask, -2, -1)
    error = (out.kspace - truth)[inner.unsqueeze(1)].abs().max() / truth.abs().max()
    assert error < 0.05


def test_readout_crop_shortens_calibration_and_navigators_alike():
    image = complex_noise((1, 2, 8, 64))
    kspace = fft_centred(image)
    block = fft_centred(resize_centred(complex_noise((1, 2, 8, 32)), 4, -2))
    scan = scan_of(kspace, recon_fov_mm=(32.0, 8.0, 1.0), calibration=block, navigators=kspace.transpose(1, 2))
    out = remove_readout_oversampling(scan)
    assert out.calibration.shape == (1, 2, 4, 16)
    torch.testing.assert_close(ifft_centred(out.calibration), ifft_centred(block)[..., 8:24])
    torch.testing.assert_close(out.navigators, out.kspace.transpose(1, 2))


def test_scan_without_oversampling_is_unchanged_and_wrong_scans_are_refused():
    scan = scan_of(complex_noise((1, 2, 4, 8)))
    assert remove_readout_oversampling(scan) is scan
    with pytest.raises(InputError, match="regrid_readout"):
        remove_readout_oversampling(scan.after("", readout_positions=torch.arange(8.0)))
    with pytest.raises(InputError, match="non-Cartesian"):
        remove_readout_oversampling(scan.after("", trajectory=torch.zeros(1, 4, 8, 2)))


@pytest.mark.parametrize(("size", "target"), [(8, 5), (5, 8), (7, 4), (4, 7), (6, 6)])
def test_resizing_keeps_the_centre_pixel_at_half_the_length(size, target):
    x = torch.zeros(3, size)
    x[:, size // 2] = 1
    out = resize_centred(x, target, -1)
    assert out.shape == (3, target)
    assert out[:, target // 2].eq(1).all()
    assert out.sum() == 3


def test_phase_oversampling_is_cropped_and_pixels_interpolated_to_the_protocol_matrix():
    # 48 lines over 96 mm, of which the protocol wants 64 mm as 64 pixels of 1 mm; readout 64 over 64 mm.
    low = resize_centred(fft_centred(blobs((96, 64))), 48, 0)
    fine, coarse = ifft_centred(resize_centred(low, 96, 0)), ifft_centred(low) / math.sqrt(2)
    scan = scan_of(complex_noise((1, 1, 48, 64)), recon_matrix=(1, 64, 64), recon_fov_mm=(64.0, 64.0, 1.0))
    scan = scan.after("", geometry=scan.geometry.__class__((64.0, 96.0, 1.0)))
    image, geometry = crop_to_recon(coarse[None], scan)
    torch.testing.assert_close(image[0], fine[16:80])
    assert geometry.fov_mm == pytest.approx((64.0, 64.0, 1.0))


def test_image_that_already_has_the_protocol_matrix_is_unchanged():
    image = complex_noise((2, 6, 5, 7))
    scan = scan_of(complex_noise((1, 1, 6, 5, 7)))
    out, geometry = crop_to_recon(image, scan)
    assert torch.equal(out, image)
    assert geometry == scan.geometry


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize(("coils", "encoded", "kept"), [(1, 9, 5), (3, 9, 4), (4, 8, 8), (2, 16, 7)])
def test_whitening_and_readout_crop_have_exact_adjoints(coils, encoded, kept, dtype):
    assert_adjoint(ReadoutCrop(encoded, kept), (2, coils, 3, encoded), (2, coils, 3, kept), dtype)
    noise, _ = correlated_noise(coils, (100,))
    matrix = whitening_matrix(noise_covariance(noise))
    matrix = matrix / torch.linalg.matrix_norm(matrix, 2)
    assert_adjoint(AxisMatrix(matrix, 1), (2, coils, 3, 5), (2, coils, 3, 5), dtype)
