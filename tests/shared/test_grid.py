"""Grids: their formulas, their end at data, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared import (
    GRIDS,
    FlowMatching,
    Grid,
    InputError,
    VarianceExploding,
    VariancePreserving,
    ays_grid,
    karras_grid,
    log_snr_grid,
    polynomial_grid,
    truncated_power_grid,
)
from shared.published_nodes import AYS
from tests.oracles.families import PROCESSES

TABLE = PROCESSES["vp_table_linear"]


@pytest.mark.parametrize("n", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
def test_grids_start_at_noise_end_at_data_and_ask_n_times(process, grid, n):
    result = grid(process, n)
    assert result.steps == n
    assert result.times[0] == 1.0
    assert result.times[-1] == 0.0
    assert result.sigma[-1] == 0.0


def test_trailing_grid_has_the_timesteps_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(timestep_spacing="trailing")
    for n in (1, 4, 10, 16, 64, 300, 1000):
        scheduler.set_timesteps(n)
        asked = torch.tensor(GRIDS["trailing"](TABLE, n).times[:-1], dtype=torch.float64)
        np.testing.assert_array_equal(TABLE.network_time(asked).float().numpy(), scheduler.timesteps.numpy())


def test_log_snr_grid_is_uniform_in_log_snr():
    grid = log_snr_grid(TABLE, 12)
    np.testing.assert_allclose(np.diff(grid.log_snr[:-1], 2), 0, atol=1e-9)
    assert grid.times[-2] == pytest.approx(1e-3)


def test_karras_grid_is_equation_five_of_edm():
    sigma = karras_grid(VarianceExploding(0.002, 80.0), 9).sigma
    i = np.arange(9)
    expected = (80 ** (1 / 7) + i / 8 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(sigma[:-1], expected, rtol=1e-9)
    assert sigma[-1] == 0


def test_pure_noise_costs_one_call_only():
    grid = log_snr_grid(PROCESSES["flow"], 6)
    assert grid.log_snr[0] == -math.inf
    spacing = np.diff(grid.log_snr[1:-1])
    np.testing.assert_allclose(spacing, grid.log_snr[1] + 7.0, atol=1e-9)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ((1.0, 0.5, 0.5, 0.0), r"repeated nodes at indices 1-2"),
        ((1.0, 0.4, 0.6, 0.0), r"rising nodes at indices 1-2 \(0.4, 0.6\)"),
        ((0.0, 0.5, 1.0), r"rising nodes at indices 0-1 .*1-2"),
        ((1.0, float("nan"), 0.0), r"t = nan at index 1"),
        ((1.2, 0.0), r"t = 1.2 at index 0"),
        ((1.0,), r"1 nodes"),
    ],
)
def test_nodes_that_do_not_decrease_are_refused_with_their_places(times, message):
    with pytest.raises(InputError, match=message):
        Grid(TABLE, times)


def test_too_many_trailing_steps_and_no_steps_are_refused():
    with pytest.raises(InputError, match="at most 3"):
        GRIDS["trailing"](VariancePreserving.from_betas([0.1, 0.2, 0.3]), 4)
    for grid in GRIDS.values():
        with pytest.raises(InputError, match="0 steps"):
            grid(TABLE, 0)


@given(st.lists(st.floats(1e-4, 1), min_size=2, max_size=12, unique=True), st.floats(0.0002, 0.9999))
def test_a_warm_start_keeps_exactly_the_nodes_below_its_level(nodes, t):
    grid = Grid(TABLE, (*sorted(nodes, reverse=True), 0.0))
    warm = grid.from_time(t)
    assert warm.times[0] == t
    assert warm.times[1:] == tuple(node for node in grid.times if node < t)
    assert grid.from_index(1).times == grid.times[1:]


def kappa(grid):
    return np.exp(-np.array(grid.log_snr))


SD = PROCESSES["vp_table_scaled_linear"]
PUBLISHED_NODES = {
    ("sd15", 5): [14.6, 4.52, 1.96, 1.00, 0.502, 0.132],
    ("sd15", 6): [14.6, 5.34, 2.52, 1.39, 0.805, 0.437, 0.132],
    ("sd15", 8): [14.6, 6.71, 3.61, 2.17, 1.40, 0.937, 0.617, 0.373, 0.147],
    ("sdxl", 6): [14.6, 5.34, 2.52, 1.39, 0.805, 0.437, 0.132],
}


@pytest.mark.parametrize(("table", "calls"), PUBLISHED_NODES)
def test_truncated_power_grid_has_the_nodes_of_the_released_code(table, calls):
    grid = truncated_power_grid(SD, calls, table=table, denoise=False)
    np.testing.assert_allclose(kappa(grid), PUBLISHED_NODES[table, calls], rtol=4e-3)


@pytest.mark.parametrize("calls", [4, 5, 6, 8])
@pytest.mark.parametrize("table", ["sd15", "sdxl"])
def test_truncated_power_grid_is_its_formula_step_by_step(table, calls):
    """Written anew from the paper's recipe, with the beta table itself and interpolation in ln sigma."""
    n, rho, stop = {
        "sd15": {4: (8, 7, 6), 5: (8, 5, 6), 6: (8, 5, 6), 8: (12, 7, 9)},
        "sdxl": {4: (8, 7, 6), 5: (8, 5, 6), 6: (8, 5, 6), 8: (12, 12, 10)},
    }[table][calls]
    alpha2 = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    sigmas = np.sqrt((1 - alpha2) / alpha2)
    low, high = sigmas[0] ** (1 / rho), sigmas[-1] ** (1 / rho)
    end = (high + stop / (n - 1) * (low - high)) ** rho
    timestep = np.interp(np.log(end), np.log(sigmas), np.arange(1000))
    a, b = timestep ** (1 / 1.2), 999 ** (1 / 1.2)
    timesteps = [(b + i / calls * (a - b)) ** 1.2 for i in range(calls + 1)]
    raw = truncated_power_grid(SD, calls, table=table, denoise=False)
    np.testing.assert_allclose(
        np.array(raw.times) * 1000 - 1, timesteps, rtol=0, atol=0.05
    )  # of entries, between which ours is another line
    denoised = truncated_power_grid(SD, calls, table=table)
    timesteps = [(b + i / (calls - 1) * (a - b)) ** 1.2 for i in range(calls)]
    np.testing.assert_allclose(np.array(denoised.times[:-1]) * 1000 - 1, timesteps, rtol=0, atol=0.05)
    assert denoised.sigma[-1] == 0


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
@pytest.mark.parametrize("calls", [4, 5, 6, 8])
def test_truncated_power_grid_makes_that_many_calls_on_any_process(process, calls):
    raw, denoised = (truncated_power_grid(process, calls, denoise=flag) for flag in (False, True))
    assert raw.steps == denoised.steps == calls
    assert raw.times[0] == denoised.times[0] == 1.0
    assert raw.times[-1] == pytest.approx(denoised.times[-2])
    assert 0.01 < kappa(raw)[-1] < 0.6
    assert denoised.times[-1] == 0.0
    gaps = np.diff(np.array(raw.log_snr)[1:])
    assert gaps.max() < 6 * gaps.min()  # no process is left with one long step


