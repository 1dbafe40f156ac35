"""What can go wrong, and how it is told: a fault is reported when it begins and when it is over, not at every tick."""

from __future__ import annotations

import logging
from collections import Counter, deque
from dataclasses import dataclass
from enum import Enum

logger = logging.getLogger(__name__)


class Cause(str, Enum):
    """Why a tick was not as planned."""

    STARTING = "no plan yet"
    DEADLINE = "the network was stopped at its budget"
    LATE = "the network is late"
    USED_UP = "the plan is used up"
    STALE = "stale sensor"
    FROZEN = "frozen sensor"
    NOT_FINITE = "NaN or infinity from a sensor"
    MALFORMED = "wrong size from a sensor"
    STAMP = "impossible time stamp from a sensor"
    PLAN_NOT_FINITE = "NaN or infinity in the plan"
    PLAN_RANGE = "plan out of range"
    LIMITED = "command limited"
    NETWORK = "the network failed"
    MISSED = "missed ticks"
    CLOCK = "the clock went back"
    SEND = "the command could not be sent"
    PAUSED = "paused"
    ASKED = "stop was asked for"
    NO_PLAN = "no plan for too long"


USUAL = (Cause.STARTING, Cause.PAUSED)
"""Causes that are no cause for worry."""


@dataclass(frozen=True)
class Fault:
    """A cause in a tick.

    Attributes:
        cause: its kind.
        source: the sensor, or "" where it has none.
        detail: numbers.
    """

    cause: Cause
    source: str = ""
    detail: str = ""

    def __str__(self) -> str:
        """Return a line for people."""
        named = f"{self.cause.value} {self.source}".strip()
        return f"{named} ({self.detail})" if self.detail else named


@dataclass(frozen=True)
class Event:
    """Something that the loop reports.

    Attributes:
        tick: when.
        kind: "fault", "over" (the fault has ended) or "rung".
        text: what, for people.
        fault: the fault; the cause of a change of rung; None for a return to health.
        rung: after the event.
    """

    tick: int
    kind: str
    text: str
    fault: Fault | None
    rung: int


class FaultLog:
    """Faults that are present, those that were, and how often: events and counts in bounded memory."""

    def __init__(self, history: int) -> None:
        self.events: deque[Event] = deque(maxlen=history)
        self.ticks: Counter[Cause] = Counter()
        self._present: dict[tuple[Cause, str], Fault] = {}

    @property
    def present(self) -> tuple[Fault, ...]:
        """Return the faults of the last tick."""
        return tuple(self._present.values())

    def tell(self, tick: int, faults: list[Fault], rung: int) -> None:
        """Take the faults of a tick; those that begin or end are reported."""
        now = {(fault.cause, fault.source): fault for fault in faults}
        for key, fault in now.items():
            self.ticks[fault.cause] += 1
            if key not in self._present:
                self.add(Event(tick, "fault", str(fault), fault, rung))
        for key, fault in self._present.items():
            if key not in now:
                self.add(Event(tick, "over", f"over: {fault}", fault, rung))
        self._present = now

    def add(self, event: Event) -> None:
        """Keep and log an event."""
        self.events.append(event)
        usual = event.fault is None or event.fault.cause in USUAL or event.kind == "over"
        logger.log(logging.INFO if usual else logging.WARNING, "tick %d: %s", event.tick, event.text)
