"""Optimised noise on Gaussian data, where the sampling is affine and the best noise is known in closed form."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from shared import DDIM, InputError, Multistep, VariancePreserving, log_snr_grid, sample, trailing_grid
from shared.search.noise import NoiseSearch, correlation, sampler_of, search_noise
from tests.oracles.gaussian import GaussianDenoiser, ddim_moments
from tests.oracles.mixture import MixtureDenoiser

PROCESS = VariancePreserving.cosine()
GRID = trailing_grid(PROCESS, 3)
SAMPLER = sampler_of(GaussianDenoiser(PROCESS), GRID, DDIM())
MEAN, SLOPE = ddim_moments(GRID.alpha, GRID.sigma, 1.0)  # S(z) = MEAN + SLOPE z, within alpha(1) = 3e-4


def noise(count: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_sampler_is_that_of_the_loop_and_follows_gradients():
    z = noise(2, 5)
    torch.testing.assert_close(SAMPLER(z), sample(GaussianDenoiser(PROCESS), z, GRID, DDIM()))
    torch.testing.assert_close(SAMPLER(z), MEAN + SLOPE * z)


def test_without_a_constraint_the_quadratic_loss_finds_its_only_minimiser():
    z, target = noise(3, 6), SAMPLER(noise(3, 6, seed=1))

    def loss(x):
        return (x - target).square().sum(1)

    settings = NoiseSearch(steps=150, rate=0.1, sphere=False)
    found = search_noise(SAMPLER, loss, z, settings)
    torch.testing.assert_close(found.noise, (target - MEAN) / SLOPE, atol=2e-3, rtol=0)
    assert float(found.loss.max()) < 1e-5
    torch.testing.assert_close(found.sample, SAMPLER(found.noise))
    torch.testing.assert_close(found.loss, loss(found.sample))


def test_on_the_sphere_it_finds_the_point_of_the_sphere_towards_the_target():
    z, target = noise(4, 10, 5), 3.0 + noise(4, 10, 5, seed=1)  # far outside what the prior makes
    found = search_noise(SAMPLER, lambda x: (x - target).square().sum((1, 2)), z, NoiseSearch(steps=150, rate=0.1))
    radius = z.flatten(1).norm(dim=1)
    torch.testing.assert_close(found.noise.flatten(1).norm(dim=1), radius)
    away = target - MEAN
    best = away * (radius / away.flatten(1).norm(dim=1))[:, None, None]
    torch.testing.assert_close(found.noise, best, atol=5e-3, rtol=0)


def test_of_many_minimisers_it_finds_one():
    rows = torch.randn(3, 20, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    wanted = 0.5 * rows.sum(1) + 0.3
    found = search_noise(SAMPLER, lambda x: (x @ rows.T - wanted).square().sum(1), noise(4, 20), NoiseSearch(100, 0.1))
    torch.testing.assert_close(found.sample @ rows.T, wanted.expand(4, 3), atol=0.02, rtol=0)
    assert not torch.allclose(found.noise[0], found.noise[1], atol=0.5)


def test_samples_that_are_done_stop_and_are_the_same_as_alone():
    z = noise(3, 8)
    target = SAMPLER(z + torch.tensor([0.0, 0.2, 0.8], dtype=torch.float64)[:, None])
    lookup = dict(enumerate(target))
    asked = []

    def loss_of(rows):
        def loss(x):
            asked.append(len(x))
            # Which rows are asked is told by how many: the nearest are done first.
            wanted = torch.stack([lookup[row] for row in rows[len(rows) - len(x) :]])
            return torch.relu((x - wanted).norm(dim=1) - 0.1 * SLOPE)

        return loss

    settings = NoiseSearch(steps=60, rate=0.05, sphere=False)
    together = search_noise(SAMPLER, loss_of([0, 1, 2]), z, settings)
    assert together.loss.tolist()[:2] == [0.0, 0.0]
    assert asked[0] == 3
    assert asked[1] == 2
    assert all(first >= second for first, second in pairwise(asked))
    torch.testing.assert_close(together.noise[0], z[0])
    for row in range(3):
        alone = search_noise(SAMPLER, loss_of([row]), z[row : row + 1], settings)
        torch.testing.assert_close(alone.noise[0], together.noise[row])
    steps = len(search_noise(SAMPLER, loss_of([1]), z[1:2], settings).history)
    assert 2 < steps < 60
    assert len(search_noise(SAMPLER, loss_of([0]), z[:1], settings).history) == 1


def test_the_best_of_all_steps_is_returned_when_later_ones_are_worse():
    z = noise(2, 4)
    found = search_noise(SAMPLER, lambda x: 1 + (x - 0.5).square().sum(1), z, NoiseSearch(steps=30, rate=3.0))
    assert float(found.history[1:].max()) > float(found.history[0].min())
    torch.testing.assert_close(found.loss, found.history.amin(0))


def test_steps_are_those_of_adam_on_unit_gradients_with_dnos_penalty():
    z, target, weight = noise(2, 8, 3), noise(2, 8, 3, seed=1), 10.0
    settings = NoiseSearch(steps=4, rate=0.05, warm_up=2, sphere=False, decorrelation=weight)
    seen = []

    def loss(x):
        seen.append(((x - MEAN) / SLOPE).detach().numpy().copy())
        return (x - target).square().sum((1, 2))

    search_noise(SAMPLER, loss, z, settings)

    def value(one, wanted):
        total, scale = ((MEAN + SLOPE * one - wanted) ** 2).sum(), one
        for size in (8, 4, 2):
            total += weight * np.mean([scale[k] * scale[(k + 1) % size] for k in range(size)]) ** 2
            scale = np.stack([(scale[2 * k] + scale[2 * k + 1]) / 2 for k in range(size // 2)])
        return total

    for row in range(2):
        one, wanted = z[row].numpy().copy(), target[row].numpy()
        mean, square = np.zeros_like(one), np.zeros_like(one)
        for step, share in enumerate((0.5, 1.0, 1.0, 0.5)):  # warm-up, then half a cosine over the two last steps
            assert np.allclose(seen[step][row], one, atol=1e-6)
            gradient = np.zeros_like(one)
            for place in np.ndindex(*one.shape):
                plus, minus = one.copy(), one.copy()
                plus[place] += 1e-6
                minus[place] -= 1e-6
                gradient[place] = (value(plus, wanted) - value(minus, wanted)) / 2e-6
            gradient /= np.linalg.norm(gradient)
            mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
            up, down = mean / (1 - 0.9 ** (step + 1)), np.sqrt(square / (1 - 0.999 ** (step + 1))) + 1e-8
            one = one - 0.05 * share * up / down
        assert np.allclose(seen[4][row], one, atol=1e-5)


def test_correlation_of_four_numbers_by_hand_and_of_noise_and_waves():
    # Rings 1 2 3 4 and 1.5 3.5: means of neighbours' products 6 and 5.25.
    assert float(correlation(torch.tensor([[1.0, 2, 3, 4]]))) == pytest.approx(6**2 + 5.25**2)
    white = correlation(noise(50, 90, 20))
    assert white.shape == (50,)
    # Var of a mean of n products of white numbers is 1/n; at scale j numbers have variance 2^-j, and n 2^-j are left.
    scales = [(90 // 2**j) * 20 for j in range(6)]
    expected = sum(2.0 ** (-2 * j) / n for j, n in enumerate(scales))
    assert float(white.mean()) == pytest.approx(expected, rel=0.5)
    wave = torch.sin(torch.arange(90, dtype=torch.float64) * 2 * math.pi / 45)[None, :, None].expand(1, 90, 20) * 2**0.5
    assert float(correlation(wave)) > 100 * float(white.mean())
    torch.testing.assert_close(correlation(wave.movedim(1, 2), axis=2), correlation(wave))


@pytest.mark.parametrize("calls", [1, 2, 4])
@pytest.mark.parametrize("solver", [DDIM(), Multistep(order=2)])
def test_the_gradient_through_all_steps_is_that_of_finite_differences(calls, solver):
    means = noise(3, 6, seed=3)
    third = torch.full((3,), 1 / 3, dtype=torch.float64)
    denoiser = MixtureDenoiser(PROCESS, means, torch.full((3,), 0.4, dtype=torch.float64), third)
    sampler = sampler_of(denoiser, log_snr_grid(PROCESS, calls), solver)
    z = noise(2, 6).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: sampler(x).square().sum(1), (z,), eps=1e-6, atol=1e-6)


def test_bad_losses_and_numbers_are_refused():
    with pytest.raises(InputError, match="one a sample"):
        search_noise(SAMPLER, lambda x: x.square().sum(), noise(2, 3))
    with pytest.raises(InputError, match="not finite"):
        search_noise(SAMPLER, lambda x: x.sum(1) * float("nan"), noise(2, 3))
    with pytest.raises(InputError, match="noise search"):
        NoiseSearch(steps=0)
    assert NoiseSearch.dno(300) == NoiseSearch(300, 0.05, 50, False, 1000.0)
