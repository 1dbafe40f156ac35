"""BART arrays: text dimensions in `.hdr`, complex64 samples in Fortran order in `.cfl`.

Of the 16 dimensions 0 is the readout, 1 and 2 the phase encodes, 3 the coil, 5 the echo, 10 the repetition and 13 the
slice. When dimension 0 is 1 (a slice of a hybrid-space volume) dimension 1 becomes ky and dimension 2 becomes kx.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medical.reconstruction.formats.arrays import scan_from_array
from medical.reconstruction.formats.checks import require_file
from medical.reconstruction.formats.options import ReadOptions
from medical.reconstruction.raw import RawScan
from shared.errors import InputError

READ, PHASE1, PHASE2, COIL, ECHO, REPETITION, SLICE = 0, 1, 2, 3, 5, 10, 13
DIMENSIONS = 16
SELECTED = {ECHO: "contrast", REPETITION: "repetition", SLICE: "slice_index"}


def is_bart(path: Path) -> bool:
    """Whether a path names a BART array, with or without suffix."""
    if path.suffix.lower() in (".cfl", ".hdr"):
        return True
    return not path.exists() and path.with_name(f"{path.name}.cfl").exists()


def read_bart(path: Path, options: ReadOptions) -> RawScan:
    """Return the scan in a .cfl file.

    Raises:
        InputError: a missing or malformed header, a .cfl of another size, dimensions that are not understood, or the
            errors of `scan_from_array`.
    """
    if options.axes is not None:
        raise InputError(path, found="the option axes", expected="none: BART fixes the axes", fix="Leave it out.")
    cfl, dims = _dimensions(path)
    array = np.memmap(cfl, dtype="<c8", mode="r", shape=tuple(dims), order="F")
    chosen, warnings = [], []
    for dim, size in enumerate(dims):
        name = SELECTED.get(dim)
        wanted = getattr(options, name) if name else None
        if dim in (READ, PHASE1, PHASE2, COIL) or (dim == SLICE and wanted is None):
            chosen.append(slice(None))
            continue
        if size > 1 and name is None:
            raise InputError(
                path,
                found=f"{size} entries in dimension {dim}",
                expected="readout, phase encodes, coils, echoes, repetitions and slices",
                fix=f"Select one entry, for example with: bart slice {dim} 0 in out",
            )
        index = wanted or 0
        if index >= size:
            raise InputError(
                path, found=f"{size} {name} entries", expected=f"number {index}", fix="Choose one that the file holds."
            )
        if size > 1 and wanted is None:
            warnings.append(f"The file holds {size} {name}s; read {name} 0.")
        chosen.append(slice(index, index + 1))
    kept = array[tuple(chosen)]
    samples = kept.reshape((*kept.shape[: COIL + 1], kept.shape[SLICE]), order="F")
    x, _, z, _, _ = samples.shape
    axes: tuple[str, ...]
    if x == 1:
        samples, axes = samples[0], ("ky", "kx", "coil", "slice")
    elif z == 1:
        samples, axes = samples[:, :, 0], ("kx", "ky", "coil", "slice")
    else:
        axes = ("kx", "ky", "kz", "coil", "slice")
    return scan_from_array(cfl, samples, axes, options, "BART array").after("Dimensions as BART names them.", *warnings)


def describe_bart(path: Path, options: ReadOptions) -> dict[str, Any]:
    """Return the dimensions of the file."""
    del options
    _, dims = _dimensions(path)
    names = {READ: "read", PHASE1: "phase1", PHASE2: "phase2", COIL: "coils", ECHO: "echoes", SLICE: "slices"}
    return {
        "format": "BART array",
        "dimensions": list(dims),
        **{name: dims[dim] for dim, name in names.items()},
        "repetitions": dims[REPETITION],
    }


def _dimensions(path: Path) -> tuple[Path, list[int]]:
    """Return the path of the samples and the 16 dimensions."""
    base = path.with_suffix("") if path.suffix.lower() in (".cfl", ".hdr") else path
    cfl, hdr = base.with_name(f"{base.name}.cfl"), base.with_name(f"{base.name}.hdr")
    require_file(hdr)
    require_file(cfl)
    lines = hdr.read_text(errors="replace").splitlines()
    try:
        start = next(i for i, line in enumerate(lines) if line.strip().lower() == "# dimensions")
        dims = [int(word) for word in lines[start + 1].split()]
    except (StopIteration, IndexError, ValueError):
        dims = []
    if not dims or min(dims) < 1 or len(dims) > DIMENSIONS:
        raise InputError(
            hdr,
            found="no valid dimensions",
            expected="a line of up to 16 numbers after '# Dimensions'",
            fix="Write it again with BART.",
        )
    dims += [1] * (DIMENSIONS - len(dims))
    size, expected = cfl.stat().st_size, 8 * int(np.prod(dims, dtype=object))
    if size != expected:
        raise InputError(
            cfl,
            found=f"{size} bytes",
            expected=f"{expected}, as the dimensions in {hdr.name} say",
            fix="The file is truncated or belongs to another header; copy both again.",
        )
    return cfl, dims
