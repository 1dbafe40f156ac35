"""What a loop did, in bounded memory: counts since the start and quantiles of the last samples."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np

from robotics.policy.runtime.faults import FaultLog
from robotics.policy.runtime.inference import Answer
from robotics.policy.runtime.ladder import Ladder, Rung

QUANTILES = (50, 95, 99)


class Statistics:
    """Counts and the last `history` samples of each latency.

    Args:
        history: samples kept.
        budget_s: a plan that took longer is an overrun.
    """

    def __init__(self, history: int, budget_s: float) -> None:
        self.budget = budget_s
        self.commands = self.missed = self.plans = self.refused = self.overruns = self.stopped_early = self.calls = 0
        self._late, self._send, self._plan, self._age = (deque[float](maxlen=history) for _ in range(4))

    def command(self, late: float, seconds: float, age: int | None) -> None:
        """Count a command.

        Args:
            late: seconds after its tick at which the loop was woken.
            seconds: from there until it was sent.
            age: ticks since the observation of its plan; None without a plan.
        """
        self.commands += 1
        self._late.append(late)
        self._send.append(seconds)
        if age is not None:
            self._age.append(age)

    def plan(self, answer: Answer, *, refused: bool) -> None:
        """Count a plan."""
        self.plans += 1
        self.refused += refused
        self.overruns += answer.seconds > self.budget
        self.stopped_early += not answer.complete and not answer.error
        self.calls += answer.calls
        self._plan.append(answer.seconds)

    def numbers(self, ladder: Ladder, log: FaultLog) -> dict[str, Any]:
        """Return everything as a flat mapping, times in milliseconds."""
        found: dict[str, Any] = {
            "commands": self.commands,
            "missed_ticks": self.missed,
            "plans": self.plans,
            "plans_refused": self.refused,
            "plans_stopped_early": self.stopped_early,
            "overruns": self.overruns,
            "calls_per_plan": self.calls / self.plans if self.plans else 0.0,
            **{f"rung_{rung.name.lower()}_ticks": ladder.ticks[rung] for rung in Rung},
            **{f"fault_ticks {cause.value}": count for cause, count in sorted(log.ticks.items())},
        }
        found |= quantiles("plan_ms", self._plan, 1000) | quantiles("tick_late_ms", self._late, 1000)
        return found | quantiles("command_ms", self._send, 1000) | quantiles("plan_age_ticks", self._age, 1)


def quantiles(name: str, samples: Iterable[float], scale: float) -> dict[str, float]:
    """Return the `QUANTILES` of samples times `scale`, called name_p50 and so on; nothing without samples."""
    values = scale * np.array(tuple(samples))
    return {f"{name}_p{q}": float(np.percentile(values, q)) for q in QUANTILES} if len(values) else {}
