"""Resampling, and the twisted sampler against exact posteriors of Gaussian mixtures."""

from __future__ import annotations

import pytest
import torch

from shared import DDIM, Ancestral, InputError, Ledger, VariancePreserving, counted, log_snr_grid, sample
from shared.guidance.dds import dds
from shared.guidance.diffpir import Renoising, diffpir
from shared.guidance.likelihood import GaussianLikelihood
from shared.guidance.pigdm import pigdm
from shared.guidance.steered import dps
from shared.search.resampling import effective_size, systematic
from shared.search.twisted import twisted_sample
from tests.oracles.gaussian import GaussianDenoiser
from tests.oracles.linear_measurement import Dense, gaussian_posterior, mixture_posterior_samples, sliced_w1
from tests.oracles.mixture import MixtureDenoiser

PROCESS = VariancePreserving.cosine()
DIMENSION = 16


def mixture_problem(seed: int, rows: int, noise: float):
    """Eight narrow modes far apart, measured through a few rows: the posterior has several modes."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(8, DIMENSION, generator=generator, dtype=torch.float64)
    stds, weights = torch.full((8,), 0.3, dtype=torch.float64), torch.full((8,), 1 / 8, dtype=torch.float64)
    matrix = torch.randn(rows, DIMENSION, generator=generator, dtype=torch.float64) / DIMENSION**0.5
    mode = int(torch.randint(8, (), generator=generator))
    x0 = means[mode] + 0.3 * torch.randn(DIMENSION, generator=generator, dtype=torch.float64)
    y = matrix @ x0 + noise * torch.randn(rows, generator=generator, dtype=torch.float64)
    likelihood = GaussianLikelihood(Dense(matrix), y[None], noise)
    return MixtureDenoiser(PROCESS, means, stds, weights), matrix, y, likelihood


def test_systematic_resampling_draws_each_particle_its_share_rounded_up_or_down():
    log_weights = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.25, 0.25, 0.25, 0.25]], dtype=torch.float64))
    for row in log_weights:
        drawn = systematic(row.expand(5000, 4) - 700.0, torch.Generator().manual_seed(0))
        times = torch.nn.functional.one_hot(drawn, 4).sum(1).double()
        share = 4 * row.exp()
        assert bool(((times >= (share + 1e-9).floor()) & (times <= (share - 1e-9).ceil())).all())
        torch.testing.assert_close(times.mean(0), share, atol=0.03, rtol=0)


def test_effective_size_runs_from_one_to_all():
    log_weights = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, -900.0, -900.0, -900.0]], dtype=torch.float64)
    torch.testing.assert_close(effective_size(log_weights), torch.tensor([4.0, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("solver", [Ancestral(), DDIM(eta=0.8)])
def test_weighted_particles_have_the_posterior_mean_and_spread_of_a_gaussian_prior(solver):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64)
    y, noise, std = torch.tensor([1.6], dtype=torch.float64), 0.3, 0.7
    likelihood = GaussianLikelihood(Dense(matrix), y[None], noise)
    x = PROCESS.noise((800 * 3, 3), generator, dtype=torch.float64)
    found = twisted_sample(
        GaussianDenoiser(PROCESS, 0.5, std), likelihood, x, log_snr_grid(PROCESS, 160), ensembles=800, solver=solver,
        data_std=std, generator=generator,
    ).draw(generator)  # fmt: skip
    mean, covariance = gaussian_posterior(matrix, y, noise, torch.full((3,), 0.5, dtype=torch.float64), std)
    torch.testing.assert_close(found.mean(0), mean, atol=0.07, rtol=0)
    torch.testing.assert_close(found.T.cov(), covariance, atol=0.09, rtol=0)


def test_sixteen_particles_halve_the_error_of_every_guidance_on_mixtures():
    rows, noise = 4, 0.1
    count, seeds, grid = 120, 3, log_snr_grid(PROCESS, 30)
    errors: dict[str, float] = {}
    spreads: dict[str, float] = {}
    for seed in range(seeds):
        prior, matrix, y, likelihood = mixture_problem(seed, rows, noise)
        generator = torch.Generator().manual_seed(100 + seed)
        exact = mixture_posterior_samples(matrix, y, noise, prior.means, prior.stds, prior.weights, count, generator)

        def start(particles: int = 1, generator=generator):
            return PROCESS.noise((count * particles, DIMENSION), generator, dtype=torch.float64)

        plan = Ancestral().plan(grid)
        results = {
            "dds": sample(dds(prior, likelihood, PROCESS), start(), grid, Ancestral(), generator=generator),
            "diffpir": sample(diffpir(prior, likelihood, PROCESS), start(), grid, Renoising(), generator=generator),
            "pigdm": sample(pigdm(prior, likelihood, PROCESS), start(), grid, Ancestral(), generator=generator),
            "dps": sample(dps(prior, likelihood, plan), start(), grid, Ancestral(), generator=generator),
            "twisted": twisted_sample(prior, likelihood, start(16), grid, ensembles=count, generator=generator).draw(
                generator
            ),
        }
        for name, result in results.items():
            errors[name] = errors.get(name, 0.0) + sliced_w1(result, exact) / seeds
            spreads[name] = spreads.get(name, 0.0) + float(result.std(0).norm() / exact.std(0).norm()) / seeds
    best = min(error for name, error in errors.items() if name != "twisted")
    assert errors["twisted"] < 0.4 * best, errors
    assert abs(spreads["twisted"] - 1) < 0.25, spreads


def test_without_resampling_it_is_importance_sampling_with_all_ancestors_kept():
    prior, _, _, likelihood = mixture_problem(0, 4, 0.3)
    x = PROCESS.noise((5 * 8, DIMENSION), torch.Generator().manual_seed(1), dtype=torch.float64)
    grid = log_snr_grid(PROCESS, 10)
    plain = twisted_sample(
        prior, likelihood, x, grid, ensembles=5, threshold=0.0, generator=torch.Generator().manual_seed(2)
    )
    assert plain.ancestors.tolist() == [8] * 5
    proposal = sample(
        pigdm(prior, likelihood, PROCESS), x, grid, Ancestral(), generator=torch.Generator().manual_seed(2)
    )
    torch.testing.assert_close(plain.x0.flatten(0, 1), proposal)
    resampled = twisted_sample(
        prior, likelihood, x, grid, ensembles=5, threshold=1.0, generator=torch.Generator().manual_seed(2)
    )
    assert int(resampled.ancestors.max()) < 8
    assert bool((resampled.effective_size < 8).all())


def test_ensembles_do_not_influence_each_other_and_cost_one_call_a_step():
    prior, _, _, likelihood = mixture_problem(0, 4, 0.1)
    x = PROCESS.noise((3 * 4, DIMENSION), torch.Generator().manual_seed(1), dtype=torch.float64)
    grid = log_snr_grid(PROCESS, 10)
    with Ledger() as ledger:
        result = twisted_sample(
            counted(prior), likelihood, x, grid, ensembles=3, generator=torch.Generator().manual_seed(2)
        )
    assert (ledger.calls, ledger.samples) == (10, 120)
    assert result.x0.shape == (3, 4, DIMENSION)
    changed = x.clone()
    changed[8:] += 0.5
    other = twisted_sample(prior, likelihood, changed, grid, ensembles=3, generator=torch.Generator().manual_seed(2))
    assert not torch.equal(other.x0[2], result.x0[2])


def test_bad_input_is_told():
    prior, _, _, likelihood = mixture_problem(0, 4, 0.1)
    x = PROCESS.noise((6, DIMENSION), dtype=torch.float64)
    grid = log_snr_grid(PROCESS, 5)
    with pytest.raises(InputError, match="ensembles"):
        twisted_sample(prior, likelihood, x, grid, ensembles=4)
    with pytest.raises(InputError, match="without noise"):
        twisted_sample(prior, likelihood, x, grid, ensembles=2, solver=DDIM())
