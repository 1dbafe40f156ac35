"""HDF5 output: the complex volume with its affine and provenance, for scripts that go on computing.

Layout, version 1:

| name | content |
| --- | --- |
| `/image` | complex64 (z, y, x) = (slice, phase, read); h5py's compound type with fields r and i |
| `/image` attribute `axes` | "z,y,x" |
| `/affine` | float64 (4, 4): voxel indices (x, y, z) to RAS millimetres |
| attribute `format` | "fewstep-image" |
| attribute `format_version` | 1 |
| attribute `provenance` | the JSON sidecar as text |
| attributes `phase_encoding`, `patient_position`, `notice` | text |
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from medical.images import Image
from shared.errors import MissingExtra

FORMAT = "fewstep-image"
FORMAT_VERSION = 1


def write_hdf5(image: Image, path: Path) -> dict[str, Any]:
    """Write the complex image; return the facts that the sidecar should add."""
    try:
        import h5py
    except ImportError as error:
        raise MissingExtra("h5py", extra="medical", purpose="to write HDF5") from error
    from medical.sidecar import NOT_FOR_DIAGNOSIS, sidecar

    with h5py.File(path, "w") as file:
        voxels = image.data.detach().cpu().to(torch.complex64).numpy()
        file.create_dataset("image", data=voxels, compression="gzip", shuffle=True).attrs["axes"] = "z,y,x"
        file.create_dataset("affine", data=image.affine)
        file.attrs.update(
            format=FORMAT,
            format_version=FORMAT_VERSION,
            provenance=json.dumps(sidecar(image), ensure_ascii=False),
            phase_encoding=image.phase_encoding,
            patient_position=image.patient_position,
            notice=NOT_FOR_DIAGNOSIS,
        )
    return {"stored": "complex64"}
