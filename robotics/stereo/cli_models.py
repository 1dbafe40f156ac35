"""`fewstep stereo train`, `train-surfaces`, `calibrate`, `export`: models in the making."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robotics.stereo.options import (
    Calls,
    Enlarge,
    First,
    Glass,
    GuidanceOption,
    MaxDisparity,
    ModelArgument,
    Samples,
    Scenes,
    guidance_of,
    size_of,
)
from shared.errors import InputError
from shared.options import Device, ExportOnly, Half, Json, Overwrite, Quiet, Seed, StopAt, Work


def train(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="YAML file, or a packaged name such as robotics/stereo_small.")
    ],
    data: Scenes,
    output: Annotated[Path, typer.Option("--output", "-o", help="Model to write: a .safetensors path.")],
    work: Work = None,
    export: ExportOnly = False,
    start: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Begin with its weights; default: random ones.")
    ] = None,
    half: Half = False,
    steps: StopAt = None,
    device: Device = "cpu",
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a model on generated scenes; run again to go on after a stop. Writes OUTPUT and its card (.md)."""
    from robotics.stereo.card import write_card
    from robotics.stereo.crops import Crops
    from robotics.stereo.files import read_stereo
    from robotics.stereo.scenes.shards import SceneFolders
    from robotics.stereo.training import StereoTrainer, StereoTraining
    from shared.config import load_config
    from shared.devices import resolve_device
    from shared.progress import training_bar
    from shared.training_run import training_folder

    _require_new_model(output, overwrite=overwrite)
    settings = load_config(config, StereoTraining)
    folder = training_folder(output, work, export=export)
    scenes = SceneFolders(data, (settings.crop[1], settings.crop[0]))
    first = None if start is None else read_stereo(start).plain()
    if first is not None and first.config != settings.model:
        raise InputError(
            first.path, found="a model of another configuration", expected=f"that of {config}",
            fix="Begin with a model of this configuration, or with none.",
        )  # fmt: skip
    trainer = StereoTrainer(
        settings, Crops(scenes), folder, start=None if first is None else first.tensors, device=resolve_device(device)
    )
    with training_bar(settings.name, settings.steps, trainer.step, hidden=quiet or export) as tell:
        trainer.run(stop_at=0 if export else steps, tell=tell)
    origin = {"data": scenes.facts(), "start": None if first is None else {"name": start, "sha256": first.sha256}}
    trainer.export(output, half=half, origin=origin)
    typer.echo(str(output))
    typer.echo(str(write_card(output, overwrite=overwrite)))


