"""Compare two image files with the metrics of `medical.metrics`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medical import metrics
from shared.errors import InputError, MissingExtra

AFFINE_TOLERANCE_MM = 0.01


def compare_files(image: Path, reference: Path) -> dict[str, float]:
    """Return NRMSE after the best scalar, NMSE, PSNR, SSIM and HFEN of |image| against |reference|, whole volume.

    Args:
        image: NIfTI volume to judge; scaled by the best scalar for `nrmse_best_scalar` only.
        reference: NIfTI volume that counts as the truth, of the same matrix and place.

    Raises:
        InputError: a file that is not NIfTI, different matrices, or different places in the patient.
        MissingExtra: nibabel is not installed.
    """
    x, x_affine = _load(image)
    y, y_affine = _load(reference)
    if x.shape != y.shape:
        raise InputError(
            image,
            found=f"a matrix of {tuple(reversed(x.shape))}",
            expected=f"{tuple(reversed(y.shape))} as in {reference.name}",
            fix="Compare images of one matrix; resampling would change the numbers.",
        )
    if np.abs(x_affine - y_affine).max() > AFFINE_TOLERANCE_MM:
        raise InputError(
            image,
            found="another affine",
            expected=f"the affine of {reference.name}",
            fix="The images lie at different places in the patient; compare images of one geometry.",
        )
    return {
        "nrmse_best_scalar": metrics.nrmse_best_scalar(y, x),
        "nmse": metrics.nmse(y, x),
        "psnr": metrics.psnr(y, x),
        "ssim": metrics.ssim(y, x),
        "hfen": metrics.hfen(y, x),
    }


def _load(path: Path) -> tuple[Tensor, np.ndarray]:
    """Return the magnitude (z, y, x) and the affine of a NIfTI file."""
    try:
        import nibabel
        from nibabel.filebasedimages import ImageFileError
    except ImportError as error:
        raise MissingExtra("nibabel", extra="medical", purpose="to read NIfTI") from error
    try:
        file = nibabel.load(path)
        voxels = np.abs(np.asanyarray(file.dataobj))
    except (OSError, EOFError, ImageFileError) as error:
        raise InputError(
            path, found="no readable NIfTI image", expected="a .nii or .nii.gz file", fix="Check the path."
        ) from error
    if voxels.ndim != 3:
        raise InputError(path, found=f"{voxels.ndim} axes", expected="a 3-D volume", fix="Extract one volume first.")
    return torch.from_numpy(voxels.astype(np.float32)).permute(2, 1, 0).contiguous(), file.affine
