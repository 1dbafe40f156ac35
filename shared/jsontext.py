"""Facts as JSON text that every parser reads."""

from __future__ import annotations

import json
import math
from typing import Any


def jsonable(value: Any) -> Any:
    """Return `value` in JSON types.

    Arrays, tensors and NumPy scalars become lists and numbers; infinities and NaN, which JSON lacks, become null;
    anything else that JSON does not know becomes its text, because a fact must not stop a result from being written.
    """
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, (str, int, bool)) or value is None else str(value)


def json_text(value: Any) -> str:
    """Return `value` as indented JSON ending with a newline."""
    return json.dumps(jsonable(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
