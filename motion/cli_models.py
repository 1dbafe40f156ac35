"""`fewstep motion collect`, `train`, `distil`, `draw`, `stream`: models in the making, and what they make."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared.errors import InputError
from shared.options import Device, ExportOnly, Half, Json, Overwrite, Quiet, Seed, StopAt, Work

if TYPE_CHECKING:
    from motion.goals import Hint
    from motion.model import MotionModel


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

    require_safetensors(output)
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
    work: Work = None,
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Of a control branch: what it steers; default: CONFIG's.")
    ] = None,
    export: ExportOnly = False,
    half: Half = False,
    steps: StopAt = None,
    device: Device = "cpu",
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a model, or a control branch for one, on collected clips; run again to go on after a stop.

    Writes OUTPUT and its card (.md).
    """
    from motion.card import write_card
    from motion.collection import load_collection
    from motion.recipes import read_recipe, trainer_of
    from shared.devices import resolve_device
    from shared.files import refuse_existing, require_writable
    from shared.progress import training_bar
    from shared.training_run import training_folder

    require_safetensors(output)
    for path in (output, output.with_suffix(".md")):
        refuse_existing(path, overwrite=overwrite)
        require_writable(path)
    settings = read_recipe(config, base)
    folder = training_folder(output, work, export=export)
    trainer = trainer_of(settings, load_collection(data), folder, device=resolve_device(device))
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
    work: Work = None,
    half: Half = False,
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

    require_safetensors(output)
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
    hint: Annotated[
        list[str] | None,
        typer.Option(
            metavar="POINT:SECONDS:X,Y[,Z]",
            help="Where a point of the body should be, m, seen from the first frame; repeat. Needs a control branch.",
        ),
    ] = None,
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
    hints = [_hint(text, loaded) for text in hint or ()]
    generator = torch.Generator().manual_seed(seed)
    drawn = draw(loaded, actions, len(actions), hints=hints, calls=calls, generator=generator)[0]
    write_clip(output, drawn, overwrite=overwrite)
    typer.echo(str(output))


def stream(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Of endless motion: packaged name or path.")],
    action: Annotated[
        list[str],
        typer.Option(metavar="ACTION:SECONDS", help="What to do and how long; repeat for what comes next."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help=".bvh, or .glb with its animation.")],
    calls: Annotated[int, typer.Option(min=1, help="Of the network, for a block.")] = 10,
    seed: Seed = 0,
    device: Device = "cpu",
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Write motion of any length, made block after block, such as --action walk:60 --action stand:2."""
    import torch

    from motion.blending import concatenated
    from motion.formats import require_writer, write_clip
    from motion.streaming.commands import in_blocks
    from motion.streaming.files import load_stream
    from motion.streaming.model import stream
    from shared.devices import resolve_device
    from shared.files import refuse_existing
    from shared.progress import tracked

    require_writer(output)
    refuse_existing(output, overwrite=overwrite)
    loaded = load_stream(model, resolve_device(device))
    actions = _actions(action, loaded.config.fps)
    commands = tracked(list(in_blocks(actions, loaded.config.block)), None if quiet else "blocks")
    generator = torch.Generator().manual_seed(seed)
    motion = concatenated(list(stream(loaded, commands, calls=calls, generator=generator)))
    write_clip(output, motion.cut(0, len(actions)), overwrite=overwrite)
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


def _hint(text: str, model: MotionModel) -> Hint:
    """Return the hint that a text tells."""
    import torch

    from motion.control import ControlledModel
    from motion.goals import Hint

    if not isinstance(model, ControlledModel):
        raise InputError(
            "--hint", found="a model that hears no hints", expected="a control branch's file as the model",
            fix="Train one: fewstep motion train motion/control_small.",
        )  # fmt: skip
    try:
        name, seconds, place = text.split(":")
        target = torch.tensor([[float(value) for value in place.split(",")]])
        frame = torch.tensor([round(float(seconds) * model.config.fps)])
    except (ValueError, OverflowError):
        raise InputError(
            "--hint", found=repr(text), expected="POINT:SECONDS:X,Y[,Z]", fix="Such as left_hand:1.5:0.2,0.4,1.3."
        ) from None
    return Hint(model.points.joints[model.points.index(name)], frame, target, name=name)


def require_safetensors(output: Path) -> None:
    """Refuse another suffix.

    Raises:
        InputError: the path does not end in .safetensors.
    """
    if output.suffix != ".safetensors":
        raise InputError(output, found=f"the suffix {output.suffix!r}", expected=".safetensors", fix="Rename it.")
