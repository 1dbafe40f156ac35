"""The command `fewstep mri train-prior`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared.options import Device, Quiet, Seed


def train_prior(
    config: Annotated[str, typer.Argument(help="YAML file or packaged name, such as medical/slice_prior.")],
    output: Annotated[Path, typer.Argument(help="Folder of the training; an unfinished one there is resumed.")],
    data: Annotated[Path | None, typer.Option(help="Folder of the T1 volumes, instead of the configured one.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Number of steps, instead of the configured one.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Train a diffusion prior of brain slices, resumable; writes prior.safetensors into the folder."""
    from medical.reconstruction.posterior import training
    from medical.reconstruction.posterior.config import PriorTraining
    from shared.config import load_config
    from shared.devices import resolve_device
    from shared.files import require_writable

    require_writable(output / "prior.safetensors")
    chosen = load_config(config, PriorTraining)
    if steps is not None:
        chosen = chosen.model_copy(update={"steps": steps})

    def tell(line: dict[str, object]) -> None:
        typer.echo("  ".join(f"{key} {value}" for key, value in line.items()), err=True)

    path = training.train_prior(
        chosen, output, data=data, seed=seed, device=resolve_device(device), progress=None if quiet else tell
    )
    typer.echo(str(path))
