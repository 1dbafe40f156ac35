"""The JSON sidecar beside every written image: how it was made, in keys that people and BIDS tools read.

Provenance keys (`Image.provenance`) that reach the sidecar, all optional except where a method always knows them:

| key | meaning |
| --- | --- |
| method | reconstruction method, for example "sense" |
| parameters | its parameters, a flat dictionary |
| acceleration | true acceleration of a Cartesian scan: grid points of the encoded matrix per acquired sample |
| residual | data-consistency residual ||A x - y|| / ||y|| over the acquired samples |
| residual_expected | what noise alone would leave of it |
| residual_by_slice, residual_expected_by_slice | the same for every slice of a stack |
| model | of a trained method: its card and the hash of its weights |
| consistency | of a trained method on whitened data, for every slice: the residual among chi-square variables |
| trust | of a trained method: numbers for every slice, explained in `medical.reconstruction.trusted` |
| shots, samples_per_shot | instead of the acceleration, of non-Cartesian scans |
| body_coil | name of the raw-data file that the coil maps were measured against |
| acquired_matrix | (ky, kx) or (kz, ky, kx) extent of the encoded k-space, before any zero filling |
| units | unit of the voxels: "scanner", "SNR", ... |
| history, warnings | sentences, in order |
| simulated | the k-space was computed, not measured |
| synthetic | the image was drawn by a generative model: nobody was scanned |
| nominal_geometry | the file carried no geometry; positions and orientation are assumed |
| source | the raw-data file; only its name is written, never its folder |
| header | protocol facts of the scan, lists where there are several echoes; `BIDS_OF_HEADER` names those of BIDS |
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any

from medical.images import Image
from shared.errors import InputError
from shared.files import atomic_path, refuse_existing
from shared.jsontext import json_text, jsonable

NOT_FOR_DIAGNOSIS = "NOT FOR DIAGNOSIS. Research use only."

# header key -> (BIDS key, factor to the BIDS unit; None for text). BIDS times are seconds.
BIDS_OF_HEADER: dict[str, tuple[str, float | None]] = {
    "TE_ms": ("EchoTime", 1e-3),
    "TR_ms": ("RepetitionTime", 1e-3),
    "TI_ms": ("InversionTime", 1e-3),
    "flip_angle_deg": ("FlipAngle", 1.0),
    "field_strength_T": ("MagneticFieldStrength", 1.0),
    "resonance_frequency_Hz": ("ImagingFrequency", 1e-6),
    "vendor": ("Manufacturer", None),
    "model": ("ManufacturersModelName", None),
    "sequence": ("SequenceName", None),
    "protocol": ("ProtocolName", None),
}


def protocol_fact(image: Image, key: str) -> Any:
    """Return one fact of the scan's protocol, or None; a list of one is that one, a list of several is ambiguous."""
    value = dict(image.provenance.get("header", {})).get(key)
    if isinstance(value, (list, tuple)):
        value = value[0] if len(value) == 1 else None
    return None if value == "" else value


def software() -> str:
    """Return the name and version that files carry, for example "fewstep 0.1.0"."""
    return f"fewstep {version('fewstep')}"


def describe(image: Image) -> str:
    """Return one sentence on how the image was made: method, acceleration and parameters."""
    facts = image.provenance
    words = [str(facts.get("method", "image"))]
    if "acceleration" in facts:
        words.append(f"R={float(facts['acceleration']):.2f}")
    words += [f"{name}={_short(value)}" for name, value in dict(facts.get("parameters", {})).items()]
    if facts.get("simulated"):
        words.append("simulated k-space")
    return f"{software()}: {', '.join(words)}"


def sidecar(image: Image) -> dict[str, Any]:
    """Return the JSON-able facts of an image: BIDS keys first, then everything in the provenance.

    `PhaseEncodingDirection` refers to the voxel axes (x, y, z) of `image`, as BIDS asks.
    """
    facts = dict(image.provenance)
    size = image.voxel_size_mm()
    bids: dict[str, Any] = {"ConversionSoftware": "fewstep", "ConversionSoftwareVersion": version("fewstep")}
    for key, (name, factor) in BIDS_OF_HEADER.items():
        value = protocol_fact(image, key)
        if value is not None:
            bids[name] = str(value) if factor is None else float(value) * factor
    if image.phase_encoding:
        bids["PhaseEncodingDirection"] = image.phase_encoding
    bids["SliceThickness"] = float(size[2] if image.slice_thickness_mm is None else image.slice_thickness_mm)
    bids["SpacingBetweenSlices"] = float(size[2])
    bids["PatientPosition"] = image.patient_position
    if "source" in facts:
        facts["source"] = base_name(facts["source"])
    facts.setdefault("warnings", [])
    facts.setdefault("simulated", False)
    return jsonable({**bids, "Notice": NOT_FOR_DIAGNOSIS, "software": software(), **facts})


def sidecar_path(path: Path) -> Path:
    """Return the path of the sidecar: `brain.json` for `brain.nii.gz`, as BIDS asks, and a name of its own for others.

    `brain.png` has `brain.png.json` and the DICOM folder `brain` has `brain.dicom.json`, so that one image can stand in
    several formats side by side.
    """
    for suffix in (".nii.gz", ".nii"):
        if path.name.lower().endswith(suffix):
            return path.with_name(f"{path.name[: -len(suffix)]}.json")
    return path.with_name(f"{path.name}{'' if path.suffix else '.dicom'}.json")


def write_with_sidecar(
    image: Image, path: Path, write: Callable[[Image, Path], dict[str, Any]], *, overwrite: bool
) -> list[Path]:
    """Write an image and its sidecar so that an error or a kill while either is written leaves nothing behind.

    Args:
        image: the image.
        path: the final path of the image.
        write: writes the image to a temporary path and returns facts to add to the sidecar.
        overwrite: replace existing outputs.

    Returns:
        The path of the image and of the sidecar.

    Raises:
        InputError: an output exists and may not be replaced.
    """
    beside = sidecar_path(path)
    for output in (path, beside):
        refuse_existing(output, overwrite=overwrite)
    if path.is_dir() and any(entry.suffix.lower() != ".dcm" for entry in path.iterdir()):
        raise InputError(
            path,
            found="a folder that holds other things than DICOM files",
            expected="a new folder, or one that an earlier run wrote",
            fix="Choose another folder; it is not replaced.",
        )
    with ExitStack() as outputs:
        scratch_beside = outputs.enter_context(atomic_path(beside, overwrite=overwrite))
        scratch = outputs.enter_context(atomic_path(path, overwrite=overwrite))
        extra = write(image, scratch)
        scratch_beside.write_text(json_text({**sidecar(image), **extra}), encoding="utf-8")
    return [path, beside]


def base_name(source: object) -> str:
    """Return the last part of a path written on any system: folders may name patients or users."""
    path: PurePath = PureWindowsPath(str(source)) if "\\" in str(source) else PurePosixPath(str(source))
    return path.name


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
