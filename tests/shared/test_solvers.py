"""Solvers against exact answers: order of convergence, Gaussian moments, and no surprise at any grid."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad, solve_ivp

from shared import (
    DDIM,
    GRIDS,
    Ancestral,
    Grid,
    Heun,
    InputError,
    Multistep,
    VarianceExploding,
    explicit_grid,
    sample,
    trailing_grid,
    uniform_grid,
)
from shared.solvers.quadrature import exponential_weights
from tests.oracles.families import PROCESSES
from tests.oracles.gaussian import GaussianDenoiser, ddim_moments
from tests.oracles.mixture import MixtureDenoiser

DETERMINISTIC = {
    "ddim": DDIM(),
    "2m": Multistep.dpm_solver_pp_2m(),
    **{f"ab{p}": Multistep(p) for p in (1, 2, 3, 4)},
    **{f"ab{p}_corrected": Multistep(p, corrector=True) for p in (1, 2, 3, 4)},
    "heun": Heun(),
}
ALL = {**DETERMINISTIC, "ddim_eta_half": DDIM(0.5), "ancestral": Ancestral()}
by_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
by_grid = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())

# --- order of convergence on the mixture: sigma from 10 to 0.05, uniform in log-SNR ---

SIGMA_START, SIGMA_END = 10.0, 0.05
PROCESS = VarianceExploding(sigma_min=SIGMA_END, sigma_max=SIGMA_START)


def geometric(n: int) -> Grid:
    sigma = np.geomspace(SIGMA_START, SIGMA_END, n + 1)
    return explicit_grid(PROCESS, (1.0, *(sigma[1:] / SIGMA_START)))


@cache
def start_and_truth():
    """Return noise and the exact end of its ODE dx/d ln(1/sigma) = D - x, by scipy's Runge-Kutta of order 8."""
    denoiser = MixtureDenoiser(PROCESS)
    x = PROCESS.noise((128, 8), torch.Generator().manual_seed(1), dtype=torch.float64)

    def slope(log_snr, flat):
        state = torch.from_numpy(flat).reshape(x.shape)
        return (denoiser(state, math.exp(-log_snr) / SIGMA_START) - state).reshape(-1).numpy()

    span = (-math.log(SIGMA_START), -math.log(SIGMA_END))
    solution = solve_ivp(slope, span, x.reshape(-1).numpy(), method="DOP853", rtol=1e-11, atol=1e-11)
    return x, torch.from_numpy(solution.y[:, -1]).reshape(x.shape)


@cache
def rmse(name: str, n: int) -> float:
    x, truth = start_and_truth()
    return float(
        (sample(MixtureDenoiser(PROCESS), x, geometric(n), DETERMINISTIC[name]) - truth).square().mean().sqrt()
    )


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("ddim", 0.7, 1.3),
        ("ab1", 0.7, 1.3),
        ("ab1_corrected", 1.9, 2.2),
        ("2m", 1.9, 2.1),
        ("ab2", 1.9, 2.1),
        ("heun", 1.9, 2.2),
        ("ab2_corrected", 2.8, 3.2),
        ("ab3", 1.7, 2.3),  # the uncorrected first step holds it at two
        ("ab4", 1.7, 2.3),
        ("ab3_corrected", 2.9, 4.3),  # four until the corrected first step holds it at three
        ("ab4_corrected", 2.9, 5.3),
    ],
)
def test_solver_converges_on_the_mixture_at_its_documented_order(name, low, high):
    order = math.log2(rmse(name, 160) / rmse(name, 320))
    assert low <= order <= high


def test_errors_on_the_mixture_are_at_the_measured_levels():
    """Within a factor 3 of another implementation on another mixture of the same kind."""
    published = {
        "ddim": (0.277, 0.109, 0.0025),
        "2m": (0.126, 0.037, 3.2e-5),
        "ab2": (0.130, 0.046, 3.0e-5),
        "ab2_corrected": (0.085, 0.041, 1.4e-6),
    }
    for name, errors in published.items():
        for n, expected in zip((5, 10, 320), errors, strict=True):
            assert expected / 3 < rmse(name, n) < expected * 3, (name, n)


