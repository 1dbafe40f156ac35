"""What a Siemens protocol says about the encoding, and what it says in which odd place."""

from __future__ import annotations

from typing import Any

import numpy as np

from medical.reconstruction.formats.lines import Encoding
from medical.reconstruction.formats.ramp import Ramp
from shared.errors import InputError

THREE_D = 4  # sKSpace.ucDimension
TRAJECTORIES = {1: "cartesian", 2: "radial", 4: "spiral", 8: "radial"}  # sKSpace.ucTrajectory; 8 is PROPELLER
CALIBRATION_MODES = {2: "embedded", 4: "separate", 16: "separate", 32: "separate"}  # sPat.ucRefScanMode
RAMP_MODES = {2: False, 4: True}  # alRegridMode: trapezoid, sinusoid


def encoding_of(path: str, header: dict[str, Any], centre: tuple[int, int]) -> Encoding:
    """Return the encoding of a protocol.

    The encoded matrix along the phase encode is the number of lines of the full k-space (phase oversampling included,
    partial Fourier not taken off), and its field of view is that of the protocol times 1 + oversampling.

    Args:
        path: the file, for messages.
        header: parsed by `twixtools`.
        centre: line counters (kz, ky) of k = 0 from the line headers.

    Raises:
        InputError: the protocol lacks the field of view or the matrix.
    """
    yaps, meas = header["MeasYaps"], header["Meas"]
    try:
        k_space, first = yaps["sKSpace"], yaps["sSliceArray"]["asSlice"][0]
        base, lines = int(k_space["lBaseResolution"]), int(k_space["lPhaseEncodingLines"])
        fov = (float(first["dReadoutFOV"]), float(first["dPhaseFOV"]), float(first["dThickness"]))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise InputError(
            path,
            found=f"a protocol without {error}",
            expected="matrix and field of view (sKSpace, sSliceArray)",
            fix="Export the measurement again with its protocol.",
        ) from error
    volumetric = k_space.get("ucDimension") == THREE_D
    partitions = int(k_space.get("lPartitions", 1)) if volumetric else 1
    slabs = int(k_space.get("lImagesPerSlab", partitions)) if volumetric else 1
    oversampling = _number(header.get("Dicom", {}).get("flReadoutOSFactor"), 2.0)
    phase_os = _number(k_space.get("dPhaseOversamplingForDialog", meas.get("dPhaseOversamplingForDialog")), 0.0)
    slice_os = _number(k_space.get("dSliceOversamplingForDialog", meas.get("dSliceOversamplingForDialog")), 0.0)
    return Encoding(
        matrix=(partitions, lines, round(base * oversampling)),
        fov_mm=(fov[0] * oversampling, fov[1] * (1 + phase_os), fov[2] * (1 + slice_os if volumetric else 1)),
        recon_matrix=(slabs, round(base * fov[1] / fov[0]) if min(fov) > 0 else lines, base),
        recon_fov_mm=fov,
        centre=centre,
        trajectory=TRAJECTORIES.get(k_space.get("ucTrajectory", 1), "other"),
        calibration_mode=CALIBRATION_MODES.get(yaps.get("sPat", {}).get("ucRefScanMode", 1), ""),
        patient_position=_patient_position(header),
    )


def ramp_of(header: dict[str, Any], samples: int) -> Ramp | None:
    """Return the times of a readout that is sampled on the gradient's ramps."""
    meas = header["Meas"]
    modes = meas.get("alRegridMode") or [1]
    if modes[0] not in RAMP_MODES:
        return None
    up, flat, down, delay = (
        float(meas[f"alRegrid{name}Time"][0]) for name in ("Rampup", "Flattop", "Rampdown", "DelaySamples")
    )
    duration = float(meas["aflRegridADCDuration"][0])
    if min(up, down, duration) <= 0:
        return None
    return Ramp(up, flat, down, delay, duration / samples, samples, sinusoidal=RAMP_MODES[modes[0]])


def dwell_us(header: dict[str, Any], contrast: int = 0) -> float:
    """Return the time per sample in microseconds, 0 when unknown."""
    times = header["MeasYaps"].get("sRXSPEC", {}).get("alDwellTime") or [0]
    value = times[contrast] if contrast < len(times) else times[0]
    return float(value) / 1000 if isinstance(value, int | float) else 0.0


