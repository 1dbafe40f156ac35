"""Diffusion policies for robots: train, distil, convert, calibrate and evaluate in simulation: `fewstep policy`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robotics.policy import cli_worlds
from shared.errors import InputError
from shared.options import Device, ExportOnly, Half, Json, Overwrite, Quiet, Seed, StopAt, Work

if TYPE_CHECKING:
    from robotics.policy.episodes import Episodes
    from shared.sampling import Solver

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Data = Annotated[
    Path,
    typer.Option(
        help="Demonstrations: .zarr, .zarr.zip, .npz, robomimic .hdf5, a LeRobot folder (v2.1, v3), or a folder of ROS "
        "2 bags with --topics.",
        metavar="PATH",
    ),
]
Topics = Annotated[
    Path | None, typer.Option(help="For bags: YAML file with rate_hz and the topic of each array; see docs/policy.md.")
]
Mask = Annotated[str | None, typer.Option(help="For robomimic: take the demonstrations of this mask only.")]

app.command()(cli_worlds.collect)
app.command()(cli_worlds.run)


@app.command()
def train(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="YAML file, or a packaged name such as robotics/pusht_small.")
    ],
    data: Data,
    output: Annotated[Path, typer.Option("--output", "-o", help="Policy to write: a .safetensors path.")],
    topics: Topics = None,
    mask: Mask = None,
    work: Work = None,
    export: ExportOnly = False,
    half: Half = False,
    steps: StopAt = None,
    device: Device = "cpu",
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a policy on recorded demonstrations; run again to go on after a stop. Writes OUTPUT and its card (.md)."""
    from robotics.policy.card import write_card
    from robotics.policy.training import PolicyTrainer, PolicyTraining
    from shared.config import load_config
    from shared.devices import resolve_device
    from shared.files import refuse_existing, require_writable
    from shared.progress import training_bar
    from shared.training_run import training_folder

    if output.suffix != ".safetensors":
        raise InputError(output, found=f"the suffix {output.suffix!r}", expected=".safetensors", fix="Rename it.")
    for path in (output, output.with_suffix(".md")):
        refuse_existing(path, overwrite=overwrite)
        require_writable(path)
    settings = load_config(config, PolicyTraining)
    folder = training_folder(output, work, export=export)
    names = [*(field.name for field in settings.policy.observation), settings.policy.action.name]
    trainer = PolicyTrainer(settings, _read(data, names, topics, mask), folder, device=resolve_device(device))
    with training_bar(settings.name, settings.steps, trainer.step, hidden=quiet or export) as tell:
        trainer.run(stop_at=0 if export else steps, tell=tell)
    facts = trainer.export(output, half=half)
    typer.echo(str(output))
    typer.echo(str(write_card(output, settings, facts, data=data.name, overwrite=overwrite)))


