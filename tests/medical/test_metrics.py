"""Metrics against scikit-image, published numbers of a real scan, and values known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_laplace

from medical.metrics import crop_square, hfen, laplacian_of_gaussian, nmse, nrmse_best_scalar, psnr, ssim
from shared.errors import InputError

ALL = (nmse, psnr, ssim, nrmse_best_scalar, hfen)


@pytest.fixture
def pair():
    """A smooth volume whose slices differ in brightness, and a noisy, blurred, rescaled copy."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.linspace(0, 6, 40), torch.linspace(0, 5, 33), indexing="ij")
    reference = torch.stack([scale * (1.2 + torch.sin(x * scale) * torch.cos(y)) for scale in (0.3, 1.0, 2.0)])
    image = 0.93 * reference + 0.1 * torch.randn(reference.shape, generator=generator)
    return reference, image


def test_psnr_and_ssim_equal_scikit_image_with_the_volume_maximum(pair):
    metrics = pytest.importorskip("skimage.metrics")
    r, x = (v.double().numpy() for v in pair)
    assert psnr(*pair) == pytest.approx(metrics.peak_signal_noise_ratio(r, x, data_range=r.max()), abs=1e-9)
    expected = np.mean([metrics.structural_similarity(a, b, data_range=r.max()) for a, b in zip(r, x, strict=True)])
    assert ssim(*pair) == pytest.approx(expected, abs=1e-9)
    per_slice = np.mean([metrics.structural_similarity(a, b, data_range=a.max()) for a, b in zip(r, x, strict=True)])
    assert abs(ssim(*pair) - per_slice) > 1e-3


def test_nmse_is_the_square_of_the_relative_error(pair):
    r, x = (v.double() for v in pair)
    assert nmse(r, x) == pytest.approx((np.linalg.norm(x - r) / np.linalg.norm(r)) ** 2, rel=1e-12)
    assert nmse(r, 0.9 * r) == pytest.approx(0.01, rel=1e-9)


def test_best_scalar_error_ignores_units_and_phase_and_is_the_sine_of_the_angle(pair):
    r, x = (v.double().abs() for v in pair)
    error = nrmse_best_scalar(r, x)
    cosine = float((r * x).sum() / (r.norm() * x.norm()))
    assert error == pytest.approx(math.sqrt(1 - cosine**2), rel=1e-9)
    assert nrmse_best_scalar(r, 1e-7 * x) == pytest.approx(error, rel=1e-9)
    assert nrmse_best_scalar(r, torch.polar(x, 3 * r)) == pytest.approx(error, rel=1e-9)
    assert nrmse_best_scalar(r, torch.zeros_like(r)) == 1


def test_identical_volumes_are_perfect_and_every_metric_gets_worse_with_noise(pair):
    r, _ = pair
    assert (nmse(r, r), ssim(r, r), hfen(r, r)) == (0, pytest.approx(1), 0)
    assert psnr(r, r) == math.inf
    noise = torch.randn(r.shape, generator=torch.Generator().manual_seed(1))
    for metric in ALL:
        values = [metric(r, r + level * noise) for level in (0.02, 0.05, 0.1)]
        assert values == sorted(values, reverse=metric in (psnr, ssim))


def test_hfen_filter_is_the_laplacian_of_a_gaussian(pair):
    reference = np.pad(pair[0][0].double().numpy(), 30)
    kernel = laplacian_of_gaussian(15, 1.5)
    assert abs(float(kernel.sum())) < 1e-12
    filtered = torch.nn.functional.conv2d(torch.from_numpy(reference)[None, None], kernel[None, None], padding=7)[0, 0]
    exact = gaussian_laplace(reference, 1.5)
    assert np.abs(filtered.numpy() - exact).max() < 0.02 * np.abs(exact).max()


def test_hfen_sees_lost_edges_and_not_a_smooth_shading(pair):
    r = torch.zeros(1, 64, 64, dtype=torch.float64)
    r[:, 16:48, 16:48] = 1
    blurred = torch.nn.functional.avg_pool2d(r, 5, stride=1, padding=2)
    shaded = r * torch.linspace(0.9, 1.1, 64, dtype=torch.float64)
    assert hfen(r, blurred) > 3 * hfen(r, shaded)
    assert hfen(r, 0.5 * r) == pytest.approx(0.5)


def test_crop_takes_the_centre_as_fastmri_does():
    volume = torch.arange(9.0)[None, :, None].expand(2, 9, 4)
    assert crop_square(volume)[0, :, 0].tolist() == [2, 3, 4, 5]
    with pytest.raises(InputError, match="rows"):
        crop_square(volume.transpose(1, 2))


@pytest.mark.parametrize("metric", ALL)
def test_volumes_that_cannot_be_compared_are_refused(metric):
    volume = torch.rand(2, 16, 16)
    with pytest.raises(InputError, match="one shape"):
        metric(volume, volume[:1])
    with pytest.raises(InputError, match="one shape"):
        metric(volume[0], volume[0])
    with pytest.raises(InputError, match="zeros only"):
        metric(torch.zeros_like(volume), volume)


def test_ssim_of_slices_smaller_than_its_window_is_refused():
    with pytest.raises(InputError, match="7 x 7"):
        ssim(torch.rand(1, 6, 20), torch.rand(1, 6, 20))


@pytest.mark.data
@pytest.mark.parametrize(("key", "published"), [("l2", 0.1218), ("wav", 0.1051), ("tv", 0.1256)])
def test_best_scalar_error_of_barts_brain_images_is_the_published_one(data_file, key, published):
    golden = np.load(data_file("mri/bart080_golden_cimaX_brain_R4.npz"), allow_pickle=False)
    reference, image = torch.from_numpy(golden["rss"])[None], torch.from_numpy(golden[key])[None]
    assert nrmse_best_scalar(reference, image) == pytest.approx(published, abs=6e-5)
