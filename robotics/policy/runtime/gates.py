r"""Which plans are refused, and commands that never leave their limits.

A command c_n with period h has the velocity v_n = (c_n - c_{n-1}) / h. Whatever is wished for, the next one obeys

    |v_n| <= velocity,    |v_n - v_{n-1}| <= a h,    low <= c_n <= high

(a: acceleration). All three at once are possible because no command comes nearer to a bound than it can brake before
it. The largest v with room g to the bound, after which v - a h, v - 2 a h, ... end there, is with D = g / (a h^2)

    v = a h (D / (m + 1) + m / 2),    m = floor((sqrt(1 + 8 D) - 1) / 2).

Without a limit of the acceleration a = 2 velocity / h, which allows any change from one tick to the next.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np

from robotics.policy.runtime.faults import Cause, Fault
from robotics.policy.runtime.settings import ActionLimit


class Limiter:
    """The last command and its velocity; each wish becomes the nearest allowed command.

    Args:
        limits: of each number of the action.
        period: h, seconds.
        first: command to begin with, at rest; it is brought into the range.
    """

    def __init__(self, limits: Sequence[ActionLimit], period: float, first: np.ndarray) -> None:
        self.period = period
        self.low, self.high = (np.array([getattr(limit, name) for limit in limits]) for name in ("low", "high"))
        self._fastest = np.array([limit.velocity for limit in limits])
        self._change = np.array(
            [2 * limit.velocity if limit.acceleration is None else limit.acceleration * period for limit in limits]
        )
        self._rest = np.array([np.nan if limit.hold is None else limit.hold for limit in limits])
        self.command = np.clip(np.asarray(first, dtype=np.float64), self.low, self.high)
        self.velocity = np.zeros_like(self.command)

    def toward(self, wish: np.ndarray) -> bool:
        """Move to a wished command (A,) as far as allowed; return whether it was reached."""
        self._move((wish - self.command) / self.period)
        return bool(np.abs(self.command - wish).max() <= 1e-6 * (self.high - self.low).max())

    def rest(self) -> None:
        """Decelerate to a standstill, or move to the hold action where there is one."""
        way = np.where(np.isnan(self._rest), 0.0, self._rest - self.command)
        self._move(np.sign(way) * self._speed(np.abs(way)))

    @property
    def resting(self) -> bool:
        """Return whether the command stands still, at the hold action where there is one."""
        there = np.isnan(self._rest) | np.isclose(self.command, self._rest)
        return bool(there.all() and not np.abs(self.velocity).max() > 1e-9 * self._fastest.max())

    def ahead(self, wishes: Sequence[np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the next `count` commands and velocities, each (count, A), if these are all the wishes: then rest."""
        copied = copy.copy(self)  # commands and velocities are replaced, never changed in place
        commands, velocities = [], []
        for place in range(count):
            if place < len(wishes):
                copied.toward(wishes[place])
            else:
                copied.rest()
            commands.append(copied.command)
            velocities.append(copied.velocity)
        shape = (count, len(self.command))
        return np.reshape(commands, shape), np.reshape(velocities, shape)

    def _speed(self, room: np.ndarray) -> np.ndarray:
        scaled = np.maximum(room, 0) / (self._change * self.period)
        m = np.floor((np.sqrt(1 + 8 * scaled) - 1) / 2)
        return self._change * (scaled / (m + 1) + m / 2)

    def _move(self, wished: np.ndarray) -> None:
        v = np.clip(wished, -self._fastest, self._fastest)
        v = np.clip(v, self.velocity - self._change, self.velocity + self._change)
        v = np.clip(v, -self._speed(self.command - self.low), self._speed(self.high - self.command))
        before = self.command
        self.command = np.clip(before + v * self.period, self.low, self.high)
        self.velocity = (self.command - before) / self.period


def refused(plan: np.ndarray, limits: Sequence[ActionLimit], slack: float) -> Fault | None:
    """Return why a plan (T, A) in units must not be used; None where it may.

    Args:
        plan: actions still to come.
        limits: of each number.
        slack: share of the range that an action may lie outside.
    """
    if not np.isfinite(plan).all():
        return Fault(Cause.PLAN_NOT_FINITE, detail=f"{int((~np.isfinite(plan)).sum())} of {plan.size} numbers")
    low, high = (np.array([getattr(limit, name) for limit in limits]) for name in ("low", "high"))
    outside = np.maximum(low - plan, plan - high) / (high - low)
    if outside.max() > slack:
        tick, action = np.unravel_index(outside.argmax(), outside.shape)
        return Fault(
            Cause.PLAN_RANGE,
            detail=f"action {action} is {plan[tick, action]:.4g}, not {low[action]:g} to {high[action]:g}",
        )
    return None
