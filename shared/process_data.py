"""Processes as data: `{"name": "variance_exploding", "sigma_min": 0.002, "sigma_max": 80.0}`, for saved artefacts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from shared.errors import InputError
from shared.process import CosineVP, FlowMatching, LinearVP, NoiseProcess, TableVP, VarianceExploding

PROCESSES: dict[str, type] = {
    "linear_vp": LinearVP,
    "cosine_vp": CosineVP,
    "table_vp": TableVP,
    "variance_exploding": VarianceExploding,
    "flow_matching": FlowMatching,
}


def process_to_data(process: NoiseProcess) -> dict[str, Any]:
    """Return the process's name and parameters, JSON-able and exact; the inverse of `process_from_data`.

    Raises:
        InputError: the process is none of `PROCESSES`.
    """
    for name, kind in PROCESSES.items():
        if type(process) is kind:
            values = dataclasses.asdict(process)  # type: ignore[call-overload]
            return {"name": name, **{key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}}
    raise InputError(
        "process", found=type(process).__name__, expected=f"one of {', '.join(PROCESSES)}", fix="Use a named process."
    )


def process_from_data(data: Mapping[str, Any]) -> NoiseProcess:
    """Return the process of a name and parameters.

    Raises:
        InputError: an unknown name, or parameters that the process does not have.
    """
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
    name = values.pop("name", None)
    kind = PROCESSES.get(str(name))
    known = {field.name for field in dataclasses.fields(kind)} if kind else set()
    if kind is None or not set(values) <= known:
        raise InputError(
            "process",
            found=f"name {name!r} with {', '.join(sorted(values)) or 'no parameters'}",
            expected=f"one of {', '.join(PROCESSES)} with its own parameters",
            fix="Correct it.",
        )
    process: NoiseProcess = kind(**values)
    return process


def same_process(a: NoiseProcess, b: NoiseProcess, times: Sequence[float], *, tolerance: float = 1e-6) -> bool:
    """Whether both have alpha and sigma within a relative `tolerance` of each other at all `times`."""
    t = torch.tensor(tuple(times), dtype=torch.float64)
    return all(
        torch.allclose(of_a(t), of_b(t), rtol=tolerance, atol=1e-12)
        for of_a, of_b in ((a.alpha, b.alpha), (a.sigma, b.sigma))
    )
