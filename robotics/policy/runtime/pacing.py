"""Ticks on an absolute grid: tick n is at start + n / rate, however long the ticks before it took.

Sleeps never add up. A tick whose time has passed is skipped and counted, so commands never come in a bunch. A clock
that goes back (a simulator that starts again, a clock that is not monotonic) gets a new start, so the loop goes on at
once instead of waiting for the old time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """A source of time; tests and simulators bring their own.

    Attributes:
        now: seconds.
        sleep: for so many seconds; it may return early.
    """

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class Beat:
    """A tick that is due.

    Attributes:
        tick: its number; it never falls.
        time: when it was woken.
        late: seconds after its time.
        missed: ticks skipped before it.
        back: seconds that the clock went back before it; 0 where it did not.
    """

    tick: int
    time: float
    late: float
    missed: int
    back: float


class Pace:
    """The grid.

    Args:
        period: seconds of a tick.
        clock: source of time; tick 0 is at the first `wait`.

    Attributes:
        tick: the next one.
    """

    def __init__(self, period: float, clock: Clock) -> None:
        self.period, self.clock = period, clock
        self.tick = 0
        self._start: float | None = None
        self._last = 0.0

    def wait(self) -> Beat:
        """Sleep until the next tick."""
        if self._start is None:
            self._start = self._last = self.clock.now()
        due = self._start + self.tick * self.period
        back, slept = 0.0, False
        while (now := self.clock.now()) < due or now < self._last:
            if now < self._last:
                back += self._last - now
                due = now if slept else now + self.period  # a command has just been sent: not another at once
                self._start = due - self.tick * self.period
            self._last = now
            self.clock.sleep(due - now)
            slept = True
        self._last = now
        # A rounding error of the clock must not skip a tick.
        missed = max(0, int((now - due) / self.period + 1e-9))
        tick = self.tick + missed
        self.tick = tick + 1
        return Beat(tick, now, now - due - missed * self.period, missed, back)