def test_each_device_of_the_solver_lowers_the_error_at_forty_calls():
    assert rmse("ab2_corrected", 40) < 0.4 * rmse("ab2", 40) < 0.4 * 0.1 * rmse("ddim", 40)
    assert rmse("ab3_corrected", 40) < rmse("ab2_corrected", 40)


# --- the coefficients themselves ---


@given(
    st.lists(st.floats(0.05, 3), min_size=1, max_size=4),
    st.floats(0.01, 12),
    st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_weights_integrate_polynomials_exactly(gaps, h, degree):
    nodes = [2.0 - sum(gaps[:i]) for i in range(len(gaps))]
    degree = min(degree, len(nodes) - 1)
    weights = exponential_weights(nodes, nodes[0], nodes[0] + h, 0.7)
    mine = sum(w * (node - nodes[0]) ** degree for w, node in zip(weights, nodes, strict=True))
    exact = 0.7 * quad(lambda u: math.exp(u - h) * u**degree, 0, h, epsabs=1e-13, epsrel=1e-12)[0]
    assert mine == pytest.approx(exact, rel=1e-7, abs=1e-10)


@by_process
@by_grid
def test_multistep_of_order_one_is_ddim(process, grid):
    x = process.noise((4, 3), torch.Generator().manual_seed(0), dtype=torch.float64)
    denoiser = GaussianDenoiser(process)
    one, other = (sample(denoiser, x, grid(process, 9), solver) for solver in (Multistep(1), DDIM()))
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


@by_process
@by_grid
def test_ancestral_is_ddim_with_all_noise_fresh(process, grid):
    levels = grid(process, 13)
    for mine, other in zip(Ancestral().plan(levels).updates, DDIM(1.0).plan(levels).updates, strict=True):
        assert mine.t == other.t
        assert (mine.gain, mine.weights[0], mine.noise) == pytest.approx(
            (other.gain, other.weights[0], other.noise), rel=1e-6, abs=1e-9
        )


# --- Gaussian data N(0.5, 0.2^2): every solver is affine, so its result is known in closed form ---

COUNTS = [4, 10, 64, 100, 128, 256, 1000]


def affine(denoiser, grid, solver):
    """Return the mean and slope of a deterministic sampling, from its values at 0 and 1."""
    low, high = sample(denoiser, torch.tensor([[0.0], [1.0]], dtype=torch.float64), grid, solver)
    return float(low), float(high - low)


@pytest.mark.parametrize("n", COUNTS)
@by_grid
@by_process
def test_ddim_on_gaussian_data_has_the_moments_of_its_formula(process, grid, n):
    levels = grid(process, n)
    mean, slope = affine(GaussianDenoiser(process), levels, DDIM())
    expected_mean, expected_std = ddim_moments(levels.alpha, levels.sigma, process.start_std())
    assert mean == pytest.approx(expected_mean, abs=1e-9)
    assert slope * process.start_std() == pytest.approx(expected_std, rel=1e-9)


def test_ddim_has_the_spread_that_was_computed_independently_for_this_grid():
    """N(0.5, 0.2^2), beta 1e-4..0.02, levels 999..0 evenly: three decimals from another derivation."""
    process = PROCESSES["vp_table_linear"]
    published = {4: 0.037, 10: 0.098, 64: 0.181, 100: 0.187, 128: 0.190, 256: 0.195}
    for n, std in published.items():
        mean, slope = affine(GaussianDenoiser(process), uniform_grid(process, n), DDIM())
        assert slope == pytest.approx(std, abs=6e-4)
        assert mean == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("n", [64, 128, 256, 1000])
@by_process
def test_second_order_reaches_the_posterior_spread_on_log_snr_grids(process, n):
    levels = GRIDS["log_snr"](process, n)
    _, slope = affine(GaussianDenoiser(process), levels, Multistep(2, corrector=True))
    exact = 0.2 * process.start_std() / math.hypot(0.2 * float(process.alpha(1.0)), float(process.sigma(1.0)))
    residual = float(process.sigma(process.t_min)) / 0.2  # what the last denoise takes away, relative
    assert slope * process.start_std() == pytest.approx(exact, rel=residual**2 + 8 / n**2)


@pytest.mark.parametrize("n", COUNTS)
@by_grid
@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_stochastic_plans_have_the_moments_of_their_recursion(grid, eta, n):
    process = PROCESSES["vp_table_squaredcos_cap_v2"]
    levels = grid(process, n)
    plan = (Ancestral() if eta == 1 else DDIM(eta)).plan(levels)
    mean, variance = 0.0, process.start_std() ** 2
    for s, update in enumerate(plan.updates):
        a, v = levels.alpha[s], levels.sigma[s] ** 2
        slope, shift = a * 0.04 / (a**2 * 0.04 + v), v * 0.5 / (a**2 * 0.04 + v)
        gain = update.gain + update.weights[0] * slope
        mean, variance = gain * mean + update.weights[0] * shift, gain**2 * variance + update.noise**2
    expected_mean, expected_std = ddim_moments(levels.alpha, levels.sigma, process.start_std(), eta=eta)
    assert mean == pytest.approx(expected_mean, abs=1e-7)
    assert math.sqrt(variance) == pytest.approx(expected_std, rel=1e-6)


@pytest.mark.parametrize("n", [4, 10, 64])
@by_process
def test_ancestral_samples_have_the_spread_of_the_recursion(process, n):
    levels, generator = trailing_grid(process, n), torch.Generator().manual_seed(0)
    x = process.noise((100_000, 1), generator, dtype=torch.float64)
    result = sample(GaussianDenoiser(process), x, levels, Ancestral(), generator=generator)
    mean, std = ddim_moments(levels.alpha, levels.sigma, process.start_std(), eta=1.0)
    assert float(result.std()) == pytest.approx(std, rel=4 / math.sqrt(2e5))
    assert float(result.mean()) == pytest.approx(mean, abs=4 * std / math.sqrt(1e5))


def test_ancestral_with_all_steps_has_the_spread_of_the_data():
    process = PROCESSES["vp_table_linear"]
    levels = trailing_grid(process, 1000)
    _, std = ddim_moments(levels.alpha, levels.sigma, 1.0, eta=1.0)
    assert std == pytest.approx(0.2, rel=0.02)


# --- every process, grid, solver and number of steps ---


@by_grid
@by_process
@pytest.mark.parametrize("solver", ALL.values(), ids=ALL.keys())
def test_result_is_finite_for_every_number_of_steps(process, grid, solver):
    denoiser, generator = GaussianDenoiser(process), torch.Generator().manual_seed(0)
    x = process.noise((2, 3), generator)
    for n in range(1, 51):
        result = sample(denoiser, x, grid(process, n), solver, generator=generator)
        assert torch.isfinite(result).all(), n
        assert result.dtype == torch.float32
        assert result.abs().max() < 30, n


@given(st.sampled_from(list(PROCESSES)), st.lists(st.integers(1, 10**6), min_size=1, max_size=12, unique=True),
       st.booleans())  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_first_order_step_scales_between_noise_and_data_on_any_nodes(name, ticks, to_data):
    """Each step mixes x0 and eps with positive weights, so its slope lies between the ratios of sigma and of alpha."""
    process = PROCESSES[name]
    times = [tick / 10**6 for tick in sorted(ticks, reverse=True)]
    grid = explicit_grid(process, (*times, 0.0) if to_data or len(times) == 1 else times)
    _, slope = affine(GaussianDenoiser(process), grid, DDIM())
    highest = grid.alpha[-1] / grid.alpha[0] if grid.alpha[0] else math.inf
    assert grid.sigma[-1] / grid.sigma[0] - 1e-9 <= slope <= highest * (1 + 1e-9)


@pytest.mark.parametrize("solver", ALL.values(), ids=ALL.keys())
def test_complex_double_and_single_precision_agree(solver):
    process = PROCESSES["vp_linear"]
    x = process.noise((3, 2), torch.Generator().manual_seed(0), dtype=torch.complex128)
    grid = GRIDS["log_snr"](process, 6)

    def draw(start):
        generator = torch.Generator().manual_seed(1)
        return sample(GaussianDenoiser(process, mean=0.0), start, grid, solver, generator=generator)

    assert draw(x).dtype == torch.complex128
    if solver in DETERMINISTIC.values():
        torch.testing.assert_close(draw(x.to(torch.complex64)), draw(x).to(torch.complex64), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(draw(x).real, draw(x.real.contiguous()), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Multistep(5), "order: found 5"),
        (lambda: Multistep(3, weights="midpoint"), "midpoint with order 3"),
        (lambda: Multistep(2, weights="lagrange"), "'lagrange'"),
        (lambda: DDIM(1.5), "eta: found 1.5"),
    ],
)
def test_wrong_solver_options_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


