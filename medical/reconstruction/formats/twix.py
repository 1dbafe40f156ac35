"""Siemens twix raw data (.dat), software VB, VD and VE.

A VD or VE file holds several measurements: the adjustment scans first, the image last. Headers are parsed with
`twixtools`; lines are labelled by their measurement data headers (MDH), and samples are read straight into their place.

Directions come from the MDH quaternion. They describe the image that a forward transform of the samples gives, so the
samples are conjugated and our inverse transform gives that image.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medical.reconstruction.formats import twix_header
from medical.reconstruction.formats.assemble import assemble
from medical.reconstruction.formats.checks import require_single_band
from medical.reconstruction.formats.lines import Encoding, LineTable, Role, Source
from medical.reconstruction.formats.options import ReadOptions
from medical.reconstruction.formats.twix_file import Measurement, is_twix, measurements, read_lines
from medical.reconstruction.raw import RawScan

__all__ = ["describe_twix", "is_twix", "read_twix"]

SKIPPED = ("RTFEEDBACK", "HPFEEDBACK", "REFPHASESTABSCAN", "PHASESTABSCAN", "RETRO_DUMMYSCAN")
POSITION_TOLERANCE_MM = 0.05


def read_twix(path: Path, options: ReadOptions) -> RawScan:
    """Return one image's raw data of the last measurement in the file.

    Raises:
        InputError: see `assemble`, or a truncated or damaged file.
    """
    return assemble(_source(path), options)


def describe_twix(path: Path, options: ReadOptions) -> dict[str, Any]:
    """Return JSON-able facts without reading samples of the image."""
    del options
    return _source(path).facts()


def _source(path: Path) -> Source:
    scans = measurements(path)
    image = next(scans)
    acceleration = image.header["MeasYaps"].get("sSliceAcceleration", {})
    require_single_band(path, int(acceleration.get("lMultiBandFactor", 1)))
    lines = _table(image)
    rows = lines.rows(Role.IMAGE)
    first = image.mdh[rows[0]] if len(rows) else None
    centre = (0, 0) if first is None else (int(first["CenterPar"]), int(first["CenterLin"]))
    encoding = twix_header.encoding_of(str(path), image.header, centre)
    ramp = twix_header.ramp_of(image.header, int(lines.samples[rows[0]])) if len(rows) else None
    history = [
        f"Read the last measurement, {image.name!r}.",
        "Conjugated the samples: Siemens' convention is a forward transform from k-space to image.",
    ]
    noise = None
    if len(rows) and not len(lines.rows(Role.NOISE)):
        noise, step = _earlier_noise(path, scans, image.channels[rows[0]])
        history.extend(step)
    return Source(
        path=str(path),
        format=f"Siemens twix ({'VB' if image.old_format else 'VD/VE'})",
        lines=lines,
        encoding=_grown(encoding, lines),
        read=lambda wanted: read_lines(path, image, wanted),
        conjugate=True,
        ramp=ramp,
        noise=noise,
        header=twix_header.protocol(image.header),
        history=tuple(history),
        warnings=_geometry_warnings(image, lines),
    )


def _table(scan: Measurement) -> LineTable:
    """Return the labels of all readouts of a measurement."""
    mdh, counter = scan.mdh, scan.mdh["Counter"]
    navigator, calibration = scan.flag("PHASCOR"), scan.flag("PATREFSCAN")
    rules = (
        (scan.flag("NOISEADJSCAN"), Role.NOISE),
        (navigator & ~calibration, Role.NAVIGATOR),  # echo-planar navigators are feedback data as well
        (navigator | np.any([scan.flag(name) for name in SKIPPED], axis=0), Role.OTHER),
        (scan.flag("PATREFANDIMASCAN"), Role.IMAGE),
        (calibration, Role.CALIBRATION),
    )
    role = np.select([rule for rule, _ in rules], [int(role) for _, role in rules], int(Role.IMAGE))
    quaternions = mdh["SliceData"]["Quaternion"].astype(float)
    frames = np.array([twix_header.directions(q) if np.any(q) else np.zeros((3, 3)) for q in quaternions])
    frames = frames.reshape(-1, 3, 3)
    position = mdh["SliceData"]["SlicePos"]
    samples = mdh["SamplesInScan"]
    dwell = np.array([twix_header.dwell_us(scan.header, int(c)) for c in counter["Eco"]], dtype=float)
    noise = role == Role.NOISE
    if noise.any():
        size = int(samples[noise][0])
        dwell[noise] = twix_header.noise_dwell_us(scan.header, scan.name, size, old_format=scan.old_format)
    integers = {
        "ky": counter["Lin"],
        "kz": counter["Par"],
        "slice": counter["Sli"],
        "average": counter["Ave"],
        "contrast": counter["Eco"],
        "repetition": counter["Rep"],
        "set": counter["Set"],
        "phase": counter["Phs"],
        "segment": counter["Seg"],
        "coils": mdh["UsedChannels"],
        "samples": samples,
        "centre": mdh["CenterCol"],
        "discard_pre": mdh["CutOff"]["Pre"],
        "discard_post": mdh["CutOff"]["Post"],
        "trajectory_dims": np.zeros(len(mdh)),
    }
    return LineTable(
        role=role,
        reverse=scan.flag("REFLECT"),
        dwell_us=dwell,
        position=np.stack([position["Sag"], position["Cor"], position["Tra"]], axis=-1).astype(float),
        read_dir=frames[:, 0],
        phase_dir=frames[:, 1],
        slice_dir=frames[:, 2],
        **{name: column.astype(np.int64) for name, column in integers.items()},
    )


def _grown(encoding: Encoding, lines: LineTable) -> Encoding:
    """Return the encoding with a matrix that holds all lines.

    The protocol's number of lines can be smaller than what its counters span, because parallel imaging
    rounds up. The distance between lines is 1/FOV whatever the matrix is.
    """
    image = lines.take(lines.rows(Role.IMAGE))
    if not len(image):
        return encoding
    sizes = []
    for size, centre, counter in zip(encoding.matrix, encoding.centre, (image.kz, image.ky), strict=False):
        below, above = centre - int(counter.min()), int(counter.max()) - centre
        while size // 2 < below or size - 1 - size // 2 < above:
            size += 1
        sizes.append(size)
    nz = sizes[0] if encoding.volumetric else 1
    return replace(encoding, matrix=(nz, sizes[1], encoding.matrix[2]))


def _earlier_noise(
    path: Path, scans: Any, channels: tuple[int, ...]
) -> tuple[tuple[np.ndarray, float] | None, tuple[str, ...]]:
    """Return the noise scan (coil, sample) of an earlier measurement with the same coils, and its dwell time."""
    for scan in scans:
        lines = _table(scan)
        rows = [row for row in lines.rows(Role.NOISE) if set(scan.channels[row]) == set(channels)]
        if rows:
            order = [scan.channels[rows[0]].index(channel) for channel in channels]
            samples = np.concatenate([s for _, s in read_lines(path, scan, np.array(rows))], axis=1)[order]
            step = f"Took the noise scan of the measurement {scan.name!r}."
            return (samples, float(lines.dwell_us[rows[0]])), (step,)
    return None, ()


def _geometry_warnings(scan: Measurement, lines: LineTable) -> tuple[str, ...]:
    """Say where the line headers contradict the protocol's slice array; the line headers are used."""
    rows = lines.rows(Role.IMAGE)
    if not len(rows) or not np.any(lines.slice_dir[rows]):
        return ()
    protocol, normal = twix_header.slice_positions(scan.header), twix_header.slice_normal(scan.header)
    measured = np.unique(lines.position[rows], axis=0)
    distance = np.linalg.norm(measured[:, None] - protocol[None], axis=-1).min(axis=1).max()
    warnings = []
    if distance > POSITION_TOLERANCE_MM:
        warnings.append(f"The slice positions of lines and protocol differ by {distance:.2f} mm; the lines win.")
    if np.any(normal) and np.abs(lines.slice_dir[rows] - normal).max() > 1e-3:
        warnings.append("The slice normals of lines and protocol differ; the lines win.")
    return tuple(warnings)
