"""Painted heads at 4 mm that a segmenter of brains takes for heads: ellipsoids of tissues, no two alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medical.brain.volume import WHITE, Volume, centred_affine, write_volume

SIZE, MM = (48, 56, 48), 4.0
# Radii along x, y, z in mm, and signals: skin, fat, bone, fluid, cortex, white matter.
SHELLS = (
    ((84, 104, 92), 0.45), ((80, 100, 90), 0.85), ((72, 91, 82), 0.08), ((69, 87, 79), 0.2), ((67, 85, 77), 0.42),
    ((56, 72, 64), 0.65),
)  # fmt: skip


def head(seed: int, scale: float = 1.0) -> np.ndarray:
    """Return a head (X, Y, Z) of 0 to 1, LPS: its brain is `scale` times as long as usual."""
    from scipy import ndimage

    source = np.random.default_rng(seed)
    mm = [(np.arange(2 * n) - n + 0.5) * MM / 2 for n in SIZE]
    stretch = np.exp(source.normal(0, 0.02, 3)) * scale
    x, y, z = np.meshgrid(*[axis / s for axis, s in zip(mm, stretch, strict=True)], indexing="ij", sparse=True)
    # Folds: the surface of the brain is moved in and out by smooth noise.
    fold = ndimage.gaussian_filter(source.standard_normal([2 * n for n in SIZE]), 3.0)
    fold *= 0.1 / fold.std()
    values = np.zeros([2 * n for n in SIZE])
    for number, ((a, b, c), signal) in enumerate(SHELLS):
        radius = np.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2)
        values[radius + fold * (number >= 4) < 1] = signal * np.exp(source.normal(0, 0.03))
    for side in (-1, 1):  # ventricles
        values[((x - 10 * side) / 7) ** 2 + (y / 26) ** 2 + ((z - 6) / 9) ** 2 < 1] = 0.2
    pooled = values.reshape(SIZE[0], 2, SIZE[1], 2, SIZE[2], 2).mean((1, 3, 5))
    return np.clip(pooled + source.normal(0, 0.01, SIZE), 0, 1)


def write(path: Path, values: np.ndarray, mm: float = MM) -> Path:
    """Write a head of 0 to 1 on fewstep's scale."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(Volume(np.rint(values * WHITE).astype(np.uint16), centred_affine(values.shape, mm)), path, "phantom")
    return path
