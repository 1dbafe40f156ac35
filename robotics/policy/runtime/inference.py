"""The network beside the loop: a request is answered when it is answered, and nobody waits.

torch releases the interpreter's lock inside its kernels, so a thread is enough. A network that hangs keeps its thread:
the loop reports it and commands without it, but only the end of the process ends it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from robotics.policy.rolling import RollingPolicy
from shared.errors import InputError
from shared.realtime import deadline


@dataclass(frozen=True)
class Request:
    """Draw a plan.

    Attributes:
        tick: of the observation.
        observation: name to (1, T_o, numbers).
        restart: forget the last plan, because it was not what was executed.
    """

    tick: int
    observation: Mapping[str, np.ndarray]
    restart: bool


@dataclass(frozen=True)
class Answer:
    """A plan.

    Attributes:
        tick: of its observation.
        actions: in units, the first is that of `tick`, (T, A); empty where the network failed.
        calls: of the network.
        complete: False where the budget ended the sampling.
        seconds: from the request to the plan.
        error: what went wrong in the network; "" where nothing did.
    """

    tick: int
    actions: np.ndarray
    calls: int
    complete: bool
    seconds: float
    error: str = ""


class Worker(Protocol):
    """Where plans are drawn."""

    def submit(self, request: Request) -> bool:
        """Begin a plan; return False if one is being drawn."""
        ...

    def poll(self) -> Answer | None:
        """Return the plan that has become ready since the last call."""
        ...

    def close(self) -> None:
        """Draw no more."""
        ...


class Inference:
    """Requests to answers.

    Args:
        rolling: the policy, of one environment; nobody else may use it.
        budget_s: a sampling stops early rather than take longer.
        generator: source of all noise.
        clock: seconds, for the budget.
    """

    def __init__(
        self,
        rolling: RollingPolicy,
        budget_s: float,
        generator: torch.Generator | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.rolling, self.budget, self.generator, self.clock = rolling, budget_s, generator, clock
        self._seen: int | None = None

    def __call__(self, request: Request) -> Answer:
        """Draw the plan; an exception becomes its error."""
        begin = self.clock()
        try:
            if request.restart or self._seen is None or request.tick < self._seen:
                self.rolling.reset()
                self._seen = request.tick
            made = self.rolling.act(
                self.rolling.policy.observations(request.observation),
                executed=request.tick - self._seen,
                generator=self.generator,
                until=deadline(self.budget, clock=self.clock),
            )
            self._seen = request.tick
            actions = made.chunk.actions[0, made.chunk.first :].cpu().numpy().astype(np.float64)
            return Answer(request.tick, actions, int(made.calls[0]), made.complete, self.clock() - begin)
        except Exception as error:  # whatever fails in the network, the loop goes on and reports it
            self._seen = None
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            return Answer(request.tick, np.empty((0, 0)), 0, False, self.clock() - begin, reason)

    def warm_up(self, observation: Mapping[str, np.ndarray], runs: int = 3) -> float:
        """Draw plans that nobody executes, cold and warm, without a budget; return the seconds of the last one.

        Raises:
            InputError: the network fails on this observation, or answers NaN.
        """
        budget, self.budget = self.budget, float("inf")
        answers = [self(Request(tick, observation, restart=tick == 0)) for tick in range(runs)]
        self.budget = budget
        self.rolling.reset()
        self._seen = None
        for answer in answers:
            if answer.error or not np.isfinite(answer.actions).all():
                raise InputError(
                    "policy", found=answer.error or "NaN or infinity in its actions", expected="a plan",
                    fix="Check its weights, and the sizes of its observations.",
                )  # fmt: skip
        return answers[-1].seconds


class ThreadWorker:
    """A worker in a thread of its own.

    Args:
        answer: draws a plan.
    """

    def __init__(self, answer: Callable[[Request], Answer]) -> None:
        self._answer = answer
        self._wake = threading.Condition()
        self._request: Request | None = None
        self._ready: Answer | None = None
        self._busy = self._closed = False
        # A daemon, because a hung network must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="fewstep policy", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> bool:
        """Begin a plan; return False if one is being drawn."""
        with self._wake:
            if self._busy or self._closed:
                return False
            self._request, self._busy = request, True
            self._wake.notify()
            return True

    def poll(self) -> Answer | None:
        """Return the plan that has become ready since the last call."""
        with self._wake:
            ready, self._ready = self._ready, None
            return ready

    def close(self, patience_s: float = 1.0) -> None:
        """Draw no more; a plan being drawn is waited for so long."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join(patience_s)

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._request is not None or self._closed)
                if self._closed:
                    return
                request, self._request = self._request, None
            assert request is not None
            answer = self._answer(request)
            with self._wake:
                self._ready, self._busy = answer, False
