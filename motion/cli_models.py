"""`fewstep motion collect`, `train`, `distil`, `draw`: models in the making, and what they make."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared.errors import InputError
from shared.options import Device, Json, Overwrite, Quiet, Seed


def collect(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Folders of clips, subfolders with them.")],
    skeleton: Annotated[Path, typer.Option(metavar="CLIP", help="A clip whose skeleton is the body of all.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write: a .safetensors path.")],
    fps: Annotated[float, typer.Option(min=1, help="Frames a second.")] = 30.0,
    json: Json = None,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Put clips on one body and label their actions, for `train`; prints what is left out and the time of each action.

    Mind the licences of the clips: they hold for models trained on them. A manifest.csv beside them is read.
    """
    import warnings

    from motion.collection import collect, save_collection
    from motion.formats import read_clip
    from shared.files import refuse_existing
    from shared.numbers import write_numbers

    _require_safetensors(output)
    refuse_existing(output, overwrite=overwrite)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what was guessed; `fewstep motion info` tells it
        body = read_clip(skeleton).skeleton
    collection = collect(folders, body, fps=fps, progress=None if quiet else "clips")
    save_collection(output, collection, overwrite=overwrite)
    for line in collection.left_out:
        typer.echo(f"left out: {line}", err=True)
    seconds = collection.seconds()
    for name, value in seconds.items():
        typer.echo(f"{name:16}{value:.4g} s")
    typer.echo(str(output))
    if json is not None:
        write_numbers(json, seconds)


def train(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="YAML file, or a packaged name such as motion/base_small.")
    ],
    data: Annotated[Path, typer.Option("--data", metavar="FILE", help="Clips that `fewstep motion collect` wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Model to write: a .safetensors path.")],
    work: Annotated[
        Path | None, typer.Option(help="Folder of checkpoint and log; default: OUTPUT without its suffix.")
    ] = None,
    export: Annotated[
        bool, typer.Option("--export", help="Write the weights of the last checkpoint and train no further.")
    ] = False,
    half: Annotated[bool, typer.Option("--half", help="Store the weights in float16.")] = False,
    steps: Annotated[int | None, typer.Option(help="Stop after this step, with a checkpoint.")] = None,
    device: Device = "cpu",
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a model on collected clips; run again to go on after a stop. Writes OUTPUT and its card (.md)."""
    from motion.card import write_card
    from motion.collection import load_collection
    from motion.training import MotionTrainer, MotionTraining
    from shared.config import load_config
    from shared.devices import resolve_device
    from shared.files import refuse_existing, require_writable
    from shared.progress import training_bar
    from shared.training_run import CHECKPOINT

    _require_safetensors(output)
    for path in (output, output.with_suffix(".md")):
        refuse_existing(path, overwrite=overwrite)
        require_writable(path)
    settings = load_config(config, MotionTraining)
    folder = work or output.with_suffix("")
    if export and not (folder / CHECKPOINT).is_file():
        raise InputError(folder, found="no checkpoint", expected="one to export", fix="Train first, or give --work.")
    trainer = MotionTrainer(settings, load_collection(data), folder, device=resolve_device(device))
    with training_bar(settings.name, settings.steps, trainer.step, hidden=quiet or export) as tell:
        trainer.run(stop_at=0 if export else steps, tell=tell)
    trainer.export(output, half=half, origin={"collection": data.name})
    typer.echo(str(output))
    typer.echo(str(write_card(output, overwrite=overwrite)))


def distil(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Teacher: packaged name or .safetensors path.")],
    data: Annotated[Path, typer.Option("--data", metavar="FILE", help="Clips that `fewstep motion collect` wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Student to write: a .safetensors path.")],
    steps: Annotated[int, typer.Option(min=1, help="Of the optimiser.")] = 750,
    calls: Annotated[int, typer.Option(min=1, help="Of the teacher's sampling, whose end the student learns.")] = 4,
    work: Annotated[
        Path | None, typer.Option(help="Folder of checkpoint and log; default: OUTPUT without its suffix.")
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store the weights in float16.")] = False,
    seed: Seed = 0,
    device: Device = "cpu",
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Distil a model into one of one call; run again to go on after a stop. Writes OUTPUT and its card (.md)."""
    from motion.card import write_card
    from motion.collection import load_collection
    from motion.distilling import StudentTrainer, student_training
    from motion.files import read_model
    from shared.devices import resolve_device
    from shared.files import refuse_existing, require_writable
    from shared.progress import training_bar

    _require_safetensors(output)
    for path in (output, output.with_suffix(".md")):
        refuse_existing(path, overwrite=overwrite)
        require_writable(path)
    teacher = read_model(model)
    settings = student_training(teacher, steps=steps, calls=calls, seed=seed)
    folder = work or output.with_suffix("")
    trainer = StudentTrainer(teacher, settings, load_collection(data), folder, device=resolve_device(device))
    with training_bar(settings.name, steps, trainer.step, hidden=quiet) as tell:
        trainer.run(tell=tell)
    trainer.export(output, half=half, origin={"collection": data.name})
    typer.echo(str(output))
    typer.echo(str(write_card(output, overwrite=overwrite)))


def draw(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Packaged name or .safetensors path.")],
    action: Annotated[
        list[str],
        typer.Option(metavar="ACTION:SECONDS", help="What to do and how long; repeat for what comes next."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help=".bvh, or .glb with its animation.")],
    calls: Annotated[int, typer.Option(min=1, help="Of the network.")] = 20,
    seed: Seed = 0,
    device: Device = "cpu",
    overwrite: Overwrite = False,
) -> None:
    """Draw one window of motion from noise, without a scene, such as --action walk:2 --action stand:1."""
    import torch

    from motion.files import load_model
    from motion.formats import require_writer, write_clip
    from motion.model import draw
    from shared.devices import resolve_device
    from shared.files import refuse_existing

    require_writer(output)
    refuse_existing(output, overwrite=overwrite)
    loaded = load_model(model, resolve_device(device))
    actions = _actions(action, loaded.config.fps)
    generator = torch.Generator().manual_seed(seed)
    write_clip(output, draw(loaded, actions, len(actions), calls=calls, generator=generator)[0], overwrite=overwrite)
    typer.echo(str(output))


def _actions(given: list[str], fps: float) -> list[str]:
    """Return an action a frame."""
    found: list[str] = []
    for text in given:
        name, _, seconds = text.partition(":")
        try:
            count = round(float(seconds) * fps)
        except (ValueError, OverflowError):
            count = 0
        if count < 1:
            raise InputError("--action", found=repr(text), expected="ACTION:SECONDS", fix="Such as walk:2.5.")
        found += [name] * count
    return found


def _require_safetensors(output: Path) -> None:
    if output.suffix != ".safetensors":
        raise InputError(output, found=f"the suffix {output.suffix!r}", expected=".safetensors", fix="Rename it.")
