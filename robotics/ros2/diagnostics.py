"""What the policy node tells about itself: the state for /diagnostics, and the runtime's messages in the log of ROS."""

from __future__ import annotations

import logging
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from robotics.policy.runtime.ladder import Rung
from robotics.policy.runtime.loop import ControlLoop

LEVELS = {
    Rung.FULL: DiagnosticStatus.OK,
    Rung.FEWER_CALLS: DiagnosticStatus.WARN,
    Rung.REST_OF_CHUNK: DiagnosticStatus.WARN,
    Rung.HOLD: DiagnosticStatus.ERROR,
    Rung.STOP: DiagnosticStatus.ERROR,
}


class RosLog(logging.Handler):
    """Messages of the runtime into the log of ROS.

    Args:
        logger: of the node.
    """

    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; whatever fails here must not reach the control thread."""
        try:
            if record.levelno >= logging.WARNING:  # rclpy wants one severity at each line of code
                self._logger.warning(record.getMessage())
            else:
                self._logger.info(record.getMessage())
        except Exception:
            self.handleError(record)


def status_of(
    *, problem: str, configured: bool, loop: ControlLoop | None, alive: bool, missing: list[str]
) -> tuple[Any, str, list[Any]]:
    """Return level, message and values of a node.

    Args:
        problem: why it could not be configured; "" where it could, or nobody tried.
        configured: whether it is.
        loop: of an active node.
        alive: whether its control thread runs.
        missing: topics that have given no sample.
    """
    if problem:
        return DiagnosticStatus.ERROR, problem, []
    if not configured:
        return DiagnosticStatus.STALE, "not configured", []
    if loop is None:
        return DiagnosticStatus.STALE, "not active", []
    values = [KeyValue(key=key, value=f"{value:.6g}") for key, value in loop.numbers().items()]
    rung = loop.ladder.rung
    if not alive:
        return DiagnosticStatus.ERROR, "the control thread has ended: see the output of the node", values
    if loop.statistics.commands == 0:
        return DiagnosticStatus.WARN, f"waits for {', '.join(missing)}", values
    if rung == Rung.STOP:
        return DiagnosticStatus.ERROR, f"{loop.ladder.why}; call ~/reset", values
    present = ", ".join(str(fault) for fault in loop.log.present)
    return LEVELS[rung], rung.name.lower() + (f": {present}" if present else ""), values
