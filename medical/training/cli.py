"""`fewstep mri train CONFIG`: train a learned reconstruction on simulated acquisitions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared.options import Device, ExportOnly, Overwrite, Quiet


def train(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="YAML file, or a packaged name such as medical/no_varnet_small.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Weights to write: a .safetensors path.")],
    data: Annotated[
        Path, typer.Option(envvar="FEWSTEP_BRAINS", help="Folder of brain volumes (medical/simulation/volumes.py).")
    ],
    work: Annotated[
        Path | None, typer.Option(help="Checkpoint, log and pictures; default: OUTPUT without its suffix.")
    ] = None,
    export: ExportOnly = False,
    device: Device = "cpu",
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a learned reconstruction on simulated scans of brain volumes; run again to go on after a stop."""
    import torch

    from medical.reconstruction.learned.build import config_from_data, config_to_data, network_from_data
    from medical.training import loop
    from medical.training.card import range_sample, trained_on, write_weights
    from medical.training.config import TrainingConfig
    from shared.config import load_config
    from shared.devices import resolve_device
    from shared.errors import InputError
    from shared.files import require_new_weights

    require_new_weights(output, overwrite=overwrite)
    settings = load_config(config, TrainingConfig)
    # In full, so that the card and the checkpoint do not depend on defaults that may change.
    settings = settings.model_copy(update={"network": config_to_data(config_from_data(settings.network))})
    folder = work or output.with_suffix("")
    if export and not (folder / "checkpoint.safetensors").is_file():
        raise InputError(folder, found="no checkpoint", expected="one to export", fix="Train first, or give --work.")
    torch.manual_seed(settings.seed)
    network = network_from_data(settings.network)
    cache = folder / "slices"
    trained = loop.train(
        settings,
        network,
        data=data,
        cache=cache,
        work=folder,
        device=resolve_device(device),
        progress=not quiet,
        stop_at=0 if export else None,
    )
    measured = {"steps": trained.step, "seconds": round(trained.seconds), "validation": trained.scores}
    covered = trained_on(range_sample(settings, data, cache))
    for path in write_weights(output, trained.network, settings, covered, measured, overwrite=overwrite):
        typer.echo(str(path))