@app.command()
def distil(
    policy: cli_worlds.PolicyName,
    data: Data,
    output: Annotated[Path, typer.Option("--output", "-o", help="Student to write: a .safetensors path.")],
    steps: Annotated[int, typer.Option(min=1, help="Of the optimiser.")] = 6000,
    topics: Topics = None,
    mask: Mask = None,
    work: Work = None,
    seed: Seed = 0,
    device: Device = "cpu",
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Distil a policy into one of one or two calls; run again to go on after a stop. Writes OUTPUT and its card."""
    from robotics.policy.card import write_card
    from robotics.policy.distilling import StudentTrainer, student_training
    from robotics.policy.files import load_policy
    from shared.devices import resolve_device
    from shared.files import refuse_existing, require_writable
    from shared.progress import training_bar

    if output.suffix != ".safetensors":
        raise InputError(output, found=f"the suffix {output.suffix!r}", expected=".safetensors", fix="Rename it.")
    for path in (output, output.with_suffix(".md")):
        refuse_existing(path, overwrite=overwrite)
        require_writable(path)
    chosen = resolve_device(device)
    teacher = load_policy(policy, chosen)
    settings = student_training("robotics/student", teacher, steps=steps, seed=seed)
    names = [*(field.name for field in teacher.config.observation), teacher.config.action.name]
    trainer = StudentTrainer(
        teacher, settings, _read(data, names, topics, mask), work or output.with_suffix(""), device=chosen
    )
    with training_bar(settings.name, steps, trainer.step, hidden=quiet) as tell:
        trainer.run(tell=tell)
    facts = trainer.export(output)
    typer.echo(str(output))
    typer.echo(str(write_card(output, settings, facts, data=data.name, teacher=policy, overwrite=overwrite)))


@app.command()
def convert(
    source: Annotated[
        Path,
        typer.Argument(
            help="A LeRobot diffusion policy's folder, or exported Diffusion Policy weights (.safetensors)."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Policy to write: a .safetensors path.")],
    config: Annotated[
        str | None, typer.Option(help="For Diffusion Policy weights: the training's YAML file or packaged name.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Convert a checkpoint of others; robotics/policy/official.py tells how to export Diffusion Policy's weights."""
    from robotics.policy.files import network_state, policy_from_tensors, save_policy
    from robotics.policy.official import from_diffusion_policy, read_lerobot
    from robotics.policy.training import PolicyTraining
    from shared.config import load_config
    from shared.files import refuse_existing
    from shared.weights import load

    refuse_existing(output, overwrite=overwrite)
    if source.is_dir():
        policy_config, tensors = read_lerobot(source)
    elif config is None:
        raise InputError(
            "--config", found="none", expected="the configuration of these weights", fix="robotics/pusht_reference is "
            "that of the published low-dimensional Push-T policy.",
        )  # fmt: skip
    else:
        policy_config = load_config(config, PolicyTraining).policy
        tensors = from_diffusion_policy(load(source).tensors, policy_config)
    policy = policy_from_tensors(policy_config, tensors, source=str(source))
    network = network_state(policy_config, tensors)
    save_policy(output, policy_config, network, policy.observation, policy.action, {"converted_from": source.name})
    typer.echo(str(output))


@app.command()
def calibrate(
    policy: cli_worlds.PolicyName,
    data: Data,
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON file to write: --warm-start of evaluate.")],
    topics: Topics = None,
    mask: Mask = None,
    execute: Annotated[int, typer.Option(min=1, help="Actions executed between two chunks.")] = 1,
    calls: Annotated[int, typer.Option(min=1, help="Network calls of a warm sampling.")] = 4,
    mode: Annotated[str, typer.Option(help="shift, shift+renoise or extrapolate.")] = "shift+renoise",
    quantile: Annotated[float, typer.Option(help="Of the guess's error, that the noise must cover.")] = 0.9,
    contraction: Annotated[
        float, typer.Option(help="Most that may survive of a wrong guess, at nine pairs of ten.")
    ] = 0.5,
    pairs: Annotated[int, typer.Option(min=2, help="Pairs of recorded observations.")] = 128,
    seed: Seed = 0,
    device: Device = "cpu",
    overwrite: Overwrite = False,
) -> None:
    """Measure how noisy a warm start must be, what survives of a wrong guess, and when to start cold."""
    from robotics.policy.calibration import calibrate_warm_start
    from robotics.policy.files import load_policy
    from robotics.policy.warmstart import MODES
    from shared.devices import resolve_device
    from shared.files import atomic_path, refuse_existing
    from shared.jsontext import json_text

    refuse_existing(output, overwrite=overwrite)
    if mode not in MODES[1:]:
        raise InputError("--mode", found=repr(mode), expected=f"one of {', '.join(MODES[1:])}", fix="Correct it.")
    loaded = load_policy(policy, resolve_device(device))
    episodes = _read(data, [field.name for field in loaded.config.observation], topics, mask)
    warm = calibrate_warm_start(
        loaded, episodes.arrays, episodes.ends, executed=execute, calls=calls, mode=mode,  # type: ignore[arg-type]
        quantile=quantile, most_contraction=contraction, pairs=pairs, seed=seed,
    )  # fmt: skip
    with atomic_path(output, overwrite=overwrite) as scratch:
        scratch.write_text(json_text(warm.model_dump(mode="json")), encoding="utf-8")
    typer.echo(str(output))


@app.command()
def evaluate(
    policy: cli_worlds.PolicyName,
    env: Annotated[str, typer.Option(help=cli_worlds.ENVIRONMENT)] = "pusht",
    episodes: Annotated[int, typer.Option(min=1, help="Worlds, one a seed.")] = 50,
    first_seed: Annotated[int | None, typer.Option(min=0, help="Seed of the first world; default: the task's.")] = None,
    solver: Annotated[str, typer.Option(help="Of warm samplings, such as ddim, ancestral (DDPM), multistep.")] = "ddim",
    cold_solver: Annotated[str | None, typer.Option(help="Of cold samplings; default: --solver.")] = None,
    calls: Annotated[int, typer.Option(min=1, help="Network calls of a cold sampling.")] = 10,
    grid: Annotated[str, typer.Option(help="Noise levels of a cold sampling: trailing, uniform, log_snr, ...")] = (
        "trailing"
    ),
    warm_start: cli_worlds.WarmStartName = "shift+renoise",
    levels: cli_worlds.Levels = None,
    renoise: Annotated[float | None, typer.Option(min=0, max=1, help="Share of the first level's noise.")] = None,
    execute: Annotated[int | None, typer.Option(min=1, help="Ticks between two chunks; default: the policy's.")] = None,
    execution: Annotated[
        str, typer.Option(help="What becomes of the last chunk: chunk, ensemble, rtc, rtc-vjp, bid or falcon.")
    ] = "chunk",
    weak: Annotated[str | None, typer.Option(help="For bid: an earlier checkpoint, to be unlike.")] = None,
    latency: Annotated[int, typer.Option(min=0, help="Ticks from an observation to its first action.")] = 0,
    disturb: Annotated[
        float, typer.Option(min=0, help="Push the world by this much about every 50 ticks; pixels in Push-T.")
    ] = 0.0,
    deadline_ms: Annotated[float | None, typer.Option(help="End a sampling early rather than take longer.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Longest episode, ticks; default: the task's.")] = None,
    parallel: Annotated[int, typer.Option(min=1, help="Worlds in one network call; times are of one robot at 1.")] = 1,
    video: cli_worlds.Video = None,
    seed: Seed = 0,
    device: Device = "cpu",
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Run a policy in simulation: score, success, network calls and milliseconds a tick, overruns, jerk."""
    from robotics.policy.environments import find_environment
    from robotics.policy.evaluation import evaluate as run
    from robotics.policy.execution import named_execution
    from robotics.policy.files import load_policy
    from robotics.policy.film import Film, require_gif
    from robotics.policy.warmstart import warm_start_of
    from shared.devices import resolve_device
    from shared.numbers import write_numbers

    if video is not None:
        require_gif(video)
    loaded = load_policy(policy, resolve_device(device))
    environment, film = find_environment(env, loaded.config.images), None if video is None else Film()
    warm = warm_start_of(warm_start, levels, renoise, source="--warm-start")
    acting = named_execution(
        execution,
        loaded,
        warm=warm,
        latency=latency,
        weak=None if weak is None else load_policy(weak, resolve_device(device)),
        solver=_solver(solver),
        cold_solver=None if cold_solver is None else _solver(cold_solver),
        cold_grid=loaded.grid(calls, grid),
        environments=min(parallel, episodes),
    )
    begin = environment.first_seed if first_seed is None else first_seed
    found = run(
        acting, environment.make, range(begin, begin + episodes), execute=execute, latency=latency, disturb=disturb,
        deadline_ms=deadline_ms, steps=steps, seed=seed, progress=None if quiet else env,
        watch=None if film is None else film.look,
    )  # fmt: skip
    numbers = found.numbers()
    asked: dict[str, Any] = {
        "env": env, "policy": policy, "first_seed": begin, "solver": solver, "cold_solver": cold_solver or solver,
        "cold_calls": calls, "grid": grid, "warm_start": warm.mode, "levels": ",".join(map(str, warm.levels)),
        "renoise": warm.renoise, "execute": execute or loaded.config.chunk.execute, "latency": latency, "seed": seed,
        "execution": execution, "disturb": disturb,
    }  # fmt: skip
    cli_worlds.tell(numbers)
    if film is not None and video is not None:
        film.write(video, overwrite=True)
    if json is not None:
        write_numbers(json, {**numbers, **asked})


def _read(data: Path, names: list[str], topics: Path | None, mask: str | None) -> Episodes:
    from robotics.policy.episodes import BagTopics, read_episodes
    from shared.config import load_config

    return read_episodes(data, names, topics=None if topics is None else load_config(topics, BagTopics), mask=mask)


def _solver(name: str) -> Solver:
    from shared.solvers.named import solver_from_data

    try:
        return solver_from_data({"name": name})
    except TypeError as error:  # it has options without defaults
        raise InputError(
            "--solver", found=f"{name}, which needs options", expected="ddim, ancestral, multistep, unipc, ...",
            fix="Use it from Python: RollingPolicy(solver=...).",
        ) from error  # fmt: skip
