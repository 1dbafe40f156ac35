"""Ways of sampling and executing one Push-T policy: scores, network calls, times; under latency and disturbances.

    python benchmarks/policy_sampling.py POLICY [--student FILE] [--weak FILE] [--worlds 50] [--part table]

Score: mean over worlds (seeds from 100000) of the largest reward of an episode of 300 ticks, with its standard error.
h: ticks between two chunks. Calls: of the network, of one robot, every sample of a batch counts. Times: one robot, one
thread, `--timed` chunks one after another on made-up observations, in time of the processor, so that other work of the
machine does not count; `faster by` compares the time a tick with that of the first row. Parts: table, latency (ticks
from an observation to its first action), disturb (pushes of the T by that many pixels, about every 50 ticks).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from robotics.policy.acting import Acting
from robotics.policy.evaluation import evaluate
from robotics.policy.execution import named_execution
from robotics.policy.files import load_policy
from robotics.policy.policy import Policy
from robotics.policy.pusht import PushT
from robotics.policy.warmstart import WarmStart
from shared.files import atomic_path
from shared.sampling import Solver
from shared.solvers.ancestral import Ancestral
from shared.solvers.consistency import ConsistencySteps
from shared.solvers.ddim import DDIM
from shared.solvers.multistep import Multistep

SHORT, LONG = (20, 10, 4, 0), (40, 20, 10, 4, 0)
LATENCIES = range(6)
PUSHES = (0.0, 15.0, 30.0)


@dataclass(frozen=True)
class Way:
    """A row: a solver with so many calls from noise, or warm levels, and what is done with the last chunk."""

    name: str
    execute: int
    calls: int = 10
    levels: tuple[int, ...] | None = None
    solver: Solver = field(default_factory=DDIM)
    execution: str = "chunk"
    student: bool = False

    def acting(self, policy: Policy, weak: Policy | None, *, latency: int = 0, environments: int = 1) -> Acting:
        """Return the policy that acts in this way."""
        warm = WarmStart(mode="cold") if self.levels is None else WarmStart(levels=self.levels)
        return named_execution(
            self.execution, policy, warm=warm, latency=latency, weak=weak if self.execution == "bid" else None,
            solver=self.solver, cold_grid=policy.grid(self.calls), environments=environments,
        )  # fmt: skip


DDPM = Way("DDPM-100", 8, 100, solver=Ancestral())
WARM = Way("shift+renoise 40,20,10,4,0", 4, levels=LONG)
TABLE = (
    DDPM,
    Way("DDIM-10", 8),
    Way("DDIM-4", 1, 4),
    Way("DDIM-3", 1, 3),
    Way("DPM-Solver++-3", 1, 3, solver=Multistep(order=2, weights="midpoint")),
    Way("shift+renoise 20,10,4,0", 1, levels=SHORT),
    Way("shift+renoise 20,8,0", 1, levels=(20, 8, 0)),
    WARM,
    Way("rtc 40,20,10,4,0", 4, levels=LONG, execution="rtc"),
    Way("rtc-vjp 40,20,10,4,0", 4, levels=LONG, execution="rtc-vjp"),
    Way("rtc, DDIM-10 from noise", 4, execution="rtc"),
    Way("rtc-vjp, DDIM-10 from noise", 4, execution="rtc-vjp"),
    Way("ensemble of shift+renoise 20,10,4,0", 1, levels=SHORT, execution="ensemble"),
    Way("ensemble of DDIM-4", 1, 4, execution="ensemble"),
    Way("bid, 15 of DDIM-10", 4, execution="bid"),
    Way("falcon, DDIM-10", 1, execution="falcon"),
    Way("student, 1 call", 8, 1, student=True),
    Way("student, 2 calls", 8, 2, solver=ConsistencySteps(), student=True),
    Way("student, 1 call from level 40", 1, 1, levels=(40,), student=True),
)
SWEPT = (WARM, *(way for way in TABLE if way.name in ("rtc 40,20,10,4,0", "rtc-vjp 40,20,10,4,0")))
PUSHED = (DDPM, *(way for way in TABLE if way.name == "shift+renoise 20,10,4,0"), *SWEPT)


def timed(acting: Acting, count: int) -> np.ndarray:
    """Return milliseconds of `count` chunks of one robot, the first cold one left out."""
    size = acting.policy.config.chunk.observe, acting.policy.config.observation_size
    generator = torch.Generator().manual_seed(0)
    seen = acting.policy.observation.undo(0.2 * torch.randn(1, *size, generator=generator))
    times = []
    for _ in range(count + 1):
        begin = time.thread_time()
        acting.act(seen, generator=generator)
        times.append(1000 * (time.thread_time() - begin))
        seen = seen + 0.5
    return np.array(times[1:])


def rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the numbers of each way and condition."""
    policy = load_policy(options.policy)
    weak = None if options.weak is None else load_policy(options.weak)
    student = None if options.student is None else load_policy(options.student)
    conditions = {
        "table": [(way, 0, 0.0) for way in TABLE],
        "latency": [(way, latency, 0.0) for way in SWEPT for latency in LATENCIES],
        "disturb": [(way, 0, size) for way in PUSHED for size in PUSHES],
    }[options.part]
    slowest = None
    for way, latency, push in conditions:
        chosen = student if way.student else policy
        if chosen is None or (options.only is not None and way.name not in options.only):
            continue
        times = timed(way.acting(chosen, weak, latency=latency), options.timed) if options.part == "table" else None
        acting = way.acting(chosen, weak, latency=latency, environments=min(options.worlds, options.parallel))
        seeds = range(PushT.first_seed, PushT.first_seed + options.worlds)
        found = evaluate(acting, PushT, seeds, execute=way.execute, latency=latency, disturb=push).numbers()
        row = {"way": way.name, "h": way.execute, "latency": latency, "push": push, **found}
        if times is not None:
            row |= {"one_ms_p50": float(np.median(times)), "one_ms_p99": float(np.percentile(times, 99))}
            row["one_ms_a_tick"] = float(np.median(times)) / way.execute
            slowest = slowest or row["one_ms_a_tick"]
            row["ratio"] = slowest / row["one_ms_a_tick"]
        yield row


