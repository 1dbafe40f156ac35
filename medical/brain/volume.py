"""Scalar volumes with their place in the head, in NIfTI files.

Voxels are (x, y, z) as in the file and `affine` maps their indices to RAS millimetres, so a voxel keeps its world
position through every function here. Training and synthesis use voxel order LPS: indices grow to the left, to
posterior and to superior.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medical.nifti import opened
from shared.errors import InputError

ALIGNED, SCANNER = 2, 1  # NIfTI codes of the qform and the sform that MedForj writes
WHITE = 65535  # uint16 of the intensity x = 1; x = -1 is 0


@dataclass(frozen=True)
class Volume:
    """A scalar volume.

    Attributes:
        voxels: (x, y, z).
        affine: (4, 4) float64, voxel indices to RAS mm.
    """

    voxels: np.ndarray
    affine: np.ndarray

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Return the distance between neighbouring voxels along x, y, z."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)


def read_volume(path: Path) -> Volume:
    """Read a NIfTI volume as float32, with the scaling of its header.

    Raises:
        InputError: no readable NIfTI, several volumes, no numbers, voxels that are not finite, or no invertible affine.
        MissingExtra: nibabel is not installed.
    """
    with opened(path) as file:
        shape, affine = file.shape, np.asarray(file.affine, dtype=np.float64)
        voxels = np.asanyarray(file.dataobj)
    while voxels.ndim > 3 and voxels.shape[-1] == 1:
        voxels = voxels[..., 0]
    if voxels.ndim != 3 or 0 in voxels.shape or voxels.dtype.kind not in "biuf":
        raise InputError(
            path, found=f"an array of {shape} {voxels.dtype}", expected="one volume of real numbers, three axes",
            fix="Extract one volume first.",
        )  # fmt: skip
    voxels = voxels.astype(np.float32)
    if wrong := int(np.count_nonzero(~np.isfinite(voxels))):
        raise InputError(
            path, found=f"{wrong} voxels that are NaN or infinite", expected="finite voxels",
            fix="Repair or mask the image first.",
        )  # fmt: skip
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise InputError(path, found="an affine without inverse", expected="voxel axes in mm", fix="Set the affine.")
    return Volume(voxels, affine)


def to_lps(volume: Volume) -> Volume:
    """Return the volume in the voxel order nearest to LPS: axes permuted and flipped, no value changed."""
    from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

    turn = ornt_transform(io_orientation(volume.affine), axcodes2ornt("LPS"))
    voxels = np.ascontiguousarray(apply_orientation(volume.voxels, turn))
    return Volume(voxels, volume.affine @ inv_ornt_aff(turn, volume.voxels.shape))


def centred_affine(size: tuple[int, int, int], spacing_mm: float) -> np.ndarray:
    """Return the affine of an LPS volume whose centre is the origin of the world."""
    affine = np.diag([-spacing_mm, -spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(size) - 1) / 2)
    return affine


def write_volume(volume: Volume, path: Path, description: str) -> None:
    """Write a uint16 volume: units mm, qform code 2 and sform code 1 with the same affine, as MedForj does.

    Args:
        volume: uint16 voxels.
        path: .nii or .nii.gz.
        description: of the header, at most 79 ASCII characters.
    """
    import nibabel

    nifti = nibabel.Nifti1Image(volume.voxels, volume.affine)
    nifti.set_qform(volume.affine, code=ALIGNED)
    nifti.set_sform(volume.affine, code=SCANNER)
    nifti.header.set_xyzt_units("mm")
    nifti.header["descrip"] = description.encode("ascii", "replace")[:79]
    nifti.header["cal_min"], nifti.header["cal_max"] = 0, WHITE
    nifti.to_filename(path)
