"""EVODiff against a loop over single numbers, its measured order, and what it cannot do."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from shared import (
    DDIM,
    GRIDS,
    EVODiff,
    InputError,
    VarianceExploding,
    explicit_grid,
    log_snr_grid,
    sample,
    steps,
)
from tests.oracles.families import PROCESSES
from tests.oracles.gaussian import GaussianDenoiser
from tests.oracles.mixture import MixtureDenoiser


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def project(a, b):
    product = norm = 0.0
    for left, right in zip(a, b, strict=True):
        product += left * right
        norm += right * right
    return min(2.0, max(-2.0, product / norm)) if norm else 0.0


def reference(denoiser, x, times, alpha, sigma, *, final_rule, to_data):
    """The recursion of the authors, on a list of channels of a list of numbers, one channel at a time.

    `denoiser` maps all channels at once; x is a list of lists.
    """
    kappa = [s / a for s, a in zip(sigma, alpha, strict=True)]
    n, places, channels = len(times) - 1, range(len(x[0])), range(len(x))
    m1 = denoiser(x, times[0])
    if n == 0:
        return m1 if to_data else x
    h = 1 / kappa[1] - 1 / kappa[0]
    x = [[sigma[1] / sigma[0] * x[c][i] + sigma[1] * h * m1[c][i] for i in places] for c in channels]
    if n == 1:
        return denoiser(x, times[1]) if to_data else x
    m0 = denoiser(x, times[1])
    for k in range(2, n + 1):
        r, q = sigma[k] / sigma[k - 1], sigma[k - 1] / sigma[k - 2]
        h = 1 / kappa[k] - 1 / kappa[k - 1]
        x_e = [[r * x[c][i] + sigma[k] * h * m0[c][i] for i in places] for c in channels]
        if k == n and final_rule:
            g = 1 - 0.5 * math.sqrt(r) if r < 0.5 else 1 - 0.5 * math.sqrt(r - 0.5)
            keep = 1 - math.sqrt(sigma[k] * sigma[k - 1])
            x = [[keep * x_e[c][i] + 0.5 * sigma[k] * h * (m0[c][i] - g * m1[c][i]) for i in places] for c in channels]
            break
        b = math.sqrt(r / q)
        rho = math.log(kappa[k - 2] / kappa[k - 1]) / math.log(kappa[k - 1] / kappa[k])
        w = 0.5 * (1 - ((times[k] + times[-1]) / (times[0] + times[-1])) ** 2)
        beta1 = [(1 - w) * b + w * project(m0[c], m1[c]) for c in channels]
        d1 = [[m0[c][i] - beta1[c] * m1[c][i] for i in places] for c in channels]
        rho_i = [min(1.5 * rho, max(0.25 * rho, sigmoid(0.25 * abs(beta1[c])) * rho)) for c in channels]
        x_p = [[x_e[c][i] + 0.5 * sigma[k] * h * d1[c][i] / rho_i[c] for i in places] for c in channels]
        if k == n:
            x = x_p
            break
        m_plus = denoiser(x_p, times[k])
        for c in channels:
            beta2 = (1 - w) * b + w * project(m_plus[c], m0[c])
            d2 = [m_plus[c][i] - beta2 * m0[c][i] for i in places]
            plus = [rho * d2[i] / h + d1[c][i] / (rho * h) for i in places]
            minus = [rho * d2[i] / h - d1[c][i] / (rho * h) for i in places]
            eta = 0.5 * sigmoid(abs(0.5 * project(plus, minus)))
            total = [-eta / rho * d1[c][i] + rho * (1 - eta) * d2[i] for i in places]
            p = [x_p[c][i] - x_e[c][i] - 0.5 * sigma[k] * h * total[i] / rho_i[c] for i in places]
            zeta_star = abs(project(p, d1[c]) / (h * sigma[k]))
            if n <= 20:
                zeta = sigmoid(zeta_star - 0.5)
            else:
                slope = [(m0[c][i] - m1[c][i]) / h for i in places]
                zeta = sigmoid(-(zeta_star - 0.5) * sigmoid(project(m0[c], slope) * (2 - r**2)))
            x[c] = [x_e[c][i] + 0.5 * sigma[k] * h * total[i] / zeta for i in places]
        m1, m0 = m0, m_plus
    return denoiser(x, times[-1]) if to_data else x


@pytest.mark.parametrize("n", [1, 2, 3, 6, 21, 22])
@pytest.mark.parametrize("final_rule", [True, False])
@pytest.mark.parametrize("name", ["ve_edm", "vp_linear", "vp_table_linear"])
def test_each_channel_follows_the_released_recursion(name, final_rule, n):
    """Three channels of 2x4 places; the denoiser mixes them, so a channel's own inner product shows."""
    process = PROCESSES[name]
    mixture = MixtureDenoiser(process)

    def exact(x, t):
        return mixture(x.reshape(-1, 8), t).reshape(x.shape).roll(1, dims=1) * 0.5

    def plain(x, t):
        state = torch.tensor(x, dtype=torch.float64).reshape(1, 3, 2, 4)
        return exact(state, t).reshape(3, 8).tolist()

    x = process.noise((2, 3, 2, 4), torch.Generator().manual_seed(0), dtype=torch.float64)
    for to_data in (True, False):
        count = n if to_data else n + 1
        nodes = log_snr_grid(process, count).times[:-1]
        grid = explicit_grid(process, (*nodes, 0.0) if to_data else nodes)
        ours = sample(exact, x, grid, EVODiff(final_rule))
        expected = reference(
            plain, x[1].reshape(3, 8).tolist(), nodes, grid.alpha[: len(nodes)], grid.sigma[: len(nodes)],
            final_rule=final_rule, to_data=to_data,
        )  # fmt: skip
        result = torch.tensor(expected, dtype=torch.float64).reshape(3, 2, 4)
        torch.testing.assert_close(ours[1], result, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [(2, 8), (2, 1, 8), (2, 1, 2, 4), (2, 1, 2, 2, 2)])