def train_surfaces(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="YAML file, or a packaged name such as robotics/stereo_surfaces.")
    ],
    data: Scenes,
    start: Annotated[
        str, typer.Option(metavar="MODEL", help="What the branch is added to; one that it has is trained on.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Model to write: a .safetensors path.")],
    work: Annotated[
        Path | None, typer.Option(help="Folder of crops, checkpoint and log; default: OUTPUT without its suffix.")
    ] = None,
    half: Half = False,
    steps: StopAt = None,
    device: Device = "cpu",
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a branch for glass and mirrors beside a frozen model; run again to go on after a stop.

    Writes OUTPUT and its card (.md), without a confidence that was fitted with --glass: fit another with `calibrate`.
    """
    from robotics.stereo.card import write_card
    from robotics.stereo.crops import Crops
    from robotics.stereo.files import read_stereo
    from robotics.stereo.scenes.shards import SceneFolders
    from robotics.stereo.surfaces_training import SurfacesTrainer, SurfacesTraining
    from shared.config import load_config
    from shared.devices import resolve_device
    from shared.progress import training_bar

    _require_new_model(output, overwrite=overwrite)
    settings = load_config(config, SurfacesTraining)
    scenes = SceneFolders(data, (settings.crop[1], settings.crop[0]))
    trainer = SurfacesTrainer(
        settings, begin := read_stereo(start), Crops(scenes), work or output.with_suffix(""),
        device=resolve_device(device), progress=None if quiet else "crops",
    )  # fmt: skip
    with training_bar(settings.name, settings.steps, trainer.step, hidden=quiet) as tell:
        trainer.run(stop_at=steps, tell=tell)
    trainer.export(
        output, half=half, origin={"data": scenes.facts(), "start": {"name": start, "sha256": begin.sha256}}
    )  # fmt: skip
    typer.echo(str(output))
    typer.echo(str(write_card(output, overwrite=overwrite)))


def calibrate(
    model: ModelArgument,
    data: Scenes,
    output: Annotated[Path, typer.Option("--output", "-o", help="Model to write: a .safetensors path.")],
    calls: Calls = 1,
    samples: Samples = 4,
    first: First = "sgbm",
    enlarge: Enlarge = 1.0,
    glass: Glass = 0.0,
    max_disparity: MaxDisparity = None,
    guidance: GuidanceOption = None,
    scenes: Annotated[int | None, typer.Option(min=2, help="Use so many, spread evenly; default: all.")] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    json: Json = None,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Fit a model's confidence on half of the scenes and calibrate it on the others; writes OUTPUT and its card (.md).

    It holds for these numbers of calls and samples, this first map, and scenes like these; give scenes that the model
    was not trained on.
    """
    from robotics.stereo.calibrating import calibrate_confidence
    from robotics.stereo.card import write_card
    from robotics.stereo.estimation import EstimateSettings
    from robotics.stereo.files import read_stereo, save_fitted
    from robotics.stereo.scenes.shards import SceneFolders
    from shared.devices import resolve_device
    from shared.numbers import write_numbers

    _require_new_model(output, overwrite=overwrite)
    settings = EstimateSettings(
        calls=calls,
        samples=samples,
        first=first,
        enlarge=enlarge,
        glass=glass,
        max_disparity=max_disparity,
        guidance=guidance_of(guidance),
    )
    file, folders = read_stereo(model), SceneFolders(data)
    trained = (file.training, file.training.get("surfaces", {}))
    seen = {part["seed"] for facts in trained for part in facts.get("data", [])}
    seen &= {part["seed"] for part in folders.facts()}
    if seen:
        typer.echo(f"warning: the model was trained on scenes of seed {min(seen)}: give others", err=True)
    fitted = calibrate_confidence(
        file.model(resolve_device(device)), folders, settings, count=scenes, seed=seed,
        progress=None if quiet else "scenes",
    )  # fmt: skip
    for name, value in fitted.measured.items():
        typer.echo(f"{name:20}{value:.4g}")
    save_fitted(output, file, fitted)
    typer.echo(str(output))
    typer.echo(str(write_card(output, overwrite=overwrite)))
    if json is not None:
        write_numbers(json, fitted.measured)


def export(
    model: ModelArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Graph to write: an .onnx path.")],
    size: Annotated[str, typer.Option(metavar="WxH", help="Of the images, px.")],
    max_disparity: MaxDisparity = None,
    calls: Calls = 1,
    samples: Annotated[int, typer.Option(min=1, help="Drawn of each pair.")] = 1,
    glass: Glass = 0.0,
    overwrite: Overwrite = False,
) -> None:
    """Write a model and its whole sampling as one ONNX graph, and compare it with torch in onnxruntime.

    Inputs are left, right, first, known and noise (robotics/stereo/onnx_export.py), of this size alone.
    """
    from robotics.stereo.estimation import FAR
    from robotics.stereo.files import read_stereo
    from robotics.stereo.onnx_export import PARITY_PX, SamplingGraph, export_onnx, onnx_difference
    from shared.files import atomic_path, refuse_existing

    if output.suffix != ".onnx":
        raise InputError(output, found=f"the suffix {output.suffix!r}", expected=".onnx", fix="Rename it.")
    refuse_existing(output, overwrite=overwrite)
    width, height = size_of(size)
    file = read_stereo(model)
    far = max_disparity or FAR * width
    graph = SamplingGraph(file.model(), (width, height), far, calls, glass)
    facts = {
        "model": model, "sha256": file.sha256, "max_disparity": f"{far:g}", "calls": f"{calls}", "glass": f"{glass:g}"
    }  # fmt: skip
    with atomic_path(output, overwrite=overwrite) as scratch:
        export_onnx(graph, scratch, samples=samples, facts=facts)
        difference = onnx_difference(graph, scratch, samples=samples)
        if not difference <= PARITY_PX:
            raise InputError(
                output, found=f"a difference of {difference:.3g} px from torch", expected=f"at most {PARITY_PX:g} px",
                fix="Nothing was written. Try another version of onnxruntime.",
            )  # fmt: skip
    typer.echo(f"{'max_difference_px':20}{difference:.3g}")
    typer.echo(str(output))


def _require_new_model(output: Path, *, overwrite: bool) -> None:
    """Raise `InputError` unless a model and its card may be written."""
    from shared.files import refuse_existing, require_writable

    if output.suffix != ".safetensors":
        raise InputError(output, found=f"the suffix {output.suffix!r}", expected=".safetensors", fix="Rename it.")
    for path in (output, output.with_suffix(".md")):
        refuse_existing(path, overwrite=overwrite)
        require_writable(path)
