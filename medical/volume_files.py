"""Magnitude volumes read back from files, to be compared: NIfTI, HDF5 (ours and fastMRI's) and NumPy.

Every volume comes as (slice, phase, read) = (z, y, x), the axes of `medical.images.Image`. fastMRI's reconstructions
are (slice, readout, phase) and are transposed, so that a file of ours and one of fastMRI's meet on the same axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medical.nifti import opened
from shared.errors import InputError, MissingExtra

FORMATS = ".nii, .nii.gz, .h5 or .npy"


@dataclass(frozen=True)
class Volume:
    """A magnitude volume and what its file tells of its place.

    Attributes:
        data: float32 (slice, phase, read).
        affine: (4, 4) voxel (x, y, z) to RAS mm; None where the file has none.
        fastmri: it was stored as fastMRI does, with the phase encode last.
    """

    data: Tensor
    affine: np.ndarray | None = None
    fastmri: bool = False


def read_volume(path: Path, key: str | None = None) -> Volume:
    """Read the magnitude of a volume.

    Args:
        path: NIfTI; HDF5 of fewstep (`image`), of fastMRI's submissions (`reconstruction`) or data
            (`reconstruction_rss` of multi-coil files, `reconstruction_esc` of single-coil ones); or .npy of
            (slice, y, x) or (y, x).
        key: name of the data set of an HDF5 file; None looks for those above.

    Raises:
        InputError: a file that cannot be read, is no volume, or holds NaN or infinite voxels.
        MissingExtra: nibabel or h5py is not installed.
    """
    name = path.name.lower()
    if path.is_dir():
        raise InputError(path, found="a folder", expected=f"a file: {FORMATS}", fix="Give NIfTI instead of DICOM.")
    if name.endswith((".nii", ".nii.gz")):
        volume = _read_nifti(path)
    elif name.endswith((".h5", ".hdf5")):
        volume = _read_hdf5(path, key)
    elif name.endswith(".npy"):
        volume = _read_npy(path)
    else:
        raise InputError(path, found=f"the suffix {path.suffix!r}", expected=FORMATS, fix="Convert the image.")
    if not bool(torch.isfinite(volume.data).all()):
        raise InputError(path, found="NaN or infinite voxels", expected="finite voxels", fix="Check the image.")
    return volume


def _read_nifti(path: Path) -> Volume:
    with opened(path) as file:
        voxels, affine = np.abs(np.asanyarray(file.dataobj)), np.asarray(file.affine)
    return Volume(_volume(path, voxels).permute(2, 1, 0).contiguous(), affine)


def _read_hdf5(path: Path, key: str | None) -> Volume:
    try:
        import h5py
    except ImportError as error:
        raise MissingExtra("h5py", extra="medical", purpose="to read HDF5") from error
    try:
        with h5py.File(path, "r") as file:
            chosen = key if key is not None else _key_of(file)
            if chosen is None or chosen not in file or not isinstance(file[chosen], h5py.Dataset):
                raise InputError(
                    path,
                    found=f"the names {', '.join(sorted(file)) or '(none)'}",
                    expected=chosen or "one of reconstruction, reconstruction_rss, reconstruction_esc, image",
                    fix="Name the data set with --key.",
                )
            data = _volume(path, np.abs(file[chosen][()]))
            if chosen == "image" and "affine" in file:
                return Volume(data, np.asarray(file["affine"][()]))
    except OSError as error:
        raise InputError(path, found="no readable HDF5 file", expected="HDF5", fix="Check the path.") from error
    return Volume(data.transpose(1, 2).contiguous(), fastmri=True)


def _key_of(file: Any) -> str | None:
    """Return the data set that holds the image; a single-coil file has both references and means the ESC one."""
    single_coil = "kspace" in file and getattr(file["kspace"], "ndim", 0) == 3
    references = ["reconstruction_rss", "reconstruction_esc"]
    order = ["reconstruction", *(references[::-1] if single_coil else references), "image"]
    return next((name for name in order if name in file), None)


def _read_npy(path: Path) -> Volume:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(path, found="no readable array", expected="a .npy file", fix="Check the path.") from error
    return Volume(_volume(path, np.abs(array[None] if array.ndim == 2 else array)))


def _volume(path: Path, voxels: np.ndarray) -> Tensor:
    if voxels.ndim != 3 or 0 in voxels.shape or not np.issubdtype(voxels.dtype, np.number):
        raise InputError(
            path,
            found=f"an array of {voxels.shape} {voxels.dtype}",
            expected="numbers along three axes",
            fix="Extract one volume first.",
        )
    return torch.from_numpy(np.ascontiguousarray(voxels, dtype=np.float32))
