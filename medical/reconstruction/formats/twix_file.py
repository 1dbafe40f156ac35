"""The bytes of a Siemens twix file: measurements, their headers and the headers of their lines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from shared.errors import InputError

MULTI_RAID_LIMITS = (10_000, 64)  # first numbers of a VD/VE file: a small identifier, the number of measurements
NAME = rb"[A-Za-z]{4,}\x00"


@dataclass(frozen=True)
class Measurement:
    """One measurement of a file.

    Attributes:
        name: protocol name.
        header: sections of the protocol as `twixtools` parses them.
        mdh: measurement data headers, a structured array with one entry per readout.
        offsets: where the samples of each readout start in the file.
        channel_header: bytes before the samples of each channel.
        channels: identifiers of the receive channels of each readout, in file order.
        old_format: the file is from software VB.
    """

    name: str
    header: dict[str, Any]
    mdh: np.ndarray
    offsets: np.ndarray
    channel_header: int
    channels: list[tuple[int, ...]]
    old_format: bool

    def flag(self, name: str) -> np.ndarray:
        """Return which readouts carry the flag."""
        from twixtools import mdh_def

        return (self.mdh["EvalInfoMask"] >> np.uint64(mdh_def.mask_dict[name])) & np.uint64(1) > 0


def is_twix(path: Path) -> bool:
    """Whether a file starts like a twix file."""
    try:
        with path.open("rb") as stream:
            starts, _, _ = _starts(path, stream)
            return _is_header(stream, starts[0][0])  # the last one may be cut off
    except (InputError, OSError, ValueError, OverflowError):  # a damaged offset
        return False


def _is_header(stream: BinaryIO, start: int) -> bool:
    import re

    stream.seek(start)
    length, buffers = _integers(stream, 2)
    return 8 < length < 2**26 and 0 < buffers < 100 and re.match(NAME, stream.read(48)) is not None


def _integers(stream: BinaryIO, n: int) -> tuple[int, ...]:
    values = np.frombuffer(stream.read(4 * n).ljust(4 * n, b"\x00"), dtype="<u4")
    return tuple(int(v) for v in values)


def _starts(path: Path, stream: BinaryIO) -> tuple[list[tuple[int, int, str]], bool, int]:
    """Return (start, end, protocol name) of each measurement, whether the format is VB, and the file's size."""
    from twixtools import hdr_def

    size = path.stat().st_size
    if _is_header(stream, 0):
        return [(0, size, "")], True, size
    stream.seek(0)
    first, count = _integers(stream, 2)
    if not (first < MULTI_RAID_LIMITS[0] and 0 < count <= MULTI_RAID_LIMITS[1]):
        raise InputError(
            path, found="no measurement header", expected="a Siemens twix file", fix="Name the scanner's .dat file."
        )
    stream.seek(0)
    content = stream.read(hdr_def.MultiRaidFileHeader.itemsize)
    if len(content) < hdr_def.MultiRaidFileHeader.itemsize:
        raise _truncated(path, f"{size} bytes", f"at least {hdr_def.MultiRaidFileHeader.itemsize}")
    entries = np.frombuffer(content, dtype=hdr_def.MultiRaidFileHeader)[0]["entry"][:count]
    starts = []
    for entry in entries:
        start, length = int(entry["off_"]), int(entry["len_"])
        end = start + length if length else size
        starts.append((start, end, entry["protName_"].split(b"\x00")[0].decode("latin1")))
    return starts, False, size


def measurements(path: Path) -> Iterator[Measurement]:
    """Yield the measurements of a file from the last to the first, each read when it is asked for.

    Raises:
        InputError: the file ends before its last line, or a header does not parse.
    """
    from twixtools import twixprot

    with path.open("rb") as stream:
        starts, old, size = _starts(path, stream)
    for start, end, name in reversed(starts):
        with path.open("rb") as stream:
            if max(start, end) > size:
                raise _truncated(path, f"{size} bytes", f"{max(start, end)}")
            stream.seek(start)
            header_length, _ = _integers(stream, 2)
            stream.seek(start)
            try:
                header = twixprot.parse_twix_hdr(stream)
            except (ValueError, IndexError, AttributeError, TypeError) as error:
                raise _bad_header(path, f"a protocol that does not parse ({error})") from error
            if "MeasYaps" not in header or "Meas" not in header:
                raise _bad_header(path, f"a protocol with only {sorted(header)[:4]}")
            readouts = _readouts(path, stream, start + header_length, end, old=old)
        yield Measurement(name or str(header["Meas"].get("tProtocolName", "")), header, *readouts, old)


def _bad_header(path: Path, found: str) -> InputError:
    return InputError(
        path,
        found=found,
        expected="a Siemens protocol",
        fix="The file is damaged or anonymised too far; export it again.",
    )


def _truncated(path: Path, found: str, expected: str) -> InputError:
    return InputError(path, found=found, expected=expected, fix="The file is truncated; copy it again.")


def _readouts(
    path: Path, stream: BinaryIO, start: int, end: int, *, old: bool
) -> tuple[np.ndarray, np.ndarray, int, list[tuple[int, ...]]]:
    """Return headers, sample offsets, channel header size and channels of all readouts up to the end mark."""
    import ctypes

    from twixtools import mdh_def
    from twixtools.mdb import Mdb

    structure = mdh_def.VB17_header if old else mdh_def.Scan_header
    head = 0 if old else ctypes.sizeof(structure)
    channel = ctypes.sizeof(structure) if old else ctypes.sizeof(mdh_def.Channel_header)
    headers: list[bytes] = []
    offsets: list[int] = []
    channels: list[tuple[int, ...]] = []
    position = start
    while position + ctypes.sizeof(structure) <= end:
        stream.seek(position)
        try:
            block = Mdb(stream, version_is_ve=not old)
        except ValueError:  # fewer bytes than the readout needs
            break
        length = int(block.dma_len)
        if block.is_flag_set("ACQEND"):
            dtype = np.dtype(structure)
            mdh = np.frombuffer(b"".join(headers), dtype=dtype)
            return mdh, np.array(offsets, dtype=np.int64), channel, channels
        if length == 0 or position + length > end:
            break
        if not block.is_flag_set("SYNCDATA"):
            headers.append(bytes(block.mdh))
            offsets.append(position + head)
            used = range(int(block.mdh.UsedChannels))
            channels.append(tuple(used) if old else tuple(int(block.channel_hdr[c].ChannelId) for c in used))
        position += length
    raise _truncated(path, f"{len(headers)} complete readouts and no end mark", "a readout that marks the end")


def read_lines(path: Path, measurement: Measurement, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (row, samples (coil, sample)) of these readouts."""
    with path.open("rb") as stream:
        for row in rows:
            coils = int(measurement.mdh["UsedChannels"][row])
            samples = int(measurement.mdh["SamplesInScan"][row])
            record = np.dtype([("header", f"V{measurement.channel_header}"), ("samples", "<c8", (samples,))])
            stream.seek(int(measurement.offsets[row]))
            yield int(row), np.fromfile(stream, dtype=record, count=coils)["samples"]
