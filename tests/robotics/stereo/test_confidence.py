"""The confidence on errors whose law is known."""

from __future__ import annotations

import numpy as np
import pytest

from robotics.stereo.confidence import LARGEST, Confidence, disagreement, fit_confidence, trouble
from robotics.stereo.metrics import ause

TRUE = np.array([0.2, 0.6, 0.3, 0.5])


@pytest.fixture(scope="module")
def drawn():
    """Signs and Laplace errors of 30 000 pixels, whose scale the signs decide."""
    source = np.random.default_rng(0)
    spread, apart = np.exp(source.normal(-1, 1, (2, 30_000)))
    signs = trouble(spread, apart, source.random(30_000) < 0.8)
    return signs, source.exponential(np.exp(TRUE @ signs))


def test_the_scale_is_found_the_interval_covers_and_the_chance_is_calibrated(drawn):
    signs, errors = drawn
    found = fit_confidence(signs[:, :10_000], errors[:10_000], (signs[:, 10_000:20_000], errors[10_000:20_000]))
    np.testing.assert_allclose(found.weights, TRUE, atol=0.06)
    rest, wrong = signs[:, 20_000:], errors[20_000:]
    assert np.mean(wrong <= found.interval(rest)) == pytest.approx(0.9, abs=0.015)
    chance, truth = found.probability(rest), 1 - np.exp(-1 / np.exp(TRUE @ rest))
    for low, high in ((0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 0.95)):
        inside = (chance >= low) & (chance < high)
        assert np.mean(wrong[inside] <= 1) == pytest.approx(float(chance[inside].mean()), abs=0.05)
    assert np.corrcoef(chance, truth)[0, 1] > 0.98


def test_it_orders_errors_better_than_one_sign_alone(drawn):
    signs, errors = drawn
    found = fit_confidence(signs[:, :10_000], errors[:10_000], (signs[:, 10_000:20_000], errors[10_000:20_000]))
    rest, wrong = signs[:, 20_000:], errors[20_000:]
    assert ause(wrong, found.probability(rest)) < ause(wrong, -rest[2])
    assert ause(wrong, found.probability(rest)) < ause(wrong, -rest[1])


def test_disagreement_is_that_of_the_nearer_column_and_unknown_out_of_view():
    left = np.full((1, 8), 2.5, np.float32)
    right = np.full((1, 8), 2.0, np.float32)
    right[0, 5:] = 9.0
    found = disagreement(left, right)
    assert np.isnan(found[0, :2]).all()
    np.testing.assert_allclose(found[0, 3:], 0.5)  # columns 0.5 ... 4.5: one of the two neighbours is 2
    capped = trouble(np.zeros(2), np.array([np.nan, 1e9]), np.ones(2, bool))
    np.testing.assert_allclose(capped[2], np.log(LARGEST + 0.05))


def test_a_confidence_is_data_and_comes_back():
    one = Confidence(weights=(0.0, 1.0, 0.5, 0.2), offset=0.3, slope=1.2, factor=2.0)
    assert Confidence.model_validate_json(one.model_dump_json()) == one
    signs = trouble(np.array([1.0, 3.0]), np.array([1.0, 3.0]), np.array([True, False]))
    chance = one.probability(signs)
    assert 1 > chance[0] > chance[1] > 0
    assert one.interval(signs)[1] > one.interval(signs)[0]
