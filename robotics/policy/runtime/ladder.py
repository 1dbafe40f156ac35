"""What is commanded when something fails, rung by rung.

| rung | command | left when |
| --- | --- | --- |
| full | of a new plan | - |
| fewer_calls | of a new plan whose sampling was stopped at its budget | a sampling comes to its end |
| rest_of_chunk | of an older plan, at its tick of now | a new plan is ready |
| hold | decelerates, then stays | a new plan is ready |
| stop | as hold | `reset`, and never on its own |

A hold that lasts too long becomes a stop.
"""

from __future__ import annotations

from collections import Counter
from enum import IntEnum

from robotics.policy.runtime.faults import Cause, Event, Fault, FaultLog


class Rung(IntEnum):
    """How far down."""

    FULL = 0
    FEWER_CALLS = 1
    REST_OF_CHUNK = 2
    HOLD = 3
    STOP = 4


class Ladder:
    """The rung of each tick.

    Args:
        patience: ticks of hold after which the loop stops.
        log: where changes are reported.

    Attributes:
        rung: of the last tick.
        ticks: spent on each rung.
        why: the last change.
    """

    def __init__(self, patience: int, log: FaultLog) -> None:
        self.rung, self.ticks, self.why = Rung.HOLD, Counter[Rung](), ""
        self._patience, self._log, self._held = patience, log, 0

    def settle(self, tick: int, wanted: Rung, faults: list[Fault], *, paused: bool = False) -> Rung:
        """Return the rung of a tick.

        Args:
            tick: its number.
            wanted: the highest that the plan allows.
            faults: of the tick; the worst becomes the cause of a change.
            paused: a hold on request, which does not become a stop.
        """
        self._held = self._held + 1 if wanted == Rung.HOLD and not paused else 0
        if self._held > self._patience:
            faults.append(Fault(Cause.NO_PLAN, detail=f"{self._held} ticks"))
            wanted = Rung.STOP
        wanted = max(wanted, Rung.STOP) if self.rung == Rung.STOP else wanted
        if wanted != self.rung:
            text = f"{self.rung.name.lower()} -> {wanted.name.lower()}"
            cause = faults[0] if faults else None
            if wanted > self.rung and cause is not None:
                text += ": " + ", ".join(map(str, faults))
            self._log.add(Event(tick, "rung", text, cause if wanted > self.rung else None, wanted))
            self.rung, self.why = wanted, text
        self.ticks[wanted] += 1
        return wanted

    def reset(self) -> None:
        """Leave a stop, for a hold until there is a plan."""
        self.rung, self._held = Rung.HOLD, 0
