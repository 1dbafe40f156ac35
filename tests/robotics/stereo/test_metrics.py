"""Errors on hand-made maps, and confidence against errors."""

from __future__ import annotations

import numpy as np
import pytest

from robotics.stereo.metrics import ause, evaluate, evaluate_masks, interval_coverage, risk_coverage, standard_masks
from robotics.stereo.pair import Surface
from shared.errors import InputError

TRUTH = np.linspace(10, 100, 200, dtype=np.float32).reshape(10, 20)


@pytest.mark.parametrize("offset", [0.3, -1.5, 2.5])
def test_a_constant_offset_is_the_epe_and_is_not_aligned_away(offset):
    numbers = evaluate(TRUTH + np.float32(offset), TRUTH)
    assert numbers["epe"] == pytest.approx(abs(offset), rel=1e-5)
    assert numbers["rms"] == pytest.approx(abs(offset), rel=1e-5)
    assert [numbers[f"bad{t}"] for t in (1, 2, 3)] == [100.0 * (abs(offset) > t) for t in (1, 2, 3)]


def test_d1_needs_more_than_three_pixels_and_five_percent():
    truth = np.array([[50.0, 50.0, 100.0, 100.0]], np.float32)
    said = truth + np.array([[2.9, 3.1, 4.9, 5.1]], np.float32)
    # 3.1 of 50 is above both, 4.9 of 100 is below 5 %.
    assert evaluate(said, truth)["d1"] == 50.0
    assert evaluate(said, truth)["bad3"] == 75.0


def test_holes_count_as_errors_and_unknown_truth_does_not_count():
    said, truth = TRUTH.copy(), TRUTH.copy()
    said[:5] = np.nan
    truth[0] = np.nan
    numbers = evaluate(said, truth)
    assert numbers["pixels"] == 180
    assert numbers["bad3"] == pytest.approx(100 * 80 / 180)
    assert numbers["density"] == pytest.approx(100 * 100 / 180)
    assert numbers["epe_known"] == 0.0
    assert numbers["epe"] == pytest.approx(TRUTH[1:5].sum() / 180, rel=1e-5)
    tiny = np.full((2, 2), 0.4, np.float32)  # an error below every threshold would hide a hole
    assert evaluate(np.full((2, 2), np.nan, np.float32), tiny)["bad1"] == 100.0


def test_quantiles_and_masks():
    said = TRUTH + np.arange(200, dtype=np.float32).reshape(10, 20) / 100
    numbers = evaluate(said, TRUTH)
    assert numbers["a90"] == pytest.approx(1.79, abs=0.01)
    material = np.zeros((10, 20), np.uint8)
    material[8:] = Surface.THIN_GLASS
    occluded = np.zeros((10, 20), bool)
    occluded[:, :5] = True
    found = evaluate_masks(said, TRUTH, standard_masks(occluded, material))
    assert found["glass.pixels"] == 40
    assert found["glass.epe"] == pytest.approx(np.arange(160, 200).mean() / 100, rel=1e-4)
    assert found["noc.pixels"] + found["occ.pixels"] == found["pixels"]
    assert "mirror.epe" not in found


def test_sizes_that_differ_and_an_empty_truth_are_told():
    with pytest.raises(InputError, match="20x10"):
        evaluate(TRUTH[:, :19], TRUTH)
    with pytest.raises(InputError, match="no known"):
        evaluate(TRUTH, np.full_like(TRUTH, np.nan))


def test_ause_is_zero_for_a_perfect_confidence_and_a_constant_one_is_worse_than_a_noisy_one():
    rng = np.random.default_rng(0)
    error = rng.exponential(1.0, 20000)
    assert ause(error, -error) == 0.0
    noisy = ause(error, -error + rng.standard_normal(20000))
    constant = ause(error, np.zeros(20000))
    assert 0.0 < noisy < 0.8 * constant
    # Exponential errors of mean 1: the mean of the best share c is 1 + (1 - c) ln(1 - c) / c; of a constant
    # confidence it is 1. The integral of the difference over c from 0 to 1 is pi^2 / 6 - 1.
    assert constant == pytest.approx(np.pi**2 / 6 - 1, abs=0.03)


def test_risk_at_full_coverage_is_the_mean_error_and_interval_coverage_counts():
    error = np.array([1.0, 3.0, 2.0, 4.0])
    coverage, risk = risk_coverage(error, -error, 4)
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert risk.tolist() == [1.0, 1.5, 2.0, 2.5]
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((200, 200)).astype(np.float32)
    truth = np.full((200, 200), 10.0, np.float32)
    assert interval_coverage(truth + noise - 1.645, truth + noise + 1.645, truth) == pytest.approx(90, abs=0.7)
    low = np.full_like(truth, np.nan)
    assert interval_coverage(low, truth + 9, truth) == 0.0
