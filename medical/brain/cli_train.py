"""`fewstep brain train`: a model of heads, from label maps or prepared volumes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared.options import Device, ExportOnly, Half, Overwrite, Quiet, StopAt


def train(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="YAML file, or a packaged name such as medical/brain_small.")
    ],
    data: Annotated[Path, typer.Option("--data", metavar="FOLDER", help="Below it lie the files that CONFIG names.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Model to write: a .safetensors path.")],
    work: Annotated[
        Path | None, typer.Option(help="Folder of heads, checkpoint and log; default: OUTPUT without its suffix.")
    ] = None,
    start: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Begin with this model, of the same model: section of CONFIG.")
    ] = None,
    export: ExportOnly = False,
    half: Half = False,
    steps: StopAt = None,
    device: Device = "cpu",
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a model on simulated heads of label maps and on prepared volumes; run again to go on after a stop.

    Writes OUTPUT and its card (.md). The licences of the files hold for the model; CONFIG names them.
    """
    from medical.brain.card import write_card
    from medical.brain.files import load_brain
    from medical.brain.training import BrainTraining, brain_trainer
    from shared.config import load_config
    from shared.devices import resolve_device
    from shared.files import require_new_weights
    from shared.progress import training_bar
    from shared.training_run import training_folder

    require_new_weights(output, overwrite=overwrite)
    settings = load_config(config, BrainTraining)
    folder = training_folder(output, work, export=export)

    def making(done: int, total: int) -> None:
        if done % 100 == 0 or done == total:
            typer.echo(f"heads: {done} of {total}", err=True)

    trainer = brain_trainer(
        settings, data, folder, device=resolve_device(device), start=None if start is None else load_brain(start),
        progress=None if quiet else making,
    )  # fmt: skip
    with training_bar(settings.name, settings.steps, trainer.step, hidden=quiet or export) as tell:
        trainer.run(stop_at=0 if export else steps, tell=tell)
    trainer.export(output, half=half)
    typer.echo(str(output))
    typer.echo(str(write_card(output, overwrite=overwrite)))
