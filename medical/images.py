"""Medical images with their place in the patient, and the files that carry them.

Coordinates: scanners and DICOM speak LPS (x to the patient's left, y to posterior, z to superior), NIfTI speaks RAS.
`Geometry` is LPS as in the scan header; `Image.affine` is RAS as in nibabel. The one conversion is `Geometry.affine`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

Vector = tuple[float, float, float]
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Geometry:
    """Where the encoded field of view lies in the patient (DICOM LPS, millimetres).

    Attributes:
        fov_mm: extent along (read, phase, slice); the slice extent is the thickness of one slice for 2-D scans and
            of the slab for 3-D scans.
        read_dir: unit vector along increasing read index x.
        phase_dir: unit vector along increasing phase index y.
        slice_dir: unit vector along increasing slice or partition index z.
        positions_mm: one point per slice (one per slab for 3-D scans): where the pixel with index N//2 on each
            encoded axis lies. An inverse FFT with DC at N//2 puts the gradient isocentre offset exactly there.
        patient_position: DICOM Patient Position code, for example "HFS".
        nominal: the file carries no geometry and this one is assumed.
    """

    fov_mm: Vector
    read_dir: Vector = (1.0, 0.0, 0.0)
    phase_dir: Vector = (0.0, 1.0, 0.0)
    slice_dir: Vector = (0.0, 0.0, 1.0)
    positions_mm: tuple[Vector, ...] = ((0.0, 0.0, 0.0),)
    patient_position: str = "HFS"
    nominal: bool = False


@dataclass(frozen=True)
class Image:
    """A reconstructed volume.

    Attributes:
        data: complex or real tensor (z, y, x) = (slice, phase, read).
        affine: (4, 4) float64; maps voxel indices (x, y, z) to RAS millimetres, the NIfTI convention.
        provenance: JSON-able facts: software, version, method, parameters, acceleration, residual, warnings.
        phase_encoding: BIDS code of the phase-encode axis in (x, y, z), "j" or "j-"; "" when unknown.
        patient_position: DICOM Patient Position code.
    """

    data: Tensor
    affine: np.ndarray
    provenance: dict[str, Any] = field(default_factory=dict)
    phase_encoding: str = ""
    patient_position: str = "HFS"

    def magnitude(self) -> Tensor:
        """Return |data| as float32 (z, y, x)."""
        return self.data.abs().to(torch.float32)
