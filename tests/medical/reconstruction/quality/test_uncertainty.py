"""Uncertainty of samples whose distribution is known."""

from __future__ import annotations

import pytest
import torch

from medical.reconstruction.quality.uncertainty import Uncertainty
from shared.errors import InputError


def draws(n, pixels=40000, seed=0, spread=1.0):
    """A truth and n samples, all from one normal distribution a pixel with standard deviations from 0.5 to 2."""
    generator = torch.Generator().manual_seed(seed)
    sd = torch.linspace(0.5, 2, pixels)
    truth, *samples = 3 + sd * torch.randn(n + 1, pixels, dtype=torch.complex64, generator=generator)
    samples = torch.stack(samples)
    return truth, samples.mean(0) + spread * (samples - samples.mean(0)), sd


@pytest.mark.parametrize("n", [2, 4, 16])
def test_a_calibrated_posterior_has_error_ratio_one_and_the_stated_coverage(n):
    truth, samples, sd = draws(n)
    found = Uncertainty.of(samples)
    assert found.error_ratio(truth) == pytest.approx(1, abs=0.03)
    for level in (0.5, 0.9):
        assert found.coverage(truth, level) == pytest.approx(level, abs=0.01)
    assert float((found.standard_deviation.square() / sd.square()).mean()) == pytest.approx(1, abs=0.03)


def test_an_overconfident_posterior_is_found_out():
    truth, samples, _ = draws(8, spread=0.5)
    found = Uncertainty.of(samples)
    assert found.error_ratio(truth) == pytest.approx(2, abs=0.05)
    assert found.coverage(truth, 0.9) < 0.6


def test_one_sample_has_no_spread():
    with pytest.raises(InputError, match="2 or more"):
        Uncertainty.of(torch.zeros(1, 4, 4))
