"""Grids: their formulas, their end at data, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared import GRIDS, Grid, InputError, VarianceExploding, VariancePreserving, karras_grid, log_snr_grid
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
