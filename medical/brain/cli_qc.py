"""Quality of synthetic brain volumes on the command line, and the training of the segmenter that it measures with."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from shared.options import Device, Half, Json, Overwrite, Quiet, Seed

SEGMENTER = "medical/brain_segmenter"


def qc(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Synthetic volumes: a BIDS data set or NIfTI files.")],
    reference: Annotated[
        Path, typer.Option("--reference", metavar="DIR", help="Real volumes on the same grid, held out of training.")
    ],
    training: Annotated[
        Path | None,
        typer.Option(
            "--training", metavar="DIR", help="Volumes of the training, to find copies of; default: the reference."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Page to write: .html.")
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option("--features", metavar="NAME", help="brain_segmenter (default) or uncnn; may be repeated."),
    ] = None,
    segmenter: Annotated[
        str,
        typer.Option(
            "--segmenter", metavar="NAME", envvar="FEWSTEP_BRAIN_SEGMENTER",
            help="Of structures' volumes: a packaged name, .safetensors, or brainchop's folder of model.json (1 mm).",
        ),
    ] = SEGMENTER,
    permutations: Annotated[int, typer.Option(min=100, help="Of the tests of volumes.")] = 10_000,
    cut: Annotated[
        float | None, typer.Option(min=0, max=1, help="NCC of a copy; default: calibrated on the reference.")
    ] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    json: Json = None,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:  # fmt: skip
    """Compare synthetic volumes with real ones: distances, diversity, copies, structures. Not for diagnosis."""
    from medical.brain.qc.features import SEGMENTER as FEATURES
    from medical.brain.qc.meshnet import is_meshnet, load_meshnet
    from medical.brain.qc.quality import QualitySettings, quality
    from medical.brain.qc.report import report_of
    from medical.brain.segmenter import load_segmenter
    from shared.devices import resolve_device
    from shared.files import atomic_path, refuse_existing, require_writable
    from shared.jsontext import json_text

    if output is not None:
        for path in (output, output.with_name(f"{output.stem}.report.json")):
            refuse_existing(path, overwrite=overwrite)
            require_writable(path)
    if json is not None:
        require_writable(json)
    meshnet = load_meshnet(Path(segmenter)) if is_meshnet(segmenter) else None
    loaded = load_segmenter(SEGMENTER if meshnet else segmenter, resolve_device(device))
    settings = QualitySettings(
        tuple(dict.fromkeys(features or [FEATURES])), permutations, cut, seed=seed, progress=not quiet
    )
    found = quality(folder, reference, loaded, settings, training=training, meshnet=meshnet)
    for warning in found.warnings:
        typer.echo(f"warning: {warning}", err=True)
    for name, value in found.numbers.items():
        typer.echo(f"{name:40}{value:.4g}")
    if json is not None:
        with atomic_path(json, overwrite=True) as scratch:
            scratch.write_text(json_text(found.as_json()), encoding="utf-8")
    if output is not None:
        for path in report_of(found, shlex.join(["fewstep", *sys.argv[1:]])).write(output, overwrite=overwrite):
            typer.echo(str(path))


def train_segmenter(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="YAML file, or a packaged name such as medical/brain_segmenter.")
    ],
    maps: Annotated[Path, typer.Argument(metavar="LABELMAPS", help="Folder of label maps of whole heads, NIfTI.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Segmenter to write: a .safetensors path.")],
    work: Annotated[
        Path | None, typer.Option(help="Folder of heads, checkpoint and log; default: OUTPUT without its suffix.")
    ] = None,
    half: Half = False,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Train the segmenter of `qc` on simulated heads; run again to go on after a stop. Writes its card."""
    from medical.brain.segmenter_data import label_maps
    from medical.brain.segmenter_training import SegmenterTrainer, SegmenterTraining, write_segmenter_card
    from shared.config import load_config
    from shared.errors import InputError
    from shared.files import refuse_existing, require_writable
    from shared.progress import training_bar

    if output.suffix != ".safetensors":
        raise InputError(output, found=f"the suffix {output.suffix!r}", expected=".safetensors", fix="Rename it.")
    card = output.with_suffix(".md")
    for path in (output, card):
        refuse_existing(path, overwrite=overwrite)
        require_writable(path)
    settings = load_config(config, SegmenterTraining)
    trainer = SegmenterTrainer(settings, label_maps(maps), work or output.with_suffix(""), progress=not quiet)
    with training_bar(settings.name, settings.steps, int(trainer.facts["step"]), hidden=quiet) as tell:
        trainer.run(tell=tell)
    write_segmenter_card(trainer.export(output, half=half), card, overwrite=overwrite)
    typer.echo(str(output))
    typer.echo(str(card))
