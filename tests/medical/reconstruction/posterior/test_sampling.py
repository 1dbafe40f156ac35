"""Posterior sampling against the closed-form posterior of white Gaussian images, and its bookkeeping."""

from __future__ import annotations

import pytest
import torch

from medical.reconstruction.least_squares import sense
from medical.reconstruction.posterior.report import calibration_report
from medical.reconstruction.posterior.sampling import PosteriorSettings, estimate_scale, sample_posterior
from shared.errors import InputError
from tests.medical.reconstruction.posterior.scenes import every_second_line, scan_of, smooth_maps, untrained_prior

SHAPE = (22, 24)  # not multiples of the network's 4
STD = 40.0  # of the image, complex, in units of the noise


def white_scene(seed: int = 0, coils: int = 2):
    generator = torch.Generator().manual_seed(seed)
    image = STD * torch.randn(SHAPE, dtype=torch.complex64, generator=generator)
    maps, mask = smooth_maps(coils, SHAPE), every_second_line(SHAPE)
    return image, scan_of(image, mask, maps, generator), mask, maps


def prior_of(kspace, mask, maps):
    """A prior that knows the variance of the image: sigma_data is that of one real channel in units of the scale."""
    return untrained_prior(STD / 2**0.5 / estimate_scale(kspace, mask, maps))


@pytest.mark.parametrize(("method", "slack"), [("dds", 1.0), ("pigdm", 1.0), ("tds", 2.0)])
def test_samples_of_a_white_gaussian_prior_have_the_closed_form_mean_and_are_calibrated(method, slack):
    # "tds" steps with noise, whose 40 steps lack some of the spread: hence the slack.
    image, kspace, mask, maps = white_scene()
    # White Gaussian images of complex variance STD^2 and noise of variance 1: the posterior mean is Tikhonov's.
    exact = sense(kspace[None], mask[None], maps[None, None], lamda=1 / STD**2, iterations=300, tolerance=1e-7)[0, 0]
    settings = PosteriorSettings(method, samples=24, calls=40, eta=0.0, particles=3, iterations=60, tolerance=1e-3)
    drawn = sample_posterior(
        kspace, mask, maps, prior_of(kspace, mask, maps), settings, generator=torch.Generator().manual_seed(1)
    )
    spread = drawn.images.std(0)
    error = (drawn.images.mean(0) - exact).abs()
    assert float(error.square().mean().sqrt()) < 1.6 * slack * float((spread.square().mean() / 24).sqrt())
    report = calibration_report([drawn.images], [image])
    assert report.error_ratio == pytest.approx(1.0, abs=0.15 * slack)
    assert report.coverage[0.5] == pytest.approx(0.5, abs=0.12 * slack)
    assert report.coverage[0.9] == pytest.approx(0.9, abs=0.08 * slack)


def test_the_calls_are_those_asked_for_and_chunks_do_not_change_the_count_of_samples():
    _, kspace, mask, maps = white_scene()
    prior = prior_of(kspace, mask, maps)
    drawn = sample_posterior(kspace, mask, maps, prior, PosteriorSettings(samples=5, calls=7, batch=2))
    assert drawn.images.shape == (5, *SHAPE)
    assert drawn.images.dtype == torch.complex64
    assert (drawn.calls, drawn.network_samples) == (3 * 7, 5 * 7)
    particles = PosteriorSettings("tds", samples=3, calls=4, particles=4, batch=8)
    drawn = sample_posterior(kspace, mask, maps, prior, particles)
    assert (drawn.calls, drawn.network_samples) == (2 * 4, 3 * 4 * 4)
    assert drawn.effective_size.shape == (3,)


@pytest.mark.parametrize("method", ["dds", "diffpir", "pigdm", "dps", "tds"])
def test_one_seed_is_one_set_of_samples_and_all_explain_the_data(method):
    _, kspace, mask, maps = white_scene()
    prior = prior_of(kspace, mask, maps)
    calls = 12 if method != "dps" else 60
    settings = PosteriorSettings(method, samples=2, calls=calls, particles=2)
    first, second = (
        sample_posterior(kspace, mask, maps, prior, settings, generator=torch.Generator().manual_seed(3))
        for _ in range(2)
    )
    assert torch.equal(first.images, second.images)
    assert not torch.equal(first.images[0], first.images[1])
    zero = kspace.abs().square().sum() / (mask.sum() * len(kspace))
    assert float(first.chi_squared.max()) < 0.3 * float(zero)


def test_samples_scale_with_the_data_up_to_the_noise_they_are_told():
    _, kspace, mask, maps = white_scene()
    once = estimate_scale(kspace, mask, maps)
    assert estimate_scale(3 * kspace, mask, maps) == pytest.approx(3 * once, rel=1e-4)
    drawn = sample_posterior(kspace, mask, maps, prior_of(kspace, mask, maps), PosteriorSettings(samples=2, calls=4))
    assert drawn.scale == pytest.approx(once)


def test_pixels_without_coil_maps_are_empty():
    _, kspace, mask, maps = white_scene()
    maps = maps.clone()
    maps[:, :5] = 0
    drawn = sample_posterior(kspace, mask, maps, prior_of(kspace, mask, maps), PosteriorSettings(samples=2, calls=4))
    assert float(drawn.images[:, :5].abs().max()) == 0
    assert float(drawn.images[:, 5:].abs().min()) > 0


def test_bad_input_is_told():
    _, kspace, mask, maps = white_scene()
    prior = untrained_prior()
    with pytest.raises(InputError, match="one slice"):
        sample_posterior(kspace[None], mask, maps, prior)
    with pytest.raises(InputError, match="no signal"):
        sample_posterior(torch.zeros_like(kspace), mask, maps, prior)
    with pytest.raises(InputError, match="method"):
        PosteriorSettings(method="gan")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="calls"):
        PosteriorSettings(calls=0)


def test_the_report_tells_overconfidence_and_which_pixels_are_uncertain():
    generator = torch.Generator().manual_seed(0)
    truth = 10 + torch.randn(64, 64, dtype=torch.complex64, generator=generator)
    deviation = torch.linspace(0.5, 2.0, 64).expand(64, 64)
    centre = truth + deviation * torch.randn(64, 64, dtype=torch.complex64, generator=generator)
    drawn = centre + deviation * torch.randn(12, 64, 64, dtype=torch.complex64, generator=generator)
    honest = calibration_report([drawn], [truth])
    assert honest.error_ratio == pytest.approx(1.0, abs=0.05)
    assert honest.coverage[0.5] == pytest.approx(0.5, abs=0.03)
    assert honest.coverage[0.9] == pytest.approx(0.9, abs=0.02)
    assert honest.error[-1] > 2 * honest.error[0]
    assert honest.psnr_of_mean > honest.psnr_of_sample + 2
    narrow = calibration_report([centre + (drawn - centre) / 3], [truth])
    assert narrow.error_ratio > 2
    assert narrow.coverage[0.9] < 0.6
    with pytest.raises(InputError, match="samples"):
        calibration_report([drawn], [])
    assert honest.numbers()["coverage_90"] == honest.coverage[0.9]
