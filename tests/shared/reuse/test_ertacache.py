"""ERTACache and Step Rehash: masks from profiles by hand, exact rectification, and errors on noises not seen."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import shared.reuse.rectification as rectification_module
from shared import (
    DDIM,
    DPMSolver,
    Grid,
    Heun,
    InputError,
    Multistep,
    NetworkDenoiser,
    VariancePreserving,
    karras_grid,
    log_snr_grid,
    sample,
    trailing_grid,
    uniform_grid,
)
from shared.calibration.teacher import follow
from shared.digits import load_digits_denoiser
from shared.examples import labelled
from shared.reuse import Block, make_schedule, stack, unet_levels, uniform
from shared.reuse.ertacache import adjusted, ertacache, trust
from shared.reuse.profile import affordable, computed_within, profiled, step_mask, walk
from shared.reuse.rectification import rectification
from shared.reuse.step_rehash import accumulated, step_rehash
from tests.shared.reuse.networks import example, mlp

SOLVER = Multistep.dpm_solver_pp_2m()
PROCESS = VariancePreserving.linear()
PART = [Block("part", ("part",))]
few = settings(max_examples=25, deadline=None)


class Part(nn.Module):
    """size(time) v: a feature whose drift is known, whatever x is."""

    def __init__(self, size) -> None:
        super().__init__()
        self.size, self.v = size, nn.Parameter(torch.tensor([1.0, -2.0, 0.5, 3.0]), requires_grad=False)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.size(time)[:, None] * self.v


class Holder(nn.Module):
    def __init__(self, size) -> None:
        super().__init__()
        self.part = Part(size)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return 0.3 * x + self.part(x, time)


def holder(size) -> tuple[NetworkDenoiser, Tensor]:
    noise = PROCESS.noise((5, 4), torch.Generator().manual_seed(1), dtype=torch.float64)
    return NetworkDenoiser(Holder(size).double(), PROCESS, "sample"), noise


def rms(a: Tensor, b: Tensor) -> float:
    return float((a - b).double().square().mean().sqrt())


# --- profile and walk ---


def test_the_drift_is_the_relative_l1_change_of_the_features():
    denoiser, x = holder(lambda time: 1 + time)
    seen = profiled(denoiser, x, uniform_grid(PROCESS, 4), SOLVER, PART)
    size = [1 + float(denoiser.time_input(t)) for t in seen.asked]
    drift = seen.drifts()["0"]
    for k in range(4):
        for i in range(4):
            truth = abs(size[k] - size[i]) / size[i] if k < i else 0.0
            assert float(drift[k, i]) == pytest.approx(truth, rel=1e-9)
    assert torch.equal(seen.drifts()["mean"], drift)


def test_a_profile_is_the_plain_sampling():
    denoiser, blocks, shape = mlp()
    x, grid = denoiser.process.noise((4, *shape), torch.Generator().manual_seed(0)), trailing_grid(denoiser.process, 5)
    seen = profiled(denoiser, x, grid, SOLVER, blocks)
    assert torch.equal(seen.states[-1], sample(denoiser, x, grid, SOLVER))
    assert torch.equal(seen.states[0], x)
    assert (len(seen.states), len(seen.features), len(seen.features[0])) == (6, 5, 3)


def test_the_walk_compares_with_the_last_computed_step_not_the_last_step():
    drift = torch.zeros(4, 4)
    drift[0, 1], drift[0, 2], drift[0, 3], drift[1, 2], drift[2, 3] = 0.1, 0.3, 0.5, 0.1, 0.1
    assert walk(drift, 0.2) == [True, False, True, False]
    assert walk(drift, 0.4) == [True, False, False, True]
    assert walk(drift, 0.6) == [True, False, False, False]
    assert walk(drift, 0.0) == [True] * 4


@few
@given(steps=st.integers(1, 12), data=st.data())
def test_as_many_steps_are_computed_as_the_budget_allows(steps, data):
    budget = data.draw(st.integers(1, steps))
    seed = data.draw(st.integers(0, 99))
    change = torch.rand(steps, steps, generator=torch.Generator().manual_seed(seed)).triu(1)
    computed, _ = computed_within(change, budget)
    assert sum(computed) == budget
    assert computed[0]


@few
@given(steps=st.integers(2, 10), gamma=st.floats(0.01, 3))
def test_a_budget_that_a_threshold_meets_gives_the_mask_of_that_threshold(steps, gamma):
    """For a drift that grows with the distance, fewer computed steps always need a larger threshold."""
    index = torch.arange(steps, dtype=torch.float64) ** 1.5
    change = (index[None] - index[:, None]).triu()
    truth = walk(change, gamma)
    computed, found = computed_within(change, sum(truth))
    assert sum(walk(change, found)) <= sum(truth)
    assert computed == truth or found <= gamma


def test_the_price_buys_whole_steps():
    assert affordable(10.0, 20, [0.5, 0.5]) == 10
    assert affordable(10.0, 20, [0.25, 0.5]) == 6  # 20 * 0.25 + 6 * 0.75 = 9.5
    assert affordable(50.0, 20, [0.25, 0.5]) == 20
    with pytest.raises(InputError, match=r"expected 5\.75 or more for 20 steps"):
        affordable(5.0, 20, [0.25, 0.5])


# --- rectification ---


def test_rectification_is_exact_where_reused_features_are_a_multiple_of_the_true_ones(monkeypatch):
    """The part is size(time) v at every x: the gains are ratios of sizes, and the masked sampling is the plain one."""
    monkeypatch.setattr(rectification_module, "RIDGE", 1e-10)
    denoiser, x = holder(lambda time: 1 + time)
    grid = uniform_grid(PROCESS, 6)
    seen = profiled(denoiser, x, grid, SOLVER, PART)
    mask = step_mask([True, False, False, True, False, True], 1)
    gain, offset = rectification(denoiser, grid, SOLVER, PART, mask, seen.states)
    size = [1 + float(denoiser.time_input(t)) for t in seen.asked]
    truth = [1.0, size[1] / size[0], size[2] / size[0], 1.0, size[4] / size[3], 1.0]
    assert [row[0] for row in gain] == pytest.approx(truth, rel=1e-4)
    assert [row[0] for row in offset] == pytest.approx([0.0] * 6, abs=1e-4 * max(size))
    facts = {"shape": (4,), "costs": [0.5], "producer": "test", "predictor": "rectified"}
    made = make_schedule(denoiser, PART, mask, grid, seen.asked, gain=gain, offset=offset, **facts)
    torch.testing.assert_close(sample(made.bind(denoiser), x, grid, SOLVER), seen.states[-1], rtol=1e-4, atol=1e-4)


def test_the_student_of_the_fit_is_what_the_executor_does():
    """The error that the fit reports is that of the bound schedule on the same noises."""
    denoiser, blocks, shape = mlp()
    x, grid = denoiser.process.noise((8, *shape), torch.Generator().manual_seed(3)), trailing_grid(denoiser.process, 6)
    schedule = ertacache(denoiser, x, grid, SOLVER, blocks, price=3.5)
    assert schedule.predictor == "rectified"
    end = sample(denoiser, x, grid, SOLVER)
    error = rms(sample(schedule.bind(denoiser), x, schedule.grid, SOLVER), end)
    assert error == pytest.approx(schedule.measured["rmse_rectified"], rel=1e-6)
    assert error < schedule.measured["rmse_profiled"]


# --- adjustment of the steps ---


def test_adjusted_steps_are_those_computed_by_hand():
    grid = Grid(PROCESS, (1.0, 0.75, 0.5, 0.25, 0.0))
    assert adjusted(grid, [1.0] * 4).times == pytest.approx(grid.times)
    # du 1, then .5 of it; the remaining 2.5 over 2 steps, 1.25 each
    assert adjusted(grid, [1.0, 0.5, 1.0, 1.0]).times == pytest.approx((1.0, 0.75, 0.625, 0.3125, 0.0))


@few
@given(phi=st.lists(st.floats(0.1, 1), min_size=1, max_size=12))
def test_adjusted_grids_are_grids_with_the_same_ends(phi):
    times = adjusted(log_snr_grid(PROCESS, len(phi)), phi).times
    assert (times[0], times[-1], len(times)) == (1.0, 0.0, len(phi) + 1)
    assert all(a > b for a, b in pairwise(times))


def test_trust_is_whole_at_computed_steps_and_less_where_the_answer_is_off():
    top = float(PROCESS.network_time(1.0))
    denoiser, x = holder(lambda time: 1 + 0.005 * time / top)
    seen = profiled(denoiser, x, uniform_grid(PROCESS, 5), SOLVER, PART)
    phi = trust(denoiser, seen, PART, step_mask([True, False, True, True, False], 1))
    assert [phi[0], phi[2], phi[3]] == [1.0, 1.0, 1.0]
    for i in (1, 4):
        size = [1 + 0.005 * float(PROCESS.network_time(seen.asked[j])) / top for j in (i - 1, i)]
        wrong = 5 * 6.5 * (size[0] - size[1])  # 5 samples, |v|_1 = 6.5
        moved = float((seen.answers[i] - seen.answers[i - 1]).abs().sum())
        assert phi[i] == pytest.approx(1 - wrong / moved, rel=1e-6)
        assert 0.1 < phi[i] < 1


def test_an_adjusted_grid_is_kept_only_if_it_ends_closer():
    denoiser, blocks, shape = mlp()
    x, grid = denoiser.process.noise((8, *shape), torch.Generator().manual_seed(3)), trailing_grid(denoiser.process, 6)
    schedule = ertacache(denoiser, x, grid, DDIM(), blocks, price=3.5, rectify=False, adjust=True)
    kept = schedule.measured["rmse_adjusted"] < schedule.measured["rmse_profiled"]
    assert (schedule.times != grid.times) is kept
    end = sample(denoiser, x, grid, DDIM())
    error = rms(sample(schedule.bind(denoiser), x, schedule.grid, DDIM()), end)
    assert error == pytest.approx(min(schedule.measured["rmse_adjusted"], schedule.measured["rmse_profiled"]), rel=1e-6)


# --- on the trained digits network, noises not seen ---


@pytest.mark.parametrize(("steps", "exact"), [(10, False), (20, True)], ids=["plain sampling", "exact ODE"])
def test_rectified_is_no_worse_than_profiled_and_profiled_than_uniform_at_equal_evaluations(steps, exact):
    """Each is measured against what it comes back to: the plain sampling on the same grid, or the exact ODE."""
    denoiser = load_digits_denoiser()
    blocks, grid = stack(denoiser.network, "blocks"), karras_grid(denoiser.process, steps)
    x = denoiser.process.noise((32, 8, 8), torch.Generator().manual_seed(1))
    unseen = denoiser.process.noise((64, 8, 8), torch.Generator().manual_seed(10_000))
    targets = follow(denoiser, x, grid).states if exact else None
    truth = follow(denoiser, unseen, grid).states[-1] if exact else sample(denoiser, unseen, grid, SOLVER)
    rehash = step_rehash(denoiser, x, grid, SOLVER, blocks, price=affordable_price(steps))
    profile, rectified = (
        ertacache(denoiser, x, grid, SOLVER, blocks, price=rehash.price, rectify=rectify, targets=targets)
        for rectify in (False, True)
    )
    every_second = make_schedule(
        denoiser, blocks, uniform(steps, 4, 2), grid, profile.asked, shape=(8, 8), costs=profile.costs, producer="test"
    )
    assert rectified.predictor == "rectified"
    assert profile.mask == rectified.mask
    assert profile.price == rehash.price == pytest.approx(every_second.price)
    errors = [
        rms(sample(one.bind(denoiser), unseen, grid, SOLVER), truth)
        for one in (rectified, profile, rehash, every_second)
    ]
    assert errors == sorted(errors)
    assert errors[1] < 0.5 * errors[3]


def affordable_price(steps: int) -> float:
    """A price between those of steps // 2 and steps // 2 + 1 computed steps of the digits network."""
    return 0.55 * steps


