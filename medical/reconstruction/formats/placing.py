"""Where the slices of a scan lie: from the positions and directions in its line headers to a `Geometry`."""

from __future__ import annotations

import numpy as np

from medical.images import Geometry
from medical.reconstruction.formats.checks import require_extent
from medical.reconstruction.formats.lines import LineTable, Source
from medical.reconstruction.formats.options import ReadOptions
from shared.errors import InputError

DIRECTION_TOLERANCE = 1e-3
POSITION_TOLERANCE_MM = 0.02


def place_slices(
    source: Source, lines: LineTable, options: ReadOptions
) -> tuple[np.ndarray, Geometry, tuple[str, ...]]:
    """Return slice numbers in the order of their position, the geometry, and warnings.

    Slices are sorted by p . s, with p the position of a slice and s the slice direction, so neither the order in which
    the scanner took them nor its numbering matters.

    Args:
        source: the scan.
        lines: the imaging lines that are read.
        options: geometry for files that have none.

    Raises:
        InputError: zero field of view, directions that are not perpendicular unit vectors or that differ between
            slices.
    """
    encoding = source.encoding
    require_extent(source.path, "an encoded field of view in mm (read, phase, slice)", encoding.fov_mm)
    require_extent(source.path, "a recon field of view in mm (read, phase, slice)", encoding.recon_fov_mm)
    numbers, first = np.unique(lines.slice, return_index=True)
    directions = np.stack([lines.read_dir[first], lines.phase_dir[first], lines.slice_dir[first]], axis=1)
    if not np.any(directions):
        return numbers, *nominal_geometry(encoding.fov_mm, len(numbers), options, encoding.patient_position)
    if np.abs(directions - directions[0]).max() > DIRECTION_TOLERANCE:
        other = int(np.abs(directions - directions[0]).max(axis=(1, 2)).argmax())
        raise InputError(
            source.path,
            found=f"slices {numbers[0]} and {numbers[other]} with different directions",
            expected="parallel slices",
            fix="Read each slice on its own (option slice_index).",
        )
    warnings: tuple[str, ...] = ()
    normal = directions[0, 2]
    positions = lines.position[first]
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    if len(numbers) > 1 and np.diff(along[order]).min() < POSITION_TOLERANCE_MM:
        if np.ptp(positions, axis=0).max() > POSITION_TOLERANCE_MM:
            raise InputError(
                source.path,
                found="two slices at one position along the slice direction",
                expected="a stack of slices",
                fix="Read each slice on its own (option slice_index).",
            )
        spacing = options.slice_spacing_mm or encoding.fov_mm[2]
        positions = positions + spacing * (np.arange(len(numbers)) - (len(numbers) - 1) / 2)[:, None] * normal
        order = np.arange(len(numbers))
        warnings = (f"All slices have one position in the header; they are placed {spacing:g} mm apart in file order.",)
    geometry = Geometry(
        fov_mm=encoding.fov_mm,
        read_dir=_vector(directions[0, 0]),
        phase_dir=_vector(directions[0, 1]),
        slice_dir=_vector(normal),
        positions_mm=tuple(_vector(p) for p in positions[order]),
        patient_position=encoding.patient_position,
        nominal=encoding.nominal_geometry,
    )
    geometry.frame()
    if encoding.nominal_geometry:
        warnings = (
            *warnings,
            "The file says that its geometry is nominal: left and right, front and back may be wrong.",
        )
    return numbers[order], geometry, warnings


def nominal_geometry(
    fov_mm: tuple[float, float, float], slices: int, options: ReadOptions, patient_position: str = "HFS"
) -> tuple[Geometry, tuple[str, ...]]:
    """Return an axial geometry for a file that gives no directions, and the warning that says so."""
    centre = np.array(options.position_mm or (0.0, 0.0, 0.0))
    spacing = options.slice_spacing_mm or fov_mm[2]
    positions = tuple(_vector(centre + np.array([0.0, 0.0, spacing * i])) for i in range(slices))
    geometry = Geometry(fov_mm=fov_mm, positions_mm=positions, patient_position=patient_position, nominal=True)
    return geometry, (
        "The file gives no directions: an axial slice (x to the left, y to posterior) is assumed, so left and right, "
        "front and back may be wrong.",
    )


def _vector(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in values)
    return x, y, z
