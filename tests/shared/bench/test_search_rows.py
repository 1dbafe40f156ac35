"""Searched and trained masks in the bench: within the price of their rival, and better than it on held-out noises."""

import pytest

from shared.bench import search_rows
from shared.bench.case import load_case, plain_row
from shared.bench.search_rows import Effort, rows
from shared.reuse.router import Training


def test_masks_stay_within_the_price_of_uniform_reuse_and_beat_it_on_held_out_noises(monkeypatch):
    monkeypatch.setattr(search_rows, "CALLS", 10)
    training = Training(epochs=20, learning_rate=0.3, batch=8, refresh=10)
    monkeypatch.setattr(search_rows, "QUICK", Effort(8, 12, 3, training, trials=1, routed=(2,)))
    case = load_case("shared/digits_denoiser", quick=True)
    case.count, case.exact_steps = 32, 40
    found = {row.method: row for row in rows(case, quick=True)}
    assert list(found) == [
        "ECAD, at most uniform 2, 10 calls",
        "HarmoniCa, at most uniform 2, 10 calls",
        "ECAD, at most uniform 3, 10 calls",
    ]
    for method, row in found.items():
        computed = 5 if "uniform 2" in method else 4  # of ten steps
        rest = 1 - sum(case.costs)
        assert row.extra["uniform_price"] == pytest.approx(computed + (10 - computed) * rest, rel=1e-9)
        assert row.price <= row.extra["uniform_price"] + 1e-9
        assert row.rmse < row.extra["uniform_rmse"]
        assert row.extra["plain_rmse"] == plain_row(case, int(row.price)).rmse
        assert len(row.errors) == case.seeds


def test_an_exact_score_has_no_masks():
    assert rows(load_case("exact/mixture", quick=True), quick=True) == []
