"""What a simulated scan is: a protocol, and the ranges that protocols are drawn from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from medical.simulation.contrast import CONTRASTS, Contrast
from medical.simulation.objects import CELL_MM, Variation
from medical.simulation.patterns import PATTERNS, Pattern


@dataclass(frozen=True)
class Protocol:
    """One scan.

    Attributes:
        matrix: (y, x) samples and pixels; None takes the field of view over `pixel_mm`.
        fov_mm: (y, x) field of view; None takes the matrix times `pixel_mm`, or the object's extent times `margin`.
        pixel_mm: (y, x) size of a pixel; not used where matrix and field of view are both given.
        margin: field of view relative to the extent of the object, (y, x).
        least_fov_mm: the field of view made from a margin is at least this wide.
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

    matrix: tuple[int, int] | None = None
    fov_mm: tuple[float, float] | None = None
    pixel_mm: tuple[float, float] = (2 * CELL_MM, 2 * CELL_MM)
    margin: tuple[float, float] = (1.1, 1.1)
    least_fov_mm: float = 180.0
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

    def grid(self, half_extent_mm: tuple[float, float]) -> tuple[tuple[int, int], tuple[float, float]]:
        """Return matrix and field of view in mm, both (y, x), for an object of this half extent."""
        fov, matrix = self.fov_mm, self.matrix
        if fov is None and matrix is None:
            fov_y, fov_x = (
                max(2 * half * margin, self.least_fov_mm)
                for half, margin in zip(half_extent_mm, self.margin, strict=True)
            )
            matrix = (round(fov_y / self.pixel_mm[0]), round(fov_x / self.pixel_mm[1]))
        if fov is None:
            assert matrix is not None
            fov = (matrix[0] * self.pixel_mm[0], matrix[1] * self.pixel_mm[1])
        if matrix is None:
            matrix = (round(fov[0] / self.pixel_mm[0]), round(fov[1] / self.pixel_mm[1]))
        return matrix, fov


class Ranges(BaseModel):
    """What protocols are drawn from; every list and interval uniformly, SNR uniformly in its logarithm.

    Attributes:
        patterns: sampling patterns.
        accelerations: nominal rates.
        coils: smallest and largest number of coils.
        snr: lowest and highest SNR of a full scan.
        contrasts: of the objects.
        pixel_mm: smallest and largest size of a pixel, each axis on its own; at least twice `cell_mm`.
        margin: smallest and largest field of view relative to the object, each axis on its own.
        least_fov_mm: smallest field of view.
        fov_mm: (y, x) of every scan instead.
        matrix: (y, x) of every scan instead of what pixels and field of view give.
        cell_mm: side of the cells of the continuous object.
        thickness_mm: thinnest and thickest slice.
        motion: share of scans with motion between 2 to 6 shots.
        motion_mm: standard deviation of a step of translation between shots.
        motion_degrees: of a step of rotation.
        variation: how far objects stray from their anatomy.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    patterns: tuple[Pattern, ...] = Field(default=PATTERNS, min_length=1)
    accelerations: tuple[float, ...] = Field(default=(2.0, 3.0, 4.0, 5.0, 6.0, 8.0), min_length=1)
    coils: tuple[PositiveInt, PositiveInt] = (4, 8)
    snr: tuple[PositiveFloat, PositiveFloat] = (8.0, 60.0)
    contrasts: tuple[Contrast, ...] = Field(default=CONTRASTS, min_length=1)
    pixel_mm: tuple[PositiveFloat, PositiveFloat] = (1.5, 2.4)
    margin: tuple[PositiveFloat, PositiveFloat] = (1.03, 1.3)
    least_fov_mm: NonNegativeFloat = 180.0
    fov_mm: tuple[PositiveFloat, PositiveFloat] | None = None
    matrix: tuple[PositiveInt, PositiveInt] | None = None
    cell_mm: PositiveFloat = CELL_MM
    thickness_mm: tuple[PositiveFloat, PositiveFloat] = (1.0, 4.0)
    motion: float = Field(default=0.0, ge=0, le=1)
    motion_mm: NonNegativeFloat = 1.0
    motion_degrees: NonNegativeFloat = 0.7
    variation: Variation = Variation()

    @model_validator(mode="after")
    def _ordered(self) -> Ranges:
        for name in ("coils", "snr", "pixel_mm", "margin", "thickness_mm"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: the first number should be the smaller one")
        if self.pixel_mm[0] < 2 * self.cell_mm:
            raise ValueError("cell_mm should be at most half the smallest pixel")
        if min(self.accelerations) < 1:
            raise ValueError("accelerations should be 1 or more")
        return self


def draw_protocol(ranges: Ranges, generator: np.random.Generator) -> Protocol:
    """Draw a protocol."""
    moving = generator.uniform() < ranges.motion
    return Protocol(
        matrix=ranges.matrix,
        fov_mm=ranges.fov_mm,
        pixel_mm=(float(generator.uniform(*ranges.pixel_mm)), float(generator.uniform(*ranges.pixel_mm))),
        margin=(float(generator.uniform(*ranges.margin)), float(generator.uniform(*ranges.margin))),
        least_fov_mm=ranges.least_fov_mm,
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
