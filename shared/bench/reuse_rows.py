"""Uniform reuse, Taylor-1, ERTACache and Step Rehash at equal numbers of computed steps, against fewer plain steps.

All reuse the same blocks (in UNets all but the outermost level) on the same grid, and compute them at as many steps as
uniform reuse of interval 2 or 3 does. Beside the error of each stands that of as many plain steps as its price buys.
"""

from __future__ import annotations

import math
from dataclasses import replace

from shared.bench.case import Case, Row, measure, plain_row
from shared.calibration.teacher import follow
from shared.reuse.ertacache import ertacache
from shared.reuse.mask import uniform
from shared.reuse.schedule import ReuseSchedule, make_schedule
from shared.reuse.step_rehash import step_rehash
from shared.sampling import sample

CALLS = 20
INTERVALS = (2, 3)
NOISES = 32
QUICK_NOISES = 16


def rows(case: Case, *, quick: bool) -> list[Row]:
    """Return the rows of these methods; none for a case without a network.

    Args:
        case: what to measure on.
        quick: fewer noises to fit on.
    """
    if not case.blocks:
        return []
    denoiser, grid, solver = case.networked, case.grid(CALLS), case.solver
    blocks = case.blocks[1:] if hasattr(case.network, "down_blocks") else case.blocks
    costs, asked = case.costs[len(case.blocks) - len(blocks) :], solver.plan(grid).asked
    x = case.fit_noise(QUICK_NOISES if quick else NOISES)
    exact = follow(denoiser, x, grid).states
    found = []
    for interval in INTERVALS:
        mask = uniform(CALLS, len(blocks), interval)
        reuse = make_schedule(
            denoiser, blocks, mask, grid, asked, shape=case.shape, costs=costs, producer=f"uniform {interval}"
        )
        schedules = {
            ("uniform", "uniform_reuse_and_taylor"): reuse,
            ("uniform, Taylor-1", "uniform_reuse_and_taylor"): replace(reuse, predictor="taylor"),
            ("Step Rehash", "step_rehash"): step_rehash(denoiser, x, grid, solver, blocks, price=reuse.price),
            ("ERTACache profiled", "ertacache"): ertacache(
                denoiser, x, grid, solver, blocks, price=reuse.price, rectify=False, targets=exact
            ),
            ("ERTACache rectified", "ertacache"): ertacache(
                denoiser, x, grid, solver, blocks, price=reuse.price, targets=exact
            ),
        }
        plain = plain_row(case, max(1, math.floor(reuse.price + 1e-6)))
        for (name, family), schedule in schedules.items():
            row = _row(case, schedule, f"{name}, {int(mask[:, 0].sum())} of {CALLS} calls computed", family)
            row.extra.update(plain_price=plain.price, plain_rmse=plain.rmse)
            found.append(row)
    return found


def _row(case: Case, schedule: ReuseSchedule, method: str, family: str) -> Row:
    bound = schedule.bind(case.networked)
    return measure(case, method, lambda x: sample(bound, x, schedule.grid, case.solver), family=family)
