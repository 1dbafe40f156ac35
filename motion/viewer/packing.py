"""Arrays inside JSON: little-endian bytes in base64, and positions as 16-bit steps."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

KINDS = {np.dtype("<f4"): "f4", np.dtype("<i2"): "i2", np.dtype("<u2"): "u2", np.dtype("<u4"): "u4"}


def packed(values: np.ndarray) -> dict[str, Any]:
    """Return an array of one of `KINDS` as {kind, shape, base64}."""
    kind = KINDS[values.dtype]
    text = base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")
    return {"kind": kind, "shape": list(values.shape), "base64": text}


def unpacked(entry: dict[str, Any]) -> np.ndarray:
    """Return the array that `packed` wrote."""
    return np.frombuffer(base64.b64decode(entry["base64"]), f"<{entry['kind']}").reshape(entry["shape"])


def quantised(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return q uint16, low (3,) and one step with points = low + step q to within step / 2.

    Args:
        points: (..., 3), m.
    """
    low = points.reshape(-1, 3).min(0)
    step = max(float((points.reshape(-1, 3).max(0) - low).max()) / 65535, 1e-9)
    return np.rint((points - low) / step).astype("<u2"), low, step
