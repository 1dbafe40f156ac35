"""Which readouts of a scan make the image that is read."""

from __future__ import annotations

import numpy as np

from medical.reconstruction.formats.lines import COUNTERS, Role, Source
from medical.reconstruction.formats.options import ReadOptions
from shared.errors import InputError


def select(source: Source, options: ReadOptions) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the rows of the imaging lines of one image, and warnings about what else the file holds."""
    rows = source.lines.rows(Role.IMAGE)
    if not len(rows):
        found = ", ".join(f"{n} {role} lines" for role, n in source.lines.counts().items()) or "no lines"
        raise InputError(
            source.path,
            found=f"{found}",
            expected="imaging lines",
            fix="Give the file of the imaging scan, not of its noise or calibration scan.",
        )
    warnings = []
    wanted = {name: getattr(options, "set_index" if name == "set" else name) for name in COUNTERS}
    for name, value in {**wanted, "slice": options.slice_index}.items():
        column = getattr(source.lines, name)[rows]
        present = np.unique(column)
        if value is None and name == "slice":
            continue
        if value is None:
            value = int(present[0])
            if len(present) > 1:
                warnings.append(f"The file holds {len(present)} {name}s ({_listed(present)}); read {name} {value}.")
        elif value not in present:
            raise InputError(
                source.path,
                found=f"{name} {_listed(present)}",
                expected=f"{name} {value}, which was asked for",
                fix="Choose one that the file holds.",
            )
        rows = rows[column == value]
    return rows, tuple(warnings)


def _listed(values: np.ndarray) -> str:
    numbers = [int(v) for v in values]
    contiguous = len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1))
    return f"{numbers[0]} to {numbers[-1]}" if contiguous else ", ".join(map(str, numbers))


def require_one_shape(source: Source, rows: np.ndarray) -> None:
    """Raise `InputError` unless all rows have one number of coils and of samples."""
    for name, values in (("coils", source.lines.coils), ("samples", source.lines.samples)):
        present, counts = np.unique(values[rows], return_counts=True)
        if len(present) > 1:
            found = ", ".join(f"{n} lines with {v}" for v, n in zip(present, counts, strict=True))
            raise InputError(
                source.path,
                found=f"imaging lines with different numbers of {name}: {found}",
                expected=f"one number of {name}",
                fix="Remove the lines that belong to another scan.",
            )


def with_embedded_calibration(source: Source, image: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the imaging rows together with calibration lines that fill gaps between them.

    Calibration lines of the same readout in the same scan lie between the undersampled lines; they are as good as
    imaging lines. Those of a separate scan repeat positions that the imaging lines have.
    """
    table = source.lines
    rows = table.rows(Role.CALIBRATION)
    if not len(rows) or source.encoding.calibration_mode in ("separate", "external"):
        return image, 0
    for name in (*COUNTERS, "coils", "samples"):
        rows = rows[getattr(table, name)[rows] == getattr(table, name)[image[0]]]
    rows = rows[np.isin(table.slice[rows], table.slice[image])]
    places = {(int(table.slice[r]), int(table.kz[r]), int(table.ky[r])) for r in image}
    if any((int(table.slice[r]), int(table.kz[r]), int(table.ky[r])) in places for r in rows):
        return image, 0
    return np.sort(np.concatenate([image, rows])), len(rows)
