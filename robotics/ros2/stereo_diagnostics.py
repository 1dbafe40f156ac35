"""What the stereo node tells about itself in /diagnostics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from robotics.ros2.stereo_loop import FrameLoop


def stereo_status(
    *,
    problem: str,
    configured: bool,
    loop: FrameLoop | None,
    missing: Sequence[str],
    silent: Mapping[str, float],
    unpaired: str,
    findings: Sequence[str],
    numbers: Mapping[str, float],
) -> tuple[Any, str, list[Any]]:
    """Return level, message and values of a node; the first thing that is wrong gives level and message.

    Args:
        problem: why it could not be configured; "" where it could, or nobody tried.
        configured: whether it is.
        loop: of an active node.
        missing: topics that have given no message.
        silent: topics that have stopped, and for how many seconds.
        unpaired: why the topics' messages do not go together; "" where they do.
        findings: of the last look at a pair.
        numbers: beside those of the loop.
    """
    if problem:
        return DiagnosticStatus.ERROR, problem, []
    if not configured:
        return DiagnosticStatus.STALE, "not configured", []
    if loop is None:
        return DiagnosticStatus.STALE, "not active", []
    told = {**loop.numbers(), **numbers}
    values = [KeyValue(key=key, value=f"{value:.6g}") for key, value in told.items()]
    if not loop.alive:
        return DiagnosticStatus.ERROR, "the thread of the maps has ended: see the output of the node", values
    if missing:
        return DiagnosticStatus.WARN, f"waits for {', '.join(missing)}", values
    if silent:
        dead = ", ".join(f"{topic} for {seconds:.1f} s" for topic, seconds in silent.items())
        return DiagnosticStatus.ERROR, f"no message of {dead}", values
    if unpaired:  # before a refusal, which was that of an older frame
        return DiagnosticStatus.WARN, unpaired, values
    if loop.refused:
        return DiagnosticStatus.ERROR, loop.refused, values
    if findings:
        return DiagnosticStatus.WARN, "; ".join(findings), values
    return DiagnosticStatus.OK, "maps" if loop.frames_out else "the first map is being made", values
