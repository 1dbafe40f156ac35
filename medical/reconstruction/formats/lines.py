"""`LineTable`: the labels of every readout of a scan, the same for ISMRMRD and Siemens raw files.

A reader fills the table from the file's line headers; `assemble` (see `assemble.py`) turns table and samples into a
`RawScan`. Columns are NumPy arrays with one entry per readout in the order of acquisition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from enum import IntEnum
from typing import Any

import numpy as np

from medical.reconstruction.formats.ramp import Ramp

ReadLines = Callable[[np.ndarray], Iterator[tuple[int, np.ndarray]]]
"""Given row numbers in ascending order, yields (row, complex samples (coil, sample)) one line after the other."""


class Role(IntEnum):
    """What a readout is for."""

    IMAGE = 0
    CALIBRATION = 1
    NOISE = 2
    NAVIGATOR = 3
    OTHER = 4


COUNTERS = ("contrast", "repetition", "set", "phase")
"""Counters of which one value makes one image."""


@dataclass(frozen=True)
class LineTable:
    """Labels of all readouts, one row per readout.

    Attributes:
        role: `Role` of each readout.
        reverse: recorded from positive to negative kx.
        ky, kz, slice, average, contrast, repetition, set, phase, segment: loop counters of the acquisition.
        coils, samples: shape of the readout.
        centre: sample at which kx is zero.
        discard_pre, discard_post: samples at the start and at the end that are not data.
        dwell_us: time per sample in microseconds, 0 when unknown.
        position: (row, 3) LPS millimetres of the centre of the field of view.
        read_dir, phase_dir, slice_dir: (row, 3) unit vectors, zero when unknown.
        trajectory_dims: numbers per sample that the file stores as trajectory, 0 for none.
    """

    role: np.ndarray
    reverse: np.ndarray
    ky: np.ndarray
    kz: np.ndarray
    slice: np.ndarray
    average: np.ndarray
    contrast: np.ndarray
    repetition: np.ndarray
    set: np.ndarray
    phase: np.ndarray
    segment: np.ndarray
    coils: np.ndarray
    samples: np.ndarray
    centre: np.ndarray
    discard_pre: np.ndarray
    discard_post: np.ndarray
    dwell_us: np.ndarray
    position: np.ndarray
    read_dir: np.ndarray
    phase_dir: np.ndarray
    slice_dir: np.ndarray
    trajectory_dims: np.ndarray

    def __len__(self) -> int:
        return len(self.role)

    def rows(self, role: Role) -> np.ndarray:
        """Return the row numbers with this role, in order of acquisition."""
        return np.flatnonzero(self.role == role)

    def take(self, rows: np.ndarray) -> LineTable:
        """Return the table of these rows."""
        return LineTable(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def counts(self) -> dict[str, int]:
        """Return the number of readouts of each role that occurs."""
        return {role.name.lower(): int(n) for role in Role if (n := (self.role == role).sum())}

    def extents(self) -> dict[str, int]:
        """Return how many slices, contrasts, ... the imaging lines have."""
        image = self.take(self.rows(Role.IMAGE))
        names = ("slice", *COUNTERS, "average", "segment")
        return {f"{name}s": len(np.unique(getattr(image, name))) for name in names}


@dataclass(frozen=True)
class Encoding:
    """What a scan's header says about k-space and the image.

    Attributes:
        matrix: (z, y, x) of the encoded k-space; z is 1 for 2-D scans.
        fov_mm: (read, phase, slice) of the encoded space.
        recon_matrix: (z, y, x) of the image.
        recon_fov_mm: (read, phase, slice) of the image.
        centre: values of the counters (kz, ky) at which k is zero.
        trajectory: "cartesian", "epi", "radial", "spiral", ...
        calibration_mode: how parallel calibration lines were taken, as ISMRMRD names it; "" when unknown.
        patient_position: DICOM Patient Position code.
        noise_bandwidth: effective noise bandwidth of the receiver relative to its nominal one.
        nominal_geometry: the header says that directions and positions are assumed.
    """

    matrix: tuple[int, int, int]
    fov_mm: tuple[float, float, float]
    recon_matrix: tuple[int, int, int]
    recon_fov_mm: tuple[float, float, float]
    centre: tuple[int, int]
    trajectory: str = "cartesian"
    calibration_mode: str = ""
    patient_position: str = "HFS"
    noise_bandwidth: float = 1.0
    nominal_geometry: bool = False

    @property
    def volumetric(self) -> bool:
        """Whether the slice axis is Fourier encoded."""
        return self.matrix[0] > 1


@dataclass(frozen=True)
class Source:
    """A file whose headers were read, ready to be assembled into a `RawScan`.

    Attributes:
        path: the file, for messages.
        format: name of the format, for messages.
        lines: labels of all readouts.
        encoding: the header's encoding.
        read: gives the samples of rows.
        read_trajectory: gives the trajectory (sample, dims) of rows, in the same way.
        conjugate: the samples follow exp(+2 pi i k r) and are conjugated on reading (Siemens).
        ramp: times of a readout that was sampled on the gradient's ramps.
        noise: noise samples (coil, sample) and their dwell time in microseconds from elsewhere in the file.
        header: JSON-able protocol facts.
        history, warnings: what the reader did and found.
        simulated: the data were computed.
    """

    path: str
    format: str
    lines: LineTable
    encoding: Encoding
    read: ReadLines
    read_trajectory: ReadLines | None = None
    conjugate: bool = False
    ramp: Ramp | None = None
    noise: tuple[np.ndarray, float] | None = None
    header: dict[str, Any] = field(default_factory=dict)
    history: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    simulated: bool = False

    def facts(self) -> dict[str, Any]:
        """Return what a user asks about a file, JSON-able."""
        encoding = self.encoding
        image = self.lines.take(self.lines.rows(Role.IMAGE))
        return {
            "format": self.format,
            "lines": self.lines.counts(),
            **self.lines.extents(),
            "coils": sorted({int(c) for c in image.coils}),
            "samples": sorted({int(n) for n in image.samples}),
            "encoded_matrix": list(encoding.matrix),
            "encoded_fov_mm": list(encoding.fov_mm),
            "recon_matrix": list(encoding.recon_matrix),
            "recon_fov_mm": list(encoding.recon_fov_mm),
            "centre_kz_ky": list(encoding.centre),
            "trajectory": encoding.trajectory,
            "ramp_sampled": self.ramp is not None and not self.ramp.is_uniform(),
            "simulated": self.simulated,
            "protocol": self.header,
            "warnings": list(self.warnings),
        }
