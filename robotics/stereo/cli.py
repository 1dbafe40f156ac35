"""Stereo depth: generate pairs with exact truth, check pairs, evaluate disparities: `fewstep stereo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared.errors import InputError
from shared.options import Quiet, Seed

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _top_level() -> None:
    pass


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
    done = generate(output, settings, scenes, _size(size), seed, jobs=jobs)
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


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if width.isdecimal() and height.isdecimal() and int(width) >= 32 and int(height) >= 32:
        return int(width), int(height)
    raise InputError("--size", found=repr(text), expected="WxH of at least 32 pixels each", fix="Such as 320x240.")
