"""NIfTI-1: what is no image ends in one clear line, and output that nibabel, FSL, SPM and ANTs read alike.

Voxels are written in scanner coordinates. Array axes are (x, y, z) = (read, phase, slice); qform and sform carry the
same affine with code 1 (scanner anatomical coordinates), units are millimetres, and `dim_info` names the axes so that
distortion correction finds them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medical.images import Image
from shared.errors import InputError, MissingExtra

SCANNER_COORDINATES = 1


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Give the image of a file, as nibabel has it; its voxels are read inside the block.

    Raises:
        InputError: no readable NIfTI, found when it is opened or when its voxels are read.
        MissingExtra: nibabel is not installed.
    """
    try:
        import nibabel
        from nibabel.filebasedimages import ImageFileError
    except ImportError as error:
        raise MissingExtra("nibabel", extra="medical", purpose="to read NIfTI") from error
    try:
        yield nibabel.load(path)
    except (OSError, EOFError, ValueError, ImageFileError) as error:
        raise InputError(
            path, found="no readable NIfTI image", expected="a .nii or .nii.gz file", fix="Check the path."
        ) from error


def write_magnitude(image: Image, path: Path) -> dict[str, Any]:
    """Write |image| as float32; values are not rescaled."""
    return _write(image, image.magnitude(), path)


def write_complex(image: Image, path: Path) -> dict[str, Any]:
    """Write the image as complex64."""
    return _write(image, image.data.to(torch.complex64), path)


def _write(image: Image, voxels: Tensor, path: Path) -> dict[str, Any]:
    """Write `voxels` (z, y, x) to `path`; return the facts that the sidecar should add."""
    try:
        import nibabel
    except ImportError as error:
        raise MissingExtra("nibabel", extra="medical", purpose="to write NIfTI") from error
    from medical.sidecar import describe

    nifti = nibabel.Nifti1Image(voxels.detach().cpu().permute(2, 1, 0).numpy(), image.affine)
    nifti.set_qform(image.affine, code=SCANNER_COORDINATES)
    nifti.set_sform(image.affine, code=SCANNER_COORDINATES)
    nifti.header.set_xyzt_units("mm", "sec")
    nifti.header["descrip"] = f"{describe(image)}"[:58].encode("ascii", "replace") + b"; not for diagnosis"
    phase = {"i": 0, "j": 1, "k": 2}.get(image.phase_encoding[:1])
    if phase is not None:
        nifti.header.set_dim_info(freq=1 if phase == 0 else 0, phase=phase, slice=2 if phase != 2 else 1)
    nifti.to_filename(path)
    return {"stored": f"{voxels.dtype}".removeprefix("torch.")}
