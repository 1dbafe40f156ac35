"""What a scan holds beside its imaging lines: noise, separate calibration lines and navigators."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medical.reconstruction.formats.grid import Grid, LineReader
from medical.reconstruction.formats.lines import COUNTERS, LineTable, Role, Source


def noise_scan(reader: LineReader, image: LineTable) -> tuple[Tensor | None, float, tuple[str, ...]]:
    """Return the noise scan (coil, sample), the bandwidth ratio, and warnings."""
    source, coils = reader.source, int(image.coils[0])
    rows = source.lines.rows(Role.NOISE)
    matching = rows[source.lines.coils[rows] == coils]
    if len(matching):
        samples = np.concatenate([line for _, line in reader.lines(matching)], axis=1)
        dwell = float(source.lines.dwell_us[matching[0]])
    elif source.noise is not None and len(source.noise[0]) == coils:
        samples, dwell = source.noise
        reader.check.see(samples, "the noise scan (coil, sample)")
        samples = samples.conj() if source.conjugate else samples
    else:
        found = source.lines.coils[rows[0]] if len(rows) else None if source.noise is None else len(source.noise[0])
        text = f"The noise scan has {found} coils but the image {coils}; it is not used."
        return None, 1.0, () if found is None else (text,)
    image_dwell = float(image.dwell_us[0])
    warnings: tuple[str, ...] = ()
    if dwell > 0 and image_dwell > 0:
        ratio = dwell / image_dwell / source.encoding.noise_bandwidth
    else:
        ratio = 1.0
        warnings = ("The dwell time of the noise or of the imaging lines is unknown; equal bandwidths are assumed.",)
    return torch.from_numpy(np.ascontiguousarray(samples, dtype=np.complex64)), ratio, warnings


def calibration_block(reader: LineReader, rows: np.ndarray, grid: Grid) -> tuple[Tensor | None, tuple[str, ...]]:
    """Return the largest fully sampled block around DC of separately acquired calibration lines, and warnings.

    Args:
        reader: the scan.
        rows: the imaging lines; calibration lines among them are part of the image already.
        grid: the grid of the imaging lines.

    Returns:
        complex64 (slice, coil, [kz,] ky, kx) with the zero frequency at index N//2 of each axis.
    """
    table = reader.source.lines
    image = table.take(rows)
    if np.any(image.role == Role.CALIBRATION):
        return None, ()
    rows = _companion_rows(reader.source, Role.CALIBRATION, image)
    rows = rows[np.isin(table.slice[rows], grid.slices)]
    if not len(rows):
        unused = int((table.role == Role.CALIBRATION).sum())
        text = f"{unused} calibration lines have other coils, samples or slices than the image; they are not used."
        return None, (text,) if unused else ()
    places = {row: grid.line(table, row) for row in rows}
    offsets = {(s, *(k - n // 2 for k, n in zip(k, grid.shape[1:-1], strict=True))) for s, *k in places.values()}
    lines = _largest_block(offsets, len(grid.slices) if not grid.volumetric else 1, len(grid.shape) - 2)
    readouts = [grid.readout(table, row)[1] for row in rows]
    half = grid.matrix[2] // 2
    low, high = max(r.start for r in readouts) - half, min(r.stop for r in readouts) - half
    width = 0
    while -((width + 1) // 2) >= low and width + 1 - (width + 1) // 2 <= high:
        width += 1
    if 0 in (*lines, width):
        return None, ("The calibration lines do not cover the centre of k-space; they are not used.",)
    size = (*lines, width)
    block = np.zeros((grid.shape[0], grid.coils, *size), dtype=np.complex64)
    count = np.zeros((grid.shape[0], *lines), dtype=np.float32)
    for row, line in reader.lines(rows):
        samples, place = grid.readout(table, row)
        first, *rest = places[row]
        index: list[Any] = [k - n // 2 + m // 2 for k, n, m in zip(rest, grid.shape[1:-1], lines, strict=True)]
        if all(0 <= i < m for i, m in zip(index, lines, strict=True)):
            start = samples.start + (half - width // 2) - place.start
            data = grid.corrected(line)[:, start : start + width]
            block[(first, slice(None), *index)] += data
            count[(first, *index)] += 1
    block /= count[:, None, ..., None]
    return torch.from_numpy(block), ()


def _largest_block(offsets: set[tuple[int, ...]], slices: int, axes: int) -> tuple[int, ...]:
    """Return the sizes of the largest block of offsets from DC, -(N//2) to N - 1 - N//2, that every slice has."""

    def complete(size: tuple[int, ...]) -> bool:
        ranges = [range(-(n // 2), n - n // 2) for n in size]
        return all((s, *k) in offsets for s in range(slices) for k in product(*ranges))

    size = [1] * axes
    if not complete(tuple(size)):
        return (0,) * axes
    growing = True
    while growing:
        growing = False
        for axis in range(axes):
            larger = tuple(n + (i == axis) for i, n in enumerate(size))
            if complete(larger):
                size, growing = list(larger), True
    return tuple(size)


def navigator_lines(
    reader: LineReader, image: LineTable, grid: Grid
) -> tuple[Tensor | None, Tensor | None, tuple[str, ...]]:
    """Return navigators (slice, navigator, coil, kx), which were recorded backwards, and warnings."""
    table = reader.source.lines
    rows = _companion_rows(reader.source, Role.NAVIGATOR, image)
    rows = rows[np.isin(table.slice[rows], grid.slices)]
    if not len(rows):
        return None, None, ()
    of_slice = [rows[table.slice[rows] == number] for number in grid.slices]
    counts = {len(r) for r in of_slice}
    if len(counts) > 1:
        return None, None, (f"The slices have {sorted(counts)} navigator lines; navigators are not used.",)
    where = {int(row): (s, n) for s, group in enumerate(of_slice) for n, row in enumerate(group)}
    navigators = np.zeros((len(grid.slices), counts.pop(), grid.coils, grid.matrix[2]), dtype=np.complex64)
    for row, line in reader.lines(rows):
        samples, place = grid.readout(table, row)
        s, n = where[row]
        navigators[s, n, :, place] = grid.corrected(line)[:, samples]
    reverse = np.stack([table.reverse[group] for group in of_slice])
    return torch.from_numpy(navigators), torch.from_numpy(reverse), ()


def _companion_rows(source: Source, role: Role, image: LineTable) -> np.ndarray:
    """Return rows of calibration or navigator lines that belong to the image.

    They are often taken only once, for the first repetition or contrast: where they lack the image's counter value,
    their first one is taken.
    """
    table = source.lines
    rows = table.rows(role)
    rows = rows[(table.coils[rows] == image.coils[0]) & (table.samples[rows] == image.samples[0])]
    for name in COUNTERS:
        if len(rows):
            column, wanted = getattr(table, name)[rows], getattr(image, name)[0]
            rows = rows[column == (wanted if wanted in column else column.min())]
    return rows
