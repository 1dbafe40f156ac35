"""How long a chunk takes on one core, beside the loop that people write with diffusers, and whether 10 Hz holds.

    python benchmarks/policy_latency.py [--policy FILE] [--chunks 30] [--seconds 10] [--json FILE]

One process, one thread, one robot; Push-T's sizes (2 x 20 observations, 16 x 2 actions). Networks: the packaged MLP
(0.9 million parameters), and with random weights, which take as long as trained ones, Diffusion Policy's U-Net at 3.9
million and as published (65.8 million). Scores are elsewhere: benchmarks/policy_sampling.py.

(a) Milliseconds a chunk, median and p99, in time of the processor, so that other work of the machine does not count.
    Ways: the noise scheduler of diffusers and the network in a loop (what Diffusion Policy and LeRobot run), our solver
    on the same steps, and a warm start of four calls; "compiled" is `shared.realtime.RealTimeSampler`, everything
    prepared before the loop (packaged network only). `faster by` compares with diffusers' 100 calls of that network.
(b) Our control loop in real time at 10 Hz with a budget of 80 ms: milliseconds from request to plan, plans stopped at
    the budget, ticks without a command and how late commands went out.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from rich.console import Console
from rich.table import Table
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from robotics.policy.files import load_policy
from robotics.policy.networks import build_network
from robotics.policy.policy import Policy
from robotics.policy.rolling import RollingPolicy
from robotics.policy.runtime.inference import Inference, ThreadWorker
from robotics.policy.runtime.loop import ControlLoop
from robotics.policy.runtime.settings import ActionLimit, RuntimeSettings, SensorLimit
from robotics.policy.training import PolicyTraining
from robotics.policy.warmstart import WarmStart
from shared.config import load_config
from shared.numbers import write_numbers
from shared.realtime import RealTimeSampler
from shared.sampling import Solver, sample
from shared.solvers.ancestral import Ancestral
from shared.solvers.ddim import DDIM

WARM = WarmStart(levels=(20, 10, 4, 0))
LIMIT = ActionLimit(low=0, high=512, velocity=1500, acceleration=30000)
Draw = Callable[[Tensor, torch.Generator], Any]


def networks(packaged: Policy) -> Iterator[tuple[str, Policy]]:
    """Yield name and policy, the packaged one first; those of U-Nets have random weights."""
    yield "packaged", packaged
    for name, title in (("pusht_unet", "U-Net"), ("pusht_reference", "published U-Net")):
        config = load_config(f"robotics/{name}", PolicyTraining).policy
        torch.manual_seed(0)
        yield title, Policy(config, build_network(config).eval(), packaged.observation, packaged.action)


def with_diffusers(policy: Policy, scheduler: DDPMScheduler | DDIMScheduler, calls: int) -> Draw:
    """Return the sampling loop of Diffusion Policy's and LeRobot's code."""
    scheduler.set_timesteps(calls)

    @torch.no_grad()
    def draw(seen: Tensor, generator: torch.Generator) -> Tensor:
        told = policy.network.conditioning(policy.observation.apply(seen))
        x = torch.randn(1, *policy.shape, generator=generator)
        for t in scheduler.timesteps:
            x = scheduler.step(policy.network(x, t, **told), t, x, generator=generator).prev_sample
        return policy.action.undo(x)

    return draw


def with_sample(policy: Policy, solver: Solver, calls: int | None) -> Draw:
    """Return our sampling from noise."""
    grid = policy.grid(calls)

    @torch.no_grad()
    def draw(seen: Tensor, generator: torch.Generator) -> Tensor:
        x = sample(policy.denoiser(seen), policy.noise(1, generator), grid, solver, generator=generator)
        return policy.chunk(x).actions

    return draw


def warm(policy: Policy) -> Draw:
    """Return a warm start of four calls a tick."""
    rolling = RollingPolicy(policy, warm=WARM, cold_grid=policy.grid(10), cold_solver=DDIM())
    return lambda seen, generator: rolling.act(seen, executed=1, generator=generator).chunk.actions


def compiled(policy: Policy) -> Draw:
    """Return the same four calls, prepared."""
    size = policy.config.chunk.observe, policy.config.observation_size
    denoiser = policy.network_denoiser(policy.observation.undo(torch.zeros(1, *size)))
    grid = policy.levels(WARM.levels)
    sampler = RealTimeSampler(denoiser, grid, DDIM(), (1, *policy.shape), clip=policy.config.clip)
    kept = [torch.zeros(1, *policy.shape)]

    @torch.no_grad()
    def draw(seen: Tensor, generator: torch.Generator) -> Tensor:
        sampler.observe(**policy.network.conditioning(policy.observation.apply(seen)))
        guess = WARM.guess(kept[0], torch.ones(1, dtype=torch.int64), policy.config.clip)
        start = WARM.start(guess, policy.process, grid.times[0], generator)
        kept[0] = sampler(start).clone()
        return policy.chunk(kept[0]).actions

    return draw


def ways(policy: Policy, *, compiling: bool) -> dict[str, Draw]:
    """Return the rows of (a), the reference first; compiling a U-Net takes minutes."""
    table = {"num_train_timesteps": policy.process.steps, "beta_schedule": "squaredcos_cap_v2", "clip_sample": True}
    found = {
        "DDPM-100, diffusers": with_diffusers(policy, DDPMScheduler(**table), 100),
        "DDPM-100": with_sample(policy, Ancestral(), None),
        "DDIM-10, diffusers": with_diffusers(policy, DDIMScheduler(**table), 10),
        "DDIM-10": with_sample(policy, DDIM(), 10),
        "warm start, 4 calls": warm(policy),
    }
    return found | ({"warm start, 4 calls, compiled": compiled(policy)} if compiling else {})


def milliseconds(policy: Policy, draw: Draw, count: int) -> np.ndarray:
    """Return the times of `count` chunks after two that are not counted."""
    generator = torch.Generator().manual_seed(0)
    size = policy.config.chunk.observe, policy.config.observation_size
    seen = policy.observation.undo(0.2 * torch.randn(1, *size, generator=generator))
    times = []
    for _ in range(count + 2):
        begin = time.thread_time()
        draw(seen, generator)
        times.append(1000 * (time.thread_time() - begin))
        seen = seen + 0.5
    return np.array(times[2:])


def in_real_time(policy: Policy, seconds: float) -> dict[str, float]:
    """Return the statistics of our loop with the warm start, after warming up."""
    rolling = RollingPolicy(policy, warm=WARM, cold_grid=policy.grid(10), cold_solver=DDIM())
    sensors = {field.name: SensorLimit(max_age_s=1.0) for field in policy.config.observation}
    settings = RuntimeSettings(rate_hz=10, actions=(LIMIT, LIMIT), budget_s=0.08, sensors=sensors)
    inference = Inference(rolling, settings.budget, torch.Generator().manual_seed(0))
    zeros = {field.name: np.full((1, 2, field.size), 250.0) for field in policy.config.observation}
    inference.warm_up(zeros)
    loop = ControlLoop(
        policy.config, settings, ThreadWorker(inference), lambda command: None, first=np.array([250.0, 250.0])
    )
    ended = threading.Event()

    def look() -> None:
        source = np.random.default_rng(0)
        while not ended.wait(0.05):
            for field in policy.config.observation:
                loop.observe(field.name, 250 + 5 * source.standard_normal(field.size))

    eye = threading.Thread(target=look)
    eye.start()
    end = time.monotonic() + seconds
    loop.run(lambda: time.monotonic() > end)
    ended.set()
    eye.join()
    loop.worker.close()
    return loop.numbers()


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="robotics/pusht_small", help="policy of Push-T")
    parser.add_argument("--chunks", type=int, default=30, help="timed for each row; of the slow rows a tenth")
    parser.add_argument("--seconds", type=float, default=10, help="of the loop in real time")
    parser.add_argument("--json", type=Path, help="also write all numbers")
    options = parser.parse_args()
    torch.set_num_threads(1)
    packaged, numbers, console = load_policy(options.policy), {}, Console(width=120)
    table = Table("network", "million parameters", "way", "ms p50", "ms p99", "faster by", title="(a) one chunk")
    loop = Table("network", "plan ms p50", "p99", "plans stopped", "missed ticks", "late ms p99", title="(b) 10 Hz")
    for name, policy in networks(packaged):
        size, first = sum(p.numel() for p in policy.network.parameters()) / 1e6, None
        for way, draw in ways(policy, compiling=policy is packaged).items():
            found = milliseconds(policy, draw, max(2, options.chunks // (10 if "100" in way else 1)))
            median, late = float(np.median(found)), float(np.percentile(found, 99))
            first = first or median
            table.add_row(name, f"{size:.1f}", way, f"{median:.1f}", f"{late:.1f}", f"{first / median:.1f}")
            numbers |= {f"{name}.{way}.ms_p50": median, f"{name}.{way}.ratio": first / median}
        told = in_real_time(policy, options.seconds)
        cells = [f"{told[key]:.1f}" for key in ("plan_ms_p50", "plan_ms_p99")]
        cells += [str(told["plans_stopped_early"]), str(told["missed_ticks"]), f"{told['tick_late_ms_p99']:.1f}"]
        loop.add_row(name, *cells)
        numbers |= {f"{name}.loop.{key}": float(value) for key, value in told.items()}
    console.print(table)
    console.print(loop)
    if options.json is not None:
        write_numbers(options.json, numbers)


if __name__ == "__main__":
    main()
