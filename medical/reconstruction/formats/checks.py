"""Checks of raw data that every reader makes, each failing as one clear `InputError`."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from shared.errors import InputError, MissingExtra


class FiniteCheck:
    """Counts samples that are NaN or infinite while lines are read, and remembers where the first one was."""

    def __init__(self, source: str | os.PathLike[str]) -> None:
        self.source = source
        self.bad = 0
        self.first = ""

    def see(self, samples: np.ndarray, where: str) -> bool:
        """Return whether an array is finite; `where` names it in the message."""
        finite = np.isfinite(samples)
        if not finite.all():
            if not self.bad:
                index = np.unravel_index(int(np.argmin(finite)), finite.shape)
                self.first = f"{where}, index {tuple(int(i) for i in index)}"
            self.bad += int(finite.size - np.count_nonzero(finite))
            return False
        return True

    def finish(self) -> None:
        """Raise `InputError` if there were any."""
        if self.bad:
            raise InputError(
                self.source,
                found=f"{self.bad} samples that are NaN or infinite, the first in {self.first}",
                expected="finite samples",
                fix="Export the scan again from the scanner or remove the broken lines.",
            )


def require_extent(source: str | os.PathLike[str], name: str, values: tuple[float, ...]) -> None:
    """Raise `InputError` unless all values are finite and above 0."""
    if not np.all(np.isfinite(values)) or min(values) <= 0:
        raise InputError(
            source,
            found=f"{name} {tuple(values)}",
            expected="finite numbers above 0",
            fix="Correct the header, or read the samples as arrays and give the field of view.",
        )


def require_single_band(source: str | os.PathLike[str], slices_at_once: int) -> None:
    """Raise `InputError` if several slices were excited at once and lie on top of each other in the data."""
    if slices_at_once > 1:
        raise InputError(
            source,
            found=f"{slices_at_once} slices excited at once (multiband)",
            expected="one slice at a time",
            fix="Separate the slices first; fewstep cannot.",
        )


def require_package(name: str, purpose: str) -> None:
    """Raise `MissingExtra` if a package that a format needs is not installed."""
    from importlib.util import find_spec

    if find_spec(name) is None:
        raise MissingExtra(name, extra="medical", purpose=purpose)


def require_file(path: Path) -> None:
    """Raise `InputError` unless `path` is a readable file with something in it."""
    fix = "Check the path."
    if path.is_dir():
        raise InputError(path, found="a folder", expected="a raw data file", fix="Name the file inside it.")
    if not path.exists():
        raise InputError(path, found="no such file", expected="a raw data file", fix=fix)
    if path.stat().st_size == 0:
        raise InputError(path, found="an empty file", expected="raw data", fix="Copy the file again.")
    if not os.access(path, os.R_OK):
        raise InputError(path, found="a file that may not be read", expected="read permission", fix=fix)