def main() -> None:
    """Print the rows of a part as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", help="policy file or packaged name")
    parser.add_argument("--student", help="policy of `fewstep policy distil`; without it its rows are left out")
    parser.add_argument("--weak", help="earlier checkpoint, for the contrast of bid")
    parser.add_argument("--worlds", type=int, default=50)
    parser.add_argument("--parallel", type=int, default=50, help="worlds in one network call")
    parser.add_argument("--timed", type=int, default=40, help="chunks timed")
    parser.add_argument("--part", choices=("table", "latency", "disturb"), default="table")
    parser.add_argument("--only", action="append", help="name of a row; may be repeated; default: all")
    parser.add_argument("--json", type=Path, help="also write all numbers")
    options = parser.parse_args()
    torch.set_num_threads(1)
    shown = {"way": "way", "h": "h"}
    if options.part == "table":
        shown |= {
            "calls_per_tick": "calls a tick",
            "one_ms_p50": "ms p50",
            "one_ms_p99": "ms p99",
            "ratio": "faster by",
        }
    else:
        shown |= {"latency": "latency"} if options.part == "latency" else {"push": "push, px"}
    print("|", " | ".join(shown.values()), "| score | success | jerk, px |", flush=True)
    print("|", " | ".join("---" for _ in range(len(shown) + 3)), "|", flush=True)
    kept = []
    for row in rows(options):
        kept.append(row)
        cells = [f"{row[name]:.3g}" if isinstance(row.get(name), float) else str(row.get(name)) for name in shown]
        score = f"{row['mean_max_score']:.3f} +- {row['mean_max_score_standard_error']:.3f}"
        print("|", " | ".join([*cells, score, f"{row['success_rate']:.2f}", f"{row['jerk']:.1f}"]), "|", flush=True)
        if options.json is not None:
            with atomic_path(options.json, overwrite=True) as scratch:
                scratch.write_text(json.dumps(kept, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
