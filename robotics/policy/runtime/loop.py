"""The control loop: at every tick one safe command, chosen from what is ready, never waited for.

    loop = ControlLoop(policy.config, settings, ThreadWorker(Inference(rolling, settings.budget)), send, first=position)
    loop.observe("state", values, stamp)        # from the sensors' threads
    loop.run(stopped.is_set)                    # in the control thread

Tick n, in this order: the sensors are judged, a plan that has become ready is judged, the rung is chosen, one command
is sent, and, when the worker is free, the observation of tick n is handed to it. Its plan is used from tick n + 1 on:
entry i of a plan is the action of tick n + i, so a late plan begins at its entry of now and nothing is ever re-timed.

Signals of the loop are events (`log.events`) and log messages; only `send` is called.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from robotics.policy.config import PolicyConfig
from robotics.policy.runtime.buffers import Sensors
from robotics.policy.runtime.faults import Cause, Fault, FaultLog
from robotics.policy.runtime.gates import Limiter, refused
from robotics.policy.runtime.inference import Answer, Request, Worker
from robotics.policy.runtime.ladder import Ladder, Rung
from robotics.policy.runtime.pacing import Beat, Clock, Pace
from robotics.policy.runtime.settings import LATENCY, RuntimeSettings
from robotics.policy.runtime.statistics import Statistics

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Command:
    """What is sent at a tick.

    Attributes:
        tick: its number.
        time: of the loop's clock.
        actions: (1 + preview, A): of this tick, then those that follow if nothing else comes.
        velocities: of the actions, units per second.
        rung: why these.
    """

    tick: int
    time: float
    actions: np.ndarray
    velocities: np.ndarray
    rung: Rung


class ControlLoop:
    """A policy in command.

    Args:
        policy: what it observes and commands.
        settings: limits.
        worker: draws plans.
        send: takes each command; it must return quickly. An exception stops the robot as far as commands still go out.
        first: the command that stays where the robot is (A,).
        clock: of everything but the network's budget.

    Raises:
        InputError: settings that do not fit the policy.
    """

    def __init__(
        self,
        policy: PolicyConfig,
        settings: RuntimeSettings,
        worker: Worker,
        send: Callable[[Command], None],
        *,
        first: np.ndarray,
        clock: Clock | None = None,
    ) -> None:
        settings.check(policy)
        self.settings, self.worker, self.send = settings, worker, send
        self.clock = clock or Clock()
        self.sensors = Sensors(policy, settings)
        self.log = FaultLog(settings.history)
        self.statistics = Statistics(settings.history, settings.budget)
        self.ladder = Ladder(max(1, round(settings.stop_after_s * settings.rate_hz)), self.log)
        self.paused = False
        self._limiter = Limiter(settings.actions, settings.period, first)
        self._pace = Pace(settings.period, self.clock)
        self._plan: Answer | None = None
        self._valid_from = 0  # plans of earlier observations are not used
        self._asked: int | None = None  # tick of the last request
        self._waiting: int | None = None  # tick of the request that is being drawn
        self._holding_from = 0
        self._restart = True
        self._stop: Fault | None = None  # why not to command a plan until `reset`
        self._lock = threading.Lock()  # `stop` and `reset` come from other threads

    def observe(self, name: str, values: Any, stamp: float | None = None) -> None:
        """Take a sample of a sensor, from any thread; `stamp` is by the loop's clock, None is now."""
        self.sensors.buffers[name].put(values, now=self.clock.now(), stamp=stamp)

    def stop(self) -> None:
        """Come to rest from the next tick on and stay there until `reset`; from any thread."""
        with self._lock:
            self._stop = Fault(Cause.ASKED)

    @property
    def resting(self) -> bool:
        """Return whether the last command has come to rest."""
        return self._limiter.resting

    def reset(self, first: np.ndarray | None = None) -> None:
        """Leave a stop and forget the plan; from any thread.

        Args:
            first: the command that stays where the robot now is; None goes on from the last command.
        """
        with self._lock:
            if first is not None:
                self._limiter = Limiter(self.settings.actions, self.settings.period, first)
            self._stop, self._restart = None, True
            self._drop(self._pace.tick)
            self.ladder.reset()

    def run(self, stopped: Callable[[], bool]) -> None:
        """Tick until `stopped` says so; tick 0 is now."""
        while not stopped():
            self.step()

    def step(self) -> Command:
        """Wait for the next tick and command it."""
        beat = self._pace.wait()
        with self._lock:
            return self._tick(beat)

    def numbers(self) -> dict[str, Any]:
        """Return the statistics as a flat mapping."""
        now = self.clock.now()
        ages = {f"age_ms {name}": 1000 * buffer.age(now) for name, buffer in self.sensors.buffers.items()}
        with self._lock:
            return self.statistics.numbers(self.ladder, self.log) | ages

    def _tick(self, beat: Beat) -> Command:
        faults = self._time_faults(beat)
        sick = self.sensors.faults(beat.time)
        blind = any(fault.cause in (Cause.STALE, Cause.FROZEN) for fault in sick)
        if any(fault.cause == Cause.FROZEN for fault in sick):
            self._drop(beat.tick + 1)  # it was drawn from numbers that were no longer true
        faults += sick
        faults += self._take(beat.tick)
        before = self.ladder.rung
        rung, wishes = self._choose(beat.tick, faults)
        rung = self.ladder.settle(beat.tick, rung, faults, paused=self.paused)
        if rung <= Rung.REST_OF_CHUNK:
            if not self._limiter.toward(wishes[0]):
                faults.append(Fault(Cause.LIMITED))
        else:
            wishes = []
            self._limiter.rest()
            self._holding_from = beat.tick if before < Rung.HOLD else self._holding_from
            # What an old plan said is not what is executed, so it does not start the next one.
            self._restart |= self._waiting is None or self._waiting < self._holding_from
        command = self._command(beat, rung, wishes[1:])
        try:
            self.send(command)
        except Exception as error:
            logger.exception("tick %d: sending failed", beat.tick)
            self._stop = Fault(Cause.SEND, detail=f"{type(error).__name__}: {error}")
            faults.append(self._stop)
        age = beat.tick - self._plan.tick if rung <= Rung.REST_OF_CHUNK and self._plan is not None else None
        self.statistics.command(beat.late, self.clock.now() - beat.time, age)
        self.log.tell(beat.tick, faults, rung)
        if not (blind or self.paused or rung == Rung.STOP):
            self._ask(beat)
        return command

    def _time_faults(self, beat: Beat) -> list[Fault]:
        found = []
        if beat.missed:
            self.statistics.missed += beat.missed
            found.append(Fault(Cause.MISSED, detail=f"{beat.missed}"))
        if beat.back:
            found.append(Fault(Cause.CLOCK, detail=f"{beat.back:.3g} s"))
            self.sensors.clear()  # their times mean nothing now
            self._drop(beat.tick)
        return found

    def _drop(self, valid_from: int) -> None:
        self._plan, self._valid_from = None, valid_from

    def _take(self, tick: int) -> list[Fault]:
        """Take the plan that has become ready; return why not."""
        answer = self.worker.poll()
        if answer is None:
            return []
        self._waiting = None
        fault = Fault(Cause.NETWORK, detail=answer.error) if answer.error else None
        left = answer.actions[tick - answer.tick :]
        if fault is None and len(left):
            fault = refused(left, self.settings.actions, self.settings.range_slack)
        self.statistics.plan(answer, refused=fault is not None)
        if fault is not None:
            self._restart = True
            return [fault]
        if answer.tick >= self._valid_from:
            self._plan = answer
        return []

    def _choose(self, tick: int, faults: list[Fault]) -> tuple[Rung, list[np.ndarray]]:
        """Return the highest rung that the plan allows, and its actions from now on."""
        if self._stop is not None:
            faults.append(self._stop)
            return Rung.STOP, []
        if self.paused:
            faults.append(Fault(Cause.PAUSED))
            self._drop(tick + 1)
            return Rung.HOLD, []
        plan, newest = self._plan, self.settings.execute + LATENCY - 1
        age = 0 if plan is None else tick - plan.tick
        if self._waiting is not None and tick > self._waiting and (plan is None or age > newest):
            faults.append(Fault(Cause.LATE, detail=f"asked at tick {self._waiting}"))
        if plan is None:
            if not faults:
                faults.append(Fault(Cause.STARTING))
            return Rung.HOLD, []
        left = list(plan.actions[age:])
        if not left or age > (self.settings.max_chunk_age or len(plan.actions)):
            faults.append(Fault(Cause.USED_UP, detail=f"{age} ticks old"))
            return Rung.HOLD, []
        if age > newest:
            return Rung.REST_OF_CHUNK, left
        if not plan.complete:
            faults.append(Fault(Cause.DEADLINE, detail=f"{plan.calls} calls"))
            return Rung.FEWER_CALLS, left
        return Rung.FULL, left

    def _command(self, beat: Beat, rung: Rung, wishes: list[np.ndarray]) -> Command:
        actions, velocities = self._limiter.ahead(wishes, self.settings.preview)
        return Command(
            beat.tick,
            beat.time,
            np.concatenate([self._limiter.command[None], actions]),
            np.concatenate([self._limiter.velocity[None], velocities]),
            rung,
        )

    def _ask(self, beat: Beat) -> None:
        """Hand the observation of this tick to the worker, if it is time and it is free."""
        if self._asked is not None and not self._restart and beat.tick - self._asked < self.settings.execute:
            return
        request = Request(beat.tick, self.sensors.observation(beat.time), self._restart)
        if self.worker.submit(request):
            self._asked = self._waiting = beat.tick
            self._restart = False
