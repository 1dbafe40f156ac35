"""The training loss: equal to the metric of the evaluation, blind to the unit, seeing phase, with finite gradients."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from medical.metrics import ssim
from medical.reconstruction.fourier import fft_centred
from medical.reconstruction.learned.output import root_sum_of_squares as rss
from medical.training.loss import reconstruction_loss


def sample(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    coils = torch.randn(1, 3, 24, 20, dtype=torch.complex64, generator=generator)
    truth = torch.randn(1, 3, 24, 20, dtype=torch.complex64, generator=generator)
    maps = truth / rss(truth)[:, None]
    return coils, truth, maps


def loss(coils, truth, maps, weight, unit=1.0):
    output = SimpleNamespace(kspace=unit * fft_centred(coils), image=unit * (maps.conj() * coils).sum(1))
    return reconstruction_loss(
        output, unit * rss(truth).to(torch.complex64), unit * fft_centred(truth), complex_weight=weight
    )


def test_without_complex_terms_it_is_one_minus_the_ssim_of_the_evaluation():
    coils, truth, maps = sample()
    combined = (maps.conj() * coils).sum(1).abs()
    assert float(loss(coils, truth, maps, 0.0)) == pytest.approx(1 - ssim(rss(truth), combined), abs=1e-5)


def test_it_is_zero_at_the_truth_and_free_of_the_unit():
    coils, truth, maps = sample()
    assert float(loss(truth, truth, maps, 1.0)) == pytest.approx(0, abs=1e-5)
    assert float(loss(coils, truth, maps, 1.0, unit=1e3)) == pytest.approx(
        float(loss(coils, truth, maps, 1.0)), rel=1e-4
    )


def test_a_wrong_phase_costs_though_every_magnitude_is_right():
    _, truth, maps = sample()
    turned = truth * torch.exp(torch.tensor(0.5j))
    # |e^{i a} - 1| = 2 sin(a / 2) on every coil image, half of it with the weight of the other term.
    expected = torch.sin(torch.tensor(0.25))
    assert float(loss(turned, truth, maps, 1.0)) == pytest.approx(float(expected), rel=1e-3)


def test_gradients_are_finite_where_the_image_is_zero():
    coils, truth, maps = sample()
    coils[..., :10] = 0
    coils.requires_grad_()
    loss(coils, truth, maps, 1.0).backward()
    assert torch.isfinite(torch.view_as_real(coils.grad)).all()
