"""Synthetic volumes as a BIDS data set: `sub-syn001/anat/sub-syn001_T1w.nii.gz` with a JSON sidecar each.

Voxels are uint16, x = -1 ... 1 as 0 ... 65535 for every volume alike (never by its own extremes), voxel order LPS, true
voxel sizes, the centre of the volume at the origin of the world. That it is synthetic stands in the header and in the
sidecar, with the seed, the hash of the model and the sampling, and that it is not for diagnosis.

A volume is done when its sidecar is there: the sidecar appears last. A batch that is run again goes on after the
last one done; one with other settings is refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from medical.brain.volume import WHITE, Volume, centred_affine, write_volume
from medical.sidecar import NOT_FOR_DIAGNOSIS, sidecar_path, software
from shared.errors import InputError
from shared.files import atomic_path
from shared.jsontext import json_text, jsonable

BIDS_VERSION = "1.10.0"
LATERALITY = "models trained with left-right flips, as MedForj's, do not tell left from right"


@dataclass(frozen=True)
class Written:
    """Where a synthetic volume is.

    Attributes:
        path: of the NIfTI file.
        new: written now, not found from an earlier run.
    """

    path: Path
    new: bool


def volume_path(folder: Path, number: int) -> Path:
    """Return the path of the volume of this number, counted from 1."""
    subject = f"sub-syn{number:03d}"
    return folder / subject / "anat" / f"{subject}_T1w.nii.gz"


def image_seed(seed: int, number: int) -> int:
    """Return the seed of the volume of this number in a batch: the same whatever else is drawn."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def to_voxels(x: Tensor, spacing_mm: float) -> tuple[Volume, float]:
    """Return a drawn volume (x, y, z) as uint16 with its affine, and the share of voxels beyond [-1, 1], limited.

    Raises:
        InputError: NaN or infinite values.
    """
    values = x.detach().cpu().numpy()
    if not np.isfinite(values).all():
        raise InputError(
            "sampling", found="NaN or infinite voxels", expected="finite voxels",
            fix="Nothing was written; check the model and its strategy.",
        )  # fmt: skip
    beyond = float(np.mean(np.abs(values) > 1))
    voxels = np.rint((np.clip(values, -1, 1) + 1) / 2 * WHITE).astype(np.uint16)
    return Volume(voxels, centred_affine(values.shape, spacing_mm)), beyond


def done(path: Path, facts: dict[str, Any], *, overwrite: bool) -> bool:
    """Return whether a volume with these facts is there.

    Args:
        path: of the NIfTI file.
        facts: see `write_synthetic`; those in the sidecar must be equal.
        overwrite: a volume with other facts counts as absent.

    Raises:
        InputError: a volume made with other settings, or a sidecar that cannot be read.
    """
    beside = sidecar_path(path)
    if not (beside.is_file() and path.is_file()):
        return False
    try:
        found = json.loads(beside.read_text(encoding="utf-8"))
        differing = [key for key, value in jsonable(facts).items() if found.get(key) != value]
    except (ValueError, AttributeError):
        differing = ["everything"]
    if differing and not overwrite:
        raise InputError(
            beside, found=f"a volume made with another {', '.join(differing)}", expected="the settings of this batch",
            fix="Choose another folder or pass --overwrite.",
        )  # fmt: skip
    return not differing


def write_synthetic(path: Path, x: Tensor, facts: dict[str, Any], warnings: list[str]) -> None:
    """Write one volume and its sidecar, both whole or not at all; existing ones are replaced.

    Args:
        path: of the NIfTI file.
        x: (x, y, z).
        facts: what decides the volume: "seed", "model", "sampling", "size", "spacing_mm" and so on, JSON types.
        warnings: sentences.
    """
    volume, beyond = to_voxels(x, facts["spacing_mm"])
    sidecar = {
        "ConversionSoftware": "fewstep",
        "Modality": "MR",
        "Synthetic": True,
        "Notice": NOT_FOR_DIAGNOSIS,
        "software": software(),
        **facts,
        "intensity": f"0 is x = -1 (air), {WHITE} is x = 1, the same for every volume",
        "limited_share": beyond,
        "laterality": LATERALITY,
        "warnings": warnings,
    }
    with atomic_path(sidecar_path(path), overwrite=True) as text, atomic_path(path, overwrite=True) as scratch:
        write_volume(volume, scratch, f"SYNTHETIC {software()} seed {facts['seed']}; not for diagnosis")
        text.write_text(json_text(sidecar), encoding="utf-8")


def write_description(folder: Path, model: str) -> None:
    """Write `dataset_description.json`, which makes the folder a BIDS data set, unless it is there."""
    path = folder / "dataset_description.json"
    if path.exists():
        return
    facts = {
        "Name": f"Synthetic T1-weighted brain volumes of {model}; not for diagnosis",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "raw",
        "GeneratedBy": [{"Name": "fewstep", "Version": software().partition(" ")[2]}],
    }
    with atomic_path(path) as scratch:
        scratch.write_text(json_text(facts), encoding="utf-8")