# --- Step Rehash ---


def test_step_rehash_adds_up_the_changes_of_adjacent_steps():
    drift = torch.zeros(4, 4)
    drift[0, 1], drift[1, 2], drift[2, 3], drift[0, 2], drift[0, 3] = 1.0, 2.0, 4.0, 100.0, 100.0
    truth = torch.tensor([[0.0, 1, 3, 7], [0, 0, 2, 6], [0, 0, 0, 4], [0, 0, 0, 0]])
    torch.testing.assert_close(accumulated(drift), truth)


def test_a_feature_that_returns_is_reused_by_ertacache_and_not_by_step_rehash():
    """Sizes 3, 1, 3, 1, 3, 3, 3: what returns has no drift from the first step, but it changed on the way."""
    asked = SOLVER.plan(uniform_grid(PROCESS, 7)).asked
    times = torch.tensor([float(PROCESS.network_time(t)) for t in asked], dtype=torch.float64)
    sizes = torch.tensor([3.0, 1, 3, 1, 3, 3, 3], dtype=torch.float64)

    def size(time: Tensor) -> Tensor:
        return sizes[(time[:, None] - times[None]).abs().argmin(1)]

    denoiser, x = holder(size)
    grid = uniform_grid(PROCESS, 7)
    seen = profiled(denoiser, x, grid, SOLVER, PART)
    assert walk(seen.drifts()["0"], 0.1) == [True, True, True, True, True, False, False]
    rehash = walk(accumulated(seen.drifts()["0"]), 3.0)
    assert walk(seen.drifts()["0"], 3.0) == [True] + [False] * 6
    assert rehash == [True, False, False, True, False, False, False]


