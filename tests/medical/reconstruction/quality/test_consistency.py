"""Residuals against the chi-square distribution and against dense linear algebra."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from medical.reconstruction.quality.consistency import chi_square, consistent_image, residual_map
from tests.medical.reconstruction.quality.dense import random_image, small_encoding


def test_numbers_are_those_of_scipys_chi_square_distribution():
    found = chi_square(1030.0, samples=1000, unknowns=300)
    assert found.ratio == pytest.approx(1.03)
    assert found.p_value == pytest.approx(stats.chi2(2000).sf(2060), rel=1e-9)
    assert found.high == pytest.approx(stats.chi2(2000).ppf(0.975) / 2000, rel=1e-9)
    assert found.low == pytest.approx(stats.chi2(1400).ppf(0.025) / 2000, rel=1e-9)
    assert found.verdict == "consistent"
    assert chi_square(1100.0, 1000, 300).verdict == "unexplained data"
    assert chi_square(500.0, 1000, 300).verdict == "fits noise"


def noisy_residuals(image_of, repeats=300):
    """Judge `image_of(truth, data, A)` for many noises, all of it in the matrix form of the encoding."""
    _, sampled, A = small_encoding()
    truth = 5 * random_image().flatten().numpy()
    generator = np.random.default_rng(1)
    noise = generator.standard_normal((2, len(A), repeats)) * np.sqrt(0.5)
    data = (A @ truth)[:, None] + noise[0] + 1j * noise[1]
    energies = np.linalg.norm(A @ image_of(truth[:, None], data, A) - data, axis=0) ** 2
    rank = int(np.linalg.matrix_rank(A))
    return [chi_square(float(energy), samples=int(sampled.sum()), unknowns=rank) for energy in energies]


def test_p_values_of_the_true_image_are_uniform_and_those_of_a_wrong_one_vanish():
    found = [judged.p_value for judged in noisy_residuals(lambda truth, data, A: truth)]
    assert stats.kstest(found, "uniform").pvalue > 0.01
    wrong = noisy_residuals(lambda truth, data, A: 1.3 * truth)
    assert max(judged.p_value for judged in wrong) < 1e-3
    assert all(judged.verdict == "unexplained data" for judged in wrong)


def test_the_lower_end_of_the_range_is_where_best_fits_fall():
    _, sampled, A = small_encoding(acceleration=1)
    noise = np.sqrt(0.5) * np.random.default_rng(2).standard_normal((2, len(A), 400))
    data = noise[0] + 1j * noise[1]
    basis, _ = np.linalg.qr(A)
    left = data - basis @ (basis.conj().T @ data)
    energies = np.linalg.norm(left, axis=0) ** 2
    judged = [chi_square(float(e), samples=int(sampled.sum()), unknowns=A.shape[1]) for e in energies]
    assert 0.005 <= np.mean([found.ratio < found.low for found in judged]) <= 0.06
    assert max(found.ratio for found in judged) < judged[0].high


def test_hard_consistency_is_the_pseudo_inverse_correction():
    operator, sampled, matrix = small_encoding()
    image = random_image(seed=2)
    data = torch.zeros_like(operator(image))
    data[sampled] = torch.randn(int(sampled.sum()), dtype=torch.complex128, generator=torch.Generator().manual_seed(3))
    found = consistent_image(operator, data, image, iterations=500, tolerance=1e-12).flatten().numpy()
    x, y = image.flatten().numpy(), data[sampled].numpy()
    inverse = np.linalg.pinv(matrix)
    np.testing.assert_allclose(found, x + inverse @ (y - matrix @ x), atol=1e-7)
    np.testing.assert_allclose(found - inverse @ matrix @ found, x - inverse @ matrix @ x, atol=1e-7)


def test_soft_consistency_minimises_its_objective():
    operator, sampled, matrix = small_encoding()
    image = random_image(seed=2)
    data = operator(random_image(seed=5))
    found = consistent_image(operator, data, image, lamda=0.3, iterations=500, tolerance=1e-12).flatten().numpy()
    x, y = image.flatten().numpy(), data[sampled].numpy()
    stacked = np.vstack([matrix, np.sqrt(0.3) * np.eye(x.size)])
    expected = np.linalg.lstsq(stacked, np.concatenate([y, np.sqrt(0.3) * x]), rcond=None)[0]
    np.testing.assert_allclose(found, expected, atol=1e-8)


def test_the_residual_map_is_zero_for_explained_data_and_points_at_what_is_missing():
    operator, _, _ = small_encoding(acceleration=1, coils=3)
    truth = torch.zeros(1, 1, 12, 9, dtype=torch.complex128)
    truth[..., 3, 4], truth[..., 8, 2] = 1, 1
    lost = truth.clone()
    lost[..., 8, 2] = 0
    assert float(residual_map(operator, operator(truth), truth).max()) < 1e-12
    found = residual_map(operator, operator(truth), lost)
    assert int(found.flatten().argmax()) == 8 * 9 + 2
