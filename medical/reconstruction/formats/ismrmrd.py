"""ISMRMRD raw data (HDF5, version 1): reading into a `RawScan`.

The file is opened read-only through h5py, because `ismrmrd.Dataset` opens for writing and touches the file. Line
headers are read first; samples are read in blocks straight into their place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medical.reconstruction.formats import mrd_header
from medical.reconstruction.formats.assemble import assemble
from medical.reconstruction.formats.ismrmrd_writer import write_ismrmrd
from medical.reconstruction.formats.lines import LineTable, Role, Source
from medical.reconstruction.formats.options import ReadOptions
from medical.reconstruction.raw import RawScan
from shared.errors import InputError

__all__ = ["describe_ismrmrd", "is_ismrmrd", "read_ismrmrd", "write_ismrmrd"]

BLOCK = 32  # lines per read
MOST_COMPRESSED = 1000  # no HDF5 filter packs line headers tighter


def is_ismrmrd(file: Any) -> bool:
    """Whether an open h5py file holds ISMRMRD acquisitions."""
    return bool(_groups(file))


def read_ismrmrd(file: Any, path: Path, options: ReadOptions) -> RawScan:
    """Return one image's raw data.

    Args:
        file: h5py file opened for reading.
        path: its path, for messages.
        options: what to read.

    Raises:
        InputError: see `assemble`, or a header that is not valid.
    """
    return assemble(_source(file, path, options), options)


def describe_ismrmrd(file: Any, path: Path, options: ReadOptions) -> dict[str, Any]:
    """Return JSON-able facts without reading samples."""
    return _source(file, path, options).facts()


def _groups(file: Any) -> list[str]:
    import h5py

    def holds(group: Any) -> bool:
        if not isinstance(group, h5py.Group) or "xml" not in group or "data" not in group:
            return False
        names = group["data"].dtype.names or ()
        return "head" in names and "data" in names

    return [name for name in file if holds(file[name])]


def _source(file: Any, path: Path, options: ReadOptions) -> Source:
    groups = _groups(file)
    name = options.key or groups[-1]
    if name not in groups:
        raise InputError(
            path, found=f"the groups {', '.join(groups)}", expected=f"a group {name!r}", fix="Give one of those as key."
        )
    data = file[name]["data"]
    header = mrd_header.parse_header(path, file[name]["xml"][0])
    if len(data) * data.dtype.itemsize > MOST_COMPRESSED * path.stat().st_size:
        raise InputError(
            path,
            found=f"{len(data)} readouts in {path.stat().st_size} bytes",
            expected="as many as fit",
            fix="The file is damaged; copy it again.",
        )
    _require_fields(data.dtype["head"], path)
    head = _heads(data, path)
    lines = _table(head)
    encoding, warnings = mrd_header.encoding_of(str(path), header)
    history: tuple[str, ...] = ()
    if len(groups) > 1 and options.key is None:
        warnings = (*warnings, f"The file holds the groups {', '.join(groups)}; read {name}.")
    lines, assumed = _with_centre_samples(lines, encoding.matrix[2])
    simulated = mrd_header.is_simulated(header)
    siemens = mrd_header.is_siemens(header) and not simulated
    if siemens:
        history = ("Conjugated the samples: Siemens' convention is a forward transform from k-space to image.",)
        centre = mrd_header.siemens_centre(encoding, lines, head["idx"]["user"])
        if centre is not None:
            warnings = (
                *warnings,
                f"The header puts the centre of (kz, ky) at {encoding.centre}, the lines at {centre}; the lines win.",
            )
            encoding = replace(encoding, centre=centre)
    if np.any(head["encoding_space_ref"] != 0):
        warnings = (*warnings, "Lines of other encoding spaces than the first are not used.")
    is_epi = encoding.trajectory == "epi"
    return Source(
        path=str(path),
        format="ISMRMRD HDF5",
        lines=lines,
        encoding=encoding,
        read=lambda rows: _samples(data, head, rows, path),
        read_trajectory=lambda rows: _trajectories(data, head, rows),
        conjugate=siemens,
        ramp=mrd_header.ramp_of(header) if is_epi else None,
        header={**mrd_header.protocol(header), **_dwell(lines)},
        history=history,
        warnings=(*warnings, *assumed),
        simulated=simulated,
    )


def _dwell(lines: LineTable) -> dict[str, float]:
    times = np.unique(lines.dwell_us[lines.rows(Role.IMAGE)])
    return {"dwell_us": float(times[0])} if len(times) == 1 and times[0] > 0 else {}


def _roles(flags: np.ndarray) -> np.ndarray:
    """Return the role of each readout; the first rule that applies decides."""
    import ismrmrd

    def has(name: str) -> np.ndarray:
        return (flags >> np.uint64(getattr(ismrmrd, f"ACQ_IS_{name}") - 1)) & np.uint64(1) > 0

    rules = (
        (has("NOISE_MEASUREMENT"), Role.NOISE),
        # the converter from Siemens marks the navigators of echo-planar scans as feedback data as well
        (has("PHASECORR_DATA") & ~has("PARALLEL_CALIBRATION"), Role.NAVIGATOR),
        (has("PHASECORR_DATA"), Role.OTHER),
        (has("NAVIGATION_DATA") | has("RTFEEDBACK_DATA") | has("HPFEEDBACK_DATA"), Role.OTHER),
        (has("DUMMYSCAN_DATA") | has("SURFACECOILCORRECTIONSCAN_DATA"), Role.OTHER),
        (has("PHASE_STABILIZATION") | has("PHASE_STABILIZATION_REFERENCE"), Role.OTHER),
        (has("PARALLEL_CALIBRATION_AND_IMAGING"), Role.IMAGE),
        (has("PARALLEL_CALIBRATION"), Role.CALIBRATION),
    )
    return np.select([rule for rule, _ in rules], [int(role) for _, role in rules], int(Role.IMAGE))


def _table(head: np.ndarray) -> LineTable:
    import ismrmrd

    flags, idx = head["flags"], head["idx"]
    role = _roles(flags)
    role[(head["encoding_space_ref"] != 0) & (role != Role.NOISE)] = Role.OTHER
    reverse = (flags >> np.uint64(ismrmrd.ACQ_IS_REVERSE - 1)) & np.uint64(1) > 0
    integers = {
        "ky": idx["kspace_encode_step_1"],
        "kz": idx["kspace_encode_step_2"],
        "coils": head["active_channels"],
        "samples": head["number_of_samples"],
        "centre": head["center_sample"],
        "discard_pre": head["discard_pre"],
        "discard_post": head["discard_post"],
        "trajectory_dims": head["trajectory_dimensions"],
        **{name: idx[name] for name in ("slice", "average", "contrast", "repetition", "set", "phase", "segment")},
    }
    vectors = {name: head[name].astype(float) for name in ("position", "read_dir", "phase_dir", "slice_dir")}
    return LineTable(
        role=role,
        reverse=reverse,
        dwell_us=head["sample_time_us"].astype(float),
        **{name: column.astype(np.int64) for name, column in integers.items()},
        **vectors,
    )


def _with_centre_samples(lines: LineTable, nx: int) -> tuple[LineTable, tuple[str, ...]]:
    """Fill in centre samples that a writer left at 0: a full readout does not start at k = 0."""
    unset = (lines.centre == 0) & (lines.samples == nx) & (lines.role != Role.NOISE) & (lines.trajectory_dims == 0)
    if nx < 2 or not unset.any():
        return lines, ()
    text = f"{int(unset.sum())} full readouts have centre sample 0 in the file; {nx // 2} of {nx} is assumed."
    return replace(lines, centre=np.where(unset, lines.samples // 2, lines.centre)), (text,)


def _require_fields(head: np.dtype, path: Path) -> None:
    """Raise `InputError` unless line headers have the fields of the format: their names are stored, and can break."""
    from ismrmrd.hdf5 import acquisition_dtype

    wanted = acquisition_dtype["head"]
    missing = sorted(set(wanted.names) - set(head.names or ()))
    if not missing:
        missing = sorted(set(wanted["idx"].names) - set(head["idx"].names or ()))
    if missing:
        raise InputError(
            path,
            found=f"line headers without {', '.join(missing)}",
            expected="those of ISMRMRD version 1",
            fix="The file is damaged or of another version; copy or convert it again.",
        )


def _heads(data: Any, path: Path) -> np.ndarray:
    """Return the headers of all readouts, after checking that their samples are as many as they say.

    HDF5 reads the samples even when only the headers are asked for, does not free them, and trusts their stored
    length, so that a damaged file can ask for all memory. The records are therefore taken as bytes where they are
    stored plainly, which every ISMRMRD writer does.
    """
    stored = _stored_records(data)
    if stored is None:
        parts = [data[start : start + BLOCK]["head"].copy() for start in range(0, len(data), BLOCK)]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=data.dtype["head"])
    head = stored["head"]
    samples = head["number_of_samples"].astype(np.int64)
    expected = (("data", 2 * samples * head["active_channels"]), ("traj", samples * head["trajectory_dimensions"]))
    for name, numbers in expected:
        wrong = np.flatnonzero(stored[name] != numbers)
        if len(wrong):
            raise InputError(
                path,
                found=f"readout {wrong[0]} with {stored[name][wrong[0]]} stored numbers ({name})",
                expected=f"{numbers[wrong[0]]}, as its header says",
                fix="The file is damaged; copy or convert it again.",
            )
    return head.copy()


def _stored_records(data: Any) -> np.ndarray | None:
    """Return records of `head` and the stored lengths of `data` and `traj`, None if they are compressed."""
    file_type = data.id.get_type()
    names = {file_type.get_member_name(i).decode(): i for i in range(file_type.get_nmembers())}
    head = data.dtype["head"]
    plain = data.chunks is not None and data.id.get_create_plist().get_nfilters() == 0
    if not plain or file_type.get_member_type(names["head"]).get_size() != head.itemsize:
        return None
    record = np.dtype(
        {
            "names": list(names),
            "formats": [head if name == "head" else "<u4" for name in names],  # a length precedes each heap address
            "offsets": [file_type.get_member_offset(i) for i in names.values()],
            "itemsize": file_type.get_size(),
        }
    )
    records = np.zeros(len(data), dtype=record)
    for start in range(0, len(data), data.chunks[0]):
        _, content = data.id.read_direct_chunk((start,))
        chunk = np.frombuffer(content, dtype=record)
        records[start : start + len(chunk)] = chunk[: len(records) - start]
    return records


def _blocks(data: Any, rows: np.ndarray) -> Iterator[tuple[int, Any]]:
    """Yield (row, record) of ascending rows, read in blocks of neighbouring lines."""
    rows = np.asarray(rows)
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        if block[-1] - block[0] < 2 * BLOCK:
            records = data[int(block[0]) : int(block[-1]) + 1]
            yield from ((int(row), records[row - block[0]]) for row in block)
        else:
            yield from ((int(row), data[int(row)]) for row in block)


def _samples(data: Any, head: np.ndarray, rows: np.ndarray, path: Path) -> Iterator[tuple[int, np.ndarray]]:
    for row, record in _blocks(data.fields("data"), rows):
        shape = int(head["active_channels"][row]), int(head["number_of_samples"][row])
        if record.size != 2 * shape[0] * shape[1]:
            raise InputError(
                path,
                found=f"readout {row} with {record.size} numbers",
                expected=f"2 x {shape[0]} coils x {shape[1]} samples as its header says",
                fix="The file is damaged; copy or convert it again.",
            )
        yield row, np.ascontiguousarray(record, dtype=np.float32).view(np.complex64).reshape(shape)


def _trajectories(data: Any, head: np.ndarray, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for row, record in _blocks(data.fields("traj"), rows):
        shape = int(head["number_of_samples"][row]), int(head["trajectory_dimensions"][row])
        yield row, np.asarray(record, dtype=np.float32).reshape(shape)
