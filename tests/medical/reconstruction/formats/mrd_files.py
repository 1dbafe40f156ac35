"""ISMRMRD files for tests, written with the `ismrmrd` package and not with our writer."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ismrmrd
import numpy as np

XML = """<?xml version="1.0"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
{measurement}
<acquisitionSystemInformation><systemVendor>{vendor}</systemVendor>{bandwidth}
<institutionName>{institution}</institutionName></acquisitionSystemInformation>
<experimentalConditions><H1resonanceFrequency_Hz>123200000</H1resonanceFrequency_Hz></experimentalConditions>
<encoding>
<encodedSpace><matrixSize><x>{nx}</x><y>{ny}</y><z>{nz}</z></matrixSize>
<fieldOfView_mm><x>{fx}</x><y>{fy}</y><z>{fz}</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>{rx}</x><y>{ny}</y><z>{nz}</z></matrixSize>
<fieldOfView_mm><x>{rfx}</x><y>{fy}</y><z>{fz}</z></fieldOfView_mm></reconSpace>
<encodingLimits>{limits}</encodingLimits>
<trajectory>{trajectory}</trajectory>{description}{parallel}
</encoding>
</ismrmrdHeader>"""


def xml(matrix: tuple[int, int, int], centre: tuple[int, int] | None = None, **changes: Any) -> str:
    """Header of an encoded matrix (z, y, x) with 2 mm pixels; `centre` (kz, ky) makes encoding limits."""
    nz, ny, nx = matrix
    limits = ""
    if centre is not None:
        for step, c, n in ((1, centre[1], ny), (2, centre[0], nz)):
            limits += (
                f"<kspace_encoding_step_{step}><minimum>0</minimum><maximum>{n - 1}</maximum><center>{c}</center>"
                f"</kspace_encoding_step_{step}>"
            )
    values: dict[str, Any] = {
        "nx": nx,
        "ny": ny,
        "nz": nz,
        "rx": nx,
        "fx": 2.0 * nx,
        "fy": 2.0 * ny,
        "fz": 5.0,
        "rfx": 2.0 * nx,
        "limits": limits,
        "vendor": "Test",
        "institution": "",
        "bandwidth": "",
        "measurement": "",
        "trajectory": "cartesian",
        "description": "",
        "parallel": "",
    }
    return XML.format(**(values | changes))


def line(samples: np.ndarray, *flags: str, trajectory: np.ndarray | None = None, **labels: Any) -> ismrmrd.Acquisition:
    """One readout (coil, sample); labels are header fields or counters (ky and kz for the encode steps)."""
    samples = np.ascontiguousarray(samples, dtype=np.complex64)
    acquisition = ismrmrd.Acquisition.from_array(
        samples, None if trajectory is None else np.ascontiguousarray(trajectory, dtype=np.float32)
    )
    head: dict[str, Any] = {
        "center_sample": samples.shape[1] // 2,
        "sample_time_us": 10.0,
        "read_dir": (1.0, 0.0, 0.0),
        "phase_dir": (0.0, 1.0, 0.0),
        "slice_dir": (0.0, 0.0, 1.0),
        "position": (0.0, 0.0, 0.0),
    }
    counters = {"ky": "kspace_encode_step_1", "kz": "kspace_encode_step_2"}
    for name, value in (head | labels).items():
        if name in ("ky", "kz", "slice", "average", "contrast", "repetition", "set", "phase", "segment"):
            setattr(acquisition.idx, counters.get(name, name), value)
        elif name == "user":
            for index, number in value.items():
                acquisition.idx.user[index] = number
        elif isinstance(value, tuple):
            getattr(acquisition, name)[:] = value
        else:
            setattr(acquisition, name, value)
    for flag in flags:
        acquisition.set_flag(getattr(ismrmrd, f"ACQ_{flag}"))
    return acquisition


def write_mrd(path: Path, header: str, lines: Iterable[ismrmrd.Acquisition], group: str = "dataset") -> Path:
    """Write a file with the package's own writer."""
    with ismrmrd.Dataset(str(path), group, mode="a") as dataset:
        dataset.write_xml_header(header.encode())
        for acquisition in lines:
            dataset.append_acquisition(acquisition)
    return path


def point_lines(shape: tuple[int, ...], pixel: tuple[int, ...], coils: int = 2) -> np.ndarray:
    """k-space (coil, *shape) of one bright pixel, by the definition of the transform with everything about N//2.

    With x counted from N//2, F[k] = exp(-2 pi i k x / N); coil c has the sensitivity (c + 1) i^c.
    """
    result = np.ones(shape, dtype=complex)
    for axis, (n, x) in enumerate(zip(shape, pixel, strict=True)):
        k = np.arange(n) - n // 2
        phase = np.exp(-2j * np.pi * k * (x - n // 2) / n)
        result = result * phase.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    sensitivities = np.array([(c + 1) * 1j**c for c in range(coils)])
    return (sensitivities.reshape(-1, *[1] * len(shape)) * result).astype(np.complex64)
