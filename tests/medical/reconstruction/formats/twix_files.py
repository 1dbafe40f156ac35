"""Small Siemens twix files for tests, built byte by byte from the layout of the format."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from twixtools import hdr_def, mdh_def

NORMAL, POSITION = (0.0, 0.6, 0.8), (3.0, -20.0, 30.0)
# Rotation with columns phase (1,0,0), read (0,.8,-.6) and slice (0,.6,.8): about x by atan2(-.6, .8)
HALF = np.arctan2(-0.6, 0.8) / 2
QUATERNION = (float(np.cos(HALF)), float(np.sin(HALF)), 0.0, 0.0)


@dataclass
class Readout:
    """One readout: samples (coil, sample), names of its flags, counters (Lin, Par, Sli, ...) and header fields."""

    samples: np.ndarray
    flags: Sequence[str] = ()
    counters: dict[str, int] = field(default_factory=dict)
    centre: tuple[int, int, int] | None = None  # column, line, partition
    cut: tuple[int, int] = (0, 0)
    position: tuple[float, float, float] = POSITION
    channels: Sequence[int] = ()


@dataclass
class Scan:
    """One measurement: protocol name, readouts, and what its protocol says beyond the default."""

    readouts: list[Readout]
    name: str = "gre"
    yaps: dict[str, Any] = field(default_factory=dict)
    meas: str = ""


def protocol(scan: Scan) -> bytes:
    """Protocol of an 8 x 6 scan of 16 x 12 mm with 2x oversampling."""
    first = "sSliceArray.asSlice[0]"
    yaps: dict[str, Any] = {
        f"{first}.dThickness": 5.0,
        f"{first}.dPhaseFOV": 12.0,
        f"{first}.dReadoutFOV": 16.0,
        f"{first}.sPosition.dSag": POSITION[0],
        f"{first}.sPosition.dCor": POSITION[1],
        f"{first}.sPosition.dTra": POSITION[2],
        f"{first}.sNormal.dCor": NORMAL[1],
        f"{first}.sNormal.dTra": NORMAL[2],
        "sKSpace.lBaseResolution": 8,
        "sKSpace.lPhaseEncodingLines": 6,
        "sKSpace.lPartitions": 1,
        "sKSpace.ucDimension": 2,
        "sKSpace.ucTrajectory": 1,
        "sRXSPEC.alDwellTime[0]": 10000,
        "alTR[0]": 10000,
        "alTE[0]": 3000,
    } | scan.yaps
    text = "### ASCCONV BEGIN ###\n" + "".join(f"{k} = {v}\n" for k, v in yaps.items()) + "### ASCCONV END ###"
    sections = {
        "Config": "",
        "Dicom": '<ParamDouble."flReadoutOSFactor">  { <Precision> 6  2.0 }\n'
        '<ParamString."tPatientName">  { "Doe" }\n<ParamString."Manufacturer">  { "SIEMENS" }',
        "Meas": '<ParamString."tPatientPosition">  { "FFS" }\n' + scan.meas,
        "MeasYaps": text,
    }
    body = b"".join(
        name.encode() + b"\x00" + len(content).to_bytes(4, "little") + content.encode()
        for name, content in sections.items()
    )
    length = -(-(8 + len(body)) // 32) * 32
    return (np.array([length, len(sections)], "<u4").tobytes() + body).ljust(length, b"\x00")


def readout_bytes(readout: Readout, number: int, *, old: bool) -> bytes:
    """Line header and channels of VD/VE, or of VB where each channel repeats the line header."""
    coils, samples = readout.samples.shape
    mdh = mdh_def.VB17_header() if old else mdh_def.Scan_header()
    mdh.ScanCounter, mdh.SamplesInScan, mdh.UsedChannels = number, samples, coils
    for name, value in readout.counters.items():
        setattr(mdh.Counter, name, value)
    mdh.CenterCol, mdh.CenterLin, mdh.CenterPar = readout.centre or (samples // 2, 3, 0)
    mdh.CutOff.Pre, mdh.CutOff.Post = readout.cut
    position = mdh.SliceData.SlicePos
    position.Sag, position.Cor, position.Tra = readout.position
    mdh.SliceData.Quaternion[:] = np.array(QUATERNION, dtype=np.float32)
    for flag in readout.flags:
        mdh_def.add_flag(mdh, flag)
    content = readout.samples.astype("<c8")
    channels = readout.channels or range(coils)
    if old:
        return b"".join(bytes(mdh) + content[c].tobytes() for c in range(coils))
    parts = [bytes(mdh)]
    for c, identifier in enumerate(channels):
        header = mdh_def.Channel_header()
        header.ChannelId = identifier
        parts += [bytes(header), content[c].tobytes()]
    return b"".join(parts)


def end_bytes(*, old: bool) -> bytes:
    mdh = mdh_def.VB17_header() if old else mdh_def.Scan_header()
    mdh_def.add_flag(mdh, "ACQEND")
    mdh.FlagsAndDMALength = 352
    return bytes(mdh).ljust(352, b"\x00")


def write_twix(path: Path, *scans: Scan, old: bool = False) -> Path:
    """Write a VB file (one scan) or a VD/VE file."""
    bodies = [
        protocol(scan)
        + b"".join(readout_bytes(r, i + 1, old=old) for i, r in enumerate(scan.readouts))
        + end_bytes(old=old)
        for scan in scans
    ]
    if old:
        path.write_bytes(bodies[0])
        return path
    raid = np.zeros(1, dtype=hdr_def.MultiRaidFileHeader)[0]
    raid["hdr"]["count_"] = len(scans)
    content = b"\x00" * 10240
    for entry, scan, body in zip(raid["entry"], scans, bodies, strict=False):
        content = content.ljust(-(-len(content) // 512) * 512, b"\x00")
        entry["off_"], entry["len_"], entry["protName_"] = len(content), len(body), scan.name.encode()
        content += body
    path.write_bytes(raid.tobytes() + content[raid.nbytes :])
    return path


assert ctypes.sizeof(mdh_def.Scan_header) == 192
