"""What a simulated scan is: a protocol, and the ranges that protocols are drawn from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from medical.simulation.contrast import CONTRASTS, Contrast
from medical.simulation.objects import CELL_MM, Variation
from medical.simulation.patterns import PATTERNS, Pattern

MOST_ANISOTROPIC = 1.4  # pixels of clinical protocols are no longer than this times their width


@dataclass(frozen=True)
class Protocol:
    """One scan.

    Attributes:
        matrix: (y, x) samples and pixels.
        fov_mm: (y, x) field of view; None takes the object's extent times `margin`.
        margin: field of view relative to the extent of the object, (y, x).
        least_pixel_mm: a field of view made from a margin is widened until pixels are this large.
        pattern: of sampling.
        acceleration: nominal.
        calibration: width of the calibration block; None is the pattern's own.
        coils: of the array.
        snr: mean over the object of the SNR that the optimal combination of a full scan has.
        contrast: of the object.
        shots: more than 1 for a scan with motion between so many shots.
        motion_mm: standard deviation of a step of translation between shots.
        motion_degrees: of a step of rotation.
        cell_mm: side of the cells of the continuous object.
    """

    matrix: tuple[int, int] = (128, 128)
    fov_mm: tuple[float, float] | None = None
    margin: tuple[float, float] = (1.1, 1.1)
    least_pixel_mm: float = 2 * CELL_MM
    pattern: Pattern = "equispaced"
    acceleration: float = 4.0
    calibration: int | None = None
    coils: int = 8
    snr: float = 20.0
    contrast: Contrast = "T1w"
    shots: int = 1
    motion_mm: float = 1.0
    motion_degrees: float = 0.7
    cell_mm: float = CELL_MM

    def fov_for(self, half_extent_mm: tuple[float, float]) -> tuple[float, float]:
        """Return the field of view (y, x) in mm for an object of this half extent."""
        if self.fov_mm is not None:
            return self.fov_mm
        pixels = [
            max(2 * half * margin / n, self.least_pixel_mm)
            for half, margin, n in zip(half_extent_mm, self.margin, self.matrix, strict=True)
        ]
        floor = max(pixels) / MOST_ANISOTROPIC
        y, x = (max(pixel, floor) * n for pixel, n in zip(pixels, self.matrix, strict=True))
        return (y, x)


class Ranges(BaseModel):
    """What protocols are drawn from; every list and interval uniformly, SNR uniformly in its logarithm.

    Attributes:
        patterns: sampling patterns.
        accelerations: nominal rates.
        coils: smallest and largest number of coils.
        snr: lowest and highest SNR of a full scan.
        contrasts: of the objects.
        matrices: (y, x) of the image.
        margin: smallest and largest field of view relative to the object, each axis on its own.
        fov_mm: (y, x) of every scan instead.
        cell_mm: side of the cells of the continuous object; pixels are at least twice as large.
        thickness_mm: thinnest and thickest slice.
        motion: share of scans with motion between shots.
        variation: how far objects stray from their anatomy.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    patterns: tuple[Pattern, ...] = Field(default=PATTERNS, min_length=1)
    accelerations: tuple[float, ...] = Field(default=(2.0, 3.0, 4.0, 5.0, 6.0, 8.0), min_length=1)
    coils: tuple[PositiveInt, PositiveInt] = (4, 8)
    snr: tuple[PositiveFloat, PositiveFloat] = (8.0, 60.0)
    contrasts: tuple[Contrast, ...] = Field(default=CONTRASTS, min_length=1)
    matrices: tuple[tuple[PositiveInt, PositiveInt], ...] = Field(default=((128, 128),), min_length=1)
    margin: tuple[PositiveFloat, PositiveFloat] = (1.03, 1.5)
    fov_mm: tuple[PositiveFloat, PositiveFloat] | None = None
    cell_mm: PositiveFloat = CELL_MM
    thickness_mm: tuple[PositiveFloat, PositiveFloat] = (1.0, 4.0)
    motion: float = Field(default=0.0, ge=0, le=1)
    motion_mm: NonNegativeFloat = 1.0
    motion_degrees: NonNegativeFloat = 0.7
    variation: Variation = Variation()

    @model_validator(mode="after")
    def _ordered(self) -> Ranges:
        for name in ("coils", "snr", "margin", "thickness_mm"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: the first number should be the smaller one")
        if min(self.accelerations) < 1:
            raise ValueError("accelerations should be 1 or more")
        return self


def draw_protocol(ranges: Ranges, generator: np.random.Generator) -> Protocol:
    """Draw a protocol."""
    moving = generator.uniform() < ranges.motion
    return Protocol(
        matrix=ranges.matrices[int(generator.integers(len(ranges.matrices)))],
        fov_mm=ranges.fov_mm,
        margin=(float(generator.uniform(*ranges.margin)), float(generator.uniform(*ranges.margin))),
        least_pixel_mm=2 * ranges.cell_mm,
        pattern=ranges.patterns[int(generator.integers(len(ranges.patterns)))],
        acceleration=float(ranges.accelerations[int(generator.integers(len(ranges.accelerations)))]),
        coils=int(generator.integers(ranges.coils[0], ranges.coils[1] + 1)),
        snr=float(np.exp(generator.uniform(*np.log(ranges.snr)))),
        contrast=ranges.contrasts[int(generator.integers(len(ranges.contrasts)))],
        shots=int(generator.integers(2, 7)) if moving else 1,
        motion_mm=ranges.motion_mm,
        motion_degrees=ranges.motion_degrees,
        cell_mm=ranges.cell_mm,
    )
