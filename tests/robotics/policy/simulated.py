"""A control loop in simulated time: a robot whose policy is known exactly, and everything that can fail, on demand.

The policy of `gaussian.py` observes the tick n and plans 0.5 sin(0.2 n) with a little noise, whatever the age of the
plan; so a command of another tick, or one that is re-timed, shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from robotics.policy.policy import Policy
from robotics.policy.rolling import RollingPolicy, Tick
from robotics.policy.runtime.faults import Cause
from robotics.policy.runtime.inference import Answer, Inference, Request
from robotics.policy.runtime.ladder import Rung
from robotics.policy.runtime.loop import Command, ControlLoop
from robotics.policy.runtime.pacing import Clock
from robotics.policy.runtime.settings import ActionLimit, RuntimeSettings, SensorLimit
from robotics.policy.warmstart import WarmStart
from tests.robotics.policy.gaussian import ACTIONS, gaussian_policy, mean_of

PERIOD = 0.1
VELOCITY, ACCELERATION, RANGE = 3.0, 40.0, 0.8
CALL_S = 0.006  # a warm sampling makes four, a cold one ten
LIMIT = ActionLimit(low=-RANGE, high=RANGE, velocity=VELOCITY, acceleration=ACCELERATION)
SETTINGS = RuntimeSettings(
    rate_hz=1 / PERIOD,
    actions=(LIMIT,) * ACTIONS,
    sensors={"tick": SensorLimit(max_age_s=0.25, frozen_s=0.35)},
)


class Network:
    """What makes a call of the network take time and fail in a chosen way."""

    def __init__(self, robot: Robot) -> None:
        self.robot = robot

    def call(self, answer: torch.Tensor) -> torch.Tensor:
        self.robot.worker.time += self.robot.call_s
        if self.robot.network_raises:
            raise RuntimeError("out of memory")
        return self.robot.answer(answer)


class FailingNetwork(torch.nn.Module, Network):
    """The network of the exact policy, failing."""

    def __init__(self, network: torch.nn.Module, robot: Robot) -> None:
        super().__init__()
        self.network, self.robot = network, robot

    def conditioning(self, observations: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.network.conditioning(observations)

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, **told: torch.Tensor) -> torch.Tensor:
        return self.call(self.network(sample, timestep, **told))


class Planner(Network):
    """A rolling policy without sampling, a hundred times faster: the means, after as many calls.

    A plan that starts from one that is not finite is not finite either, as in a sampling.
    """

    def __init__(self, policy: Policy, robot: Robot) -> None:
        super().__init__(robot)
        self.policy = policy
        self.reset()

    def reset(self) -> None:
        self.last = None

    def act(self, observations, *, executed, generator, until) -> Tick:
        warm, complete = self.last is not None, True
        last = self.last if warm else torch.zeros(1, *self.policy.shape)
        calls = 4 if warm else 10
        for made in range(1, calls + 1):
            plan = self.call(mean_of(observations[:, -1, 0]) + 0 * last)
            if made < calls and until(made):
                complete = False
                break
        self.last = plan
        return Tick(
            self.policy.chunk(plan), torch.tensor([made]), torch.tensor([warm]), torch.tensor([False]), complete
        )


class SimulatedWorker:
    """Draws a plan at once and hands it out when the simulated network would have ended."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now, self.time, self.infer = now, 0.0, None
        self.answer: Answer | None = None
        self.requests: list[Request] = []

    def submit(self, request: Request) -> bool:
        if self.answer is not None:
            return False
        self.requests.append(request)
        self.time = self.now()
        self.answer = self.infer(request)
        return True

    def poll(self) -> Answer | None:
        if self.answer is None or self.time > self.now():
            return None
        ready, self.answer = self.answer, None
        return ready

    def close(self) -> None: ...


