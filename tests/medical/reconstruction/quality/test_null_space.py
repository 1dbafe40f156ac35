"""The part of an image that the data determine, against the singular value decomposition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medical.reconstruction.operators import CartesianSense
from medical.reconstruction.quality.null_space import split
from tests.medical.reconstruction.quality.dense import random_image, small_encoding


def test_the_split_is_the_projection_of_the_singular_value_decomposition():
    operator, _, matrix = small_encoding()
    image = random_image(seed=7)
    parts = split(operator, image, iterations=500, tolerance=1e-12)
    _, values, right = np.linalg.svd(matrix, full_matrices=False)
    basis = right[values > 1e-10 * values[0]]
    assert 0 < len(basis) < image.numel(), "the encoding must leave a null space"
    x = image.flatten().numpy()
    measured = basis.conj().T @ (basis @ x)
    np.testing.assert_allclose(parts.measured.flatten().numpy(), measured, atol=1e-7)
    np.testing.assert_allclose(parts.unmeasured.flatten().numpy(), x - measured, atol=1e-7)
    assert parts.fraction == pytest.approx(np.linalg.norm(x - measured) / np.linalg.norm(x), rel=1e-6)


def test_the_noisy_split_is_the_wiener_filter_of_the_singular_values():
    operator, _, matrix = small_encoding()
    image = random_image(seed=8)
    parts = split(operator, image, lamda=0.05, iterations=500, tolerance=1e-12)
    _, values, right = np.linalg.svd(matrix, full_matrices=False)
    gain = values**2 / (values**2 + 0.05)
    expected = right.conj().T @ (gain * (right @ image.flatten().numpy()))
    np.testing.assert_allclose(parts.measured.flatten().numpy(), expected, atol=1e-8)


def test_a_fully_sampled_scan_determines_everything_and_an_unseen_frequency_nothing():
    maps = torch.ones(1, 1, 1, 16, 16, dtype=torch.complex128)
    mask = torch.ones(1, 16, 16, dtype=torch.bool)
    image = random_image((1, 1, 16, 16))
    assert split(CartesianSense(maps, mask), image).fraction < 1e-6
    mask[:, 3] = False
    rows = torch.arange(16) - 8
    wave = torch.exp(2j * torch.pi * (3 - 8) * rows[:, None] / 16).expand(1, 1, 16, 16).to(torch.complex128)
    assert split(CartesianSense(maps, mask), wave).fraction == pytest.approx(1, abs=1e-6)
