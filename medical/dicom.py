"""DICOM output: one derived MR Image Storage object per slice, which any viewer and PACS places in the patient.

- The in-plane axes are permuted and flipped to the radiological convention (`display_oriented`), with position,
  orientation and phase-encode direction following the voxels.
- The magnitude of the whole volume shares one RescaleSlope, never one per slice.
- Everything is new (UIDs) or empty (patient, study): nothing about the patient is invented. Object, series and frame of
  reference say that fewstep derived them; the scanner stands under Contributing Equipment.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medical.images import LPS_TO_RAS, Image, display_oriented
from medical.sidecar import NOT_FOR_DIAGNOSIS, base_name, describe, protocol_fact, software
from shared.errors import InputError, MissingExtra
from shared.pictures import Window

if TYPE_CHECKING:
    from pydicom.dataset import Dataset, FileDataset

MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
LARGEST_STORED = 32767  # fits signed and unsigned readers; half a step is 1.5e-5 of the maximum

# DICOM keyword -> (header key, factor to the DICOM unit). All are optional or may be empty (type 2).
PROTOCOL: dict[str, tuple[str, float]] = {
    "EchoTime": ("TE_ms", 1.0),
    "RepetitionTime": ("TR_ms", 1.0),
    "InversionTime": ("TI_ms", 1.0),
    "FlipAngle": ("flip_angle_deg", 1.0),
    "MagneticFieldStrength": ("field_strength_T", 1.0),
    "ImagingFrequency": ("resonance_frequency_Hz", 1e-6),
}
REQUIRED_EMPTY = ("EchoTime", "RepetitionTime")


def write_file(image: Image, path: Path) -> dict[str, Any]:
    """Write an image of one slice as one DICOM file.

    Raises:
        InputError: there is more than one slice.
    """
    if image.data.shape[0] != 1:
        raise InputError(
            path.name,
            found=f"{image.data.shape[0]} slices",
            expected="one slice for a .dcm file",
            fix="Give a folder name without suffix; each slice becomes a file in it.",
        )
    datasets, facts = datasets_of(image)
    datasets[0].save_as(path, enforce_file_format=True)
    return facts


def write_series(image: Image, path: Path) -> dict[str, Any]:
    """Write a folder with one DICOM file per slice, `0001.dcm` onwards."""
    datasets, facts = datasets_of(image)
    path.mkdir()
    for number, dataset in enumerate(datasets, start=1):
        dataset.save_as(path / f"{number:04d}.dcm", enforce_file_format=True)
    return facts


def datasets_of(image: Image) -> tuple[list[FileDataset], dict[str, Any]]:
    """Return the DICOM objects of an image and the facts about scaling that its sidecar should add.

    Raises:
        MissingExtra: pydicom is absent.
    """
    try:
        from pydicom.uid import generate_uid
    except ImportError as error:
        raise MissingExtra("pydicom", extra="medical", purpose="to write DICOM") from error

    shown = display_oriented(image)
    magnitude = shown.magnitude().cpu().numpy().astype(np.float64)
    slope = float(_decimal(magnitude.max() / LARGEST_STORED)) or 1.0
    scaled = np.rint(magnitude / slope)
    clipped = int((scaled > LARGEST_STORED).sum())
    stored = np.minimum(scaled, LARGEST_STORED).astype("<u2")
    window = Window.at_percentile(magnitude)
    uids = {name: generate_uid(prefix=None) for name in ("study", "series", "frame")}
    now = datetime.now()
    datasets = []
    for z, pixels in enumerate(stored):
        dataset = _new_object(generate_uid(prefix=None))
        _patient_and_study(dataset, shown, uids["study"])
        _series(dataset, shown, uids, now)
        _mr_image(dataset, shown)
        _plane(dataset, shown, z)
        _pixels(dataset, pixels, slope, window)
        _provenance(dataset, shown)
        dataset.InstanceNumber = z + 1
        datasets.append(dataset)
    facts = {
        "stored": "uint16",
        "rescale_slope": slope,
        "clipped_voxels": clipped,
        "dicom_phase_encoding": shown.phase_encoding,
        "series_instance_uid": str(uids["series"]),
    }
    return datasets, facts


def _new_object(uid: str) -> FileDataset:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MR_IMAGE_STORAGE
    meta.MediaStorageSOPInstanceUID = uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = MR_IMAGE_STORAGE
    dataset.SOPInstanceUID = uid
    return dataset


def _patient_and_study(dataset: Dataset, image: Image, study: str) -> None:
    """Leave empty everything that the raw data do not tell (type 2 attributes must exist)."""
    for keyword in (
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "StudyDate",
        "StudyTime",
        "StudyID",
        "AccessionNumber",
        "ReferringPhysicianName",
        "PositionReferenceIndicator",
        "Laterality",
    ):
        setattr(dataset, keyword, "")
    if image.provenance.get("synthetic"):
        dataset.PatientName = "SYNTHETIC^NOBODY"
    dataset.StudyInstanceUID = study


def _series(dataset: Dataset, image: Image, uids: dict[str, str], now: datetime) -> None:
    from pydicom.dataset import Dataset as Item
    from pydicom.sequence import Sequence

    facts = image.provenance
    dataset.Modality = "MR"
    dataset.SeriesInstanceUID = uids["series"]
    dataset.SeriesNumber = 1
    dataset.SeriesDescription = _text(f"{describe(image)}", 64)
    dataset.FrameOfReferenceUID = uids["frame"]
    dataset.PatientPosition = image.patient_position
    dataset.Manufacturer = "fewstep"
    dataset.SoftwareVersions = software()
    dataset.InstanceCreationDate = dataset.ContentDate = now.strftime("%Y%m%d")
    dataset.InstanceCreationTime = dataset.ContentTime = now.strftime("%H%M%S")
    vendor = protocol_fact(image, "vendor")
    if vendor and not facts.get("simulated"):
        scanner, purpose = Item(), Item()
        purpose.CodeValue, purpose.CodingSchemeDesignator = "109101", "DCM"
        purpose.CodeMeaning = "Acquisition Equipment"
        scanner.PurposeOfReferenceCodeSequence = Sequence([purpose])
        scanner.Manufacturer = _text(str(vendor), 64)
        model = protocol_fact(image, "model")
        if model:
            scanner.ManufacturerModelName = _text(str(model), 64)
        dataset.ContributingEquipmentSequence = Sequence([scanner])


def _mr_image(dataset: Dataset, image: Image) -> None:
    """Set the MR Image module; an unknown sequence is "research mode" with no named variant."""
    dataset.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    dataset.ScanningSequence = "RM"
    dataset.SequenceVariant = "NONE"
    dataset.ScanOptions = ""
    dataset.MRAcquisitionType = "3D" if len(image.provenance.get("acquired_matrix", ())) == 3 else "2D"
    dataset.EchoTrainLength = ""
    for keyword in REQUIRED_EMPTY:
        setattr(dataset, keyword, None)
    for keyword, (key, factor) in PROTOCOL.items():
        value = protocol_fact(image, key)
        if value is not None:
            setattr(dataset, keyword, _decimal(float(value) * factor))
    along_rows = image.phase_encoding.startswith("i")
    if image.phase_encoding:
        dataset.InPlanePhaseEncodingDirection = "ROW" if along_rows else "COL"
    acquired = [int(n) for n in image.provenance.get("acquired_matrix", ())]
    if len(acquired) >= 2 and image.phase_encoding and max(acquired) < 2**16:
        phase, read = acquired[-2:]
        dataset.AcquisitionMatrix = [read, 0, 0, phase] if along_rows else [0, read, phase, 0]


def _plane(dataset: Dataset, image: Image, z: int) -> None:
    """Set the Image Plane module, P = IPP + c dc X + r dr Y at column c and row r (PS3.3 equation C.7.6.2.1-1)."""
    lps = LPS_TO_RAS @ image.affine
    size = image.voxel_size_mm()
    position = lps[:3, 3] + z * lps[:3, 2]
    cosines = lps[:3, :2] / size[:2]
    normal = np.cross(cosines[:, 0], cosines[:, 1])
    dataset.ImagePositionPatient = [_decimal(value) for value in position]
    dataset.ImageOrientationPatient = [_decimal(value) for value in (*cosines[:, 0], *cosines[:, 1])]
    dataset.PixelSpacing = [_decimal(size[1]), _decimal(size[0])]
    dataset.SliceThickness = _decimal(size[2] if image.slice_thickness_mm is None else image.slice_thickness_mm)
    dataset.SpacingBetweenSlices = _decimal(size[2])
    dataset.SliceLocation = _decimal(float(position @ normal))


def _pixels(dataset: Dataset, pixels: np.ndarray, slope: float, window: Window) -> None:
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 0
    dataset.RescaleIntercept = 0
    dataset.RescaleSlope = _decimal(slope)
    dataset.RescaleType = "US"
    dataset.WindowCenter = _decimal(window.high / 2)
    dataset.WindowWidth = _decimal(window.high)
    # Plain LINEAR forbids widths below 1, and scanner units can be that small.
    dataset.VOILUTFunction = "LINEAR_EXACT"
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    dataset.PixelData = np.ascontiguousarray(pixels).tobytes()


def _provenance(dataset: Dataset, image: Image) -> None:
    facts = image.provenance
    lines = [f"{NOT_FOR_DIAGNOSIS} {describe(image)}."]
    if facts.get("simulated"):
        lines.append("The k-space was simulated, not measured.")
    if facts.get("nominal_geometry"):
        lines.append("The raw data carry no geometry: position and orientation are assumed, left and right unknown.")
    if facts.get("source"):
        lines.append(f"Raw data: {base_name(facts['source'])}.")
    model = facts.get("model")
    if model and facts.get("synthetic"):
        lines.append(f"Drawn by the generative model {model['name']} (sha256 {model['sha256']}). Nobody was scanned.")
    elif model:
        trained = "simulated" if model["simulated"] else "measured"
        lines.append(
            f"Image by the trained network {model['name']} (sha256 {model['sha256']}), trained on {trained} data. "
            "What the data do not determine comes from its training."
        )
    residual, expected = facts.get("residual"), facts.get("residual_expected")
    if residual is not None:
        lines.append(
            f"Data-consistency residual {residual:.4g}" + (f", noise alone {expected:.4g}." if expected else ".")
        )
    lines += [str(sentence) for sentence in facts.get("warnings", ())]
    dataset.DerivationDescription = _text(f"{describe(image)}. {NOT_FOR_DIAGNOSIS}", 1024)
    dataset.ImageComments = _text("\r\n".join(lines), 10240)


def _decimal(value: float) -> Any:
    """Return a decimal string (DS) of at most 16 characters, as near to `value` as that allows."""
    from pydicom.valuerep import DSfloat

    return DSfloat(float(value), auto_format=True)


def _text(text: str, most: int) -> str:
    """Cut a text to what its value representation holds; backslashes would part it into several values."""
    return text.replace("\\", "/")[:most]
