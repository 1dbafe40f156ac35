"""A synthetic volume as a DICOM series, for viewers and archives that know no NIfTI: `generate --dicom`.

The series of `sub-syn001` lies in `sourcedata/dicom/sub-syn001`, where BIDS keeps what its files were made of. Patient
name, comment and every sidecar say that nobody was scanned. The rescaled values are those of the NIfTI file.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from medical.brain.output import sidecar_path
from medical.brain.volume import read_volume
from medical.images import Image, write_image


def series_path(folder: Path, volume: Path) -> Path:
    """Return the folder of the series of a volume of a data set."""
    return folder / "sourcedata" / "dicom" / volume.name.split("_")[0]


def write_series_of(volume: Path, series: Path) -> None:
    """Write the series of a volume that `generate` wrote; an earlier one is replaced.

    Args:
        volume: NIfTI file with its sidecar.
        series: folder to make.

    Raises:
        InputError: the volume or its sidecar cannot be read, or the folder holds something else.
        MissingExtra: pydicom is absent.
    """
    facts, found = json.loads(sidecar_path(volume).read_text(encoding="utf-8")), read_volume(volume)
    told = facts["conditions"] or {}
    provenance = {
        "synthetic": True,
        "method": "synthetic head",
        "parameters": {"seed": facts["seed"], "sampler": facts["sampling"]["name"], "calls": facts["sampling"]["calls"]}
        | told,
        "model": {**facts["model"], "simulated": False},
        "acquired_matrix": list(found.voxels.shape[::-1]),
        "warnings": [facts["laterality"], *facts["warnings"]],
    }
    data = torch.from_numpy(np.ascontiguousarray(found.voxels.transpose(2, 1, 0)))
    series.parent.mkdir(parents=True, exist_ok=True)
    write_image(Image(data, found.affine, provenance), series, overwrite=True)