# --- any network, and bad input ---


def test_a_transformer_with_a_label_for_each_noise_and_a_unet_are_served():
    denoiser, blocks, shape = example("shared/digits_dit")
    x, grid = denoiser.process.noise((2, *shape), torch.Generator().manual_seed(0)), trailing_grid(denoiser.process, 3)
    each = labelled(denoiser, torch.tensor([3, 7]))
    schedule = ertacache(each, x, grid, SOLVER, blocks[:2], price=2.9)
    assert sum(row[0] for row in schedule.mask) == 2
    other = labelled(denoiser, torch.tensor([1]))
    assert torch.isfinite(sample(schedule.bind(other), x, schedule.grid, SOLVER)).all()
    denoiser, _, shape = example("shared/action_unet")
    blocks = unet_levels(denoiser.network)[1:]
    x, grid = denoiser.process.noise((2, *shape), torch.Generator().manual_seed(0)), trailing_grid(denoiser.process, 3)
    schedule = step_rehash(denoiser, x, grid, SOLVER, blocks, price=2.9)
    assert [row for row in schedule.mask if not all(row)] == [(False, False)]


def test_bad_input_is_refused():
    denoiser, blocks, shape = mlp()
    x, grid = denoiser.process.noise((2, *shape), torch.Generator().manual_seed(0)), trailing_grid(denoiser.process, 4)
    for method in (ertacache, step_rehash):
        with pytest.raises(InputError, match=r"price: found 0\.5"):
            method(denoiser, x, grid, SOLVER, blocks, price=0.5)
        with pytest.raises(InputError, match="one that draws noise"):
            method(denoiser, x, grid, DPMSolver(2, stochastic=True), blocks, price=3)
        with pytest.raises(InputError, match="no module called"):
            method(denoiser, x, grid, SOLVER, [Block("a", ("missing",))], price=3)
        with pytest.raises(InputError, match="a torch module"):
            method(denoiser.with_network(lambda x, t: x), x, grid, SOLVER, blocks, price=3)
    with pytest.raises(InputError, match="asks once a level"):
        ertacache(denoiser, x, grid, Heun(), blocks, price=3).bind(denoiser)
