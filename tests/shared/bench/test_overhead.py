"""The overhead benchmark measures every contestant and divides by the fastest scheduler of diffusers."""

from __future__ import annotations

import pytest

from shared.bench import overhead


def test_the_ratio_is_ours_over_the_fastest_multistep_scheduler(monkeypatch):
    monkeypatch.setattr(overhead, "QUICK_ROUNDS", 1)
    monkeypatch.setattr(overhead, "TURN", 2)
    numbers = overhead.overhead_numbers(quick=True)
    for prefix in ("overhead", "overhead.cold"):
        per_step = {name: numbers[f"{prefix}.us_per_step.{name}"] for name in overhead.PEERS}
        fastest = min(per_step.values())
        assert fastest > 0
        assert numbers[f"{prefix}.ratio_to_diffusers"] == pytest.approx(
            numbers[f"{prefix}.us_per_step.realtime"] / fastest
        )
        assert numbers[f"{prefix}.loop_ratio_to_diffusers"] == pytest.approx(
            numbers[f"{prefix}.us_per_step.loop"] / fastest
        )
