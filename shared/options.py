"""Command-line options that mean the same in every domain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Seed = Annotated[
    int,
    typer.Option("--seed", min=0, max=2**62, help="Seed of every random draw: same seed, same output on one device."),
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, mps, or auto (the fastest one present).")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress; only the paths of results.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
Json = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Also write the numbers as a flat JSON object.")
]
Work = Annotated[
    Path | None, typer.Option("--work", help="Folder of checkpoint and log; default: OUTPUT without its suffix.")
]
ExportOnly = Annotated[
    bool, typer.Option("--export", help="Write the weights of the last checkpoint and train no further.")
]
Half = Annotated[bool, typer.Option("--half", help="Store the weights in float16.")]
StopAt = Annotated[int | None, typer.Option("--steps", help="Stop after this step, with a checkpoint.")]


def number_or_word(text: str) -> float | str:
    """Return the number that an option holds, or the option as it is."""
    try:
        return float(text)
    except ValueError:
        return text
