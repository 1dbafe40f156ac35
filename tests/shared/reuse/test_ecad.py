"""ECAD: the front of the search against the front of all masks, and against uniform masks on other noises."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
import torch

from shared import Ledger, Multistep, karras_grid, sample, trailing_grid
from shared.digits import load_digits_denoiser
from shared.errors import InputError, MissingExtra
from shared.reuse import block_costs, price, stack, uniform
from shared.reuse.ecad import Genome, best_within, ecad, load_front, pareto_front, save_front
from shared.reuse.endpoint import Endpoint
from tests.shared.reuse.networks import mlp

SOLVER = Multistep.dpm_solver_pp_2m()


def problem(found, steps, count=4):
    """Return denoiser, blocks, noises, grid and costs of a small search."""
    denoiser, blocks, shape = found
    x = denoiser.process.noise((count, *shape), torch.Generator().manual_seed(1))
    costs, _ = block_costs(denoiser.network, blocks, x[:1], torch.ones(1), **denoiser.conditioning)
    return denoiser, blocks, x, trailing_grid(denoiser.process, steps), costs


def exhaustive_front(denoiser, blocks, x, grid, costs, masks):
    """Return (price, error) of every mask that no other mask beats, by comparing all pairs."""
    endpoint = Endpoint(denoiser, blocks, x, grid, SOLVER)
    points = [(price(mask, costs), endpoint.rmse(mask)) for mask in masks]
    return sorted(
        {(p, e) for p, e in points if not any(q <= p and f <= e and (q < p or f < e) for q, f in points)}
    )  # fmt: skip


@pytest.fixture
def asked(monkeypatch):
    """Return the list that every mask evaluated from now on is appended to."""
    masks = []
    plain = Endpoint.rmse

    def rmse(self, mask):
        masks.append(mask.numpy().tobytes())
        return plain(self, mask)

    monkeypatch.setattr(Endpoint, "rmse", rmse)
    return masks


def test_the_front_of_free_bits_is_the_front_of_all_masks_after_seeing_some_of_them(asked):
    denoiser, blocks, x, grid, costs = problem(mlp(), 4)
    front = ecad(denoiser, blocks, x, grid, SOLVER, costs=costs, population=32, generations=24)
    assert len(asked) < 0.75 * 512
    rows = itertools.product([False, True], repeat=9)
    masks = [torch.tensor([True] * 3 + list(row)).reshape(4, 3) for row in rows]
    found = [(schedule.price, schedule.measured["rmse"]) for schedule in front]
    truth = exhaustive_front(denoiser, blocks, x, grid, costs, masks)
    assert len(truth) > 5
    np.testing.assert_allclose(found, truth, rtol=1e-6, atol=1e-12)


def test_the_front_of_depths_is_the_front_of_all_nested_masks():
    denoiser, blocks, x, grid, costs = problem(mlp(), 4)
    front = ecad(denoiser, blocks, x, grid, SOLVER, costs=costs, nested=True, population=16, generations=8)
    masks = [
        torch.tensor([[level < depth for level in range(3)] for depth in (3, *depths)])
        for depths in itertools.product(range(4), repeat=3)
    ]
    found = [(schedule.price, schedule.measured["rmse"]) for schedule in front]
    truth = exhaustive_front(denoiser, blocks, x, grid, costs, masks)
    assert len(truth) > 5
    np.testing.assert_allclose(found, truth, rtol=1e-6, atol=1e-12)


@pytest.fixture(scope="module")
def digits():
    """A small search on the trained digits network, ten steps, 16 noises."""
    denoiser = load_digits_denoiser()
    blocks = stack(denoiser.network, "blocks")
    grid = karras_grid(denoiser.process, 10)
    x = denoiser.process.noise((16, 8, 8), torch.Generator().manual_seed(1))
    costs, _ = block_costs(denoiser.network, blocks, x[:1], torch.ones(1))
    front = ecad(denoiser, blocks, x, grid, SOLVER, costs=costs, population=16, generations=12)
    return denoiser, blocks, grid, costs, front


@pytest.mark.parametrize("kept", [(), (0,)])
@pytest.mark.parametrize("interval", [2, 3])
def test_on_held_out_noises_the_front_dominates_uniform_intervals(digits, interval, kept):
    denoiser, blocks, grid, costs, front = digits
    mask = uniform(10, len(blocks), interval, kept=kept)
    best = best_within(front, price(mask, costs))
    held_out = denoiser.process.noise((128, 8, 8), torch.Generator().manual_seed(10_000))
    endpoint = Endpoint(denoiser, blocks, held_out, grid, SOLVER)
    assert best.price <= price(mask, costs) + 1e-9
    assert endpoint.rmse(best.mask_tensor) < 0.75 * endpoint.rmse(mask)


def test_the_front_falls_and_is_bounded_by_the_plain_sampling(digits):
    *_, front = digits
    prices, errors = [s.price for s in front], [s.measured["rmse"] for s in front]
    assert prices == sorted(set(prices))
    assert errors == sorted(set(errors), reverse=True)
    assert front[-1].price == pytest.approx(10)
    assert errors[-1] == 0


def test_a_schedule_of_the_front_costs_its_price_and_errs_as_recorded(digits):
    denoiser, _, grid, _, front = digits
    x = denoiser.process.noise((16, 8, 8), torch.Generator().manual_seed(1))
    schedule = best_within(front, 6.0)
    full = sample(denoiser, x, grid, SOLVER)
    with Ledger(flops=True) as spent:
        end = sample(schedule.bind(denoiser), x, schedule.grid, SOLVER)
    with Ledger(flops=True) as plain:
        sample(denoiser, x, grid, SOLVER)
    assert schedule.price == pytest.approx(10 * spent.flops / plain.flops, rel=1e-9)
    assert schedule.measured["rmse"] == pytest.approx(float((end - full).double().square().mean().sqrt()), rel=1e-6)


def test_the_same_seed_finds_the_same_front_and_no_mask_is_sampled_twice(asked):
    denoiser, blocks, x, grid, costs = problem(mlp(), 4)
    fronts = []
    for _ in range(2):
        asked.clear()
        fronts.append(ecad(denoiser, blocks, x, grid, SOLVER, costs=costs, population=12, generations=8, seed=5))
        assert len(asked) == len(set(asked)) > 60
    assert fronts[0] == fronts[1]


def test_a_saved_front_is_read_back_and_a_search_from_it_only_gets_better(tmp_path):
    denoiser, blocks, x, grid, costs = problem(mlp(), 5)
    short = ecad(denoiser, blocks, x, grid, SOLVER, costs=costs, population=8, generations=2)
    save_front(short, tmp_path / "front")
    start = load_front(tmp_path / "front")
    assert start == short
    longer = ecad(denoiser, blocks, x, grid, SOLVER, costs=costs, population=8, generations=15, seed=1, start=start)
    gains = [s.measured["rmse"] - best_within(longer, s.price).measured["rmse"] for s in short]
    assert min(gains) >= 0
    assert max(gains) > 0


def test_taylor_prediction_can_be_searched_too():
    denoiser, blocks, x, grid, costs = problem(mlp(), 5)
    front = ecad(denoiser, blocks, x, grid, SOLVER, costs=costs, population=8, generations=4, predictor="taylor")
    end = sample(front[0].bind(denoiser), x, grid, SOLVER)
    full = sample(denoiser, x, grid, SOLVER)
    assert front[0].predictor == "taylor"
    assert front[0].measured["rmse"] == pytest.approx(float((end - full).double().square().mean().sqrt()), rel=1e-6)


@pytest.mark.parametrize("nested", [False, True])
def test_genes_and_masks_are_each_other(nested):
    genome = Genome(6, 3, nested)
    draw = np.random.default_rng(0)
    for _ in range(20):
        genes = draw.integers(0, genome.high + 1, genome.length)
        mask = genome.mask(genes)
        assert mask[0].all()
        np.testing.assert_array_equal(genome.genes(mask), genes)
        if nested:
            assert not (mask[:, 1:] & ~mask[:, :-1]).any()
    assert genome.length == (5 if nested else 15)


def test_the_pareto_front_leaves_out_what_is_beaten():
    known = {(0,): (1.0, 5.0), (1,): (2.0, 5.0), (2,): (2.0, 3.0), (3,): (4.0, 3.5), (4,): (5.0, 0.0), (5,): (5.0, 0.0)}
    assert pareto_front(known) == [(0,), (2,), (4,)]


def test_bad_input_is_one_clear_error(digits, tmp_path):
    *_, front = digits
    denoiser, blocks, x, grid, costs = problem(mlp(), 3)
    with pytest.raises(InputError, match="the cheapest of the front"):
        best_within(front, 0.5)
    with pytest.raises(InputError, match="latest or taylor"):
        ecad(denoiser, blocks, x, grid, SOLVER, costs=costs, predictor="magic")
    with pytest.raises(InputError, match="at least 4 masks"):
        ecad(denoiser, blocks, x, grid, SOLVER, costs=costs, population=2)
    with pytest.raises(InputError, match="at least 4 masks"):
        ecad(denoiser, blocks, x, trailing_grid(denoiser.process, 1), SOLVER, costs=costs)
    with pytest.raises(InputError, match="Count the same blocks"):
        ecad(denoiser, blocks, x, grid, SOLVER, costs=costs[:1])
    with pytest.raises(InputError, match=r"shape \(3, 3\)"):
        ecad(denoiser, blocks, x, grid, SOLVER, costs=costs, start=front)
    with pytest.raises(InputError, match="no schedules"):
        load_front(tmp_path)


def test_without_pymoo_the_extra_is_named(monkeypatch):
    denoiser, blocks, x, grid, costs = problem(mlp(), 3)
    monkeypatch.setitem(sys.modules, "pymoo.algorithms.moo.nsga2", None)
    with pytest.raises(MissingExtra, match=r"fewstep\[bench\]"):
        ecad(denoiser, blocks, x, grid, SOLVER, costs=costs)
