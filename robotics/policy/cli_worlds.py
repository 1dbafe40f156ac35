"""The commands of `fewstep policy` that need a world and no data: `collect` and `run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from shared.options import Device, Json, Overwrite, Quiet, Seed

ENVIRONMENT = "pusht, metaworld/TASK, or a gymnasium id (module:id where a module registers it)."
PolicyName = Annotated[str, typer.Argument(metavar="POLICY", help="Policy: a .safetensors file or a packaged name.")]
WarmStartName = Annotated[
    str, typer.Option(help="cold, shift, shift+renoise, extrapolate, or a file from `fewstep policy calibrate`.")
]
Levels = Annotated[str | None, typer.Option(help="Entries of the noise table of a warm sampling, falling: 20,10,4,0.")]
Video = Annotated[
    Path | None, typer.Option(metavar="FILE.gif", help="Also write a film of the first world; replaces an older one.")
]


def collect(
    env: Annotated[str, typer.Option(help="World with a scripted expert: metaworld/TASK.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Demonstrations to write: an .npz path.")],
    episodes: Annotated[int, typer.Option(min=1, help="Solved episodes to record.")] = 200,
    noise: Annotated[
        float, typer.Option(min=0, max=2, help="Deviation of noise on executed actions, of half their range.")
    ] = 0.0,
    seed: Seed = 0,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Record a world's scripted expert, one world a seed from --seed on; `train --data` reads the result."""
    from robotics.policy.collecting import collect as record
    from robotics.policy.collecting import require_npz, write_episodes
    from robotics.policy.environments import find_environment
    from shared.files import refuse_existing, require_writable

    require_npz(output)
    refuse_existing(output, overwrite=overwrite)
    require_writable(output)
    found = record(find_environment(env), count=episodes, seed=seed, noise=noise, progress=None if quiet else env)
    write_episodes(output, found, overwrite=overwrite)
    typer.echo(str(output))


def run(
    policy: PolicyName,
    env: Annotated[str, typer.Option(help=ENVIRONMENT)],
    world_seed: Annotated[int, typer.Option(min=0, help="Seed of the world.")] = 100_000,
    ticks: Annotated[int | None, typer.Option(min=1, help="Longest episode; default: the world's.")] = None,
    execute: Annotated[int, typer.Option(min=1, help="Ticks between two chunks.")] = 1,
    warm_start: WarmStartName = "shift+renoise",
    levels: Levels = None,
    calls: Annotated[int, typer.Option(min=1, help="Network calls of a cold sampling.")] = 10,
    budget_ms: Annotated[
        float | None, typer.Option(min=0.001, help="Time of a chunk, which then ends early; default: 0.8 of a tick.")
    ] = None,
    fast: Annotated[
        bool, typer.Option("--as-fast-as-possible", help="In simulated time: no budget, the same numbers each time.")
    ] = False,
    video: Video = None,
    seed: Seed = 0,
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """Run a policy in one world through the runtime, at its rate; prints rungs, faults and latencies."""
    from robotics.policy.environments import find_environment
    from robotics.policy.files import load_policy
    from robotics.policy.film import Film, require_gif
    from robotics.policy.rolling import RollingPolicy
    from robotics.policy.running import run as run_world
    from robotics.policy.warmstart import warm_start_of
    from shared.devices import resolve_device
    from shared.numbers import write_numbers

    if video is not None:
        require_gif(video)
    loaded = load_policy(policy, resolve_device(device))
    rolling = RollingPolicy(
        loaded, warm=warm_start_of(warm_start, levels, None, source="--warm-start"), cold_grid=loaded.grid(calls)
    )
    world, film = find_environment(env, loaded.config.images).make(), None if video is None else Film()
    try:
        numbers = run_world(
            rolling, world, world_seed=world_seed, seed=seed, ticks=ticks, execute=execute,
            budget_s=None if budget_ms is None else budget_ms / 1000, real_time=not fast,
            watch=None if film is None else film.look,
        )  # fmt: skip
    finally:
        world.close()
    tell(numbers)
    if film is not None and video is not None:
        film.write(video, overwrite=True)
    if json is not None:
        asked: dict[str, Any] = {"env": env, "policy": policy, "world_seed": world_seed, "seed": seed}
        write_numbers(json, {**numbers, **asked})


def tell(numbers: dict[str, Any]) -> None:
    """Print numbers by name."""
    for name, value in numbers.items():
        typer.echo(f"{name:32}{value:.4g}" if isinstance(value, float) else f"{name:32}{value}")
