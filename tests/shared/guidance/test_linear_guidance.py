"""Guidance by a linear measurement, against exact posteriors of Gaussian and mixture priors."""

from __future__ import annotations

import math

import pytest
import torch

from shared import (
    DDIM,
    Ancestral,
    InputError,
    Ledger,
    Multistep,
    VarianceExploding,
    VariancePreserving,
    counted,
    log_snr_grid,
    sample,
    step,
)
from shared.guidance.dds import consistent, dds
from shared.guidance.diffpir import Renoising, diffpir
from shared.guidance.likelihood import GaussianLikelihood, posterior_variance
from shared.guidance.pigdm import guided_estimate, pigdm
from shared.guidance.steered import dps, sample_looped, steered
from tests.oracles.gaussian import GaussianDenoiser
from tests.oracles.linear_measurement import Dense, gaussian_posterior
from tests.oracles.mixture import MixtureDenoiser

PROCESSES = [VariancePreserving.cosine(), VarianceExploding(0.002, 80.0)]
DIMENSION, ROWS, NOISE, MEAN, STD = 6, 3, 0.2, 0.5, 0.7


def problem(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(ROWS, DIMENSION, generator=generator, dtype=torch.float64)
    x0 = MEAN + STD * torch.randn(DIMENSION, generator=generator, dtype=torch.float64)
    y = matrix @ x0 + NOISE * torch.randn(ROWS, generator=generator, dtype=torch.float64)
    likelihood = GaussianLikelihood(Dense(matrix), y[None], NOISE, iterations=50, tolerance=1e-12)
    return matrix, y, likelihood


def noisy(process, t: float, count: int = 5):
    generator = torch.Generator().manual_seed(3)
    x0 = torch.randn(count, DIMENSION, generator=generator, dtype=torch.float64)
    return process.add_noise(x0, torch.randn(x0.shape, generator=generator, dtype=torch.float64), t)


def test_the_correction_is_the_proximal_step_of_the_normal_equations():
    matrix, y, likelihood = problem()
    x0 = torch.randn(4, DIMENSION, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    variance = 0.3
    exact = torch.linalg.solve(
        matrix.T @ matrix / NOISE**2 + torch.eye(DIMENSION, dtype=torch.float64) / variance,
        (y / NOISE**2 @ matrix + x0 / variance).T,
    ).T
    torch.testing.assert_close(x0 + likelihood.correction(x0, variance), exact, rtol=1e-9, atol=1e-9)


def test_log_marginal_is_that_of_the_inflated_gaussian_up_to_a_constant():
    matrix, y, likelihood = problem()
    x0 = torch.randn(4, DIMENSION, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    variance = 0.3
    covariance = variance * matrix @ matrix.T + NOISE**2 * torch.eye(ROWS, dtype=torch.float64)
    exact = torch.stack([torch.distributions.MultivariateNormal(matrix @ row, covariance).log_prob(y) for row in x0])
    found = likelihood.log_marginal(x0, likelihood.correction(x0, variance))
    torch.testing.assert_close(found - found[0], exact - exact[0], rtol=1e-9, atol=1e-9)


def test_complex_data_count_as_pairs_of_real_components():
    matrix, _, _ = problem()
    turn = torch.exp(1j * torch.arange(ROWS, dtype=torch.float64))

    class Turned(Dense):
        def __call__(self, x):
            return turn * super().__call__(x)

        def adjoint(self, y):
            return super().adjoint((turn.conj() * y).real)

    y = torch.randn(1, ROWS, dtype=torch.complex128, generator=torch.Generator().manual_seed(2))
    x0 = torch.zeros(2, DIMENSION, dtype=torch.float64)
    turned = GaussianLikelihood(Turned(matrix), y, NOISE, iterations=50, tolerance=1e-12)
    plain = GaussianLikelihood(Dense(matrix), (turn.conj() * y).real, NOISE, iterations=50, tolerance=1e-12)
    torch.testing.assert_close(turned.correction(x0, 0.4), plain.correction(x0, 0.4))
    torch.testing.assert_close(turned.chi_squared(x0), (y.abs() ** 2).sum(1).expand(2) / NOISE**2)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("t", [0.05, 0.4, 0.9])
def test_dds_and_pigdm_are_the_exact_posterior_mean_on_white_gaussian_data(process, t):
    matrix, y, likelihood = problem()
    prior = GaussianDenoiser(process, MEAN, STD)
    x = noisy(process, t)
    alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
    eye = torch.eye(DIMENSION, dtype=torch.float64)
    precision = matrix.T @ matrix / NOISE**2 + eye * (1 / STD**2 + alpha**2 / sigma**2)
    exact = torch.linalg.solve(precision, (y @ matrix / NOISE**2 + MEAN / STD**2 + alpha * x / sigma**2).T).T
    for guided in (dds, pigdm):
        found = guided(prior, likelihood, process, data_std=STD)(x, t)
        torch.testing.assert_close(found, exact, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("guided", [dds, pigdm])
def test_sampling_reaches_the_posterior_mean_and_covariance_of_a_gaussian_prior(guided):
    process = VarianceExploding(0.002, 80.0)
    matrix, y, likelihood = problem()
    mean, covariance = gaussian_posterior(matrix, y, NOISE, torch.full((DIMENSION,), MEAN, dtype=torch.float64), STD)
    denoiser = guided(GaussianDenoiser(process, MEAN, STD), likelihood, process, data_std=STD)
    # D' is affine, so a deterministic sampling is an affine map: its mean and covariance follow from unit vectors.
    starts = torch.cat([torch.zeros(1, DIMENSION, dtype=torch.float64), torch.eye(DIMENSION, dtype=torch.float64)])
    ends = sample(denoiser, 80.0 * starts, log_snr_grid(process, 200), Multistep(order=2))
    slope = ends[1:] - ends[0]
    torch.testing.assert_close(ends[0], mean, rtol=0, atol=MEAN / 80)  # the start has forgotten the mean
    torch.testing.assert_close(slope.T @ slope, covariance, rtol=0, atol=1e-3)


def test_dds_keeps_the_noise_that_a_constant_gamma_fits():
    process = VarianceExploding(0.002, 80.0)
    _, _, likelihood = problem()
    prior = GaussianDenoiser(process, MEAN, STD)
    x = process.noise((500, DIMENSION), torch.Generator().manual_seed(5), dtype=torch.float64)
    grid = log_snr_grid(process, 30)
    aware = sample(dds(prior, likelihood, process, data_std=STD), x, grid, DDIM())
    constant = sample(consistent(prior, likelihood, lambda t: STD**2), x, grid, DDIM())
    chi_aware, chi_constant = (float(likelihood.chi_squared(result).mean()) / ROWS for result in (aware, constant))
    assert chi_constant < 0.15 < 0.5 < chi_aware < 1.5


def test_diffpir_is_a_proximal_step_with_variance_kappa_squared_over_lamda():
    process = VariancePreserving.cosine()
    matrix, y, likelihood = problem()
    prior = GaussianDenoiser(process, MEAN, STD)
    x, t, lamda = noisy(process, 0.3), 0.3, 4.0
    rho = lamda * float(process.alpha(t) / process.sigma(t)) ** 2
    x0 = prior(x, t)
    precision = matrix.T @ matrix / NOISE**2 + rho * torch.eye(DIMENSION, dtype=torch.float64)
    exact = torch.linalg.solve(precision, (y @ matrix / NOISE**2 + rho * x0).T).T
    torch.testing.assert_close(diffpir(prior, likelihood, process, lamda=lamda)(x, t), exact, rtol=1e-7, atol=1e-7)


def test_renoising_keeps_the_level_of_noise_and_zero_zeta_is_ddim():
    process = VariancePreserving.cosine()
    grid = log_snr_grid(process, 8)
    x = noisy(process, 1.0)
    prior = MixtureDenoiserOfSix(process)
    torch.testing.assert_close(sample(prior, x, grid, Renoising(0.0)), sample(prior, x, grid, DDIM()))
    plan = Renoising(0.4).plan(grid)
    for k, update in enumerate(plan.updates):
        assert math.hypot(update.gain * grid.sigma[k], update.noise) == pytest.approx(grid.sigma[k + 1])
        assert update.gain * grid.alpha[k] + update.weights[0] == pytest.approx(grid.alpha[k + 1])
    with pytest.raises(InputError, match="zeta"):
        Renoising(1.2)


def test_steering_by_the_data_is_the_published_dps_step():
    process = VariancePreserving.cosine()
    grid = log_snr_grid(process, 12)
    plan = Ancestral().plan(grid)
    matrix, y, likelihood = problem()
    prior = MixtureDenoiserOfSix(process)
    x = process.noise((4, DIMENSION), torch.Generator().manual_seed(1), dtype=torch.float64)
    scale = 0.3
    found = sample(dps(prior, likelihood, plan, scale=scale), x, grid, Ancestral(), generator=seeded())
    # Algorithm 1: an unguided ancestral step, then down the gradient of |y - A x0|, all by autograd.
    generator, state = seeded(), plan.start(x)
    for _ in range(plan.calls):
        start = state.x.detach().requires_grad_(True)
        x0 = prior(start, state.t)
        (gradient,) = torch.autograd.grad((y - x0 @ matrix.T).norm(dim=1).sum(), start)
        state = plan.advance(state.map(torch.detach), x0.detach(), generator)
        state = type(state)(**{**state.__dict__, "x": state.x - scale * gradient})
    torch.testing.assert_close(found, state.x, rtol=1e-9, atol=1e-9)


def test_steering_by_a_learned_inverse_model_lowers_its_loss_and_loops_lower_it_more():
    process = VariancePreserving.cosine()
    grid = log_snr_grid(process, 12)
    prior = MixtureDenoiserOfSix(process)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(DIMENSION, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2)).double()
    target = model(prior.means[1]).detach()

    def loss(x0):
        return (model(x0) - target).square().sum(1)

    x = process.noise((200, DIMENSION), torch.Generator().manual_seed(1), dtype=torch.float64)
    plan = Ancestral().plan(grid)
    denoiser = steered(prior, loss, plan, strength=0.3)
    free = sample(prior, x, grid, Ancestral(), generator=seeded())
    once = sample(denoiser, x, grid, Ancestral(), generator=seeded())
    looped = sample_looped(denoiser, x, grid, Ancestral(), loops=4, generator=seeded())
    losses = [float(loss(result).detach().mean()) for result in (free, once, looped)]
    assert losses[1] < 0.8 * losses[0]
    assert losses[2] < 0.9 * losses[1]
    torch.testing.assert_close(
        sample_looped(denoiser, x, grid, Ancestral(), loops=1, generator=seeded()), once, rtol=0, atol=0
    )


def test_looping_leaves_the_distribution_of_an_exact_sampling_alone():
    process = VariancePreserving.cosine()
    prior = GaussianDenoiser(process, MEAN, STD)
    x = process.noise((3000, 1), torch.Generator().manual_seed(1), dtype=torch.float64)
    result = sample_looped(prior, x, log_snr_grid(process, 100), Ancestral(), loops=3, generator=seeded())
    assert float(result.mean()) == pytest.approx(MEAN, abs=0.05)
    assert float(result.std()) == pytest.approx(STD, rel=0.06)


@pytest.mark.parametrize("process", PROCESSES)
def test_weight_zero_returns_the_very_denoiser(process):
    _, _, likelihood = problem()
    prior = GaussianDenoiser(process, MEAN, STD)
    plan = DDIM().plan(log_snr_grid(process, 4))
    assert dds(prior, likelihood, process, weight=0) is prior
    assert diffpir(prior, likelihood, process, weight=0) is prior
    assert pigdm(prior, likelihood, process, weight=0) is prior
    assert dps(prior, likelihood, plan, scale=0) is prior
    assert steered(prior, lambda x0: x0.sum(1), plan, strength=0) is prior


def test_every_guidance_asks_the_network_once_a_step():
    process = VariancePreserving.cosine()
    _, _, likelihood = problem()
    prior = counted(MixtureDenoiserOfSix(process))
    grid = log_snr_grid(process, 7)
    plan = Ancestral().plan(grid)
    x = process.noise((3, DIMENSION), torch.Generator().manual_seed(1), dtype=torch.float64)
    for denoiser in (
        dds(prior, likelihood, process),
        diffpir(prior, likelihood, process),
        pigdm(prior, likelihood, process),
        dps(prior, likelihood, plan),
    ):
        with Ledger() as ledger:
            sample(denoiser, x, grid, Ancestral(), generator=seeded())
        assert (ledger.calls, ledger.samples) == (7, 21)
    with Ledger() as ledger:
        sample_looped(prior, x, grid, Ancestral(), loops=3, generator=seeded())
    assert ledger.calls == 3 * 6 + 1


def test_guidance_leaves_no_gradient_behind():
    process = VariancePreserving.cosine()
    _, _, likelihood = problem()
    prior = MixtureDenoiserOfSix(process)
    x = noisy(process, 0.4)
    found = guided_estimate(prior, likelihood, process, x, 0.4)
    assert not found.guided.requires_grad
    assert not found.plain.requires_grad
    torch.testing.assert_close(found.plain, prior(x, 0.4))


def test_posterior_variance_tends_to_the_data_where_all_is_noise():
    process = VariancePreserving.linear()
    assert posterior_variance(process, 1.0, 0.7) == pytest.approx(0.49, rel=1e-3)
    assert posterior_variance(process, 0.0, 0.7) == 0.0


def test_bad_input_is_told():
    process = VariancePreserving.cosine()
    matrix, y, likelihood = problem()
    prior = GaussianDenoiser(process, MEAN, STD)
    grid = log_snr_grid(process, 4)
    with pytest.raises(InputError, match="noise_std"):
        GaussianLikelihood(Dense(matrix), y, 0.0)
    with pytest.raises(InputError, match="one answer a step"):
        dps(prior, likelihood, Multistep(order=2).plan(grid))
    with pytest.raises(InputError, match="level of the plan"):
        dps(prior, likelihood, DDIM().plan(grid))(noisy(process, 0.3), 0.123)
    with pytest.raises(InputError, match="loops"):
        sample_looped(prior, noisy(process, 1.0), grid, DDIM(), loops=0)
    state = DDIM().plan(grid).start(noisy(process, 1.0))
    assert step(dps(prior, likelihood, DDIM().plan(grid)), DDIM().plan(grid), state).index == 1


class MixtureDenoiserOfSix(MixtureDenoiser):
    """Three components in six dimensions."""

    def __init__(self, process):
        generator = torch.Generator().manual_seed(0)
        super().__init__(
            process,
            torch.randn(3, DIMENSION, generator=generator, dtype=torch.float64),
            torch.tensor([0.3, 0.5, 0.4], dtype=torch.float64),
            torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64),
        )


def seeded():
    return torch.Generator().manual_seed(11)
