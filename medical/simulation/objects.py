"""The continuous object in one slice: an anatomy, placed, in a contrast, with shading and phase, on fine cells.

The cells are smaller than the pixels of any scan that uses them, and `continuous_object.Plane` transforms them exactly
at the scan's frequencies. No grid is shared between object and image, so there is no inverse crime.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from medical.reconstruction.continuous_object import Plane
from medical.simulation.contrast import Contrast, bias_field, in_contrast
from medical.simulation.phase import background_phase, fat_phase, local_phase
from medical.simulation.smooth import smooth_noise
from medical.simulation.volumes import AnatomySlice
from shared.errors import InputError

CELL_MM = 0.75
MARGIN_MM = 4.0
SMALL_MM = (0.7, 4.0)  # radius of small structures
EDGE = 0.05  # share of the brightest signal above which a cell belongs to the object


@dataclass(frozen=True)
class Variation:
    """How far drawn objects stray from their anatomy.

    Attributes:
        degrees: largest rotation in the plane; on top of it the slice is turned by a quarter at random.
        scale: largest relative change of size.
        deform_mm: standard deviation of a smooth displacement of scale 35 mm.
        bias: standard deviation of the logarithm of the shading.
        mirror: swap left and right with probability one half.
        turn: turn by a random number of quarters.
    """

    degrees: float = 10.0
    scale: float = 0.08
    deform_mm: float = 1.5
    bias: float = 0.15
    mirror: bool = True
    turn: bool = True


@dataclass(frozen=True)
class SliceObject:
    """The complex object in a slice and what it was made from.

    Attributes:
        plane: cells with values rho exp(i phi), rho about 1; u to the left, v to posterior before any turn.
        half_extent_mm: half of the object's extent along (y, x); it is centred on the origin.
        height: of the slice within the head, -1 to 1.
        contrast: its name.
        facts: subject, licence and the like, for the provenance.
    """

    plane: Plane
    half_extent_mm: tuple[float, float]
    height: float
    contrast: Contrast
    facts: dict[str, Any]


def draw_object(
    anatomy: AnatomySlice,
    contrast: Contrast,
    generator: np.random.Generator,
    *,
    variation: Variation | None = None,
    cell_mm: float = CELL_MM,
) -> SliceObject:
    """Return a slice of an anatomy as an object to scan.

    Args:
        anatomy: the slice.
        contrast: of the scan.
        generator: of contrast, placement, shading and phase.
        variation: None for the default.
        cell_mm: side of the cells; pixels of a scan should be twice as large or larger.

    Raises:
        InputError: the slice holds no signal.
    """
    from scipy.ndimage import map_coordinates

    variation = variation or Variation()
    signal = in_contrast(anatomy, contrast, generator)
    if not signal.max() > 0:
        raise InputError("anatomy", found="a slice without signal", expected="tissue", fix="Take another slice.")
    quarters = int(generator.integers(4)) if variation.turn else 0
    signal = np.rot90(signal, quarters)
    step = anatomy.cell_mm if quarters % 2 == 0 else anatomy.cell_mm[::-1]
    if variation.mirror and generator.uniform() < 0.5:
        signal = signal[:, ::-1]
    centre, half = _extent(signal, step)
    angle = np.radians(generator.uniform(-variation.degrees, variation.degrees))
    zoom = 1 + generator.uniform(-variation.scale, variation.scale)
    reaches = [zoom * (h * np.cos(angle) + k * abs(np.sin(angle))) + MARGIN_MM for h, k in (half, half[::-1])]
    v, u = (_cells(length, cell_mm) for length in reaches)
    dy, dx = (variation.deform_mm * smooth_noise((len(v), len(u)), 35.0 / cell_mm, generator) for _ in range(2))
    y, x = v[:, None] + dy, u[None, :] + dx
    source_y = (np.cos(angle) * y - np.sin(angle) * x) / zoom + centre[0]
    source_x = (np.sin(angle) * y + np.cos(angle) * x) / zoom + centre[1]
    rho = np.maximum(map_coordinates(signal, [source_y / step[0], source_x / step[1]], order=1, mode="constant"), 0)
    rho *= bias_field(rho.shape, (cell_mm, cell_mm), variation.bias, generator)
    rho /= np.percentile(rho[rho > EDGE * rho.max()], 95)
    # The object is moved to the centre of the field of view, as a technologist does.
    middle, half = _extent(rho, (cell_mm, cell_mm))
    v, u = v - v[0] - middle[0], u - u[0] - middle[1]
    fat = fat_phase(rho > EDGE * rho.max(), cell_mm, generator)
    phase = background_phase(v, u, generator) + local_phase(v, u, generator) + fat
    values = rho * np.exp(1j * phase) * small_structures(v, u, generator)
    plane = Plane(values, u, v, cell_mm, np.eye(3), np.zeros(3))
    subject = anatomy.subject
    facts = {
        "subject": subject.name,
        "licence": subject.licence,
        "anatomy": "label map" if subject.kind == "labels" else "T1-weighted volume",
        "thickness_mm": anatomy.thickness_mm,
    }
    return SliceObject(plane, half, anatomy.height, contrast, facts)


def small_structures(v: np.ndarray, u: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draw complex factors (v, u) of the signal: 1 but in up to twelve discs, vessels and small lesions.

    Their radius is 0.7 to 4 mm, their signal 0.2 to 2 times that around them, and the phase of every other one is any.
    Without them anatomies of a few people teach a network that small things are noise.
    """
    factors = np.ones((len(v), len(u)), dtype=np.complex128)
    for _ in range(generator.integers(0, 13)):
        centre_v, centre_u = generator.uniform(-0.8, 0.8, 2) * (np.abs(v).max(), np.abs(u).max())
        radius = np.exp(generator.uniform(*np.log(SMALL_MM)))
        rows = np.abs(v - centre_v) <= radius
        columns = np.abs(u - centre_u) <= radius
        inside = (v[rows, None] - centre_v) ** 2 + (u[None, columns] - centre_u) ** 2 <= radius**2
        angle = generator.uniform(-np.pi, np.pi) * (generator.uniform() < 0.5)
        signal = generator.uniform(0.2, 2.0) * np.exp(1j * angle)
        factors[np.ix_(rows, columns)] = np.where(inside, signal, factors[np.ix_(rows, columns)])
    return factors


def _extent(signal: np.ndarray, cell_mm: tuple[float, float]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return centre and half extent (y, x) in mm of what is not air, from the centre of the first cell."""
    inside = signal > EDGE * signal.max()
    ends = [np.nonzero(inside.any(axis))[0][[0, -1]] for axis in (1, 0)]
    (y0, y1), (x0, x1) = ends
    centre = (float(y0 + y1) / 2 * cell_mm[0], float(x0 + x1) / 2 * cell_mm[1])
    return centre, (float(y1 - y0 + 1) / 2 * cell_mm[0], float(x1 - x0 + 1) / 2 * cell_mm[1])


def _cells(reach: float, cell_mm: float) -> np.ndarray:
    count = int(np.ceil(reach / cell_mm))
    return (np.arange(-count, count + 1)) * cell_mm