@pytest.mark.parametrize("model", AYS)
def test_align_your_steps_has_the_constants_of_diffusers(model):
    schedules = pytest.importorskip("diffusers.schedulers").AysSchedules
    name = {"sd15": "StableDiffusionSigmas", "sdxl": "StableDiffusionXLSigmas", "svd": "StableDiffusionVideoSigmas"}
    process = VarianceExploding(0.002, 700.0)
    grid = ays_grid(process, 10, model=model)
    np.testing.assert_allclose(grid.sigma[1:], schedules[name[model]][1:], rtol=1e-9, atol=1e-12)
    assert grid.sigma[0] == 700.0


def test_align_your_steps_between_ten_calls_is_linear_in_the_logarithm():
    ten, nineteen = ays_grid(SD, 10), ays_grid(SD, 19)
    np.testing.assert_allclose(np.array(nineteen.log_snr[:-1:2]), ten.log_snr[:-1], rtol=1e-9, atol=1e-9)
    middles = (np.array(ten.log_snr[1:-1]) + np.array(ten.log_snr[:-2])) / 2
    np.testing.assert_allclose(np.array(nineteen.log_snr[1:-1:2]), middles, atol=1e-9)


def test_quadratic_grid_is_linear_in_the_square_root_of_time():
    grid = polynomial_grid(FlowMatching(), 8)
    np.testing.assert_allclose(np.diff(np.sqrt(grid.times[:-1]), 2), 0, atol=1e-12)
    assert grid.times[-2] == pytest.approx(FlowMatching().t_min)


def test_grids_of_tables_say_what_they_lack():
    with pytest.raises(InputError, match=r"found 7 calls; expected one of 4, 5, 6, 8"):
        truncated_power_grid(SD, 7)
    with pytest.raises(InputError, match="found flux; expected one of sd15, sdxl"):
        truncated_power_grid(SD, 5, table="flux")
    with pytest.raises(InputError, match=r"one above 54.5, the second level of svd"):
        ays_grid(SD, 10, model="svd")
    with pytest.raises(InputError, match="found 'flux'"):
        ays_grid(SD, 10, model="flux")
