"""The packaged digits network: it loads, it learned the data, and few calls of a better solver come nearer the ODE."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from shared import Multistep, PreconditionedDenoiser, VarianceExploding, log_snr_grid, sample
from shared.digits import draw_digits, load_digits_denoiser
from shared.networks import ResidualMLP
from shared.training import AveragedWeights, denoising_loss
from shared.weights import load


@pytest.fixture(scope="module")
def denoiser():
    return load_digits_denoiser()


def real_digits() -> torch.Tensor:
    datasets = pytest.importorskip("sklearn.datasets")
    return torch.from_numpy(datasets.load_digits().images).float() / 8 - 1


def test_packaged_weights_are_small_and_checked():
    stored = load("shared/digits_denoiser")
    assert stored.path.stat().st_size < 3e6
    recorded = stored.path.with_name("SHA256SUMS").read_text().splitlines()
    assert f"{stored.sha256}  digits_denoiser.safetensors" in recorded
    assert stored.path.with_suffix(".md").is_file()


@pytest.mark.parametrize("sigma", [0.3, 0.6, 1.0])
def test_denoiser_beats_the_best_linear_denoiser_on_real_digits(denoiser, sigma):
    x0 = real_digits().double().flatten(1)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x0 + sigma * noise
    estimate = denoiser(x.float().reshape(-1, 8, 8), sigma / 80).flatten(1)
    mean, covariance = x0.mean(0), torch.from_numpy(np.cov(x0.T.numpy()))
    wiener = mean + (x - mean) @ torch.linalg.solve(covariance + sigma**2 * torch.eye(64), covariance)
    assert (estimate - x0).square().mean() < 0.9 * (wiener - x0).square().mean()


def test_samples_have_the_moments_of_the_digits_and_copy_none(denoiser):
    real = real_digits().flatten(1)
    x = denoiser.process.noise((512, 64), torch.Generator().manual_seed(0))
    drawn = sample(denoiser, x, log_snr_grid(denoiser.process, 20), Multistep(2, corrector=True))
    assert (drawn.mean(0) - real.mean(0)).square().sum() < 0.2
    assert float(drawn.var(0).sum()) == pytest.approx(float(real.var(0).sum()), rel=0.1)
    others = torch.cdist(real, real).fill_diagonal_(torch.inf).min(1).values.median()
    assert torch.cdist(drawn, real).min(1).values.median() > 0.8 * others


def test_the_better_solver_comes_nearer_the_exact_ode_at_every_number_of_calls(denoiser):
    drawn = draw_digits(denoiser, count=64)
    for calls in (5, 10, 20):
        assert drawn.rmse["multistep", calls] < 0.9 * drawn.rmse["ddim", calls]
    assert drawn.rmse["multistep", 20] < 0.05
    assert drawn.rmse["calibrated", 5] < 0.45 * drawn.rmse["multistep", 5]
    assert drawn.rmse["calibrated", 10] < 0.35 * drawn.rmse["multistep", 10]
    again = draw_digits(denoiser, count=64, calls=(5,))
    assert torch.equal(again.images["ddim", 5], drawn.images["ddim", 5])


def test_loss_of_a_network_that_is_zero_is_the_loss_of_the_skip_connection():
    """On white N(0, s^2) data the skip connection is optimal: error sigma^2 s^2 / (sigma^2 + s^2), weighted loss 1."""
    process, s = VarianceExploding(0.002, 80.0), 0.5
    network = ResidualMLP(16, width=8, depth=1, embedding=8)
    denoiser = PreconditionedDenoiser(network, process, sigma_data=s)
    generator = torch.Generator().manual_seed(0)
    x0 = s * torch.randn(20000, 16, generator=generator)
    sigma = torch.exp(torch.randn(20000, generator=generator))
    loss = denoising_loss(denoiser, x0, sigma, generator).mean()
    assert loss.item() == pytest.approx(1.0, rel=0.02)
    loss.backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_training_finds_the_posterior_mean_of_two_points():
    """Data at +1 and -1: E[x0 | x] = tanh(x / sigma^2)."""
    torch.manual_seed(0)
    process = VarianceExploding(0.002, 80.0)
    network = ResidualMLP(1, width=32, depth=1, embedding=16)
    denoiser = PreconditionedDenoiser(network, process, sigma_data=1.0)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    averaged = AveragedWeights(network, 0.99)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        x0 = 2.0 * torch.randint(0, 2, (256, 1), generator=generator) - 1
        sigma = torch.exp(0.7 * torch.randn(256, generator=generator))
        loss = denoising_loss(denoiser, x0, sigma, generator).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        averaged.update(network)
    network.load_state_dict(averaged.average)
    x = torch.linspace(-2, 2, 21)[:, None]
    for sigma in (0.7, 1.0, 1.5):
        with torch.no_grad():
            torch.testing.assert_close(denoiser(x, sigma / 80), torch.tanh(x / sigma**2), rtol=0, atol=0.12)


@pytest.mark.parametrize("power", [None, 0.75])
def test_average_of_weights_is_the_exponential_mean(power):
    network = torch.nn.Linear(1, 1, bias=False)
    network.weight.data.fill_(0.0)
    averaged = AveragedWeights(network, 0.5, power=power)
    expected = 0.0
    for n, value in enumerate((1.0, 2.0, 4.0, 8.0)):
        network.weight.data.fill_(value)
        averaged.update(network)
        decay = min(0.5, (1 + n) / (10 + n) if power is None else 1 - (1 + n) ** -power)
        expected = decay * expected + (1 - decay) * value
    assert float(averaged.average["weight"]) == pytest.approx(expected)


def test_network_keeps_the_shape_and_hears_the_time():
    torch.manual_seed(0)
    network = ResidualMLP(12, width=16, depth=2, embedding=8)
    for parameter in network.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    x = torch.randn(5, 3, 4)
    early, late = network(x, torch.full((5,), -1.0)), network(x, torch.full((5,), 1.0))
    assert early.shape == x.shape
    assert not torch.allclose(early, late)
    torch.testing.assert_close(network(x[1:3], torch.tensor([-1.0, 1.0])), torch.stack([early[1], late[2]]))
