"""Writing a `RawScan` as ISMRMRD HDF5, version 1.

Every acquired line becomes one acquisition. Line counters start at 0 at the first acquired line and the header gives
the counter value of k = 0, as scanners write partial Fourier scans.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medical.reconstruction.noncartesian import image_shape
from medical.reconstruction.raw import RawScan
from shared.errors import InputError
from shared.files import atomic_path

BLOCK = 128  # lines per write
NOISE_SAMPLES = 4096  # samples per noise acquisition; the format's counter has 16 bits
NOMINAL_DWELL_US = 5.0


def write_ismrmrd(path: str | os.PathLike[str], scan: RawScan, *, overwrite: bool = False) -> Path:
    """Write a scan as ISMRMRD HDF5. `read_scan` of the file gives the same scan back.

    Noise, separate calibration lines, navigators, reversed lines, partial Fourier, asymmetric echoes and stored
    trajectories are kept. The samples of a measured Siemens scan are conjugated back to the vendor's convention.

    Args:
        path: the output, usually `.h5`.
        scan: the scan.
        overwrite: replace an existing file.

    Returns:
        The path that was written.

    Raises:
        InputError: an existing output, or a scan that the format cannot hold: a ramp-sampled readout, or samples
            missing in the middle of a readout.
    """
    import h5py
    from ismrmrd.hdf5 import acquisition_dtype

    if scan.readout_positions is not None:
        raise InputError(
            path,
            found="a ramp-sampled readout",
            expected="uniform samples along kx, which ISMRMRD stores without gradient times",
            fix="Grid the readout first.",
        )
    layout = _layout(path, scan)
    lines = [*_noise(scan), *_imaging(scan, layout), *_calibration(scan, layout), *_navigators(scan, layout)]
    conjugate = "siemens" in str(scan.header.get("vendor", "")).lower() and not scan.simulated
    with atomic_path(path, overwrite=overwrite) as scratch, h5py.File(scratch, "w") as file:
        group = file.create_group("dataset")
        xml = group.create_dataset("xml", shape=(1,), dtype=h5py.special_dtype(vlen=bytes))
        xml[0] = _header(scan, layout).toXML("utf-8").encode()
        data = group.create_dataset("data", (len(lines),), maxshape=(None,), chunks=(16,), dtype=acquisition_dtype)
        for start in range(0, len(lines), BLOCK):
            block = np.zeros(len(lines[start : start + BLOCK]), dtype=acquisition_dtype)
            for record, line in zip(block, lines[start : start + BLOCK], strict=True):
                _store(record, line, scan, conjugate=conjugate)
            block["head"]["scan_counter"] = np.arange(start, start + len(block)) + 1
            data[start : start + len(block)] = block
    return Path(path)


@dataclass(frozen=True)
class _Layout:
    """How grid indices become counters: counter = index - first; (first, last, centre) for kz and ky."""

    first: tuple[int, int]
    last: tuple[int, int]
    centre: tuple[int, int]
    readout: slice


@dataclass(frozen=True)
class _Line:
    """One acquisition: its flag, counters, samples (coil, sample) in ascending kx, and how they were recorded."""

    flags: tuple[str, ...]
    samples: Tensor
    slice: int = 0
    kz: int = 0
    ky: int = 0
    centre: int = 0
    discard: tuple[int, int] = (0, 0)
    reverse: bool = False
    trajectory: Tensor | None = None


def _layout(path: str | os.PathLike[str], scan: RawScan) -> _Layout:
    if not scan.is_cartesian:
        shots = scan.kspace.shape[2]
        return _Layout((0, 0), (0, shots - 1), (0, 0), slice(0, scan.kspace.shape[-1]))
    acquired = scan.mask.any(dim=-1)
    columns = torch.nonzero(scan.mask.flatten(0, -2).any(dim=0)).flatten()
    if not len(columns):
        raise InputError(path, found="a scan without samples", expected="acquired lines", fix="Check the mask.")
    edges = scan.mask[..., 1:] != scan.mask[..., :-1]
    if (edges.sum(-1) + scan.mask[..., 0].int() + scan.mask[..., -1].int()).max() > 2:
        raise InputError(
            path,
            found="readouts with samples missing in the middle",
            expected="contiguous readouts",
            fix="ISMRMRD stores whole readouts; undersample only along the phase encodes.",
        )
    volume = acquired if acquired.ndim == 3 else acquired[:, None]
    used = [torch.nonzero(volume.any(dim=d)).T[1] for d in (2, 1)]
    first = [int(axis.min()) for axis in used]
    last = [int(axis.max()) for axis in used]
    sizes = volume.shape[1:]
    if scan.calibration is not None:
        block = scan.calibration.shape[2:-1] if volume is acquired else (1, *scan.calibration.shape[2:-1])
        for axis, (n, m) in enumerate(zip(sizes, block, strict=True)):
            first[axis] = min(first[axis], n // 2 - m // 2)
            last[axis] = max(last[axis], n // 2 - m // 2 + m - 1)
    centre = (sizes[0] // 2 - first[0], sizes[1] // 2 - first[1])
    return _Layout((first[0], first[1]), (last[0], last[1]), centre, slice(int(columns.min()), int(columns.max()) + 1))


def _noise(scan: RawScan) -> Iterator[_Line]:
    if scan.noise is not None:
        for samples in scan.noise.split(NOISE_SAMPLES, dim=1):
            yield _Line(("NOISE_MEASUREMENT",), samples)


def _imaging(scan: RawScan, layout: _Layout) -> Iterator[_Line]:
    kspace, mask = scan.kspace, scan.mask
    if scan.trajectory is not None:
        points = scan.trajectory
        if scan.density is not None:
            points = torch.cat([points, scan.density[..., None]], dim=-1)
        for s, shot in np.ndindex(kspace.shape[0], kspace.shape[2]):
            yield _Line((), kspace[s, :, shot], slice=s, ky=shot, trajectory=points[s, shot])
        return
    start, stop = layout.readout.start, layout.readout.stop
    for first, *rest in torch.nonzero(mask.any(dim=-1)).tolist():
        acquired = torch.nonzero(mask[(first, *rest)]).flatten()
        yield _Line(
            (),
            kspace[(first, slice(None), *rest, layout.readout)],
            slice=first,
            kz=(rest[0] if len(rest) == 2 else 0) - layout.first[0],
            ky=rest[-1] - layout.first[1],
            centre=mask.shape[-1] // 2 - start,
            discard=(int(acquired[0]) - start, stop - 1 - int(acquired[-1])),
            reverse=scan.line_reversed is not None and bool(scan.line_reversed[first, rest[-1]]),
        )


def _calibration(scan: RawScan, layout: _Layout) -> Iterator[_Line]:
    if scan.calibration is None:
        return
    block, nx = scan.calibration, scan.mask.shape[-1]
    sizes, width = block.shape[2:-1], block.shape[-1]
    pre = nx // 2 - width // 2 - layout.readout.start
    post = layout.readout.stop - layout.readout.start - pre - width
    for first, *rest in np.ndindex(block.shape[0], *sizes):
        grid = [k - m // 2 + n // 2 for k, m, n in zip(rest, sizes, scan.mask.shape[1:-1], strict=True)]
        yield _Line(
            ("PARALLEL_CALIBRATION",),
            torch.nn.functional.pad(block[(first, slice(None), *rest)], (pre, post)),
            slice=first,
            kz=(grid[0] if len(grid) == 2 else 0) - layout.first[0],
            ky=grid[-1] - layout.first[1],
            centre=nx // 2 - layout.readout.start,
            discard=(pre, post),
        )


def _navigators(scan: RawScan, layout: _Layout) -> Iterator[_Line]:
    if scan.navigators is None or scan.navigator_reversed is None:
        return
    for s, n in np.ndindex(scan.navigators.shape[:2]):
        yield _Line(
            ("PHASECORR_DATA",),
            scan.navigators[s, n, :, layout.readout],
            slice=s,
            ky=layout.centre[1],
            centre=scan.mask.shape[-1] // 2 - layout.readout.start,
            reverse=bool(scan.navigator_reversed[s, n]),
        )


def _store(record: Any, line: _Line, scan: RawScan, *, conjugate: bool) -> None:
    """Fill one HDF5 record."""
    import ismrmrd

    samples = line.samples.to(torch.complex64)
    samples = samples.flip(-1) if line.reverse else samples
    samples = samples.conj() if conjugate else samples
    coils, n = samples.shape
    flags = [*line.flags, *(["REVERSE"] if line.reverse else [])]
    pre, post = reversed(line.discard) if line.reverse else line.discard
    noise = "NOISE_MEASUREMENT" in line.flags
    dwell = float(scan.header.get("dwell_us", NOMINAL_DWELL_US))
    geometry = scan.geometry
    head = record["head"]
    labels = {
        "version": 1,
        "flags": sum(1 << (getattr(ismrmrd, f"ACQ_IS_{name}") - 1) for name in flags),
        "number_of_samples": n,
        "available_channels": coils,
        "active_channels": coils,
        "center_sample": n - line.centre if line.reverse else line.centre,
        "discard_pre": pre,
        "discard_post": post,
        "sample_time_us": dwell * scan.noise_bandwidth_ratio if noise else dwell,
        "trajectory_dimensions": 0 if line.trajectory is None else line.trajectory.shape[-1],
        "position": geometry.positions_mm[line.slice],
        "read_dir": geometry.read_dir,
        "phase_dir": geometry.phase_dir,
        "slice_dir": geometry.slice_dir,
    }
    for name, value in labels.items():
        head[name] = value
    counters = {"kspace_encode_step_1": line.ky, "kspace_encode_step_2": line.kz, "slice": line.slice}
    for name, value in counters.items():
        head["idx"][name] = value
    points = np.zeros(0) if line.trajectory is None else line.trajectory.numpy()
    record["traj"] = np.ascontiguousarray(points, dtype=np.float32).ravel()
    record["data"] = np.ascontiguousarray(samples.resolve_conj().numpy()).view(np.float32).ravel()


def _header(scan: RawScan, layout: _Layout) -> Any:
    """Return the XML header of a scan."""
    from ismrmrd import xsd

    def space(matrix: tuple[int, ...], fov: tuple[float, ...]) -> Any:
        z, y, x = matrix
        return xsd.encodingSpaceType(
            matrixSize=xsd.matrixSizeType(x=x, y=y, z=z),
            fieldOfView_mm=xsd.fieldOfViewMm(x=fov[0], y=fov[1], z=fov[2]),
        )

    encoded = (1, *scan.encoded_matrix) if len(scan.encoded_matrix) == 2 else scan.encoded_matrix
    if not scan.is_cartesian:
        encoded = (*scan.recon_matrix[:1], *image_shape(scan))[-3:]
    limits = [
        xsd.limitType(minimum=0, maximum=layout.last[axis] - layout.first[axis], center=layout.centre[axis])
        for axis in (0, 1)
    ]
    facts = scan.header
    steps = _line_steps(scan)
    calibration = "separate" if scan.calibration is not None else "embedded"
    encoding = xsd.encodingType(
        encodedSpace=space(encoded, scan.geometry.fov_mm),
        reconSpace=space(scan.recon_matrix, scan.recon_fov_mm),
        encodingLimits=xsd.encodingLimitsType(
            kspace_encoding_step_1=limits[1],
            kspace_encoding_step_2=limits[0],
            slice=xsd.limitType(minimum=0, maximum=scan.slices - 1, center=0),
        ),
        trajectory=xsd.trajectoryType(_trajectory_name(scan)),
        parallelImaging=xsd.parallelImagingType(
            accelerationFactor=xsd.accelerationFactorType(
                kspace_encoding_step_1=steps[0], kspace_encoding_step_2=steps[1]
            ),
            calibrationMode=xsd.calibrationModeType(calibration),
        ),
    )
    marks = {"simulated": scan.simulated, "nominal_geometry": scan.geometry.nominal}
    strings = [xsd.userParameterStringType(name=name, value="true") for name, value in marks.items() if value]
    return xsd.ismrmrdHeader(
        measurementInformation=xsd.measurementInformationType(
            patientPosition=xsd.patientPositionType(scan.geometry.patient_position),
            protocolName=facts.get("protocol"),
        ),
        acquisitionSystemInformation=xsd.acquisitionSystemInformationType(
            systemVendor=facts.get("vendor"),
            systemModel=facts.get("model"),
            systemFieldStrength_T=facts.get("field_strength_T"),
            receiverChannels=scan.coils,
        ),
        experimentalConditions=xsd.experimentalConditionsType(
            H1resonanceFrequency_Hz=int(facts.get("resonance_frequency_Hz", 0))
        ),
        encoding=[encoding],
        sequenceParameters=xsd.sequenceParametersType(
            TR=facts.get("TR_ms", []),
            TE=facts.get("TE_ms", []),
            TI=facts.get("TI_ms", []),
            flipAngle_deg=facts.get("flip_angle_deg", []),
            sequence_type=facts.get("sequence"),
        ),
        userParameters=xsd.userParametersType(userParameterString=strings) if strings else None,
    )


def _trajectory_name(scan: RawScan) -> str:
    if not scan.is_cartesian:
        return "other"
    return "cartesian" if scan.line_reversed is None else "epi"


def _line_steps(scan: RawScan) -> tuple[int, int]:
    """Return the most frequent distance between neighbouring acquired lines along ky and along kz."""
    if not scan.is_cartesian:
        return 1, 1
    lines = scan.mask.any(dim=-1).flatten(0, -2).any(dim=0)
    planes = scan.mask.flatten(2).any(dim=-1)[0] if len(scan.encoded_matrix) == 3 else torch.ones(1)
    ky, kz = (np.diff(torch.nonzero(axis).flatten().numpy()) for axis in (lines, planes))
    return tuple(int(np.bincount(steps).argmax()) if len(steps) else 1 for steps in (ky, kz))  # type: ignore[return-value]
