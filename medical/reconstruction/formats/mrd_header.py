"""The XML header of ISMRMRD files, which fastMRI files carry too."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from medical.reconstruction.formats.checks import require_package, require_single_band
from medical.reconstruction.formats.lines import Encoding, LineTable, Role
from medical.reconstruction.formats.ramp import Ramp
from shared.errors import InputError

SYNTHETIC = "synthetic"  # ISMRMRD's own generators name their institution "ISMRM Synthetic Imaging Lab"


def parse_header(source: str | os.PathLike[str], xml: bytes | str) -> Any:
    """Return the header as `ismrmrd.xsd.ismrmrdHeader`.

    Raises:
        InputError: it is not a valid ISMRMRD header with at least one encoding.
    """
    require_package("ismrmrd", "to read ISMRMRD headers")
    import ismrmrd.xsd

    try:
        header = ismrmrd.xsd.CreateFromDocument(xml)
        trouble = "" if header.encoding and header.encoding[0].encodedSpace else "a header without an encoded space"
    except Exception as error:  # the parser raises many kinds, from expat, xsdata and the type conversions
        trouble = f"an XML header that does not parse ({' '.join(str(error).split())[:120]})"
    if trouble:
        raise InputError(
            source, found=trouble, expected="an ISMRMRD header", fix="Convert the file again with a current converter."
        )
    return header


def spaces(header: Any) -> tuple[tuple[int, int, int], tuple[float, float, float], tuple[int, int, int], Any]:
    """Return encoded matrix (z, y, x), encoded FOV (read, phase, slice), and both of the recon space."""
    encoding = header.encoding[0]
    encoded, recon = encoding.encodedSpace, encoding.reconSpace or encoding.encodedSpace
    return *_space(encoded), *_space(recon)


def _space(space: Any) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    size, fov = space.matrixSize, space.fieldOfView_mm
    return (int(size.z), int(size.y), int(size.x)), (float(fov.x), float(fov.y), float(fov.z))


def encoding_of(source: str, header: Any) -> tuple[Encoding, tuple[str, ...]]:
    """Return the encoding of the header, and warnings where the header is incomplete.

    Args:
        source: the file, for messages.
        header: from `parse_header`.
    """
    first = header.encoding[0]
    matrix, fov, recon_matrix, recon_fov = spaces(header)
    if min(*matrix, *recon_matrix) < 1:
        raise InputError(
            source,
            found=f"encoded and recon matrix (z, y, x) {matrix} and {recon_matrix}",
            expected="sizes above 0",
            fix="Correct the header.",
        )
    limits, warnings = first.encodingLimits, []
    centre = []
    for axis, limit in ((0, limits and limits.kspace_encoding_step_2), (1, limits and limits.kspace_encoding_step_1)):
        size = matrix[axis]
        unset = limit is None or (limit.center == 0 and limit.maximum == size - 1)
        centre.append(size // 2 if unset else int(limit.center))
        if unset and size > 1:
            warnings.append(f"The header has no centre of k{'zy'[axis]}; {size // 2} of {size} is assumed.")
    multiband = getattr(first.parallelImaging, "multiband", None)
    require_single_band(source, int(getattr(multiband, "multiband_factor", 1)))
    system = header.acquisitionSystemInformation
    information = header.measurementInformation
    position = getattr(information, "patientPosition", None)
    parallel = getattr(first.parallelImaging, "calibrationMode", None)
    encoding = Encoding(
        matrix=matrix,
        fov_mm=fov,
        recon_matrix=recon_matrix if matrix[0] > 1 else (1, *recon_matrix[1:]),
        recon_fov_mm=recon_fov,
        centre=(centre[0], centre[1]),
        trajectory=getattr(first.trajectory, "value", None) or "cartesian",
        calibration_mode=getattr(parallel, "value", None) or "",
        patient_position=getattr(position, "value", None) or "HFS",
        noise_bandwidth=float(getattr(system, "relativeReceiverNoiseBandwidth", None) or 1.0),
        nominal_geometry=_marked(header, "nominal_geometry"),
    )
    return encoding, tuple(warnings)


def protocol(header: Any) -> dict[str, Any]:
    """Return JSON-able facts about scanner and sequence; nothing that identifies the patient."""
    system = header.acquisitionSystemInformation
    information = header.measurementInformation
    sequence = header.sequenceParameters
    conditions = header.experimentalConditions
    facts = {
        "vendor": getattr(system, "systemVendor", None),
        "model": getattr(system, "systemModel", None),
        "field_strength_T": getattr(system, "systemFieldStrength_T", None),
        "resonance_frequency_Hz": getattr(conditions, "H1resonanceFrequency_Hz", None),
        "protocol": getattr(information, "protocolName", None),
        "sequence": getattr(sequence, "sequence_type", None),
        "TR_ms": list(getattr(sequence, "TR", [])),
        "TE_ms": list(getattr(sequence, "TE", [])),
        "TI_ms": list(getattr(sequence, "TI", [])),
        "flip_angle_deg": list(getattr(sequence, "flipAngle_deg", [])),
    }
    return {name: value for name, value in facts.items() if value not in (None, [], "", 0)}


def is_simulated(header: Any) -> bool:
    """Whether the file says that its data were computed."""
    system = header.acquisitionSystemInformation
    institution = (getattr(system, "institutionName", None) or "").lower()
    return SYNTHETIC in institution or _marked(header, "simulated")


def _marked(header: Any, name: str) -> bool:
    strings = header.userParameters.userParameterString if header.userParameters else []
    return any(p.name == name and p.value.lower() == "true" for p in strings)


def is_siemens(header: Any) -> bool:
    """Whether the vendor's samples follow exp(+2 pi i k r), so that a forward transform gives the image."""
    return "siemens" in (getattr(header.acquisitionSystemInformation, "systemVendor", None) or "").lower()


def ramp_of(header: Any) -> Ramp | None:
    """Return the ramp times of an EPI readout as siemens_to_ismrmrd and the Pulseq converter write them."""
    description = header.encoding[0].trajectoryDescription
    if description is None:
        return None
    numbers = {p.name: float(p.value) for p in (*description.userParameterLong, *description.userParameterDouble)}
    names = ("rampUpTime", "flatTopTime", "rampDownTime", "acqDelayTime", "dwellTime", "numSamples")
    if any(name not in numbers for name in names):
        return None
    up, flat, down, delay, dwell, samples = (numbers[name] for name in names)
    if min(up, down, dwell, samples) <= 0:
        return None
    return Ramp(up=up, flat=flat, down=down, delay=delay, dwell=dwell, samples=int(samples))


def siemens_centre(encoding: Encoding, lines: LineTable, user: np.ndarray) -> tuple[int, int] | None:
    """Return the centre (kz, ky) that the converter from Siemens files stores with each line, if it differs.

    siemens_to_ismrmrd keeps KSpaceCentreLineNo and KSpaceCentrePartitionNo in the user counters 5 and 6, and its
    header has the wrong centre for some partial Fourier protocols (siemens_to_ismrmrd issue 142).

    Args:
        encoding: with the header's centre.
        lines: labels of all readouts.
        user: (row, 8) user counters.
    """
    image = user[lines.rows(Role.IMAGE)]
    if not len(image) or np.any(image[:, 5:7] != image[0, 5:7]) or not image[0, 5]:
        return None
    if image[0, 5] >= encoding.matrix[1] or image[0, 6] >= encoding.matrix[0]:
        return None
    stored = (int(image[0, 6]) if encoding.volumetric else encoding.centre[0], int(image[0, 5]))
    return stored if stored != encoding.centre else None
