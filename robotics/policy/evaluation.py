"""How well and how fast a policy acts: episodes of a task in ticks, with latency, deadlines and their accounts.

A tick is one action, 1 / rate seconds of the world. Every `execute` ticks the policy looks at the last observations and
draws a chunk, in any of the ways of `robotics.policy.acting`. With a latency of D ticks its actions count from tick
t + D on; until then the world goes on with the old chunk (or, before the first one, stays). The policy is told how many
ticks passed since it last looked, so what it remembers is moved by what really happened.

A disturbance pushes the world about every 50 ticks; only the seed and the world decide when and where to.

Observations at the start of an episode repeat the first one. An episode's score is its largest reward, as Diffusion
Policy counts Push-T.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from robotics.policy.acting import Acting
from shared.errors import InputError
from shared.progress import tracked
from shared.realtime import deadline

DISTURBED = 50  # ticks between two disturbances, on average


class Task(Protocol):
    """A world in ticks."""

    rate_hz: float
    steps: int

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        """Return the first observation of the world of a seed, named arrays."""
        ...

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool]:
        """Return the next observation, the reward in [0, 1], and whether the task is solved."""
        ...

    def hold(self, seen: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the action that stays where this observation was made."""
        ...

    def disturb(self, source: np.random.Generator, size: float) -> None:
        """Push something of the world by `size`, in units of the task."""
        ...

    def close(self) -> None:
        """Release the world."""
        ...


TaskKind = TypeVar("TaskKind", bound=Task)


@dataclass
class _World:
    """An episode in progress."""

    task: Task
    seed: int
    seen: deque[dict[str, np.ndarray]]
    stay: np.ndarray
    fate: np.random.Generator
    rewards: list[float] = field(default_factory=list)
    commands: list[np.ndarray] = field(default_factory=list)
    plans: list[tuple[int, np.ndarray]] = field(default_factory=list)  # (tick of the observation, actions from it on)
    solved: bool = False
    calls: int = 0
    drawn: int = 0
    warm: int = 0
    restarted: int = 0
    disturbed: int = 0

    def command(self, tick: int, latency: int) -> np.ndarray:
        """Return the action of a tick: of the newest chunk that is ready, its last one where it is used up."""
        ready = [plan for plan in self.plans if plan[0] + latency <= tick]
        if not ready:
            return self.stay
        self.plans = self.plans[len(ready) - 1 :]
        looked, actions = self.plans[0]
        return actions[min(tick - looked, len(actions) - 1)]


@dataclass(frozen=True)
class Episode:
    """An episode that is over.

    Attributes:
        seed: of its world.
        score: largest reward.
        solved: whether the task said so.
        ticks: its length.
        calls: network calls.
        drawn: chunks drawn.
        disturbed: pushes.
        jerk: mean norm of the second difference of the commands, in units of the action per tick squared.
    """

    seed: int
    score: float
    solved: bool
    ticks: int
    calls: int
    drawn: int
    disturbed: int
    jerk: float


@dataclass(frozen=True)
class Evaluation:
    """Episodes and the time that the policy took.

    Attributes:
        episodes: in the order of the seeds.
        milliseconds: of each call of the policy.
        overruns: calls that took longer than allowed.
        allowed_ms: time that a call may take.
        stopped: calls that a deadline ended early.
        warm: share of chunks that started warm.
        restarted: share of chunks whose warm start was refused.
        parallel: episodes in one call; times are those of one robot only where it is 1.
    """

    episodes: tuple[Episode, ...]
    milliseconds: tuple[float, ...]
    overruns: int
    allowed_ms: float
    stopped: int
    warm: float
    restarted: float
    parallel: int

    def numbers(self) -> dict[str, Any]:
        """Return the numbers as a flat mapping."""
        scores = np.array([episode.score for episode in self.episodes])
        ticks = sum(episode.ticks for episode in self.episodes)
        calls, drawn = (sum(getattr(episode, name) for episode in self.episodes) for name in ("calls", "drawn"))
        error = float(scores.std(ddof=1) / np.sqrt(len(scores))) if len(scores) > 1 else float("nan")
        return {
            "episodes": len(scores),
            "mean_max_score": float(scores.mean()),
            "mean_max_score_standard_error": error,
            "success_rate": float(np.mean([episode.solved for episode in self.episodes])),
            "calls_per_tick": calls / ticks,
            "calls_per_chunk": calls / drawn,
            "tick_ms_p50": float(np.percentile(self.milliseconds, 50)),
            "tick_ms_p99": float(np.percentile(self.milliseconds, 99)),
            "overruns": self.overruns,
            "allowed_ms": self.allowed_ms,
            "stopped_early": self.stopped,
            "disturbances": sum(episode.disturbed for episode in self.episodes),
            "jerk": float(np.mean([episode.jerk for episode in self.episodes])),
            "warm_share": self.warm,
            "restarted_share": self.restarted,
            "mean_ticks": ticks / len(scores),
            "parallel": self.parallel,
        }


