"""Frames to maps beside the callbacks: one frame is worked on, one may wait, and the newest wins.

A frame that comes while another waits takes its place, so no queue grows and a map is never older than the frame that
was being worked on when its own came. frames_in = frames_out + frames_dropped + frames_refused + (0, 1 or 2 inside).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from robotics.policy.runtime.statistics import quantiles
from shared.errors import FewstepError

HISTORY = 512  # latencies kept


class FrameLoop:
    """A thread that makes maps of the newest frame.

    Args:
        make: makes the map of a frame and sends it; returns whether it started from the last one. What it raises is
            counted, and told once. It and the next two are called by one thread.
        rest: called with the frame after its map, for what may take time but must delay no map more than once.
        forget: called before the first frame and after `restart`.
        tell: writes into the log why a frame was refused, unless the last one was for the same reason, or why `rest`
            failed.

    Attributes:
        frames_in: frames given.
        frames_out: maps made.
        frames_dropped: frames whose place a newer one took.
        frames_refused: frames without a map.
        refused: why the last frame was refused; "" if it was not.
    """

    def __init__(
        self,
        make: Callable[[Any], bool],
        rest: Callable[[Any], None],
        forget: Callable[[], None],
        tell: Callable[[str], None],
    ) -> None:
        self.frames_in = self.frames_out = self.frames_dropped = self.frames_refused = self.warm = 0
        self.refused = ""
        self._make, self._rest, self._forget, self._tell = make, rest, forget, tell
        self._latency: deque[float] = deque(maxlen=HISTORY)
        self._wake = threading.Condition()
        self._waiting: tuple[float, Any] | None = None
        self._closed, self._fresh = False, True
        # A daemon, because a hung network must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="fewstep stereo", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Return whether the thread runs."""
        return self._thread.is_alive()

    @property
    def closed(self) -> bool:
        """Return whether nobody waits for maps any more."""
        return self._closed

    def offer(self, frame: Any) -> None:
        """Give a frame; it never waits."""
        with self._wake:
            self.frames_in += 1
            self.frames_dropped += self._waiting is not None
            self._waiting = time.monotonic(), frame
            self._wake.notify()

    def restart(self) -> None:
        """Let the next frame start anew."""
        self._fresh = True

    def refuse(self, reason: str) -> None:
        """Tell why there is no map, unless it has just been told."""
        if reason != self.refused:
            self._tell(reason)
        self.refused = reason

    def close(self, patience_s: float = 5.0) -> None:
        """Work no more; a map being made is waited for so long."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join(patience_s)

    def numbers(self) -> dict[str, float]:
        """Return counts, the share of warm frames and quantiles of the time from a frame's arrival to its map, ms."""
        counts = {name: getattr(self, name) for name in ("frames_in", "frames_out", "frames_dropped", "frames_refused")}
        share = self.warm / self.frames_out if self.frames_out else 0.0
        return {**counts, "warm_share": share, **quantiles("latency_ms", tuple(self._latency), 1000)}

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._waiting is not None or self._closed)
                if self._closed:
                    return
                assert self._waiting is not None
                (arrived, frame), self._waiting = self._waiting, None
            self._work(arrived, frame)

    def _work(self, arrived: float, frame: Any) -> None:
        try:
            if self._fresh:
                self._fresh = False
                self._forget()
            warm = self._make(frame)
        except Exception as error:  # whatever fails, the next frame may be better, and the diagnostics say it
            self.frames_refused += 1
            self.refuse(_reason(error))
            return
        self._latency.append(time.monotonic() - arrived)
        self.refused = ""
        self.frames_out += 1
        self.warm += warm
        try:
            self._rest(frame)
        except Exception as error:  # the map is there
            self._tell(_reason(error))


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, FewstepError) else f"{type(error).__name__}: {error}"
