"""Forward models and posteriors of brain volumes, against SciPy, exact transposes and exact Gaussian posteriors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special

from medical.brain.config import BrainConfig
from medical.brain.forward import (
    MagnitudeMeasurement,
    RealVolume,
    RicianMeasurement,
    block_operator,
    kspace_operator,
    linear_measurement,
    log_i0,
    phase_encode_mask,
    rician,
    simulated,
    slice_operator,
    slice_profile,
    zero_filled_magnitude,
)
from medical.brain.inverse import Solving, guided_denoiser, solve, zeta_of
from medical.brain.model import PREDICTIONS, BrainModel, Sampling, reference_grid
from medical.reconstruction.operators import CartesianSense, Mask
from shared.errors import InputError
from shared.guidance.likelihood import inner
from shared.sampling import sample
from shared.solvers.ddim import DDIM
from tests.oracles.volumes import VolumeMixture, gaussian_volume, matrix_of, posterior

SIZE = (8, 8, 8)
STD = 0.2


def brain(prior: VolumeMixture, strategy: str = "flow") -> BrainModel:
    config = BrainConfig(strategy=strategy, channels=(8, 8), attention=(False, False), size=prior.size)
    return BrainModel(config, prior.network(strategy))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def hole() -> torch.Tensor:
    mask = torch.ones(SIZE, dtype=torch.bool)
    mask[2:6, 2:6, 2:6] = False
    return mask


def operators() -> dict:
    generator = seeded(1)
    maps = torch.randn(1, 1, 2, *SIZE, dtype=torch.complex128, generator=generator)
    lines = phase_encode_mask((8, 8), 4, centre=0.25, generator=generator)
    return {
        "inpaint": Mask(hole()),
        "slices": slice_operator(slice_profile(8, 1.0, thickness_mm=2.5, separation_mm=2.0)),
        "blocks": block_operator(SIZE, (2, 4, 1)),
        "kspace": kspace_operator(lines),
        "coils": RealVolume(CartesianSense(maps, lines.expand(SIZE)[None])),
    }


@pytest.mark.parametrize("name", operators())
def test_every_operator_has_its_exact_transpose_and_normal_map(name):
    operator, generator = operators()[name], seeded()
    x = torch.randn(2, 1, *SIZE, dtype=torch.float64, generator=generator)
    forward = operator(x)
    y = torch.randn(forward.shape, dtype=forward.dtype, generator=generator)
    torch.testing.assert_close(inner(forward, y), inner(x, operator.adjoint(y)), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(operator.normal(x), operator.adjoint(forward), rtol=1e-10, atol=1e-10)


def test_slice_profiles_are_medforjs_inside_and_keep_air_at_the_ends():
    profiles = slice_profile(192, 1.0)
    assert profiles.shape == (20, 192)  # int(192 / 9.5)
    torch.testing.assert_close(profiles.sum(1), torch.ones(20, dtype=torch.float64))
    std = math.sqrt(7**2 - 1) / 2.3548200450309493
    centre = (9 - 9.5) * 9.5  # of slice 9, mm from the centre of the volume
    off = (np.arange(192) - 95.5) - centre
    np.testing.assert_allclose(profiles[9], np.exp(-0.5 * (off / std) ** 2) / (std * np.sqrt(2 * np.pi)), atol=1e-6)


def test_phase_encode_masks_have_the_lines_asked_for_and_a_full_centre():
    mask = phase_encode_mask((48, 56), 12, generator=seeded())
    assert int(mask.sum()) == round(48 * 56 / 12)
    assert bool(mask[24 - 2 : 24 + 2, 28 - 2 : 28 + 2].all())
    chance = torch.stack([phase_encode_mask((48, 56), 12, generator=seeded(n)) for n in range(40)]).double().mean(0)
    assert chance[16:32, 18:38].mean() > 3 * chance[:8].mean() > 0
    with pytest.raises(InputError, match="leaves room"):
        phase_encode_mask((48, 56), 500)


def test_log_i0_and_the_rician_density_are_scipys_without_overflow():
    z = torch.tensor([0.0, 1e-6, 0.3, 10.0, 600.0, 1e5], dtype=torch.float64, requires_grad=True)
    value = log_i0(z)
    plain = z.detach().numpy()
    np.testing.assert_allclose(value.detach(), np.log(special.ive(0, plain)) + plain, rtol=1e-12, atol=1e-12)
    (slope,) = torch.autograd.grad(value.sum(), z)
    ratio = special.ive(1, plain) / special.ive(0, plain)
    np.testing.assert_allclose(slope, ratio, rtol=1e-6, atol=1e-9)
    single = log_i0(torch.tensor([1e5])).item()  # I_0 itself is infinite in float32 from 90 on
    assert single == pytest.approx(value[-1].item(), rel=1e-6)
    # the simulated image has the moments of the distribution, and the misfit is 1 at the truth
    x = torch.linspace(-1, 1, 20**3, dtype=torch.float64).view(1, 1, 20, 20, 20)
    found = rician(x, 0.1, seeded())
    assert float((found.data.square() - ((x + 1) / 2).square()).mean()) == pytest.approx(2 * 0.1**2, abs=5e-3)
    assert float(found.misfit(x)) == pytest.approx(1, abs=0.03)
    assert float(found.misfit(x + 0.3)) > 1.3


@pytest.mark.parametrize(("noise", "variance"), [(0.1, 0.04), (0.02, 0.5), (0.3, 0.01)])
def test_the_rician_correction_is_the_voxelwise_posterior_mean(noise, variance):
    estimates, data = [-1.0, -0.8, 0.0, 0.7], [0.02, 0.3, 0.55, 0.9]
    y = torch.tensor(data, dtype=torch.float64).view(1, 1, 4, 1, 1)
    x0 = torch.tensor(estimates, dtype=torch.float64).view(1, 1, 4, 1, 1)
    found = RicianMeasurement(y, noise).correction(x0, variance).flatten() + x0.flatten()
    for one, d, value in zip(found.tolist(), estimates, data, strict=True):

        def density(x, d=d, value=value):
            m = (x + 1) / 2
            z = value * m / noise**2
            log = np.log(special.ive(0, z)) + abs(z) - (m**2 + value**2) / (2 * noise**2)
            return np.exp(log - (x - d) ** 2 / (2 * variance))

        low, high = -1, max(d, 2 * value - 1) + 12 * variance**0.5
        places = [2 * value - 1, d]
        total = integrate.quad(density, low, high, points=places, limit=400)[0]
        mean = integrate.quad(lambda x: x * density(x), low, high, points=places, limit=400)[0] / total
        assert one == pytest.approx(mean, abs=0.01 * variance**0.5)


def linear_problem(name: str, prior: VolumeMixture):
    """A simulated measurement with the exact mean and covariance of its posterior."""
    operator, noise = operators()[name], 0.01
    x = prior.draw(1, seeded(5))
    support = hole() if name == "inpaint" else None
    measured = simulated(operator, x, noise, seeded(6), support)
    matrix = matrix_of(operator, SIZE)
    y = (torch.view_as_real(measured.data) if measured.data.is_complex() else measured.data).flatten()
    mean = prior.means[0].flatten()
    return measured, *posterior(matrix, y, 2 * noise, mean, prior.covariance())


def mean_drawn(model: BrainModel, measured, settings: Solving) -> torch.Tensor:
    """The mean of what an affine sampler draws: its result for noise 0."""
    grid = Sampling("multistep", settings.steps).grid(model.config.strategy)
    guided = guided_denoiser(model, measured, settings, grid, DDIM(), SIZE)
    return sample(guided, torch.zeros(1, 1, *SIZE, dtype=torch.float64), grid, DDIM()).flatten()


@pytest.mark.parametrize("name", ["inpaint", "slices", "kspace"])
def test_moment_matching_reaches_the_exact_posterior_mean_of_correlated_volumes(name):
    prior = gaussian_volume(SIZE, mean=0.1, std=STD)
    measured, mean, _ = linear_problem(name, prior)
    found = mean_drawn(brain(prior), measured, Solving(method="moments", steps=40, iterations=20))
    gap = float((mean - 0.1).square().mean().sqrt())
    assert gap > 0.1  # the data say much
    assert float((found - mean).square().mean().sqrt()) < 0.02 * gap


@pytest.mark.parametrize("method", ["dds", "pigdm"])
def test_proximal_steps_reach_the_exact_posterior_mean_of_white_volumes(method):
    prior = gaussian_volume(SIZE, mean=0.1, std=STD, power=0)
    measured, mean, _ = linear_problem("slices", prior)
    found = mean_drawn(brain(prior), measured, Solving(method=method, steps=60, data_std=STD))
    assert float((found - mean).square().mean().sqrt()) < 2e-3


def many_drawn(model: BrainModel, measured, settings: Solving, count: int) -> torch.Tensor:
    """Many volumes in one batch, float64 (count, voxels)."""
    name = "reference" if settings.method == "released" else "multistep"
    grid = Sampling(name, settings.steps).grid(model.config.strategy)
    guided = guided_denoiser(model, measured, settings, grid, settings.solver(), SIZE)
    x = torch.randn(count, 1, *SIZE, dtype=torch.float64, generator=seeded(20))
    return sample(guided, x, grid, settings.solver(), generator=seeded(21)).flatten(1)


def test_samples_have_the_posteriors_mean_and_deviation_and_medforjs_form_has_not():
    prior = gaussian_volume(SIZE, std=STD)
    measured, mean, covariance = linear_problem("inpaint", prior)
    exact = float(covariance.diagonal().mean().sqrt())
    model, count = brain(prior), 32
    errors, spreads = {}, {}
    for method, steps in (("moments", 50), ("diffpir", 50), ("released", 256)):
        found = many_drawn(model, measured, Solving(method=method, steps=steps), count)
        errors[method] = float((found.mean(0) - mean).square().mean().sqrt())
        spreads[method] = float(found.std(0).square().mean().sqrt()) / exact
    chance = exact / count**0.5
    assert errors["moments"] < 1.3 * chance
    assert spreads["moments"] == pytest.approx(1, abs=0.12)
    assert errors["diffpir"] < 2.5 * chance
    assert spreads["diffpir"] == pytest.approx(1, abs=0.12)
    assert errors["released"] > 4 * chance
    assert spreads["released"] > 1.5


def test_solving_draws_one_volume_at_a_time_and_the_same_for_a_seed():
    prior = gaussian_volume(SIZE, std=STD)
    measured, mean, _ = linear_problem("inpaint", prior)
    first, second = (
        solve(brain(prior), measured, Solving(samples=3, steps=12), generator=seeded(3)) for _ in range(2)
    )  # fmt: skip
    assert first.samples.shape == (3, *SIZE)
    assert first.calls == 36
    assert torch.equal(first.samples, second.samples)
    assert float((first.samples[0] - first.samples[1]).std()) > 0.02
    torch.testing.assert_close(first.std, first.samples.std(0))
    assert float(first.misfit.max()) < 1.5
    assert float((first.mean.flatten() - mean).square().mean().sqrt()) < 0.3 * float(mean.std())


def test_rician_denoising_has_the_exact_posterior_mean_of_a_white_prior():
    prior, noise, count = gaussian_volume(SIZE, mean=-0.1, std=0.3, power=0), 0.15, 32
    x = prior.draw(1, seeded(2))
    measured = rician(x, noise, seeded(3))
    exact = (measured.correction(torch.full_like(x, -0.1), 0.3**2) - 0.1).flatten()  # proven against SciPy above
    found = many_drawn(brain(prior), measured, Solving(method="dds", data_std=0.3, steps=30), count)
    spread = float(found.std(0).square().mean().sqrt())
    mean, truth = found.mean(0), x.flatten()
    assert float((mean - exact).square().mean().sqrt()) < 1.5 * spread / count**0.5
    naive = (2 * measured.data - 1).flatten()
    assert (mean - truth).square().mean() < 0.7 * (naive - truth).square().mean()


@pytest.mark.parametrize("strategy", ["noise", "clean", "velocity", "flow", "rflow"])
def test_the_released_form_is_medforjs_loop(strategy):
    """Written again from its formulas, with the network outside the gradient."""
    prior = gaussian_volume(SIZE, std=0.6)
    model = brain(prior, strategy)
    x0 = prior.draw(1, seeded(8)).float()
    measured = simulated(Mask(hole()), x0, 0.01, seeded(9), hole())
    settings = Solving(method="released", steps=6, eta=0.5, samples=1)
    found = solve(model, measured, settings, generator=seeded(10)).samples[0]

    network, generator, grid = prior.network(strategy), seeded(10), reference_grid(strategy, 6)
    zeta = 20 * math.sqrt(8**3 / (192 * 224 * 192))
    assert zeta_of(settings, measured, SIZE) == pytest.approx(zeta)
    x = torch.randn(1, 1, *SIZE, generator=generator)
    for k, t in enumerate(grid.times[:-1]):
        a, b, a2, b2 = grid.alpha[k], grid.sigma[k], grid.alpha[k + 1], grid.sigma[k + 1]
        x = x.detach().requires_grad_(True)
        with torch.no_grad():
            p = network(x, grid.process.network_time(t)[None])
        estimate = {
            "noise": lambda x, p, a, b: (x - b * p) / a,
            "clean": lambda x, p, a, b: p + (x - x.detach()),
            "velocity": lambda x, p, a, b: a * x - b * p,
            "flow": lambda x, p, a, b: (x - b * p) / (a + b),
            "rflow": lambda x, p, a, b: (x + b * p) / (a + b),
        }[strategy](x, p, a, b)
        if strategy != "rflow":
            estimate = estimate.clamp(-1, 1)
        (slope,) = torch.autograd.grad((hole() * estimate - measured.data).norm(), x)
        d = estimate.detach()
        sigma = 0.5 * (b2 / b) * max(0.0, b**2 - (a * b2 / a2) ** 2) ** 0.5
        x = a2 * d + (b2**2 - sigma**2) ** 0.5 * (x.detach() - a * d) / b - zeta * slope
        if sigma:
            x = x + sigma * torch.randn(x.shape, generator=generator)
    assert strategy in PREDICTIONS
    torch.testing.assert_close(found, x[0, 0], rtol=0, atol=2e-4)


def test_dps_lowers_the_distance_of_magnitudes_that_no_linear_method_takes():
    prior = gaussian_volume(SIZE, std=0.3)
    x = prior.draw(1, seeded(11))
    lines = phase_encode_mask((8, 8), 3, centre=0.25, generator=seeded(12))
    measured = MagnitudeMeasurement(lines, zero_filled_magnitude(x, lines))
    assert float(measured.misfit(x)) < 1e-12
    model = brain(prior)
    found = solve(model, measured, Solving(method="dps", steps=100, samples=2), generator=seeded(13))
    free = model.draw(SIZE, Sampling("multistep", 20), generator=seeded(14))[None, None].double()
    assert float(found.misfit.max()) < 0.4 * float(measured.misfit(free))
    with pytest.raises(InputError, match="dps or released"):
        solve(model, measured, Solving(method="diffpir", steps=4))


def test_wrong_numbers_are_told():
    with pytest.raises(InputError, match="one of diffpir"):
        Solving(method="map")
    with pytest.raises(InputError, match="above 0"):
        Solving(zeta=-1)
    with pytest.raises(InputError, match="above 0"):
        linear_measurement(Mask(hole()), torch.zeros(1, 1, *SIZE), 0)
    with pytest.raises(InputError, match="divisors of 8x8x8"):
        block_operator(SIZE, (3, 1, 1))
    with pytest.raises(InputError, match="thicker than"):
        slice_profile(8, 1.0, thickness_mm=0.5)
