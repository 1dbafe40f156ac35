"""The commands `fewstep brain solve` and `fewstep brain calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from medical.brain.options import Strategy, loaded_model, three
from shared.errors import InputError
from shared.options import Device, Json, Overwrite, Quiet, Seed

if TYPE_CHECKING:
    from medical.brain.inverse import Method

TASKS = ("inpaint", "slices", "blocks", "kspace", "kspace-magnitude", "denoise")
ModelFile = Annotated[str, typer.Option(metavar="FILE", help="Model, as of `fewstep brain generate`.")]


def solve(
    task: Annotated[str, typer.Argument(metavar="TASK", help=f"{', '.join(TASKS)}.")],
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="Measured image; with --simulate, a whole volume.")],
    model: ModelFile,
    output: Annotated[Path, typer.Option("--output", "-o", help="Mean of the samples: .nii or .nii.gz.")],
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Measure INPUT in simulation, and compare the result with it.")
    ] = False,
    mask: Annotated[Path | None, typer.Option(help="inpaint: what to fill in, on the voxels of INPUT.")] = None,
    noise: Annotated[
        float | None, typer.Option(min=0, help="Deviation, of the range air to white; default 0.01, denoise 0.1.")
    ] = None,
    thickness: Annotated[
        float | None, typer.Option(help="slices: mm; default: simulated 7, else that of the file.")
    ] = None,
    separation: Annotated[float, typer.Option(help="slices, simulated: mm between centres.")] = 9.5,
    blocks: Annotated[str, typer.Option(metavar="AxBxC", help="blocks: voxels that are averaged.")] = "2x2x2",
    acceleration: Annotated[float, typer.Option(help="kspace: R.")] = 4.0,
    method: Annotated[
        str | None, typer.Option(help="diffpir (default), dds, pigdm, moments, dps (for magnitudes) or released.")
    ] = None,
    samples: Annotated[int, typer.Option("-n", min=1, help="Volumes drawn.")] = 4,
    steps: Annotated[int | None, typer.Option(min=2, help="Of the sampling; default 50, dps and released 256.")] = None,
    zeta: Annotated[float | None, typer.Option(help="Step of dps and released; default: MedForj's.")] = None,
    each: Annotated[bool, typer.Option("--each", help="Write every sample too.")] = False,
    strategy: Strategy = None,
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = None,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Draw volumes that agree with a measurement: their mean and deviation. Not for diagnosis."""
    import torch

    from medical.brain.inverse import Solving
    from medical.brain.inverse import solve as draw
    from medical.brain.solve_files import outputs, write_solved
    from medical.brain.solve_tasks import TaskOptions, measured
    from medical.sidecar import base_name
    from shared.numbers import write_numbers

    if task not in TASKS:
        raise InputError("TASK", found=repr(task), expected=f"one of {', '.join(TASKS)}", fix="Correct it.")
    chosen = method or ("dps" if task == "kspace-magnitude" else "diffpir")
    settings = Solving(
        cast("Method", chosen), samples, steps or (256 if chosen in ("dps", "released") else 50), zeta=zeta
    )  # fmt: skip
    paths = outputs(output, each=samples if each else 0, overwrite=overwrite)
    loaded = loaded_model(model, strategy, device)
    generator = torch.Generator().manual_seed(seed)
    options = TaskOptions(
        simulate=simulate, mask=mask, noise=noise if noise is not None else (0.1 if task == "denoise" else 0.01),
        thickness_mm=thickness, separation_mm=separation, blocks=blocks, acceleration=acceleration,
    )  # fmt: skip
    case = measured(task, source, loaded, options, generator)
    if not quiet:
        for warning in case.warnings:
            typer.echo(f"warning: {warning}", err=True)
    found = draw(
        loaded, case.measurement, settings, size=case.size, generator=generator,
        progress=None if quiet else "sample",
    )  # fmt: skip
    numbers: dict[str, float] = {
        "misfit": float(found.misfit.mean()),
        "misfit_of_mean": float(case.measurement.misfit(found.mean[None, None].to(loaded.device))),
        "calls": found.calls,
        **case.against_truth(found.mean, found.std),
    }
    facts: dict[str, Any] = {
        "task": task, "simulated_measurement": simulate, "source": base_name(source), **case.facts,
        "model": {"name": loaded.name, "sha256": loaded.sha256, "strategy": loaded.config.strategy},
        "method": settings.facts(case.measurement, case.size), "seed": seed, "device": loaded.device.type,
        "numbers": numbers, "misfit_by_sample": found.misfit.tolist(), "warnings": case.warnings,
    }  # fmt: skip
    volumes = {"mean": found.mean, **{f"{n}": x for n, x in enumerate(found.samples, 1)}}
    if samples > 1:
        volumes["std"] = found.std
    write_solved({name: path for name, path in paths.items() if name in volumes}, volumes, case.affine, facts)
    for name, value in numbers.items():
        typer.echo(f"{name:18} {value:.4g}")
    if json is not None:
        write_numbers(json, numbers)
    typer.echo(str(output))


def calibrate(
    model: ModelFile,
    calls: Annotated[list[int] | None, typer.Option(min=1, help="Of a sampling; repeat for several.")] = None,
    count: Annotated[int, typer.Option("-n", min=1, help="Noises of the fit.")] = 4,
    held_out: Annotated[int, typer.Option(min=1, help="Other noises, for the error.")] = 2,
    size: Annotated[str | None, typer.Option(metavar="XxYxZ", help="Voxels; default: the model's.")] = None,
    strategy: Strategy = None,
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = None,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Fit few-step samplings to a model, once, into JSON files beside its weights: `generate --sampler calibrated`."""
    from medical.brain.calibrated import calibrate_brain, calibration_path
    from shared.calibration.cli import numbers, show
    from shared.files import refuse_existing, require_writable
    from shared.numbers import write_numbers
    from shared.weights import find

    wanted = calls or [5, 10, 20]
    paths = {n: calibration_path(find(model), n) for n in wanted}
    for path in paths.values():
        refuse_existing(path, overwrite=overwrite)
        require_writable(path)
    loaded = loaded_model(model, strategy, device)
    voxels = None if size is None else three(size, "--size")
    found: dict[str, float] = {}
    for n, path in paths.items():
        calibration = calibrate_brain(
            loaded, n, count=count, held_out=held_out, size=voxels, seed=seed,
            progress=None if quiet else f"exact trajectories for {n} calls",
        )  # fmt: skip
        calibration.save(path, overwrite=overwrite)
        found |= {f"{n}.{name}": value for name, value in numbers(calibration).items()}
        if not quiet:
            show(calibration)
        typer.echo(str(path))
    if json is not None:
        write_numbers(json, found)
