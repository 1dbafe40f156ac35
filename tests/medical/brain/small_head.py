"""A label map of a small head."""

from __future__ import annotations

import numpy as np


def head(shape: tuple[int, int, int] = (48, 56, 48), mm: float = 2.0) -> np.ndarray:
    """A small head of ellipsoids: skin, fat, bone, fluid, cortex, white matter, two ventricles, one putamen."""
    x, y, z = np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * mm for n in shape], indexing="ij", sparse=True)
    labels = np.zeros(shape, dtype=np.int32)
    for code, radius in ((511, 1.0), (507, 0.95), (515, 0.85), (24, 0.8), (3, 0.75), (2, 0.65)):
        labels[(x / 75) ** 2 + (y / 90) ** 2 + (z / 75) ** 2 < radius**2] = code
    for code, side in ((4, 1), (43, -1)):
        labels[((x - 9 * side) / 6) ** 2 + ((y + 5) / 14) ** 2 + (z / 7) ** 2 < 1] = code
    labels[((x - 20) / 4) ** 2 + (y / 8) ** 2 + (z / 6) ** 2 < 1] = 12
    return labels