class Robot:
    """The loop, its sensor and its clock. Attributes without underscore may be changed between ticks.

    Args:
        settings: of the loop.
        sampled: with the real rolling policy instead of `Planner`.
        stamp_offset: seconds from a sample to its stamp; None stamps nothing.
    """

    def __init__(
        self, settings: RuntimeSettings = SETTINGS, *, sampled: bool = False, stamp_offset: float | None = None
    ) -> None:
        self.true = -2 * PERIOD  # what a perfect clock shows
        self.clock_offset = 0.0  # of the loop's clock
        self.call_s = CALL_S
        self.network_raises = False
        self.answer: Callable[[torch.Tensor], torch.Tensor] = lambda answer: answer
        self.sensor: Callable[[float], object] | None = lambda tick: [tick]
        self.stamp_offset = stamp_offset
        self.on_sleep: Callable[[], None] | None = None
        self.send_raises = False
        self.commands: list[Command] = []
        self.sent_at: list[float] = []
        self._next_sample = -0.001 - PERIOD  # just before the ticks
        self.worker = SimulatedWorker(lambda: self.true)
        policy = gaussian_policy(0.005)
        rolling = Planner(policy, self)
        if sampled:
            policy.network = FailingNetwork(policy.network, self)
            rolling = RollingPolicy(policy, warm=WarmStart(levels=(20, 10, 4, 0)))
        generator = torch.Generator().manual_seed(0)
        self.inference = Inference(rolling, settings.budget, generator, clock=lambda: self.worker.time)
        self.worker.infer = self.inference
        self.loop = ControlLoop(
            policy.config, settings, self.worker, self._send, first=np.zeros(ACTIONS), clock=Clock(self.now, self.sleep)
        )
        self.advance(0.0)  # one sample before the first tick

    def now(self) -> float:
        return self.true + self.clock_offset

    def sleep(self, seconds: float) -> None:
        self.advance(self.true + max(seconds, 1e-9))
        if self.on_sleep is not None:
            hook, self.on_sleep = self.on_sleep, None
            hook()

    def advance(self, until: float) -> None:
        """Let the world go on, with its samples."""
        while self._next_sample <= until:
            self.true = self._next_sample
            if self.sensor is not None:
                stamp = None if self.stamp_offset is None else self.now() + self.stamp_offset
                self.loop.observe("tick", self.sensor(round((self.true + 0.001) / PERIOD)), stamp)
            self._next_sample += PERIOD
        self.true = until

    def _send(self, command: Command) -> None:
        if self.send_raises:
            raise OSError("bus off")
        self.commands.append(command)
        self.sent_at.append(self.true)

    def run(self, ticks: int) -> list[Command]:
        """Return the commands of the next ticks, which are checked to be one each, and safe."""
        begin = len(self.commands)
        for _ in range(ticks):
            self.loop.step()
        assert len(self.commands) == begin + ticks
        self.check()
        return self.commands[begin:]

    def check(self) -> None:
        """Check every command so far, independently of the loop's own limits."""
        tick_of = np.array([command.tick for command in self.commands])
        assert (np.diff(tick_of) >= 1).all()
        assert tick_of[-1] + 1 == len(self.commands) + self.loop.statistics.missed
        actions = np.stack([command.actions[0] for command in self.commands])
        assert np.isfinite(actions).all()
        assert np.abs(actions).max() <= RANGE
        velocity = np.diff(actions, axis=0, prepend=np.zeros((1, ACTIONS))) / PERIOD
        assert np.abs(velocity).max() <= VELOCITY * (1 + 1e-9)
        change = np.diff(velocity, axis=0, prepend=np.zeros((1, ACTIONS)))
        assert np.abs(change).max() <= ACCELERATION * PERIOD * (1 + 1e-9)

    def rungs(self, begin: int = 0) -> list[Rung]:
        return [command.rung for command in self.commands[begin:]]

    def noticed(self, cause: Cause, since: int) -> int:
        """Return the ticks from `since` to the event that reports the cause."""
        return next(
            event.tick - since
            for event in self.loop.log.events
            if event.kind == "fault" and event.fault.cause == cause and event.tick >= since
        )


def planned(tick: int) -> float:
    """Return what the policy means for a tick."""
    return 0.5 * math.sin(0.2 * tick)
