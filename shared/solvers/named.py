"""Solvers as data: `{"name": "multistep", "order": 2, ...}` for configurations, saved schedulers and artefacts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from shared.errors import InputError
from shared.sampling import Solver
from shared.solvers.ancestral import Ancestral
from shared.solvers.banded import BandedMultistep
from shared.solvers.calibrated import CalibratedMultistep
from shared.solvers.consistency import ConsistencySteps
from shared.solvers.ddim import DDIM
from shared.solvers.dpm_solver import DPMSolver
from shared.solvers.evodiff import EVODiff
from shared.solvers.heun import Heun
from shared.solvers.multistep import Multistep
from shared.solvers.noise_multistep import NoiseMultistep
from shared.solvers.unipc import UniPC

SOLVERS: dict[str, type] = {
    "ddim": DDIM,
    "ancestral": Ancestral,
    "multistep": Multistep,
    "heun": Heun,
    "calibrated": CalibratedMultistep,
    "banded": BandedMultistep,
    "evodiff": EVODiff,
    "dpm_solver": DPMSolver,
    "unipc": UniPC,
    "noise_multistep": NoiseMultistep,
    "consistency": ConsistencySteps,
}


def solver_to_data(solver: Solver) -> dict[str, Any]:
    """Return the solver's name and options, JSON-able; the inverse of `solver_from_data`.

    Raises:
        InputError: the solver is none of `SOLVERS`.
    """
    for name, kind in SOLVERS.items():
        if type(solver) is kind:
            return {"name": name, **dataclasses.asdict(solver)}  # type: ignore[call-overload]
    raise InputError(
        "solver", found=type(solver).__name__, expected=f"one of {', '.join(SOLVERS)}", fix="Use a named solver."
    )


def solver_from_data(data: Mapping[str, Any]) -> Solver:
    """Return the solver of a name and options.

    Raises:
        InputError: an unknown name or option.
    """
    options = dict(data)
    name = options.pop("name", None)
    if name not in SOLVERS:
        raise InputError("solver", found=f"name {name!r}", expected=f"one of {', '.join(SOLVERS)}", fix="Correct it.")
    known = {field.name for field in dataclasses.fields(SOLVERS[name])}
    if unknown := sorted(set(options) - known):
        raise InputError(
            f"solver {name}",
            found=f"options {', '.join(unknown)}",
            expected=f"only {', '.join(sorted(known)) or 'none'}",
            fix="Drop or correct them.",
        )
    solver: Solver = SOLVERS[name](**options)
    return solver
