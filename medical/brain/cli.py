"""Synthetic brain MRI: heads onto the grids of networks, training, volumes, priors for scans: `fewstep brain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medical.brain.cli_inverse import calibrate, solve
from medical.brain.cli_qc import qc, train_segmenter
from medical.brain.cli_steer import steer
from medical.brain.cli_train import train
from medical.brain.options import Condition, Guidance, Model, Strategy, loaded_model, three
from shared.options import Device, Overwrite, Quiet, Seed

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
for command in (train, calibrate, solve, steer, qc, train_segmenter):
    app.command()(command)

Size = Annotated[
    str | None, typer.Option(metavar="XxYxZ", help="Voxels to the left, posterior, superior; default: the model's.")
]


@app.command()
def prepare(
    raw: Annotated[Path, typer.Argument(metavar="RAW", help="T1-weighted head, NIfTI.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Prepared volume: .nii or .nii.gz.")],
    mask: Annotated[
        Path | None, typer.Option(help="Brain mask on the grid of RAW; default: deepbet, or the head.")
    ] = None,
    fov: Annotated[str, typer.Option(metavar="XxYxZ", help="Field of view, mm.")] = "192x224x192",
    spacing: Annotated[
        float | None, typer.Option(min=0.1, help="mm, of all axes; default: 1 mm for finer axes, others stay.")
    ] = None,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Put a head onto the grid of the networks: 1 mm, LPS, percentiles to uint16, centred on the brain."""
    from medical.brain.prepare import prepare_file

    x, y, z = three(fov, "--fov")
    facts = prepare_file(raw, output, mask=mask, fov_mm=(x, y, z), spacing_mm=spacing, overwrite=overwrite)
    if not quiet:
        for warning in facts["warnings"]:
            typer.echo(f"warning: {warning}", err=True)
    typer.echo(str(output))


@app.command()
def generate(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder, a BIDS data set.")],
    model: Model = "medical/brain_small",
    count: Annotated[int, typer.Option("-n", min=1, help="Number of volumes.")] = 1,
    size: Size = None,
    spacing: Annotated[float | None, typer.Option(min=0.1, help="Voxel size, mm; default: the model's.")] = None,
    sampler: Annotated[str, typer.Option(help="reference (MedForj's), multistep or calibrated.")] = "reference",
    steps: Annotated[int, typer.Option(min=2, help="Of the sampling.")] = 256,
    eta: Annotated[float, typer.Option(min=0, max=1, help="Share of fresh noise, of reference.")] = 0.0,
    start: Annotated[Path | None, typer.Option(help="Prepared volume to start from, instead of noise.")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Label map of a whole head (FreeSurfer's codes) to start from, painted.")
    ] = None,
    strength: Annotated[float, typer.Option(help="With --start or --labels: 0 keeps the volume, 1 forgets it.")] = 0.6,
    strategy: Strategy = None,
    autoencoder: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Of MedForj's latent model: NVIDIA's autoencoder_v1.pt.")
    ] = None,
    condition: Condition = None,
    draw_conditions: Annotated[
        bool | None,
        typer.Option(
            help="Draw what is not told for each volume, as in the training; default: where the model can, from noise."
        ),
    ] = None,
    guidance: Guidance = 1.0,
    memory: Annotated[
        float | None, typer.Option(metavar="GIB", min=0.01, help="Stay within so much memory; default: what is free.")
    ] = None,
    dicom: Annotated[bool, typer.Option("--dicom", help="Also write DICOM series, into DIR/sourcedata/dicom.")] = False,
    seed: Seed = 0,
    device: Device = "auto",
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Draw synthetic T1-weighted heads. Not for diagnosis. Run again to go on after a stop, or for more."""
    from medical.brain.calibrated import calibrated_sampling
    from medical.brain.conditions import are_spread, parsed
    from medical.brain.generate import generate, off_training
    from medical.brain.model import Sampling
    from medical.brain.solve_files import read_labels, read_start
    from shared.errors import InputError
    from shared.weights import find

    voxels = None if size is None else three(size, "--size")
    loaded = loaded_model(model, strategy, device, autoencoder)
    if not quiet:
        for warning in off_training(loaded, voxels or loaded.config.size, spacing or loaded.config.spacing_mm):
            typer.echo(f"warning: {warning}", err=True)
    if sampler == "calibrated":
        sampling = calibrated_sampling(loaded, find(model), steps)
    else:
        sampling = Sampling(sampler, steps, eta)
    if start is not None and labels is not None:
        raise InputError("--labels", found="--start as well", expected="one of them", fix="Drop one.")
    begin = None
    if start is not None:
        begin = read_start(start, strength)
    elif labels is not None:
        begin = read_labels(labels, strength, loaded.config)
    if draw_conditions is None:
        draw_conditions = begin is None and are_spread(loaded.config, getattr(loaded.network, "heads", None))
    drawn = generate(
        loaded, output, count, seed, sampling=sampling, size=voxels, spacing_mm=spacing,
        conditions=parsed(condition or [], loaded.config), draw_conditions=draw_conditions, guidance=guidance,
        start=begin, memory=None if memory is None else memory * 2**30, dicom=dicom, overwrite=overwrite,
        progress=not quiet,
    )  # fmt: skip
    for written in drawn:
        typer.echo(str(written.path))
