"""Readouts along radial, spiral and other trajectories that the file stores with the samples."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medical.reconstruction.formats.grid import LineReader
from shared.errors import InputError

NORMALISED_LIMIT = 0.5 + 1e-3  # trajectories rounded to float32 may just exceed 0.5


def assemble_shots(
    reader: LineReader, image: np.ndarray, numbers: np.ndarray
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, str]:
    """Return k-space, mask, trajectory, density compensation and what was done.

    Trajectories are stored in one of two units. Values within +-0.5 are fractions of the sampling band 1/pixel and are
    multiplied by the encoded matrix (Nx, Ny, Nz); larger ones are cycles per field of view already. The third column
    of a 2-D scan holds density compensation weights; that of a 3-D scan holds kz. A 3-D scan with two columns is a
    stack: kz follows from the line counter.

    Args:
        reader: the scan.
        image: imaging rows.
        numbers: slice numbers in the order in which they are stored.

    Returns:
        complex64 (slice, coil, shot, sample), bool (slice, shot, sample), float32 (slice, shot, sample, 2 or 3) in
        cycles per field of view, float32 (slice, shot, sample) or None, and a sentence for the history.

    Raises:
        InputError: no stored trajectory, slices with different numbers of shots, or a trajectory outside the band.
    """
    source, table = reader.source, reader.source.lines
    dims = np.unique(table.trajectory_dims[image])
    if source.read_trajectory is None or len(dims) > 1 or dims[0] not in (2, 3):
        raise InputError(
            source.path,
            found=f"{source.encoding.trajectory} readouts with {[int(d) for d in dims]} trajectory numbers per sample",
            expected="a stored trajectory of 2 or 3 numbers per sample",
            fix="Write the trajectory into the file when converting it from the scanner's format.",
        )
    of_slice = [image[table.slice[image] == number] for number in numbers]
    shots = {len(rows) for rows in of_slice}
    discards = np.unique(np.stack([table.discard_pre[image], table.discard_post[image]]), axis=1)
    if len(shots) > 1 or discards.shape[1] > 1:
        raise InputError(
            source.path,
            found=f"{sorted(shots)} shots per slice and discarded samples (before, after) {discards.T.tolist()}",
            expected="one number of shots for all slices and one number of samples for all shots",
            fix="Read each slice on its own (option slice_index).",
        )
    keep = slice(int(discards[0, 0]), int(table.samples[image[0]] - discards[1, 0]))
    where = {int(row): (s, n) for s, rows in enumerate(of_slice) for n, row in enumerate(rows)}
    shape = (len(numbers), shots.pop(), keep.stop - keep.start)
    kspace = np.zeros((shape[0], int(table.coils[image[0]]), *shape[1:]), dtype=np.complex64)
    stored = np.zeros((*shape, int(dims[0])), dtype=np.float32)
    for row, line in reader.lines(image):
        s, n = where[row]
        kspace[s, :, n] = line[:, keep]
    for row, points in source.read_trajectory(np.sort(image)):
        reader.check.see(points, f"the trajectory of readout {row} (sample, axis)")
        stored[where[row]] = (points[::-1] if table.reverse[row] else points)[keep]
    reader.check.finish()
    nz, ny, nx = source.encoding.matrix
    density = None
    if dims[0] == 3 and not source.encoding.volumetric:
        stored, density = stored[..., :2], stored[..., 2]
        density = _weights(source.path, density)
    trajectory, step = _cycles(source.path, stored, (nx, ny, nz))
    if source.encoding.volumetric and dims[0] == 2:
        kz = table.kz[np.stack(of_slice)].astype(np.float32) - source.encoding.centre[0]
        kz = np.broadcast_to(kz[..., None, None], (*shape, 1))
        trajectory = np.concatenate([trajectory, kz], axis=-1)
    return (
        torch.from_numpy(kspace),
        torch.ones(shape, dtype=torch.bool),
        torch.from_numpy(np.ascontiguousarray(trajectory)),
        None if density is None else torch.from_numpy(np.ascontiguousarray(density)),
        step,
    )


def _weights(path: str, column: np.ndarray) -> np.ndarray | None:
    """Return the third column of a 2-D trajectory as weights; all zeros are kz = 0 and no weights."""
    if not column.any():
        return None
    if column.min() < 0:
        raise InputError(
            path,
            found="negative numbers in the third trajectory column of a 2-D scan",
            expected="density compensation weights, which are not negative",
            fix="Set the encoded matrix size in z if the scan is 3-D.",
        )
    return column


def _cycles(path: str, stored: np.ndarray, matrix: tuple[int, int, int]) -> tuple[np.ndarray, str]:
    """Return the trajectory in cycles per field of view and how it was scaled."""
    size = np.array(matrix[: stored.shape[-1]], dtype=np.float32)
    largest = np.abs(stored).reshape(-1, stored.shape[-1]).max(axis=0)
    if largest.max() <= NORMALISED_LIMIT:
        return stored * size, "The stored trajectory, in fractions of 1/pixel, was multiplied by the encoded matrix."
    if np.any(largest > size * NORMALISED_LIMIT):
        raise InputError(
            path,
            found=f"a trajectory that reaches {largest.max():.4g}",
            expected=f"at most 0.5 (fractions of 1/pixel) or {size.max() / 2:g} (cycles per field of view)",
            fix="Correct the encoded matrix or scale the trajectory.",
        )
    return stored, "The stored trajectory is in cycles per field of view."
