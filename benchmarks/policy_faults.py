"""What a policy's runtime commands when something fails, and how fast it notices.

    python -m benchmarks.policy_faults [--json FILE]

One row a fault, in simulated time at 10 Hz: 30 healthy ticks, then the fault for 40 ticks, then health for 20. The
robot is that of the tests (tests/robotics/policy/simulated.py), which checks at every tick that exactly one command
was sent, finite, within range, velocity and acceleration.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import numpy as np
import torch

from robotics.policy.runtime.faults import Cause
from robotics.policy.runtime.ladder import Rung
from shared.numbers import write_numbers
from tests.robotics.policy.simulated import CALL_S, PERIOD, SETTINGS, Robot

BEGIN, DURING, AFTER = 30, 40, 20
Change = Callable[[Robot], None]


def slower(times: float) -> Change:
    """Return the fault of a sampling that takes so many budgets."""

    def change(robot: Robot) -> None:
        robot.call_s = times * SETTINGS.budget / 4

    return change


def clock_jump(seconds: float) -> Change:
    """Return the jump of the loop's clock during a sleep."""

    def change(robot: Robot) -> None:
        def jump() -> None:
            robot.clock_offset += seconds

        robot.on_sleep = jump

    return change


def stand_still(robot: Robot) -> None:
    """Let a sleep take 2 s too long."""
    robot.on_sleep = lambda: robot.advance(robot.true + 2.03)


def setting(name: str, value: object) -> Change:
    """Return the change of an attribute of the robot."""
    return lambda robot: setattr(robot, name, value)


FAULTS: tuple[tuple[str, Cause, Change], ...] = (
    ("sampling takes 2 budgets", Cause.DEADLINE, slower(1.99)),
    ("sampling takes 10 budgets (one call: two ticks)", Cause.LATE, slower(10)),
    ("one call takes 10 budgets", Cause.LATE, slower(40)),
    ("network hangs", Cause.LATE, slower(float("inf"))),
    ("network raises", Cause.NETWORK, setting("network_raises", True)),
    ("network answers NaN", Cause.PLAN_NOT_FINITE, setting("answer", lambda answer: answer * torch.nan)),
    ("plan out of range", Cause.PLAN_RANGE, setting("answer", lambda answer: answer + 30)),
    ("sensor killed", Cause.STALE, setting("sensor", None)),
    ("sensor frozen", Cause.FROZEN, setting("sensor", lambda tick: [BEGIN - 1])),
    ("sensor sends NaN", Cause.NOT_FINITE, setting("sensor", lambda tick: [np.nan])),
    ("sensor sends a wrong size", Cause.MALFORMED, setting("sensor", lambda tick: [tick, tick])),
    ("sensor's stamps an hour ahead", Cause.STAMP, setting("stamp_offset", 3600.0)),
    ("sensor's stamps an hour back", Cause.STAMP, setting("stamp_offset", -3600.0)),
    ("loop's clock an hour ahead", Cause.MISSED, clock_jump(3600)),
    ("loop's clock an hour back", Cause.CLOCK, clock_jump(-3600)),
    ("loop stands still for 2 s", Cause.MISSED, stand_still),
)


def told(rungs: list[Rung]) -> str:
    """Return runs of rungs: `full 2, hold 20`."""
    return ", ".join(f"{rung.name.lower()} {len(list(group))}" for rung, group in groupby(rungs))


def healthy(robot: Robot) -> None:
    """End every fault."""
    fresh = Robot(SETTINGS)
    for name in ("call_s", "network_raises", "answer", "sensor"):
        setattr(robot, name, getattr(fresh, name))
    robot.stamp_offset = None if robot.stamp_offset is None else 0.0


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=None)
    asked = parser.parse_args()
    numbers: dict[str, float] = {}
    print("| fault | told as | noticed after, ticks (s) | rungs of the 40 ticks | after it |")
    print("| --- | --- | --- | --- | --- |")
    for name, cause, change in FAULTS:
        robot = Robot(SETTINGS, stamp_offset=0.0 if cause == Cause.STAMP else None)
        robot.run(BEGIN)
        change(robot)
        begin = robot.true
        robot.run(DURING)
        place = next(
            place
            for place, event in enumerate(robot.loop.log.events)
            if event.kind == "fault" and event.fault.cause == cause and event.tick >= BEGIN
        )
        tick = robot.loop.log.events[place].tick
        command = next(place for place, command in enumerate(robot.commands) if command.tick == tick)
        seconds = robot.sent_at[command] - begin
        healthy(robot)
        robot.run(AFTER)
        rungs = robot.rungs()
        during, after = told(rungs[BEGIN:-AFTER]), told(rungs[-AFTER:])
        print(f"| {name} | {cause.value} | {command - BEGIN} ({seconds:.2f}) | {during} | {after} |")
        numbers[f"{name}: ticks to notice"] = command - BEGIN
        for rung in Rung:
            numbers[f"{name}: ticks of {rung.name.lower()}"] = rungs[BEGIN:-AFTER].count(rung)
    print(f"\nOne tick is {PERIOD} s, budget {SETTINGS.budget:.2f} s, a healthy call {1000 * CALL_S:.0f} ms.")
    if asked.json is not None:
        write_numbers(asked.json, numbers)


if __name__ == "__main__":
    main()
