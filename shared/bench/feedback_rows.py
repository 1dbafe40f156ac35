"""Inner Loop Feedback beside plain reuse with the same mask and fewer plain steps.

In UNets the outermost level is computed at every step and the feedback corrects what it reads from below; in stacks
the last block is, and the feedback corrects what enters it. The price has the operations of the feedback in it.
"""

from __future__ import annotations

import math

from shared.bench.case import FIT_SEED, Case, Row, measure, plain_row
from shared.grid import Grid
from shared.reuse.feedback import FeedbackSchedule
from shared.reuse.feedback_training import FeedbackTraining, train_feedback
from shared.reuse.mask import uniform
from shared.reuse.schedule import ReuseSchedule
from shared.sampling import sample

MASKS = ((10, 2), (20, 3))
"""Calls and interval of the uniform masks."""
QUICK_MASKS = ((10, 2),)
FULL = FeedbackTraining(trajectories=40, seed=FIT_SEED)
QUICK = FeedbackTraining(trajectories=15, batch=16, rate=3e-3, gamma_rate=3e-2, seed=FIT_SEED)


def rows(case: Case, *, quick: bool) -> list[Row]:
    """Return a row for each mask; none for a case without a network.

    Args:
        case: what to measure on.
        quick: fewer masks and a shorter training.
    """
    if not case.blocks:
        return []
    kept = [0 if hasattr(case.network, "down_blocks") else len(case.blocks) - 1]
    found = []
    for calls, interval in QUICK_MASKS if quick else MASKS:
        grid = case.grid(calls)
        mask = uniform(calls, len(case.blocks), interval, kept=kept)
        trained = train_feedback(
            case.networked, case.blocks, mask, grid, case.solver, shape=case.shape, costs=case.costs,
            training=QUICK if quick else FULL,
        )  # fmt: skip
        method = f"Inner Loop Feedback, uniform {interval}, {calls} calls"
        reuse, fed = (_row(case, schedule, grid, method) for schedule in (trained.schedule, trained))
        plain = plain_row(case, max(1, math.floor(fed.price + 1e-6)))
        fed.extra.update(reuse_price=reuse.price, reuse_rmse=reuse.rmse, plain_price=plain.price, plain_rmse=plain.rmse)
        found.append(fed)
    return found


def _row(case: Case, schedule: ReuseSchedule | FeedbackSchedule, grid: Grid, method: str) -> Row:
    bound = schedule.bind(case.networked)
    return measure(case, method, lambda x: sample(bound, x, grid, case.solver), family="inner_loop_feedback")
