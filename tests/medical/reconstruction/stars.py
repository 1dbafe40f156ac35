"""Gaussian stars at known places in the patient, measured exactly: no pixel grid enters their k-space."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from torch import Tensor

from medical.images import Geometry, Vector
from medical.reconstruction.raw import RawScan

RADIUS_MM = 5.0  # standard deviation of a star


def oblique(*, fov_mm: Vector, positions_mm: tuple[Vector, ...] = ((0.0, 0.0, 0.0),)) -> Geometry:
    """Directions that mix all three axes of the patient, so that no swap or flip goes unseen."""
    axes, _ = np.linalg.qr(np.array([[1.0, 0.3, -0.2], [-0.4, 1.0, 0.3], [0.1, -0.5, 1.0]]).T)
    read, phase, normal = (tuple(float(v) for v in column) for column in axes.T)
    return Geometry(fov_mm, read, phase, normal, positions_mm, "HFS")


def place(geometry: Geometry, along: Vector, slice_index: int = 0) -> np.ndarray:
    """LPS of the point `along` (read, phase, slice) mm from the position of a slice or slab."""
    return np.array(geometry.positions_mm[slice_index]) + geometry.frame() @ np.array(along)


def transform(points: np.ndarray, offset_mm: np.ndarray, radius_mm: float = RADIUS_MM) -> np.ndarray:
    """Fourier transform of exp(-|r - r0|^2 / 2 s^2) at points k (..., d) in cycles per mm, r0 = `offset_mm` (d,)."""
    volume = (2 * math.pi * radius_mm**2) ** (points.shape[-1] / 2)
    decay = np.exp(-2 * (math.pi * radius_mm) ** 2 * (points**2).sum(-1))
    return volume * decay * np.exp(-2j * math.pi * points @ offset_mm)


def star_kspace(
    points: np.ndarray, matrix: tuple[int, ...], geometry: Geometry, stars: list[np.ndarray], slices: int = 1
) -> Tensor:
    """k-space (slice, *samples) of stars of peak 1 at LPS places, for samples k (..., d) in cycles per field of view.

    The scale is that of the orthonormal transform of `matrix` pixels, (y, x) or (z, y, x).
    """
    d = len(matrix)
    fov = np.array(geometry.fov_mm[:d])
    voxel = float(np.prod(fov / np.array(matrix[::-1])))
    out = []
    for s in range(slices):
        signal = np.zeros(points.shape[:-1], dtype=complex)
        for star in stars:
            along = geometry.frame().T @ (star - np.array(geometry.positions_mm[s]))
            profile = 1.0 if d == 3 else math.exp(-0.5 * (along[2] / RADIUS_MM) ** 2)
            signal += profile * transform(points / fov, along[:d])
        out.append(signal / voxel / math.sqrt(math.prod(matrix)))
    return torch.from_numpy(np.stack(out)).to(torch.complex64)


def cartesian_points(matrix: tuple[int, ...]) -> np.ndarray:
    """Points (*matrix, d) in cycles per field of view, columns kx, ky[, kz], zero at N//2."""
    axes = [np.arange(n) - n // 2 for n in matrix]
    return np.stack(np.meshgrid(*axes, indexing="ij")[::-1], axis=-1).astype(float)


def cartesian_scan(
    matrix: tuple[int, ...],
    geometry: Geometry,
    stars: list[np.ndarray],
    mask: Tensor | None = None,
    coils: tuple[complex, ...] = (1.0, 0.6j, -0.4 + 0.3j),
    **changes: Any,
) -> RawScan:
    """Scan of stars on a Cartesian grid; every coil sees them with one complex weight."""
    slices = 1 if len(matrix) == 3 else len(geometry.positions_mm)
    kspace = star_kspace(cartesian_points(matrix), matrix, geometry, stars, slices)[:, None]
    kspace = kspace * torch.tensor(coils, dtype=torch.complex64).reshape(1, -1, *[1] * len(matrix))
    mask = torch.ones(kspace[:, 0].shape, dtype=torch.bool) if mask is None else mask
    recon = matrix if len(matrix) == 3 else (1, *matrix)
    fields = {"recon_matrix": recon, "recon_fov_mm": geometry.fov_mm, "source": "stars", "simulated": True}
    return RawScan(kspace * mask[:, None], mask, geometry, **(fields | changes))


def centroid_lps(magnitude: np.ndarray, affine_ras: np.ndarray, near_lps: np.ndarray, radius_mm: float) -> np.ndarray:
    """Centre of mass in LPS of a volume (x, y, z) within a radius of a place."""
    index = np.stack(np.meshgrid(*map(np.arange, magnitude.shape), indexing="ij"), axis=-1)
    lps = (index @ affine_ras[:3, :3].T + affine_ras[:3, 3]) * (-1, -1, 1)
    weight = magnitude**2 * (np.linalg.norm(lps - near_lps, axis=-1) < radius_mm)
    return (weight[..., None] * lps).sum((0, 1, 2)) / weight.sum()


def load_nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (x, y, z) and affine (RAS)."""
    volume = nibabel.load(path)
    return np.asarray(volume.dataobj), volume.affine


def load_dicom(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (x, y, z) and affine (RAS) of a DICOM series, from the standard's attributes alone."""
    import pydicom

    files = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]
    values = np.stack([d.pixel_array.T * float(d.RescaleSlope) for d in files], axis=-1)
    first = files[0]
    cosines = np.array(first.ImageOrientationPatient, dtype=float).reshape(2, 3)
    rows, columns = (float(v) for v in first.PixelSpacing)
    origin = np.array(first.ImagePositionPatient, dtype=float)
    step = np.cross(*cosines) * float(first.SliceThickness)
    if len(files) > 1:
        step = (np.array(files[-1].ImagePositionPatient, dtype=float) - origin) / (len(files) - 1)
    affine = np.eye(4)
    affine[:3] = np.stack([cosines[0] * columns, cosines[1] * rows, step, origin], axis=1)
    return values, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