def noise_dwell_us(header: dict[str, Any], name: str, samples: int, *, old_format: bool) -> float:
    """Return the time per sample of a noise adjustment scan in microseconds.

    The noise scan has a bandwidth of its own that the protocol does not state; these are the values that the
    siemens_to_ismrmrd converter uses: 5 us in coil sensitivity adjustments (4 us in the quiet kind), else 130 Hz
    per sample.
    """
    fixed = {"AdjCoilSens": 5.0, "AdjQuietCoilSens": 4.0}
    baseline = str(header["Meas"].get("tMeasuredBaselineString", header["Meas"].get("tBaselineString", "")))
    if name in fixed or baseline.startswith(("NX", "N/X")):
        return fixed.get(name, 5.0)
    return 1e6 / samples / 130.0 if old_format else int(76800.0 / samples) / 10.0


def protocol(header: dict[str, Any]) -> dict[str, Any]:
    """Return JSON-able facts about scanner and sequence; nothing that identifies the patient."""
    yaps, dicom, meas = header["MeasYaps"], header.get("Dicom", {}), header["Meas"]
    contrasts = int(_number(yaps.get("lContrasts"), 1))
    facts = {
        "vendor": str(dicom.get("Manufacturer", "SIEMENS")),
        "model": dicom.get("ManufacturersModelName"),
        "software": dicom.get("SoftwareVersions"),
        "field_strength_T": _number(dicom.get("flMagneticFieldStrength", meas.get("flMagneticFieldStrength")), 0.0),
        "resonance_frequency_Hz": int(_number(dicom.get("lFrequency"), 0)),
        "protocol": dicom.get("tProtocolName"),
        "sequence": str(yaps.get("tSequenceFileName", "")).strip('"').split("\\")[-1] or None,
        "TR_ms": _milliseconds(yaps.get("alTR"), contrasts),
        "TE_ms": _milliseconds(yaps.get("alTE"), contrasts),
        "flip_angle_deg": [float(a) for a in yaps.get("adFlipAngleDegree", []) if isinstance(a, int | float)][:1],
        "dwell_us": dwell_us(header),
    }
    return {name: value for name, value in facts.items() if value not in (None, "", [], 0)}


def slice_positions(header: dict[str, Any]) -> np.ndarray:
    """Return (slice, 3) LPS positions in mm of the protocol's slice array; absent components are 0."""
    slices = header["MeasYaps"]["sSliceArray"]["asSlice"]
    return np.array([_components(s.get("sPosition")) for s in slices], dtype=float)


def slice_normal(header: dict[str, Any]) -> np.ndarray:
    """Return the LPS normal of the protocol's first slice."""
    return np.array(_components(header["MeasYaps"]["sSliceArray"]["asSlice"][0].get("sNormal")), dtype=float)


def directions(quaternion: np.ndarray) -> np.ndarray:
    """Return (3, 3) with rows read, phase and slice direction in LPS, from the MDH quaternion (w, x, y, z).

    Its rotation matrix

        1 - 2(y^2 + z^2)   2(xy - wz)         2(xz + wy)
        2(xy + wz)         1 - 2(x^2 + z^2)   2(yz - wx)
        2(xz - wy)         2(yz + wx)         1 - 2(x^2 + y^2)

    has the columns phase, read, slice.
    """
    w, x, y, z = (float(q) for q in quaternion)
    phase = (1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y))
    read = (2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x))
    normal = (2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y))
    return np.array([read, phase, normal])


def _components(vector: dict[str, float] | None) -> tuple[float, float, float]:
    values = vector or {}
    return tuple(_number(values.get(name), 0.0) for name in ("dSag", "dCor", "dTra"))  # type: ignore[return-value]


def _milliseconds(times: Any, n: int) -> list[float]:
    return [float(t) / 1000 for t in (times or []) if isinstance(t, int | float)][:n]


def _number(value: Any, default: float) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else default


def _patient_position(header: dict[str, Any]) -> str:
    for section, name in (("Meas", "tPatientPosition"), ("Meas", "sPatPosition"), ("Dicom", "tPatientPosition")):
        value = str(header.get(section, {}).get(name, "")).strip().strip('"')
        if value:
            return value
    return "HFS"
