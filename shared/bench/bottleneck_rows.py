"""Bottleneck Sampling on the photo UNet, which was trained at 16 x 16 and at 8 x 8 of the same field of view.

It puts noise back, so it does not follow the ODE: its error against the exact end says nothing. What counts is the
energy distance to patches of the data, beside that of as many plain steps as its price buys, and of the same stages
with as many steps, all at full resolution.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from shared.bench.case import HELD_OUT_SEED, Case, Row, measure
from shared.bench.metrics import energy_distance
from shared.bottleneck import Stage, bottleneck_price, bottleneck_sample, high_low_high
from shared.examples.data import patches
from shared.grid import karras_grid
from shared.sampling import sample

CASE = "shared/photo_unet"
STEPS = (11, 17)
QUICK_STEPS = (11,)
TUNED = (1.0, 0.9, 0.75)
"""Strengths that were best on fitting noises among the published ones and two others, without shift."""
SAMPLES, SEEDS = 512, 3
QUICK_SAMPLES, QUICK_SEEDS = 128, 2
DATA = 2000


def rows(case: Case, *, quick: bool) -> list[Row]:
    """Return the rows of published and tuned strengths; none for a case of one resolution.

    Args:
        case: what to measure on.
        quick: fewer samples and steps.
    """
    if case.name != CASE:
        return []
    found = []
    for steps in QUICK_STEPS if quick else STEPS:
        published = high_low_high(steps)
        tuned = tuple(
            replace(stage, strength=strength, shift=1.0) for stage, strength in zip(published, TUNED, strict=True)
        )
        x = case.noise(1, 0)
        affordable = max(3, math.floor(bottleneck_price(case.denoiser, x, published) + 1e-6))
        counts = [stage.steps for stage in high_low_high(affordable)]
        plain = _distances(case, "plain_energy_distance", _plain(case, affordable), quick=quick)
        for name, stages in (("published", published), ("tuned", tuned)):
            whole = tuple(replace(stage, steps=n, size=1.0) for stage, n in zip(stages, counts, strict=True))
            draw = _drawn(case, stages)
            row = measure(case, f"Bottleneck {name}, {steps} calls", draw, family="bottleneck_sampling")
            row.extra.update(_distances(case, "energy_distance", draw, quick=quick))
            row.extra.update(plain)
            row.extra.update(_distances(case, "full_resolution_energy_distance", _drawn(case, whole), quick=quick))
            found.append(row)
    return found


def _drawn(case: Case, stages: tuple[Stage, ...]) -> Callable[[Tensor], Tensor]:
    def draw(x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(HELD_OUT_SEED)
        return bottleneck_sample(
            case.denoiser, x, case.process, stages, case.solver, generator=generator, grid=karras_grid
        )

    return draw


def _plain(case: Case, calls: int) -> Callable[[Tensor], Tensor]:
    grid = case.grid(calls)
    return lambda x: sample(case.denoiser, x, grid, case.solver)


def _distances(case: Case, name: str, draw: Callable[[Tensor], Tensor], *, quick: bool) -> dict[str, float]:
    """Return mean and spread over held-out seeds of the energy distance to patches drawn anew for each."""
    samples, seeds = (QUICK_SAMPLES, QUICK_SEEDS) if quick else (SAMPLES, SEEDS)
    found = []
    for seed in range(HELD_OUT_SEED, HELD_OUT_SEED + seeds):
        data = patches(DATA, torch.Generator().manual_seed(seed)).to(case.device)
        found.append(energy_distance(draw(case.noise(samples, seed)), data))
    return {name: statistics.mean(found), f"{name}_spread": statistics.stdev(found)}
