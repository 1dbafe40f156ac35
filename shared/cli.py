"""The command `fewstep`: finds the domains' commands and runs the one that is called.

A domain, or a third party, adds a command through the entry-point group `fewstep.commands`; its value is a Typer app,
and the first line of the module's docstring is its line in `fewstep --help`. Only the module of the command that is
called is imported, so help answers at once however heavy a domain is.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Annotated

import typer

from shared.errors import FewstepError
from shared.options import Device, Json, Overwrite, Quiet, Seed

GROUP = "fewstep.commands"
COMPLETION = "_FEWSTEP_COMPLETE"  # set by the shell; other packages have variables of that ending (ROS 2's wheels)
INTERRUPTED = 130  # 128 + SIGINT, as shells count

HELP = """Few-step diffusion for medical imaging, remote sensing, robotics and motion.

Every command takes --help. Bad input ends with one line and exit code 2."""


def main() -> None:
    """Run the command line; a `FewstepError` becomes one line on standard error and exit code 2."""
    try:
        build_app(sys.argv[1:])()
    except FewstepError as error:
        typer.echo(f"fewstep: {error}", err=True)
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and stop.code != INTERRUPTED:  # what Typer makes of Ctrl-C
            raise
        typer.echo("fewstep: interrupted", err=True)
        sys.exit(INTERRUPTED)


def build_app(arguments: list[str]) -> typer.Typer:
    """Return the Typer app with the called command loaded and a one-line stand-in for each of the others."""
    app = typer.Typer(
        name="fewstep", help=HELP, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None
    )
    app.callback()(_top_level)
    app.command()(doctor)
    app.command()(demo)
    app.command()(calibrate)
    app.command()(profile)
    bench = typer.Typer(help="Measure methods beside their peers, on the same input in the same run.")
    bench.callback()(_top_level_of_bench)
    bench.command()(core)
    app.add_typer(bench, name="bench")
    called = next((word for word in arguments if not word.startswith("-")), None)
    completing = COMPLETION in os.environ
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        if entry.name == called or completing:
            app.add_typer(entry.load(), name=entry.name, help=_summary(entry))
        else:
            app.add_typer(typer.Typer(help=_summary(entry)), name=entry.name)
    return app


def _summary(entry: EntryPoint) -> str:
    """Read the first docstring line of the entry's module without importing the module."""
    spec = importlib.util.find_spec(entry.module)
    if spec is None or spec.origin is None:
        return ""
    docstring = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


def _print_version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        typer.echo(version("fewstep"))
        raise typer.Exit


def _top_level(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def doctor(json: Json = None) -> None:
    """Say what is installed, which device is used, which weights are present, and how to get what is absent."""
    from shared.doctor import examine, show

    show(examine(), json)


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; index.html is the page.")] = Path(
        "demo"
    ),
    seed: Seed = 0,
    device: Device = "auto",
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Run every domain on embedded inputs and write a page of pictures and tables."""
    from shared.demo import run

    typer.echo(run(output, seed=seed, device=device, quiet=quiet, overwrite=overwrite))


def calibrate(
    model: Annotated[str, typer.Argument(help="Name of a model, such as shared/digits_denoiser.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON file to write.")],
    nfe: Annotated[int, typer.Option(help="Network calls of a sampling.")] = 5,
    n: Annotated[int, typer.Option("--n", help="Noises whose exact trajectories are fitted.")] = 64,
    history: Annotated[int, typer.Option(help="Answers of the network that a step looks at.")] = 2,
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = None,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Fit the nodes and coefficients of a few-step solver to a model, from a few of its exact trajectories."""
    from shared.calibration.cli import run

    run(
        model, output, nfe=nfe, n=n, history=history, seed=seed, device=device, json=json, quiet=quiet,
        overwrite=overwrite,
    )  # fmt: skip


def profile(
    model: Annotated[str, typer.Argument(help="Name of a model, such as shared/photo_unet.")],
    batch: Annotated[int, typer.Option(help="Samples of the network call.")] = 1,
    repeat: Annotated[int, typer.Option(help="Calls that are timed.")] = 10,
    device: Device = "auto",
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Show where a network call spends its time and operations, by kind of operator and by level."""
    from shared.profiling import run

    run(model, batch=batch, repeat=repeat, device=device, json=json, quiet=quiet)


def _top_level_of_bench() -> None:
    pass


def core(
    case: Annotated[
        list[str] | None, typer.Option("--case", help="A case to run, such as shared/photo_unet; may be repeated.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer noises, calls and cases: minutes on a CPU.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="HTML page to write, with a plot for each case.")
    ] = None,
    device: Device = "cpu",
    json: Json = None,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Draw quality against compute for every method of the core: solvers, calibration, reuse, pruning, peers."""
    from shared.bench.core import run

    run(cases=case or (), quick=quick, device=device, output=output, json=json, quiet=quiet, overwrite=overwrite)