# --- polynomials: what each step must integrate without error, on uneven nodes of any process ---


def exact_increment(polynomial, grid: Grid, s: int, t: int) -> float:
    """Return alpha_t int exp(l - l_t) P(l) dl between two nodes, by scipy."""
    start, end = grid.log_snr[s], grid.log_snr[t]
    integrand = quad(lambda l_: math.exp(l_ - end) * polynomial(l_), start, end, epsabs=1e-13, epsrel=1e-12)
    return grid.alpha[t] * integrand[0]


@pytest.mark.parametrize("corrector", [False, True])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
@by_process
def test_multistep_integrates_polynomials_of_log_snr_exactly_on_uneven_nodes(process, order, corrector):
    """Steps with full history are exact for degree order - 1 (predictor) and order (corrector)."""
    grid = explicit_grid(process, (0.95, 0.9, 0.7, 0.62, 0.4, 0.33, 0.2, 0.17, 0.1))
    degree = order if corrector else order - 1
    polynomial = np.polynomial.Polynomial([0.3, -0.7, 0.4, 0.15, -0.05][: degree + 1])
    plan = Multistep(order, corrector).plan(grid)
    state = plan.start(torch.full((1, 1), 0.8, dtype=torch.float64))
    points = [state]
    for k in range(plan.calls):
        state = plan.advance(state, torch.full((1, 1), polynomial(grid.log_snr[k]), dtype=torch.float64))
        points.append(state)
    for k in range(order + 1, plan.calls - 1):
        ratio = grid.sigma[k + 1] / grid.sigma[k]
        start, end = (points[k + 1].anchor, points[k + 2].anchor) if corrector else (points[k].x, points[k + 1].x)
        if end is not None:
            increment = float(end - ratio * start)
            assert increment == pytest.approx(exact_increment(polynomial, grid, k, k + 1), rel=1e-9, abs=1e-11)


@by_process
def test_heun_integrates_lines_in_log_snr_exactly_on_uneven_nodes(process):
    grid = explicit_grid(process, (0.95, 0.7, 0.62, 0.2, 0.1))
    line = np.polynomial.Polynomial([0.3, -0.7])
    x = torch.full((1, 1), 0.8, dtype=torch.float64)

    def denoiser(x, t):
        return torch.full_like(x, line(float(process.log_snr(t))))

    expected = 0.8
    for k in range(grid.steps):
        expected = expected * grid.sigma[k + 1] / grid.sigma[k] + exact_increment(line, grid, k, k + 1)
    assert float(sample(denoiser, x, grid, Heun())) == pytest.approx(expected, rel=1e-9)
