"""Where a readout's samples lie on the encoded matrix.

A sample with counter values (kz, ky) and index i in its readout lands at

    kx = i - centre_i + Nx//2,    ky = ky - centre_ky + Ny//2,    kz = kz - centre_kz + Nz//2

so the zero frequency sits at N//2 whatever the header's centre is (partial Fourier, asymmetric echo). A readout of n
samples that was recorded backwards is flipped first; its centre is then n - centre_i, because a readout that is
symmetric about its gradient lobe has the same centre in both directions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from medical.reconstruction.formats.checks import FiniteCheck
from medical.reconstruction.formats.lines import LineTable, Source
from shared.errors import InputError


class LineReader:
    """Reads lines in the conventions of `RawScan`: conjugated for Siemens, flipped when recorded backwards."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.check = FiniteCheck(source.path)

    def lines(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (row, samples (coil, sample)) of the rows in order of acquisition."""
        table = self.source.lines
        for row, samples in self.source.read(np.sort(rows)):
            if not self.check.see(samples, f"readout {row} (coil, sample)"):
                samples = np.zeros_like(samples)  # the scan is refused at the end, when all bad samples are counted
            line = samples[:, ::-1] if table.reverse[row] else samples
            yield row, line.conj() if self.source.conjugate else line


@dataclass(frozen=True)
class Grid:
    """The encoded matrix and where lines go on it.

    Attributes:
        slices: slice numbers in the order in which they are stored.
        coils: number of receive channels.
        matrix: (z, y, x); x is the number of samples for a ramp-sampled readout.
        centre: values of the counters (kz, ky) at which k is zero.
        volumetric: the slice axis is Fourier encoded.
        positions: (x,) of a ramp-sampled readout in cycles per encoded field of view.
        off_centre: (x,) factors for the off-centre phase of a ramp-sampled readout.
    """

    slices: np.ndarray
    coils: int
    matrix: tuple[int, int, int]
    centre: tuple[int, int]
    volumetric: bool
    positions: np.ndarray | None
    off_centre: np.ndarray | None

    @classmethod
    def of(cls, source: Source, lines: LineTable, slices: np.ndarray) -> Grid:
        """Return the grid of the imaging `lines`, with `slices` in the order in which they are stored."""
        encoding = source.encoding
        nz, ny, nx = encoding.matrix
        positions = off_centre = None
        if source.ramp is not None and not source.ramp.is_uniform():
            positions = source.ramp.positions(nx)
            if source.conjugate:
                offset = float(lines.position[0] @ lines.read_dir[0]) / encoding.fov_mm[0]
                off_centre = source.ramp.off_centre_phase(nx, offset).astype(np.complex64)
            nx = source.ramp.samples
        return cls(
            slices, int(lines.coils[0]), (nz, ny, nx), encoding.centre, encoding.volumetric, positions, off_centre
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """(slice, ky, kx) or (1, kz, ky, kx)."""
        nz, ny, nx = self.matrix
        return (1, nz, ny, nx) if self.volumetric else (len(self.slices), ny, nx)

    def readout(self, table: LineTable, row: int) -> tuple[slice, slice]:
        """Return which samples of a flipped line are data, and where on the kx axis they go."""
        n, centre = int(table.samples[row]), int(table.centre[row])
        pre, post = int(table.discard_pre[row]), int(table.discard_post[row])
        if table.reverse[row]:
            centre, pre, post = n - centre, post, pre
        shift = self.matrix[2] // 2 - centre
        return slice(pre, n - post), slice(pre + shift, n - post + shift)

    def corrected(self, line: np.ndarray) -> np.ndarray:
        """Return a flipped line (coil, sample) with the phase of an off-centre field of view."""
        return line if self.off_centre is None else line * self.off_centre

    def line(self, table: LineTable, row: int) -> tuple[int, ...]:
        """Return the index (slice, [kz,] ky) of a line."""
        ky = int(table.ky[row]) - self.centre[1] + self.matrix[1] // 2
        if not self.volumetric:
            return int(np.flatnonzero(self.slices == table.slice[row])[0]), ky
        return 0, int(table.kz[row]) - self.centre[0] + self.matrix[0] // 2, ky


def fill(reader: LineReader, rows: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Return k-space (slice, coil, [kz,] ky, kx), averaged, and how often each sample was measured."""
    source, table = reader.source, reader.source.lines
    _require_places(source, rows, grid)
    shape = grid.shape
    kspace = np.zeros((shape[0], grid.coils, *shape[1:]), dtype=np.complex64)
    count = np.zeros(shape, dtype=np.uint16)
    for row, line in reader.lines(rows):
        samples, place = grid.readout(table, row)
        first, *rest = grid.line(table, row)
        inside: tuple[Any, ...] = (*rest, place)
        kspace[(first, slice(None), *inside)] += grid.corrected(line)[:, samples]
        count[(first, *inside)] += 1
    if count.max() > 1:
        for k, n in zip(kspace, count, strict=True):
            k /= np.maximum(n, 1).astype(np.float32)
    return kspace, count


def _require_places(source: Source, rows: np.ndarray, grid: Grid) -> None:
    """Raise `InputError` if lines fall outside the encoded matrix or claim one place without being averages."""
    table = source.lines
    seen: dict[tuple[int, ...], int] = {}
    for row in rows:
        place = grid.line(table, row)
        for name, index, size in zip(("ky", "kz"), place[:0:-1], grid.matrix[1::-1], strict=False):
            if not 0 <= index < size:
                raise InputError(
                    source.path,
                    found=f"readout {row} at {name} index {index} of the encoded matrix",
                    expected=f"0 to {size - 1}",
                    fix=f"The header's encoded matrix or its centre of {name} contradicts its lines; correct it.",
                )
        where = grid.readout(table, row)[1]
        if where.start < 0 or where.stop > grid.matrix[2] or where.start >= where.stop:
            raise InputError(
                source.path,
                found=f"readout {row} covering kx {where.start} to {where.stop - 1} of the encoded matrix",
                expected=f"samples within 0 to {grid.matrix[2] - 1}",
                fix="The encoded matrix, centre sample or discarded samples in the header are wrong; correct them.",
            )
        key = (*place, int(table.average[row]))
        if key in seen:
            raise InputError(
                source.path,
                found=f"readouts {seen[key]} and {row} for one place in k-space (slice, [kz,] ky) = {place} and one "
                f"average ({key[-1]})",
                expected="one readout for each place and average",
                fix="Label repeated lines as averages, repetitions or contrasts.",
            )
        seen[key] = row
