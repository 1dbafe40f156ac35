"""EVODiff against a loop over single numbers, its measured order, and what it cannot do."""

from __future__ import annotations

import itertools
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
    Multistep,
    VarianceExploding,
    explicit_grid,
    log_snr_grid,
    sample,
    steps,
)
from tests.oracles.evodiff import evodiff
from tests.oracles.families import PROCESSES
from tests.oracles.gaussian import GaussianDenoiser
from tests.oracles.mixture import MixtureDenoiser


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("places", [(8,), (2, 4), (2, 2, 2)], ids=["1d", "2d", "3d"])
@pytest.mark.parametrize("name", ["ve_edm", "vp_linear", "vp_table_linear"])
def test_every_group_follows_the_released_recursion_number_by_number(name, places, per_channel):
    """Three channels; the denoiser mixes them, so the inner product of a wrong group shows."""
    process = PROCESSES[name]
    mixture = MixtureDenoiser(process)
    groups = (3, 8) if per_channel else (1, 24)

    def exact(x, t):
        return mixture(x.reshape(-1, 8), t).reshape(x.shape).roll(1, dims=1) * 0.5

    def plain(x, t):
        return exact(torch.tensor(x, dtype=torch.float64).reshape(1, 3, *places), t).reshape(groups).tolist()

    x = process.noise((2, 3, *places), torch.Generator().manual_seed(0), dtype=torch.float64)
    for n, final_rule, to_data in [*itertools.product((1, 2, 6), (True, False), (True, False)), (22, False, True)]:
        count = n if to_data else n + 1
        nodes = log_snr_grid(process, count).times[:-1]
        grid = explicit_grid(process, (*nodes, 0.0) if to_data else nodes)
        ours = sample(exact, x, grid, EVODiff(final_rule, per_channel))
        expected = evodiff(
            plain, x[1].reshape(groups).tolist(), nodes, grid.alpha[: len(nodes)], grid.sigma[: len(nodes)],
            final_rule=final_rule, to_data=to_data,
        )  # fmt: skip
        result = torch.tensor(expected, dtype=torch.float64).reshape(3, *places)
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


def spaced(n):
    """Nodes uniform in log_snr, without a step to data."""
    return explicit_grid(PROCESS, (1.0, *(np.geomspace(10, 0.05, n + 1)[1:] / 10)))


@cache
def rmse(solver, n):
    exact, x, truth = problem()
    return float((sample(exact, x, spaced(n), solver) - truth).square().mean().sqrt())


def test_without_the_final_rule_it_is_of_first_order_not_of_the_second_that_is_claimed():
    order = math.log2(rmse(EVODiff(final_rule=False), 80) / rmse(EVODiff(final_rule=False), 320)) / 2
    assert 0.6 < order < 1.2
    assert rmse(EVODiff(final_rule=False), 320) > 0.3 * rmse(DDIM(), 320)


def test_with_the_final_rule_more_steps_do_not_lower_the_error():
    errors = [rmse(EVODiff(), n) for n in (20, 80, 320)]
    assert max(errors) < 1.3 * min(errors)
    assert errors[-1] > 5 * rmse(DDIM(), 320)


def test_errors_of_another_implementation_on_an_unknown_mixture_are_of_the_size_of_those_on_random_mixtures():
    """It had 4 Gaussians in 8 dimensions and the same range of sigma, too, and ran the released rule."""
    errors = []
    for seed in range(4):
        means = torch.randn(4, 8, generator=torch.Generator().manual_seed(100 + seed), dtype=torch.float64)
        exact = MixtureDenoiser(PROCESS, means=means)
        x = PROCESS.noise((64, 8), torch.Generator().manual_seed(1), dtype=torch.float64)
        truth = sample(exact, x, spaced(80), Multistep(4, corrector=True))
        ends = [sample(exact, x, spaced(n), EVODiff()) for n in (5, 10, 20, 80)]
        errors.append([float((end - truth).square().mean().sqrt()) for end in ends])
    for theirs, *ours in zip((0.106, 0.071, 0.052, 0.055), *errors, strict=True):
        assert 0.9 * min(ours) < theirs < 1.1 * max(ours)
        assert max(ours) < 2 * min(ours)  # else the statement above says little


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
