"""The calibration as data: one JSON file that holds everything needed to use it, and to refuse a wrong use.

    calibration = load_calibration("shared/digits_denoiser_5")          # a packaged name, or a file
    x0 = sample(denoiser, x, *calibration.bind(denoiser))

`bind` checks model, process and guidance and returns grid and solver. A packaged file lies in `<package>/calibrations/`
and has a line in the SHA256SUMS beside it that is checked on loading.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shared import weights
from shared.calibration.identity import Identity
from shared.denoiser import Denoiser
from shared.errors import InputError
from shared.files import atomic_path
from shared.grid import Grid
from shared.jsontext import json_text
from shared.process import NoiseProcess
from shared.process_data import process_from_data, process_to_data, same_process
from shared.solvers.banded import BandedMultistep
from shared.solvers.calibrated import CalibratedMultistep

FORMAT = "fewstep calibration 1"


@dataclass(frozen=True)
class Errors:
    """Root mean square difference from the teacher's end, for one set of noises.

    Attributes:
        samples: number of noises.
        calibrated: the calibrated solver.
        baselines: other solvers and grids with as many calls, from the same noises.
    """

    samples: int
    calibrated: float
    baselines: Mapping[str, float]

    @property
    def ratio(self) -> float:
        """Return the error over that of the best baseline."""
        return self.calibrated / min(self.baselines.values())


@dataclass(frozen=True)
class Calibration:
    """Nodes and coefficients fitted to one model, with what they are valid for.

    Attributes:
        model: what the model is recognised by.
        process: its noise process.
        shape: of one sample in the calibration, without the batch.
        guidance: guidance scale at which the denoiser was calibrated, None without guidance.
        solver: nodes and coefficients.
        nodes_from: which search found the nodes.
        ridge: pull towards DDIM in the fit.
        calibration: errors on the noises of the fit.
        held_out: errors on noises that the fit has not seen, if there were any.
        version: of fewstep.
        date: day of the calibration, ISO 8601.
    """

    model: Identity
    process: NoiseProcess
    shape: tuple[int, ...]
    guidance: float | None
    solver: CalibratedMultistep | BandedMultistep
    nodes_from: str
    ridge: float
    calibration: Errors
    held_out: Errors | None
    version: str
    date: str

    @property
    def nfe(self) -> int:
        """Return the number of network calls."""
        return len(self.solver.gains)

    @property
    def grid(self) -> Grid:
        """Return the nodes as a grid of the calibration's process."""
        return self.solver.grid(self.process)

    def bind(
        self, denoiser: Denoiser, *, process: NoiseProcess | None = None, guidance: float | None = None
    ) -> tuple[Grid, CalibratedMultistep | BandedMultistep]:
        """Return grid and solver for `sample`, `steps` and friends, after checking that they belong to the denoiser.

        Args:
            denoiser: the model that will be sampled.
            process: its noise process; by default its attribute `process`.
            guidance: its guidance scale, None without guidance.

        Raises:
            InputError: another model, process or guidance scale than that of the calibration.
        """
        process = process if process is not None else getattr(denoiser, "process", None)
        if process is None or not same_process(process, self.process, self.solver.times):
            raise InputError(
                "calibration",
                found=f"a calibration for {_short(self.process)}",
                expected=f"one for {'the process of the denoiser' if process is None else _short(process)}",
                fix="Pass process=..., the one of the calibration, or calibrate for this one.",
            )
        if guidance != self.guidance:
            raise InputError(
                "calibration",
                found=f"a calibration at guidance {_scale(self.guidance)}",
                expected=f"one at guidance {_scale(guidance)}",
                fix="Calibrate at this scale: coefficients do not carry over to another.",
            )
        self.model.check(denoiser, process, self.shape, "calibration")
        return Grid(process, self.solver.times), self.solver

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the calibration as JSON; numbers are exact.

        Raises:
            InputError: the file exists and may not be replaced, or a process that is none of ours.
        """
        facts = {
            "format": FORMAT,
            "nfe": self.nfe,
            **asdict(self),
            "process": process_to_data(self.process),
        }
        with atomic_path(path, overwrite=overwrite) as scratch:
            scratch.write_text(json_text(facts), encoding="utf-8")


def load_calibration(name: str | os.PathLike[str]) -> Calibration:
    """Return the calibration in a file, or the packaged one called "<package>/<stem>".

    Raises:
        InputError: no such file or name; a file that is not a calibration; a packaged file whose hash is wrong.
    """
    path = find(name)
    weights.check_recorded_hash(path)
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise _no_calibration(path, f"no JSON ({error})") from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise _no_calibration(path, f"format {facts.get('format')!r}" if isinstance(facts, dict) else "no object")
    try:
        return _calibration(facts)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _no_calibration(path, f"a wrong or absent entry ({error})") from error


def find(name: str | os.PathLike[str]) -> Path:
    """Return the file that `name` resolves to.

    Raises:
        InputError: nothing of that name; the packaged names are listed.
    """
    if Path(name).is_file():
        return Path(name)
    known = available()
    if os.fspath(name) in known:
        return known[os.fspath(name)]
    raise InputError(
        os.fspath(name),
        found="no such calibration",
        expected=f"a JSON file or one of {', '.join(known) or '(none installed)'}",
        fix="Check the name, or make one with fewstep calibrate.",
    )


def available() -> dict[str, Path]:
    """Return every packaged calibration by name, without importing any domain."""
    folders = {package: weights.package_folder(package) for package in weights.PACKAGES}
    return {
        f"{package}/{path.stem}": path
        for package, folder in folders.items()
        if folder is not None
        for path in sorted((folder / "calibrations").glob("*.json"))
    }


def _calibration(facts: Mapping[str, Any]) -> Calibration:
    model, held_out = facts["model"], facts["held_out"]
    probe = model["probe"]
    return Calibration(
        model=Identity(model["name"], model["weights"], None if probe is None else tuple(probe)),
        process=process_from_data(facts["process"]),
        shape=tuple(facts["shape"]),
        guidance=facts["guidance"],
        solver=(BandedMultistep if "edges" in facts["solver"] else CalibratedMultistep)(**facts["solver"]),
        nodes_from=facts["nodes_from"],
        ridge=facts["ridge"],
        calibration=Errors(**facts["calibration"]),
        held_out=None if held_out is None else Errors(**held_out),
        version=facts["version"],
        date=facts["date"],
    )


def _no_calibration(path: Path, found: str) -> InputError:
    return InputError(path, found=found, expected="a calibration written by fewstep", fix="Check the file.")


def _scale(guidance: float | None) -> str:
    return "none" if guidance is None else f"{guidance:g}"


def _short(process: NoiseProcess) -> str:
    return f"{type(process).__name__} (log_snr(1) = {float(process.log_snr(1.0)):.4g})"