def test_one_channel_is_the_same_in_any_number_of_dimensions(shape):
    process = VarianceExploding()
    mixture = MixtureDenoiser(process)
    x = process.noise((2, 8), torch.Generator().manual_seed(0), dtype=torch.float64)
    grid = log_snr_grid(process, 9)

    def exact(state, t):
        return mixture(state.reshape(-1, 8), t).reshape(state.shape)

    flat = sample(mixture, x, grid, EVODiff())
    torch.testing.assert_close(sample(exact, x.reshape(shape), grid, EVODiff()).reshape(2, 8), flat)
    # without a channel axis, (N, H, W) is one channel too when it is said
    whole = sample(exact, x.reshape(2, 4, 2), grid, EVODiff(per_channel=False)).reshape(2, 8)
    torch.testing.assert_close(whole, flat)
    split = sample(exact, x.reshape(2, 4, 2), grid, EVODiff()).reshape(2, 8)
    assert (split - flat).abs().max() > 1e-3


# --- order: the mixture of the other solvers' order test, sigma 10 to 0.05 ---

PROCESS = VarianceExploding(sigma_min=0.05, sigma_max=10.0)


@cache
def problem():
    exact = MixtureDenoiser(PROCESS)
    x = PROCESS.noise((128, 8), torch.Generator().manual_seed(1), dtype=torch.float64)

    def slope(log_snr, flat):
        state = torch.from_numpy(flat).reshape(x.shape)
        return (exact(state, math.exp(-log_snr) / 10) - state).reshape(-1).numpy()

    span = (-math.log(10), -math.log(0.05))
    end = solve_ivp(slope, span, x.reshape(-1).numpy(), method="DOP853", rtol=1e-10, atol=1e-10).y[:, -1]
    return exact, x, torch.from_numpy(end).reshape(x.shape)


@cache
def rmse(solver, n):
    exact, x, truth = problem()
    grid = explicit_grid(PROCESS, (1.0, *(np.geomspace(10, 0.05, n + 1)[1:] / 10)))
    return float((sample(exact, x, grid, solver) - truth).square().mean().sqrt())


def test_without_the_final_rule_it_is_of_first_order_not_of_the_second_that_is_claimed():
    order = math.log2(rmse(EVODiff(final_rule=False), 80) / rmse(EVODiff(final_rule=False), 320)) / 2
    assert 0.6 < order < 1.2
    assert rmse(EVODiff(final_rule=False), 320) > 0.3 * rmse(DDIM(), 320)


