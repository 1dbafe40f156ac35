"""Masks that were searched (ECAD) and trained (HarmoniCa), at the prices of uniform masks.

Each row is the best mask that costs at most what uniform reuse of interval 2 or 3 costs (in UNets the outermost level
is computed at every step). Beside its error stand those of the uniform mask and of fewer plain steps at most as dear
as the row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from shared.bench.case import Case, Row, measure, plain_row
from shared.reuse.ecad import best_within, ecad
from shared.reuse.harmonica import harmonica
from shared.reuse.mask import uniform
from shared.reuse.router import Training
from shared.reuse.schedule import ReuseSchedule, make_schedule
from shared.sampling import sample

CALLS = 20
INTERVALS = (2, 3)


@dataclass(frozen=True)
class Effort:
    """How long is searched and trained.

    Attributes:
        noises: of the search.
        population: masks in a generation of the search.
        generations: of the search of depths; that of free bits, which are more, takes four times as many.
        training: of each router.
        trials: routers for each price.
        routed: intervals at whose prices routers are trained.
    """

    noises: int
    population: int
    generations: int
    training: Training
    trials: int
    routed: tuple[int, ...] = INTERVALS


QUICK = Effort(8, 16, 5, Training(epochs=12, learning_rate=0.4, batch=4, refresh=6), trials=2, routed=(3,))
FULL = Effort(16, 24, 12, Training(epochs=40, learning_rate=0.15, batch=8, refresh=10), trials=4)


def rows(case: Case, *, quick: bool) -> list[Row]:
    """Return the rows of both methods; none for a case without a network.

    Args:
        case: what to measure on.
        quick: fewer masks and iterations.
    """
    if not case.blocks:
        return []
    effort = QUICK if quick else FULL
    denoiser, grid = case.networked, case.grid(CALLS)
    nested = hasattr(case.network, "down_blocks")
    asked = case.solver.plan(grid).asked
    front = ecad(
        denoiser, case.blocks, case.fit_noise(effort.noises), grid, case.solver, costs=case.costs, nested=nested,
        population=effort.population, generations=effort.generations * (1 if nested else 4),
    )  # fmt: skip
    found = []
    for interval in INTERVALS:
        mask = uniform(CALLS, len(case.blocks), interval, kept=[0] if nested else [])
        rival = make_schedule(
            denoiser, case.blocks, mask, grid, asked, shape=case.shape, costs=case.costs, producer=f"uniform {interval}"
        )
        other = _row(case, rival, rival.producer, "uniform")
        schedules = {"ECAD": best_within(front, rival.price)}
        if interval in effort.routed:
            schedules["HarmoniCa"] = harmonica(
                denoiser, case.blocks, grid, case.solver, price=rival.price, costs=case.costs, shape=case.shape,
                nested=nested, training=effort.training, trials=effort.trials,
            )  # fmt: skip
        for name, schedule in schedules.items():
            row = _row(case, schedule, f"{name}, at most uniform {interval}, {CALLS} calls", name.lower())
            plain = plain_row(case, max(1, math.floor(row.price + 1e-6)))
            row.extra.update(uniform_price=other.price, uniform_rmse=other.rmse, plain_rmse=plain.rmse)
            found.append(row)
    return found


def _row(case: Case, schedule: ReuseSchedule, method: str, family: str) -> Row:
    bound = schedule.bind(case.networked)
    return measure(case, method, lambda x: sample(bound, x, schedule.grid, case.solver), family=family)
