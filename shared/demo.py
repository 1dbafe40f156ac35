"""`fewstep demo`: every domain on embedded inputs, one page of pictures and tables.

A domain takes part through the entry-point group `fewstep.demos`: a function (folder, *, seed, device) that writes its
files into the folder and returns the sections of the page.
"""

from __future__ import annotations

import time
from importlib.metadata import entry_points
from pathlib import Path

from shared.devices import resolve_device
from shared.errors import InputError, MissingExtra
from shared.files import refuse_existing
from shared.report import Report

GROUP = "fewstep.demos"


def run(folder: Path, *, seed: int = 0, device: str = "auto", quiet: bool = False, overwrite: bool = False) -> Path:
    """Run every installed demo and write `folder/index.html`; each demo's files lie in a folder of its own beside it.

    A demo whose optional packages are absent is named on the page with the way to install them.

    Returns:
        The path of the page.

    Raises:
        InputError: the page exists and may not be replaced, or `folder` is a file.
    """
    page = folder / "index.html"
    if folder.exists() and not folder.is_dir():
        raise InputError(folder, found="a file", expected="a folder", fix="Choose another --output.")
    refuse_existing(page, overwrite=overwrite)
    where = resolve_device(device)
    report = Report(
        "fewstep",
        "Few-step diffusion and reconstruction on embedded inputs",
        notice="Simulated and toy data. Not for diagnosis.",
    )
    report.facts |= {"seed": seed, "device": str(where)}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        begin = time.perf_counter()
        if not quiet:
            _say(f"{entry.name} ...")
        try:
            report.sections.extend(entry.load()(folder / entry.name, seed=seed, device=where))
        except MissingExtra as error:
            report.warnings.append(f"The demo '{entry.name}' was left out: {error}")
        else:
            report.facts[f"{entry.name} took"] = f"{time.perf_counter() - begin:.1f} s"
    return report.write(page, overwrite=overwrite)[0]


def _say(text: str) -> None:
    import typer

    typer.echo(text, err=True)