def test_with_the_final_rule_more_steps_do_not_lower_the_error():
    errors = [rmse(EVODiff(), n) for n in (20, 80, 320)]
    assert max(errors) < 1.3 * min(errors)
    assert errors[-1] > 5 * rmse(DDIM(), 320)


def test_errors_are_those_of_another_implementation_on_another_mixture_of_the_kind():
    """4 Gaussians in 8 dimensions; the released rule's plateau is a property of the rule, hence the narrow band."""
    released = {5: 0.106, 10: 0.071, 20: 0.052, 80: 0.055, 320: 0.061}
    without = {5: 0.102, 10: 0.031, 20: 0.026, 80: 0.0045, 320: 0.0012}
    for n, expected in released.items():
        assert expected / 1.25 < rmse(EVODiff(), n) < expected * 1.25, n
    for n, expected in without.items():
        assert expected / 3.6 < rmse(EVODiff(final_rule=False), n) < expected * 3.6, n


# --- guards and state ---


@pytest.mark.parametrize("final_rule", [True, False])
def test_zero_answers_do_not_divide_by_zero(final_rule):
    process = VarianceExploding()
    for n in (3, 8, 30):
        result = sample(lambda x, t: torch.zeros_like(x), torch.ones(2, 3, 4), log_snr_grid(process, n),
                        EVODiff(final_rule))  # fmt: skip
        assert torch.equal(result, torch.zeros(2, 3, 4))


def test_constant_answers_on_a_variance_exploding_process_give_the_step_of_ddim():
    """b = proj = 1, so every difference is zero."""
    process = VarianceExploding()
    grid = explicit_grid(process, log_snr_grid(process, 7).times[:-1])
    x = process.noise((2, 8), torch.Generator().manual_seed(0), dtype=torch.float64)
    data = torch.linspace(-1, 1, 16, dtype=torch.float64).reshape(2, 8)
    results = [sample(lambda x, t: data, x, grid, solver) for solver in (EVODiff(final_rule=False), DDIM())]
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.complex64, torch.complex128])
def test_dtype_of_the_noise_is_kept_and_inner_products_do_not_overflow_in_half(dtype):
    process = VarianceExploding()
    x = process.noise((2, 1, 4096), torch.Generator().manual_seed(0)).to(dtype)
    for state in steps(lambda x, t: (20 * torch.sign(x.real)).to(x.dtype), x, log_snr_grid(process, 7), EVODiff()):
        assert state.x.dtype == dtype
        assert torch.isfinite(state.x.abs()).all()


@pytest.mark.parametrize("final_rule", [True, False])
def test_state_selected_and_cloned_between_any_two_calls_goes_on_bitwise(final_rule):
    process = PROCESSES["vp_linear"]
    exact = MixtureDenoiser(process)
    x = process.noise((6, 8), torch.Generator().manual_seed(0))
    grid, solver, pick = log_snr_grid(process, 7), EVODiff(final_rule), torch.tensor([3, 3, 0, 5])
    plan = solver.plan(grid)
    whole = sample(exact, x, grid, solver)
    assert plan.asked == grid.times[:-1]
    for cut in range(plan.calls):
        state = plan.start(x.clone())
        for call in range(plan.calls):
            if call == cut:
                kept = state.select(pick).clone()
                state.x.fill_(0)  # the copy must not see it
                state = kept
            state = plan.advance(state, exact(state.x, state.t))
        assert torch.equal(state.x, whole[pick])
    with pytest.raises(InputError, match="7 calls made"):
        plan.advance(state, state.x)


@pytest.mark.parametrize("grid", [grid for name, grid in GRIDS.items() if name != "log_snr"])
def test_nodes_that_are_not_uniform_in_log_snr_are_refused(grid):
    with pytest.raises(InputError, match="uniform in log_snr: EVODiff diverges"):
        EVODiff().plan(grid(PROCESSES["vp_linear"], 8))


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
def test_result_is_finite_on_every_process_for_every_number_of_steps(process):
    x = process.noise((2, 3), torch.Generator().manual_seed(0))
    for n in range(1, 51):
        for solver in (EVODiff(), EVODiff(final_rule=False)):
            result = sample(GaussianDenoiser(process), x, log_snr_grid(process, n), solver)
            assert torch.isfinite(result).all(), n
            assert result.abs().max() < 30, n
