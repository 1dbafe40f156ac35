"""What `fewstep calibrate` does: load the model, fit, save, print and return the numbers."""

from __future__ import annotations

from pathlib import Path

import torch
import typer

from shared.calibration import Calibration, calibrate
from shared.devices import resolve_device
from shared.errors import InputError
from shared.files import refuse_existing
from shared.models import load_model
from shared.numbers import flat_numbers, write_numbers

HELD_OUT = 64


def run(
    model: str, output: Path, *, nfe: int, n: int, history: int, seed: int, device: str, json: Path | None,
    quiet: bool, overwrite: bool,
) -> None:  # fmt: skip
    """Calibrate a model by name and write the artefact; the options are those of the command line.

    Raises:
        InputError: an unknown model, a bad option, or an existing output.
    """
    refuse_existing(output, overwrite=overwrite)
    where = resolve_device(device)
    loaded = load_model(model, device=where)
    generator = torch.Generator().manual_seed(seed)
    if n < 1:
        raise InputError("--n", found=f"{n}", expected="one noise or more", fix="64 are comfortable, 8 are enough.")
    x = loaded.process.noise((n, *loaded.shape), generator, device=where)
    held_out = loaded.process.noise((HELD_OUT, *loaded.shape), generator, device=where)
    calibration = calibrate(
        loaded.denoiser, loaded.process, x, nfe, held_out=held_out, history=history, guidance=loaded.guidance,
        name=loaded.name, progress=None if quiet else "exact trajectories",
    )  # fmt: skip
    calibration.save(output, overwrite=overwrite)
    if not quiet:
        show(calibration)
    if json is not None:
        write_numbers(json, numbers(calibration))
    typer.echo(str(output))


def show(calibration: Calibration) -> None:
    """Print the errors beside those of the plain grids; the calibration must have held-out noises."""
    from rich.console import Console
    from rich.table import Table

    fitted, seen = calibration.calibration, calibration.held_out
    assert seen is not None
    table = Table(
        f"{calibration.nfe} calls", "noises of the fit", f"{seen.samples} other noises", box=None, pad_edge=False
    )
    table.add_row("calibrated", f"{fitted.calibrated:.4g}", f"{seen.calibrated:.4g}")
    for kind in fitted.baselines:
        label = f"DPM-Solver++(2M), {kind}"
        table.add_row(label, f"{fitted.baselines[kind]:.4g}", f"{seen.baselines[kind]:.4g}")
    table.add_row("calibrated / best", f"{fitted.ratio:.3g}", f"{seen.ratio:.3g}")
    Console(highlight=False).print(table)


def numbers(calibration: Calibration) -> dict[str, float]:
    """Return the errors under flat names: calibration_rmse, held_out_rmse, held_out_ratio_to_dpmpp2m and the like."""
    found: dict[str, float] = {"nfe": calibration.nfe}
    for kind, errors in (("calibration", calibration.calibration), ("held_out", calibration.held_out)):
        if errors is not None:
            found |= {
                f"{kind}_samples": errors.samples,
                f"{kind}_rmse": errors.calibrated,
                f"{kind}_ratio_to_dpmpp2m": errors.ratio,
            } | flat_numbers({f"{kind}_dpmpp2m": dict(errors.baselines)})
    return found
