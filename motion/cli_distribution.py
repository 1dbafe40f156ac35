"""Sets of motions on the command line: `fewstep motion train-encoder`, and what `evaluate --reference` adds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated

import typer

from motion.cli_models import require_safetensors
from shared.errors import InputError
from shared.options import Half, Overwrite, Quiet, Work

if TYPE_CHECKING:
    from motion.clips import Motion

ENCODER = "motion/encoder_small"
SUMS = ("frames", "seconds")

ReferenceClips = Annotated[
    Path | None,
    typer.Option("--reference", metavar="FILE", help="Real clips that `fewstep motion collect` wrote."),
]
Encoder = Annotated[
    str, typer.Option("--encoder", metavar="NAME", help="Of windows: packaged name or .safetensors path.")
]
HeldOut = Annotated[
    list[str] | None,
    typer.Option(
        "--held-out", metavar="NAME",
        help="Recording of the reference on which no model was trained; may be repeated; default: the encoder's.",
    ),
]  # fmt: skip


def train_encoder(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="YAML file, or a packaged name such as motion/encoder_small.")
    ],
    data: Annotated[Path, typer.Option("--data", metavar="FILE", help="Clips that `fewstep motion collect` wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Encoder to write: a .safetensors path.")],
    work: Work = None,
    half: Half = False,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Train the encoder of `evaluate --reference` on real clips; run again to go on after a stop. Writes its card."""
    from motion.collection import load_collection
    from motion.encoder import load_encoder
    from motion.encoder_training import EncoderTrainer, EncoderTraining, write_encoder_card
    from shared.config import load_config
    from shared.files import refuse_existing, require_writable
    from shared.progress import training_bar

    require_safetensors(output)
    card = output.with_suffix(".md")
    for path in (output, card):
        refuse_existing(path, overwrite=overwrite)
        require_writable(path)
    settings = load_config(config, EncoderTraining)
    trainer = EncoderTrainer(settings, load_collection(data), work or output.with_suffix(""))
    with training_bar(settings.name, settings.steps, trainer.step, hidden=quiet) as tell:
        trainer.run(tell=tell)
    trainer.export(output, half=half, origin={"collection": data.name})
    write_encoder_card(load_encoder(output), card)
    typer.echo(str(output))
    typer.echo(str(card))


def clip_paths(given: Sequence[Path]) -> list[Path]:
    """Return the clips that are given, and those in given folders and their subfolders.

    Raises:
        InputError: a folder without clips.
    """
    from motion.formats import READ
    from motion.formats.files import kind_of

    found: list[Path] = []
    for path in given:
        inside = sorted(file for file in path.rglob("*") if kind_of(file) in READ) if path.is_dir() else [path]
        if not inside:
            raise InputError(path, found="no clip", expected=f"files {', '.join(READ)}", fix="Give another folder.")
        found += inside
    return found


def measured(motions: Sequence[Motion], names: Sequence[str], floor: float | None) -> dict[str, float]:
    """Return `motion.metrics.evaluate` of one clip; of several the means, but sums of frames and time, and `clips`.

    Raises:
        InputError: a clip is too short, or its feet are unknown.
    """
    from motion.metrics import evaluate

    each = []
    for motion, name in zip(motions, names, strict=True):
        try:
            each.append(evaluate(motion, floor))
        except InputError as error:
            raise InputError(
                f"{name}: {error.source}", found=error.found, expected=error.expected, fix=error.fix
            ) from error
    if len(each) == 1:
        return each[0]
    numbers = {name: (sum if name in SUMS else fmean)(one[name] for one in each) for name in each[0]}
    return {"clips": float(len(each)), **numbers}


def show_numbers(numbers: dict[str, float]) -> None:
    """Print a line a number."""
    width = max(20, *(len(name) + 1 for name in numbers))
    for name, value in numbers.items():
        typer.echo(f"{name:{width}}{value:.4g}")


def compared(
    motions: Sequence[Motion], names: Sequence[str], reference: Path, encoder: str, held_out: list[str] | None, *,
    seed: int, quiet: bool,
) -> dict[str, float]:  # fmt: skip
    """Return the numbers of `motion.distribution` and say on standard error what to mind.

    Args:
        motions: to compare.
        names: of their files.
        reference: a collection.
        encoder: name or file.
        held_out: recordings; None for those of the encoder that the collection has.
        seed: of halves and windows.
        quiet: no progress bar.

    Raises:
        InputError: files of other kinds, a body that the encoder does not know, or fewer than two windows.
    """
    from motion.collection import load_collection, same_body
    from motion.distribution import Reference, compare
    from motion.encoder import load_encoder

    loaded, collection = load_encoder(encoder), load_collection(reference)
    if held_out is None:
        stems = {clip.stem for clip in collection.clips}
        held_out = [name for name in loaded.facts["held_out"] if name in stems]
    real = Reference.of(collection, loaded, held_out)
    body, window = loaded.body.skeleton, loaded.config.frames / loaded.config.fps
    for motion, name in zip(motions, names, strict=True):
        if not same_body(motion.skeleton, body):
            typer.echo(f"note: {name}: retargeted to the body of {reference.name}", err=True)
        if motion.seconds < window:
            typer.echo(f"note: {name}: shorter than {window:g} s, not compared with the reference", err=True)
    if not held_out:
        typer.echo(
            "note: no held-out recording: what real motion is from the training is not told (--held-out)", err=True
        )
    numbers = compare(motions, real, seed=seed, progress=None if quiet else "nearest windows")
    if numbers["frechet_windows"] < 2 * loaded.config.size:
        typer.echo(
            f"note: {numbers['frechet_windows']:.0f} windows for {loaded.config.size} features: read frechet beside "
            "frechet_real_floor only", err=True,
        )  # fmt: skip
    return numbers