def evaluate(
    acting: Acting,
    make: Callable[[], TaskKind],
    seeds: Sequence[int],
    *,
    execute: int | None = None,
    latency: int = 0,
    disturb: float = 0.0,
    deadline_ms: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    progress: str | None = None,
    watch: Callable[[TaskKind, int], None] | None = None,
) -> Evaluation:
    """Run one episode a seed, as many at a time as the policy has environments.

    Args:
        acting: the policy in its loop; it is reset.
        make: makes a world.
        seeds: of the worlds.
        execute: ticks between two chunks; None is the policy's own.
        latency: D, ticks from an observation to the first action that it decides.
        disturb: size of the pushes, in units of the task; 0 leaves the world alone.
        deadline_ms: samplings stop early rather than take longer; None lets them end. Overruns are counted against it,
            else against the latency, else against one tick.
        steps: longest episode; None is the task's own.
        seed: of the policy's noise and of the disturbances.
        progress: label of a progress bar; None is silent.
        watch: told the world of the first seed, after its reset (tick 0) and after every tick.

    Raises:
        InputError: no seed, or a chunk too short for `execute` and `latency`.
    """
    chunk = acting.policy.config.chunk
    execute = execute or chunk.execute
    if not seeds:
        raise InputError("episodes", found="none", expected="one or more", fix="Ask for an episode.")
    if execute + latency > chunk.horizon - chunk.first:
        raise InputError(
            "execute and latency", found=f"{execute} + {latency} ticks",
            expected=f"at most {chunk.horizon - chunk.first}, the actions of a chunk from now on",
            fix="Draw chunks more often.",
        )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    tasks = [make() for _ in range(min(acting.environments, len(seeds)))]
    allowed = deadline_ms if deadline_ms is not None else 1000 / tasks[0].rate_hz * max(1, latency)
    worlds: list[_World] = []
    times: list[float] = []
    stopped = 0
    groups = [seeds[begin : begin + len(tasks)] for begin in range(0, len(seeds), len(tasks))]
    try:
        for group in tracked(groups, progress):
            acting.reset()
            running = [_begin(task, one, chunk.observe, seed) for task, one in zip(tasks, group, strict=False)]
            worlds += running
            if watch is not None and len(worlds) == len(running):
                watch(tasks[0], 0)
            for tick in range(steps or tasks[0].steps):
                active = [row for row, world in enumerate(running) if not world.solved]
                if not active:
                    break
                if tick % execute == 0:
                    until = None if deadline_ms is None else deadline(deadline_ms / 1000)
                    begin = time.perf_counter()
                    stopped += not _plan(acting, running, active, tick, execute, generator, until)
                    times.append(1000 * (time.perf_counter() - begin))
                for row in active:
                    _advance(running[row], tick, latency, disturb)
                    if watch is not None and running[row] is worlds[0]:
                        watch(tasks[0], tick + 1)
    finally:
        for task in tasks:
            task.close()
    drawn = sum(world.drawn for world in worlds)
    return Evaluation(
        episodes=tuple(_ended(world) for world in worlds),
        milliseconds=tuple(times),
        overruns=sum(one > allowed for one in times),
        allowed_ms=allowed,
        stopped=stopped,
        warm=sum(world.warm for world in worlds) / drawn,
        restarted=sum(world.restarted for world in worlds) / drawn,
        parallel=len(tasks),
    )


def _begin(task: Task, seed: int, observe: int, draw: int) -> _World:
    seen = task.reset(seed)
    stay = np.asarray(task.hold(seen), dtype=np.float64)
    return _World(task, seed, deque([seen] * observe, maxlen=observe), stay, np.random.default_rng([draw, seed]))


def _plan(
    acting: Acting,
    running: list[_World],
    active: list[int],
    tick: int,
    execute: int,
    generator: torch.Generator,
    until: Callable[[int], bool] | None,
) -> bool:
    """Draw the chunks of the active worlds; return whether the sampling came to its end."""
    names = running[0].seen[0]
    arrays = {name: np.stack([[seen[name] for seen in running[row].seen] for row in active]) for name in names}
    observations = acting.policy.observations(arrays)
    made = acting.act(observations, executed=execute, rows=active, generator=generator, until=until)
    actions = made.chunk.actions[:, made.chunk.first :].cpu().numpy().astype(np.float64)
    for place, row in enumerate(active):
        world = running[row]
        world.plans.append((tick, actions[place]))
        world.calls += int(made.calls[place])
        world.warm += bool(made.warm[place])
        world.restarted += bool(made.restarted[place])
        world.drawn += 1
    return made.complete


def _advance(world: _World, tick: int, latency: int, disturb: float) -> None:
    if disturb and world.fate.random() < 1 / DISTURBED:
        world.task.disturb(world.fate, disturb)
        world.disturbed += 1
    action = world.command(tick, latency)
    seen, reward, world.solved = world.task.step(action)
    world.seen.append(seen)
    world.rewards.append(reward)
    world.commands.append(action)


def _ended(world: _World) -> Episode:
    bends = np.diff(np.array(world.commands), n=2, axis=0)
    jerk = float(np.linalg.norm(bends, axis=1).mean()) if len(bends) else 0.0
    score = max(world.rewards)
    return Episode(world.seed, score, world.solved, len(world.rewards), world.calls, world.drawn, world.disturbed, jerk)
