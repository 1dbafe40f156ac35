"""Messages of several topics that belong to one moment, by their stamps.

The first topic leads: of its messages the newest one for which every other topic has a message within the slop is
taken, with the nearest of each, so equal stamps always go together. Everything up to these is forgotten, and a message
is used once. `message_filters` does much the same; it has no wheel.

A stamp that is more than a second older than the newest one of its topic means that time began again (a simulation, a
bag in a loop): everything is forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

AGAIN = 10**9  # ns that stamps must go back for time to have begun again


class Synchroniser:
    """Waiting messages.

    Args:
        names: of the topics, the leading one first.
        slop: largest difference from the leading stamp, s. Half of the period of the frames or more mixes frames.
        depth: messages kept of each topic.

    Attributes:
        unpaired: messages of the leading topic that were given up.
        since: of them, those after the last set.
    """

    def __init__(self, names: Sequence[str], slop: float, depth: int = 8) -> None:
        self.names, self.slop, self.depth = tuple(names), round(1e9 * slop), depth
        self.unpaired = self.since = 0
        self._waiting: dict[str, list[tuple[int, Any]]] = {name: [] for name in names}
        self._taken: dict[str, int] = {}
        self._newest: dict[str, int] = {}

    def clear(self) -> None:
        """Forget what waits and what was taken."""
        for waiting in self._waiting.values():
            waiting.clear()
        self._taken.clear()
        self._newest.clear()
        self.since = 0

    def add(self, name: str, stamp: int, message: Any) -> dict[str, Any] | None:
        """Take a message; return one of each topic if it completes a set.

        Args:
            name: of its topic.
            stamp: ns.
            message: anything.
        """
        # Each topic against itself: the clocks of two drivers may be years apart.
        if stamp < self._newest.get(name, stamp) - AGAIN:
            self.clear()
        self._newest[name] = max(stamp, self._newest.get(name, stamp))
        if stamp <= self._taken.get(name, stamp - 1):
            return None  # late: its set has been taken
        waiting = self._waiting[name]
        waiting.append((stamp, message))
        waiting.sort(key=_stamp)
        if len(waiting) > self.depth:
            del waiting[0]
            if name == self.names[0]:
                self._give_up(1)
        return self._take()

    def apart(self) -> float | None:
        """Return how far the newest stamps of the topics are apart, s; None while one has none."""
        if len(self._newest) < len(self.names):
            return None
        return 1e-9 * (max(self._newest.values()) - min(self._newest.values()))

    def _take(self) -> dict[str, Any] | None:
        first, *others = self.names
        for leading in reversed(self._waiting[first]):
            chosen = {first: leading}
            for name in others:
                near = min(self._waiting[name], key=lambda one: abs(one[0] - leading[0]), default=None)
                if near is None or abs(near[0] - leading[0]) > self.slop:
                    break
                chosen[name] = near
            else:
                self._forget(chosen)
                return {name: message for name, (_, message) in chosen.items()}
        return None

    def _forget(self, chosen: dict[str, tuple[int, Any]]) -> None:
        first = self.names[0]
        self._give_up(sum(stamp < chosen[first][0] for stamp, _ in self._waiting[first]))
        self.since = 0
        for name, (taken, _) in chosen.items():
            self._taken[name] = taken
            self._waiting[name] = [one for one in self._waiting[name] if one[0] > taken]

    def _give_up(self, count: int) -> None:
        self.unpaired += count
        self.since += count


def _stamp(one: tuple[int, Any]) -> int:
    return one[0]
