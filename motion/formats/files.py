"""Text of clips, plain or gzipped, and frame rates that were rounded when they were written."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path

from shared.errors import InputError


def read_text(path: str | os.PathLike[str]) -> str:
    """Return the text of a file; .gz is unpacked.

    Raises:
        InputError: it cannot be read.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8", errors="replace")
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            path, found="no readable file" if path.is_file() else "no such file", expected="a clip of motion",
            fix="Check the path; a .gz file may be cut off.",
        ) from error  # fmt: skip


def kind_of(path: str | os.PathLike[str]) -> str:
    """Return the lower-case suffix without .gz."""
    return Path(Path(path).name.removesuffix(".gz")).suffix.lower()


def snapped_rate(frame_time: str) -> float:
    """Return the frames a second of a printed frame time: a whole number if that number is printed so.

    .0083333 is 120 a second and 0.041667 is 24, not 120.00048 and 23.99981; 0.0333667 stays 29.97.

    Raises:
        ValueError: it is no positive number.
    """
    seconds = float(frame_time)
    if not 0 < seconds < math.inf:
        raise ValueError(f"the frame time {frame_time}")
    mantissa, _, exponent = frame_time.lower().partition("e")
    decimals = len(mantissa.partition(".")[2]) - int(exponent or 0)
    whole = max(round(1 / seconds), 1)
    return float(whole) if abs(1 / whole - seconds) <= 0.5000001 * 10.0**-decimals else 1 / seconds
