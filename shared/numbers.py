"""Measured numbers as a flat JSON object, the file behind every `--json` option."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shared.files import atomic_path
from shared.jsontext import json_text


def write_numbers(path: Path, numbers: Mapping[str, float]) -> None:
    """Write `numbers` as one flat JSON object, replacing an older file; NaN and infinity become null."""
    with atomic_path(path, overwrite=True) as scratch:
        scratch.write_text(json_text(dict(numbers)), encoding="utf-8")


def flat_numbers(facts: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers among nested facts under joined names: {"fov": [1, 2]} gives fov_0 and fov_1.

    A list of one number keeps its name; what is not a number is left out.
    """
    found: dict[str, float] = {}
    for name, value in facts.items():
        if isinstance(value, bool | int | float):
            found[name] = value
        elif isinstance(value, list | tuple) and len(value) == 1:
            found |= flat_numbers({name: value[0]})
        elif isinstance(value, list | tuple):
            found |= flat_numbers({f"{name}_{index}": item for index, item in enumerate(value)})
        elif isinstance(value, Mapping):
            found |= flat_numbers({f"{name}_{key}": item for key, item in value.items()})
    return found
