"""Stereo depth: a pair to disparity, confidence and metres; training, scenes with truth, checks: `fewstep stereo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robotics.stereo import cli_depth, cli_models
from robotics.stereo.options import Baseline, Calib, CalibRight, LeftImage, MaxDisparity, RightImage, size_of
from shared.options import Json, Quiet, Seed

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

app.command()(cli_depth.depth)
app.command()(cli_models.train)
app.command()(cli_models.train_surfaces)
app.command()(cli_models.calibrate)
app.command()(cli_models.export)


@app.command()
def generate(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the data set.")],
    scenes: Annotated[int, typer.Option(min=1, help="Number of pairs, one a scene.")] = 1000,
    size: Annotated[str, typer.Option(metavar="WxH", help="Of the images, px.")] = "320x240",
    config: Annotated[
        str, typer.Option(help="YAML file of the family of scenes, or a packaged name.")
    ] = "robotics/stereo_scenes",
    jobs: Annotated[int, typer.Option(min=1, help="Threads.")] = 1,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Make pairs with exact disparities, occlusions and materials; run again to go on after a stop, or for more."""
    from robotics.stereo.scenes.config import ScenesConfig
    from robotics.stereo.scenes.shards import SHARD, generate
    from shared.config import load_config

    settings = load_config(config, ScenesConfig)
    done = generate(output, settings, scenes, size_of(size), seed, jobs=jobs)
    if quiet:
        for _ in done:
            pass
    else:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("scenes"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task("", total=scenes)
            for count in done:
                bar.update(task, completed=count, refresh=count % (8 * SHARD) == 0)
    typer.echo(str(output))


@app.command()
def doctor(
    left: LeftImage,
    right: RightImage,
    calib: Calib = None,
    calib_right: CalibRight = None,
    baseline: Baseline = None,
    max_disparity: MaxDisparity = None,
    json: Json = None,
) -> None:
    """Say whether two images are a rectified pair, left first: rows, sides, exposure, texture, calibration."""
    import numpy as np

    from robotics.stereo.checks import check_pair
    from robotics.stereo.inputs import read_pair
    from shared.numbers import write_numbers

    pair = read_pair(left, right, calib=calib, calib_right=calib_right, baseline=baseline)
    report = check_pair(pair, max_disparity)
    numbers = report.numbers()
    for name, value in numbers.items():
        typer.echo(f"{name:20}{value:.4g}" if isinstance(value, float) else f"{name:20}{value}")
    if (camera := pair.camera) is not None:
        typer.echo(f"{'camera':20}fx {camera.fx:g} px, baseline {camera.baseline:g} m, doffs {camera.doffs:g} px")
        nearest, farthest = camera.depth(np.array([max_disparity or 0.3 * camera.width, 1.0]))
        typer.echo(f"{'depth range':20}{nearest:.3g} m to {farthest:.3g} m (at 1 px)")
    for finding in report.findings:
        typer.echo(f"{'fault' if finding.fault else 'warning'}: {finding.found}. {finding.fix}")
    if report.good:
        typer.echo("a rectified pair")
    if json is not None:
        write_numbers(json, numbers)
    if not report.good:
        raise typer.Exit(1)


@app.command()
def evaluate(
    disparity: Annotated[Path, typer.Argument(metavar="DISPARITY", help="Map to judge: .pfm, .png, .npy or .npz.")],
    truth: Annotated[Path, typer.Argument(metavar="TRUTH", help="True map of the same size.")],
    encoding: Annotated[str, typer.Option(help="Of DISPARITY: auto, or a name in formats.py.")] = "auto",
    truth_encoding: Annotated[str, typer.Option(help="Of TRUTH, likewise.")] = "auto",
    scale: Annotated[float | None, typer.Option(help="Grey levels a pixel of an 8-bit DISPARITY.")] = None,
    truth_scale: Annotated[float | None, typer.Option(help="Grey levels a pixel of an 8-bit TRUTH.")] = None,
    occluded: Annotated[
        Path | None, typer.Option(help="Picture that is not 0 where the right camera does not see a pixel.")
    ] = None,
    material: Annotated[Path | None, typer.Option(help="Picture of materials, values of pair.Surface.")] = None,
    json: Json = None,
) -> None:
    """Measure a disparity map: epe, bad1, bad2, bad3, d1 over all true pixels; holes are errors, nothing is aligned."""
    from robotics.stereo.formats import read_disparity, read_image
    from robotics.stereo.metrics import evaluate_masks, standard_masks
    from shared.numbers import write_numbers

    said = read_disparity(disparity, encoding, scale=scale)
    true = read_disparity(truth, truth_encoding, scale=truth_scale)
    hidden = None if occluded is None else read_image(occluded)[..., 0] > 0
    kinds = None if material is None else read_image(material)[..., 0]
    numbers = evaluate_masks(said, true, standard_masks(hidden, kinds))
    for name, value in numbers.items():
        typer.echo(f"{name:24}{value:.4g}")
    if json is not None:
        write_numbers(json, numbers)
