"""Scan formats: each file reads one format into a `RawScan`.

`read_scan` finds the format by the file's content. Adding a format means one file here with a reader and one line in
the table of `_open`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medical.reconstruction.formats.checks import require_file, require_package
from medical.reconstruction.formats.options import ReadOptions
from medical.reconstruction.raw import RawScan
from shared.errors import InputError

__all__ = ["ReadOptions", "describe", "read_scan"]


def read_scan(path: str | os.PathLike[str], options: ReadOptions | None = None) -> RawScan:
    """Read the raw data of one image.

    ISMRMRD HDF5, fastMRI HDF5 and Siemens twix (VB, VD, VE) are recognised by content; BART (.cfl with .hdr) and NumPy
    (.npy, .npz) by suffix. The file is opened read-only.

    Args:
        path: the file; for BART with or without suffix.
        options: which image of several, and the geometry of formats that have none.

    Returns:
        k-space with mask, geometry, noise, calibration lines and navigators in the conventions of `RawScan`.

    Raises:
        InputError: the file is absent, of no known format, damaged, without imaging lines, contradicts itself or holds
            samples that are not finite.
        MissingExtra: the package that reads this format is not installed.
    """
    return _open(Path(path), options or ReadOptions(), describing=False)


def describe(path: str | os.PathLike[str], options: ReadOptions | None = None) -> dict[str, Any]:
    """Return JSON-able facts about a file: format, matrix, field of view, coils, lines of each kind, protocol.

    Line headers are read but samples are not, except for array formats where nothing else tells what was sampled.

    Raises:
        InputError, MissingExtra: as `read_scan`.
    """
    file = Path(path)
    facts = _open(file, options or ReadOptions(), describing=True)
    size = file.stat().st_size if file.exists() else None
    return {"file": file.name, "size_bytes": size, **facts}


def _open(path: Path, options: ReadOptions, *, describing: bool) -> Any:
    from medical.reconstruction.formats import arrays, bart

    if bart.is_bart(path):
        return bart.describe_bart(path, options) if describing else bart.read_bart(path, options)
    require_file(path)
    if path.suffix.lower() in (".npy", ".npz"):
        return arrays.describe_array(path, options) if describing else arrays.read_array(path, options)
    arrays.refuse_array_options(path, options)
    with path.open("rb") as stream:
        start = stream.read(8)
    if start == b"\x89HDF\r\n\x1a\n":
        return _open_hdf5(path, options, describing=describing)
    require_package("twixtools", "to recognise and read Siemens twix files")
    from medical.reconstruction.formats import twix

    if twix.is_twix(path):
        return twix.describe_twix(path, options) if describing else twix.read_twix(path, options)
    raise InputError(
        path,
        found="no known raw data format",
        expected="ISMRMRD or fastMRI (.h5), Siemens twix (.dat), BART (.cfl with .hdr), or NumPy (.npy, .npz)",
        fix="Convert the file, or export raw data from the scanner.",
    )


def _open_hdf5(path: Path, options: ReadOptions, *, describing: bool) -> Any:
    from medical.reconstruction.formats import fastmri, ismrmrd

    formats: tuple[tuple[Callable[..., bool], Callable[..., Any], Callable[..., Any]], ...] = (
        (ismrmrd.is_ismrmrd, ismrmrd.read_ismrmrd, ismrmrd.describe_ismrmrd),
        (fastmri.is_fastmri, fastmri.read_fastmri, fastmri.describe_fastmri),
    )
    with _hdf5(path) as file:
        for recognise, read, tell in formats:
            if recognise(file):
                return (tell if describing else read)(file, path, options)
        names = ", ".join(sorted(file)) or "nothing"
    raise InputError(
        path,
        found=f"an HDF5 file with {names}",
        expected="ISMRMRD (a group with 'xml' and 'data') or fastMRI ('kspace' and 'ismrmrd_header')",
        fix="Convert the file to ISMRMRD.",
    )


@contextmanager
def _hdf5(path: Path) -> Iterator[Any]:
    """Open an HDF5 file read-only; whatever h5py finds broken becomes an `InputError`."""
    require_package("h5py", "to read HDF5 files")
    import h5py

    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError, RuntimeError, UnicodeDecodeError) as error:
        raise InputError(
            path,
            found=f"an HDF5 file that cannot be read ({' '.join(str(error).split())[:120]})",
            expected="a complete HDF5 file",
            fix="The file is truncated or damaged; copy it again.",
        ) from error
