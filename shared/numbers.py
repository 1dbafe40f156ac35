"""Measured numbers as a flat JSON object, the file behind every `--json` option."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from shared.files import atomic_path


def write_numbers(path: Path, numbers: Mapping[str, float]) -> None:
    """Write `numbers` as one flat JSON object, replacing an older file; NaN and infinity become null."""
    finite = {key: value if math.isfinite(value) else None for key, value in numbers.items()}
    with atomic_path(path, overwrite=True) as scratch:
        scratch.write_text(json.dumps(finite, indent=2) + "\n", encoding="utf-8")
