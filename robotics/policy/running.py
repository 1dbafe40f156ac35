"""One robot in one simulated world, commanded by the runtime: what `fewstep policy run` does.

In real time the loop wakes at the policy's rate, the network draws in its own thread within its budget, and the world
makes one step after each command; whatever is late is late as on a robot. As fast as possible, time is simulated, a
plan is drawn at once, never stopped, and counts from the next tick on: the same seed gives the same episode.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from robotics.policy.config import PolicyConfig
from robotics.policy.environments import World
from robotics.policy.policy import Policy
from robotics.policy.rolling import RollingPolicy
from robotics.policy.runtime.inference import Answer, Inference, Request, ThreadWorker, Worker
from robotics.policy.runtime.loop import ControlLoop
from robotics.policy.runtime.pacing import Clock
from robotics.policy.runtime.settings import ActionLimit, RuntimeSettings, SensorLimit
from shared.errors import InputError

OLDEST_S = 0.25  # an observation may be so old, and no younger than `OLDEST_TICKS`
OLDEST_TICKS = 3


class DirectWorker:
    """A worker that draws while it is asked.

    Args:
        answer: draws a plan.
    """

    def __init__(self, answer: Callable[[Request], Answer]) -> None:
        self._answer = answer
        self._ready: Answer | None = None

    def submit(self, request: Request) -> bool:
        """Draw a plan."""
        self._ready = self._answer(request)
        return True

    def poll(self) -> Answer | None:
        """Return the plan since the last call."""
        ready, self._ready = self._ready, None
        return ready

    def close(self) -> None:
        """Do nothing."""


class SimulatedTime:
    """Time that passes only where it is slept."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.clock = Clock(lambda: self.seconds, self.sleep)

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.seconds += seconds


def run(
    rolling: RollingPolicy,
    world: World,
    *,
    world_seed: int,
    seed: int = 0,
    ticks: int | None = None,
    execute: int = 1,
    budget_s: float | None = None,
    real_time: bool = True,
    watch: Callable[[World, int], None] | None = None,
) -> dict[str, Any]:
    """Run an episode until it is solved or over; return its numbers and the runtime's.

    Args:
        rolling: the policy, of one environment.
        world: is reset.
        world_seed: of the world.
        seed: of the policy's noise.
        ticks: longest episode; None is the world's own.
        execute: ticks between two requests of a chunk.
        budget_s: time of a chunk in real time; None is 0.8 of a tick.
        real_time: at the policy's rate; else as fast as possible.
        watch: told the world after the reset (tick 0) and after every tick.

    Raises:
        InputError: a world whose observations or actions are not the policy's.
    """
    policy, config = rolling.policy, rolling.policy.config
    first = world.reset(world_seed)
    seen = matched(config, first, world)
    settings = settings_of(policy, world, execute=execute, budget_s=budget_s)
    generator = torch.Generator().manual_seed(seed)
    inference = Inference(rolling, settings.budget if real_time else float("inf"), generator)
    inference.warm_up({name: np.stack([values] * config.chunk.observe)[None] for name, values in seen.items()})
    simulated = SimulatedTime()
    worker: Worker = ThreadWorker(inference) if real_time else DirectWorker(inference)
    loop = ControlLoop(
        config, settings, worker, lambda command: None, first=world.hold(first),
        clock=Clock() if real_time else simulated.clock,
    )  # fmt: skip
    rewards: list[float] = []
    solved = False
    try:
        _observe(loop, seen)
        if watch is not None:
            watch(world, 0)
        for tick in range(1, 1 + (ticks or world.steps)):
            command = loop.step()
            after, reward, solved = world.step(command.actions[0])
            simulated.sleep(settings.period / 2)  # what follows a command is not seen at its tick
            _observe(loop, matched(config, after, world))
            rewards.append(reward)
            if watch is not None:
                watch(world, tick)
            if solved or world.over:
                break
    finally:
        loop.worker.close()
    return {
        "score": max(rewards),
        "return": sum(rewards),
        "solved": solved,
        "ticks": len(rewards),
        "rate_hz": settings.rate_hz,
        "budget_ms": 1000 * settings.budget if real_time else float("inf"),
        **loop.numbers(),
    }


def matched(config: PolicyConfig, seen: Mapping[str, np.ndarray], world: World) -> dict[str, np.ndarray]:
    """Return the arrays that the policy observes, by its names; one array and one field need no common name.

    Raises:
        InputError: an array is absent or too small, or the actions are not as many as the policy's.
    """
    fields = config.observation
    named = {fields[0].name: next(iter(seen.values()))} if len(seen) == len(fields) == 1 else seen
    for field in fields:
        needed = field.size if field.columns is None else max(field.columns) + 1
        found = named.get(field.name)
        size = 0 if found is None else found.size
        if found is None or (size != needed if field.columns is None else size < needed):
            offered = ", ".join(f"{name} ({values.size})" for name, values in sorted(seen.items()))
            raise InputError(
                f"observation {field.name}", found=f"an environment that gives {offered}",
                expected=f"{needed} numbers of the name {field.name}", fix="Take the environment that the policy was "
                "trained for, or wrap it so that it gives these names.",
            )  # fmt: skip
    if len(world.limits[0]) != config.action.size:
        raise InputError(
            "action", found=f"an environment with {len(world.limits[0])} numbers an action",
            expected=f"{config.action.size}, those of the policy", fix="Take the environment that it was trained for.",
        )  # fmt: skip
    return {field.name: named[field.name] for field in fields}


def settings_of(policy: Policy, world: World, *, execute: int, budget_s: float | None) -> RuntimeSettings:
    """Return the runtime's settings in a simulation: the world's limits, and any change within a tick.

    Where the world has no bounds, those of the demonstrations are taken.

    Raises:
        InputError: an action without a range.
    """
    rate = policy.config.action.rate_hz
    spread = policy.action.statistics["min"].tolist(), policy.action.statistics["max"].tolist()
    limits: list[ActionLimit] = []
    for low, high, least, most, rest in zip(*world.limits, *spread, world.rest, strict=True):
        bottom = low if np.isfinite(low) else least
        top = high if np.isfinite(high) else most
        if not bottom < top:
            raise InputError(
                f"action {len(limits)}", found=f"{bottom:g} to {top:g}, from the environment or the demonstrations",
                expected="a range", fix="Give the action space of the environment bounds.",
            )  # fmt: skip
        limits.append(ActionLimit(low=bottom, high=top, velocity=(top - bottom) * rate, hold=rest))
    age = max(OLDEST_S, OLDEST_TICKS / rate)
    return RuntimeSettings(
        rate_hz=rate,
        actions=tuple(limits),
        sensors={field.name: SensorLimit(max_age_s=age) for field in policy.config.observation},
        execute=execute,
        budget_s=budget_s,
    )


def _observe(loop: ControlLoop, seen: Mapping[str, np.ndarray]) -> None:
    for name, values in seen.items():
        loop.observe(name, values)
