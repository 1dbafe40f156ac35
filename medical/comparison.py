"""Compare image files with the metrics of `medical.metrics`: the whole volume, or as fastMRI evaluates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from medical import metrics
from medical.volume_files import Volume, read_volume
from shared.errors import InputError

AFFINE_TOLERANCE_MM = 0.01


def compare_files(image: Path, reference: Path) -> dict[str, float]:
    """Return NRMSE after the best scalar, NMSE, PSNR, SSIM and HFEN of |image| against |reference|, whole volume.

    Args:
        image: volume to judge; scaled by the best scalar for `nrmse_best_scalar` only.
        reference: volume that counts as the truth, of the same matrix and place.

    Raises:
        InputError: a file that cannot be read, different matrices, or different places in the patient.
        MissingExtra: nibabel or h5py is not installed.
    """
    x, y = _matched(read_volume(image), read_volume(reference), image, reference)
    return {
        "nrmse_best_scalar": metrics.nrmse_best_scalar(y, x),
        "nmse": metrics.nmse(y, x),
        "psnr": metrics.psnr(y, x),
        "ssim": metrics.ssim(y, x),
        "hfen": metrics.hfen(y, x),
    }


def evaluate_files(
    reconstruction: Path, reference: Path, *, square: bool = True, key: str | None = None
) -> dict[str, float]:
    """Return `psnr ssim nmse nrmse hfen` of a volume as fastMRI's evaluation computes them, or of a folder of volumes.

    PSNR, SSIM and NMSE are those of `facebookresearch/fastMRI:fastmri/evaluate.py`: one number a volume, the maximum of
    the reference volume as the data range, SSIM with a uniform 7 x 7 window averaged over slices, both volumes cropped
    to the central (W, W) pixels of the reference with W its last axis as fastMRI stores it (the phase encode), and no
    rescaling. `nrmse` is taken after the best scalar of the volume, HFEN as in `medical.metrics`.

    For two folders, files of the same name are evaluated and `name.psnr` and so on reported beside the means.

    Args:
        reconstruction: file, or folder of files, to judge.
        reference: file, or folder, that counts as the truth.
        square: crop as fastMRI does; False judges all pixels.
        key: name of the data set in an HDF5 reference; None finds it.

    Raises:
        InputError: a file that cannot be read, other shapes or places, or a folder that lacks a reference's volume.
        MissingExtra: nibabel or h5py is not installed.
    """
    if not reconstruction.is_dir() or not reference.is_dir():
        return _evaluate_pair(reconstruction, reference, square, key)
    names = sorted(path.name for path in reference.iterdir() if path.is_file() and not path.name.startswith("."))
    absent = [name for name in names if not (reconstruction / name).is_file()]
    if absent or not names:
        raise InputError(
            reconstruction,
            found=f"no {absent[0]}" if absent else f"no files in {reference}",
            expected="a file for each one of the reference folder, of the same name",
            fix="Leave out references without a reconstruction, so that means are over the same volumes.",
        )
    each = {name: _evaluate_pair(reconstruction / name, reference / name, square, key) for name in names}
    metrics_of = next(iter(each.values()))
    means = {metric: float(np.mean([found[metric] for found in each.values()])) for metric in metrics_of}
    return means | {f"{name}.{metric}": value for name, found in each.items() for metric, value in found.items()}


def _evaluate_pair(reconstruction: Path, reference: Path, square: bool, key: str | None) -> dict[str, float]:
    image, truth = read_volume(reconstruction), read_volume(reference, key)
    if square:
        image, truth = _cropped(image, truth, reconstruction, reference)
    x, y = _matched(image, truth, reconstruction, reference)
    return {
        "psnr": metrics.psnr(y, x),
        "ssim": metrics.ssim(y, x),
        "nmse": metrics.nmse(y, x),
        "nrmse": metrics.nrmse_best_scalar(y, x),
        "hfen": metrics.hfen(y, x),
    }


def _cropped(image: Volume, truth: Volume, path: Path, reference: Path) -> tuple[Volume, Volume]:
    """Crop both volumes to the central W x W pixels, W being the extent of the reference along the phase encode.

    For volumes that are not fastMRI's W is the last axis (read) instead, as a stack of pictures has it.
    """
    axis = -2 if truth.fastmri else -1
    width = truth.data.shape[axis]
    cropped = []
    for volume, source in ((image, path), (truth, reference)):
        if min(volume.data.shape[-2:]) < width:
            raise InputError(
                source,
                found=f"slices of {volume.data.shape[-2]} x {volume.data.shape[-1]}",
                expected=f"{width} x {width} pixels or more, to which fastMRI crops",
                fix="Use all pixels with --crop none.",
            )
        rows, columns = ((n - width) // 2 for n in volume.data.shape[-2:])
        data = volume.data[:, rows : rows + width, columns : columns + width]
        cropped.append(Volume(data, _shifted(volume.affine, columns, rows), volume.fastmri))
    return cropped[0], cropped[1]


def _shifted(affine: np.ndarray | None, columns: int, rows: int) -> np.ndarray | None:
    """Return the affine of a volume without its first columns and rows."""
    if affine is None:
        return None
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :2] @ (columns, rows)
    return moved


def _matched(image: Volume, truth: Volume, path: Path, reference: Path) -> tuple[Tensor, Tensor]:
    if image.data.shape != truth.data.shape:
        raise InputError(
            path,
            found=f"a matrix of {tuple(reversed(image.data.shape))}",
            expected=f"{tuple(reversed(truth.data.shape))} as in {reference.name}",
            fix="Compare images of one matrix; resampling would change the numbers.",
        )
    if image.affine is None or truth.affine is None:
        return image.data, truth.data
    if np.abs(image.affine - truth.affine).max() > AFFINE_TOLERANCE_MM:
        raise InputError(
            path,
            found="another affine",
            expected=f"the affine of {reference.name}",
            fix="The images lie at different places in the patient; compare images of one geometry.",
        )
    return image.data, truth.data
