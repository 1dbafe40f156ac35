"""What becomes of a gripper in warm starts: rules for two-valued actions in Meta-World's pick-place.

    python benchmarks/policy_gripper.py [--clip FILE] [--scale FILE] [--worlds 50]

Rules. none: the gripper is a number like the others, in the guess and in the command. sign: the command is one of the
two values, the guess too ("clip" with factor 1). clip: the guess is drawn to a tenth. All three sample one network, the
one of --clip; scale: another network, trained on a tenth of the values.

success: share of worlds (seeds from 100000) solved within 200 ticks of 1/80 s, with its standard error. ticks: mean
length of an episode, 200 where it is not solved. late: median of the ticks from the expert's wish to close, where it
first has it in this episode, to the first command to close (more than half); negative is early. flips: changes between
open and closed in an episode; an expert has one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from robotics.policy.config import DiscreteAction
from robotics.policy.evaluation import evaluate
from robotics.policy.files import load_policy
from robotics.policy.metaworld import MetaWorld, environment
from robotics.policy.policy import Policy
from robotics.policy.rolling import RollingPolicy
from robotics.policy.warmstart import WarmStart
from shared.jsontext import json_text
from shared.sampling import Solver
from shared.solvers.ancestral import Ancestral
from shared.solvers.ddim import DDIM

TASK, GRIPPER, HALF = "pick-place", 3, 0.5
RULES: dict[str, tuple[DiscreteAction, ...]] = {
    "none": (),
    "sign": (DiscreteAction(index=GRIPPER, rule="clip", factor=1),),
    "clip": (DiscreteAction(index=GRIPPER, rule="clip", factor=10),),
    "scale": (DiscreteAction(index=GRIPPER, rule="scale", factor=10),),
}


@dataclass(frozen=True)
class Way:
    """A row: how a chunk is drawn; no levels is cold."""

    name: str
    execute: int
    rules: tuple[str, ...]
    levels: tuple[int, ...] | None = None
    calls: int = 10
    solver: Solver = field(default_factory=DDIM)


ALL = tuple(RULES)
WAYS = (
    Way("DDPM-100, cold", 8, ("clip", "scale"), calls=100, solver=Ancestral()),
    Way("DDIM-4, cold", 1, ("clip", "scale"), calls=4),
    Way("warm 20,10,4,0", 1, ALL, levels=(20, 10, 4, 0)),
    Way("warm 5,2,0", 1, ALL, levels=(5, 2, 0)),
    Way("warm 40,20,10,4,0", 4, ALL, levels=(40, 20, 10, 4, 0)),
)


class Watched(MetaWorld):
    """A world that keeps what the expert wishes and what is commanded for the gripper, and is used in every row."""

    def close(self) -> None:
        """Stay open for the next row."""

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        """Begin an episode."""
        seen = super().reset(seed)
        self.wished = [self.expert()[GRIPPER] > HALF]
        self.commanded: list[bool] = []
        return seen

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool]:
        """Go on."""
        self.commanded.append(bool(action[GRIPPER] > HALF))
        found = super().step(action)
        self.wished.append(self.expert()[GRIPPER] > HALF)
        return found

    @property
    def flips(self) -> int:
        """Return the changes of the command."""
        return sum(here != there for here, there in pairwise(self.commanded))

    @property
    def late(self) -> float:
        """Return the ticks from the wish to the command; infinity where there never was a command."""
        if not any(self.commanded):
            return float("inf")
        wish = self.wished.index(True) if any(self.wished) else len(self.wished)
        return self.commanded.index(True) - wish


def ruled(policy: Policy, rule: str) -> Policy:
    """Return the policy with another rule for its gripper."""
    action = policy.config.action.model_copy(update={"discrete": RULES[rule]})
    config = policy.config.model_copy(update={"action": action})
    return Policy(config, policy.network, policy.observation, policy.action)


def rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the numbers of each way and rule."""
    networks = {"scale": load_policy(options.scale)}
    networks |= dict.fromkeys(("none", "sign", "clip"), load_policy(options.clip))
    first = environment(TASK).first_seed
    worlds = [Watched(TASK) for _ in range(options.worlds)]
    for way in WAYS:
        for rule in way.rules:
            policy = ruled(networks[rule], rule)
            warm = WarmStart(mode="cold") if way.levels is None else WarmStart(levels=way.levels)
            rolling = RollingPolicy(
                policy, warm=warm, solver=way.solver, cold_grid=policy.grid(way.calls), environments=options.worlds
            )
            seeds = range(first, first + options.worlds)
            found = evaluate(rolling, iter(worlds).__next__, seeds, execute=way.execute).numbers()
            share = found["success_rate"]
            yield {
                "way": way.name,
                "h": way.execute,
                "rule": rule,
                "calls_per_tick": found["calls_per_tick"],
                "success": share,
                "success_error": float(np.sqrt(share * (1 - share) / options.worlds)),
                "ticks": found["mean_ticks"],
                "late": float(np.median([world.late for world in worlds])),
                "flips": float(np.mean([world.flips for world in worlds])),
                "jerk": found["jerk"],
            }


def main() -> None:
    """Print the rows as a Markdown table, and write them as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", default="robotics/metaworld_clip", help="policy trained on the values as they are")
    parser.add_argument("--scale", default="robotics/metaworld_scale", help="policy trained on a tenth of them")
    parser.add_argument("--worlds", type=int, default=50, help="episodes, all at the same time")
    parser.add_argument("--json", type=Path, help="also write the rows")
    options = parser.parse_args()
    print("| way | h | rule | calls a tick | success | ticks | late | flips | jerk |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    done = []
    for row in rows(options):
        done.append(row)
        print(
            f"| {row['way']} | {row['h']} | {row['rule']} | {row['calls_per_tick']:.3g} | {row['success']:.2f} +- "
            f"{row['success_error']:.2f} | {row['ticks']:.0f} | {row['late']:g} | {row['flips']:.1f} | "
            f"{row['jerk']:.2f} |",
            flush=True,
        )
    if options.json is not None:
        options.json.write_text(json_text(done), encoding="utf-8")


if __name__ == "__main__":
    main()
