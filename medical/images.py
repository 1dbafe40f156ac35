"""Medical images with their place in the patient, and the files that carry them.

Coordinates: scanners and DICOM speak LPS (x to the patient's left, y to posterior, z to superior), NIfTI speaks RAS.
`Geometry` is LPS as in the scan header; `Image.affine` is RAS as in nibabel. The one conversion between them is
`affine_from_geometry`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shared.errors import InputError
from shared.files import refuse_existing, require_writable

Vector = tuple[float, float, float]
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
DIRECTION_TOLERANCE = 1e-3  # headers round direction cosines to 4 digits or more
SPACING_TOLERANCE_MM = 0.02  # headers round positions to 0.01 mm or finer


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

    def frame(self) -> np.ndarray:
        """Return the (3, 3) matrix whose columns are the read, phase and slice directions in LPS.

        The result is the orthonormal matrix nearest to the header's directions (polar decomposition U V^T), so that
        a header's rounding does not become shear.

        Raises:
            InputError: a direction is not a unit vector or two are not perpendicular, by more than rounding.
        """
        directions = np.array([self.read_dir, self.phase_dir, self.slice_dir], dtype=np.float64).T
        gram = directions.T @ directions
        if not np.allclose(gram, np.eye(3), rtol=0, atol=DIRECTION_TOLERANCE):
            raise InputError(
                "geometry",
                found=f"read, phase and slice directions {self.read_dir}, {self.phase_dir}, {self.slice_dir}",
                expected="three perpendicular unit vectors",
                fix="Correct the direction cosines in the header.",
            )
        left, _, right = np.linalg.svd(directions)
        return left @ right


@dataclass(frozen=True)
class Image:
    """A reconstructed volume.

    Attributes:
        data: complex or real tensor (z, y, x) = (slice, phase, read).
        affine: (4, 4) float64; maps voxel indices (x, y, z) to RAS millimetres, the NIfTI convention.
        provenance: JSON-able facts; `medical.sidecar` lists the keys that files carry.
        phase_encoding: BIDS code of the phase-encode axis in (x, y, z), "j" or "j-"; "" when unknown.
        patient_position: DICOM Patient Position code.
        slice_thickness_mm: thickness of the excited slice, which may differ from the distance between slices;
            None means that slices touch.
    """

    data: Tensor
    affine: np.ndarray
    provenance: dict[str, Any] = field(default_factory=dict)
    phase_encoding: str = ""
    patient_position: str = "HFS"
    slice_thickness_mm: float | None = None

    @classmethod
    def placed(
        cls,
        data: Tensor,
        geometry: Geometry,
        *,
        fov_mm: Vector,
        volumetric: bool,
        provenance: dict[str, Any] | None = None,
        phase_encoding: str = "",
    ) -> Image:
        """Return `data` (z, y, x) with the affine, thickness and patient position that a scan's geometry gives it.

        A nominal geometry is marked in the provenance, so that no picture claims to know left from right.

        Args:
            data: the reconstructed volume.
            geometry: directions and positions of the scan.
            fov_mm: extent of `data` along (read, phase, slice), after any cropping.
            volumetric: `data` is a 3-D encoded slab, not a stack of 2-D slices.
            provenance: see `Image`.
            phase_encoding: see `Image`.

        Raises:
            InputError: the geometry has no affine, see `affine_from_geometry`.
        """
        nz, ny, nx = data.shape
        return cls(
            data=data,
            affine=affine_from_geometry(geometry, (nz, ny, nx), fov_mm, volumetric=volumetric),
            provenance={**(provenance or {}), **({"nominal_geometry": True} if geometry.nominal else {})},
            phase_encoding=phase_encoding,
            patient_position=geometry.patient_position,
            slice_thickness_mm=float(fov_mm[2]) / (nz if volumetric else 1),
        )

    def magnitude(self) -> Tensor:
        """Return |data| as float32 (z, y, x)."""
        return self.data.abs().to(torch.float32)

    def voxel_size_mm(self) -> np.ndarray:
        """Return the distance between neighbouring voxels along (x, y, z)."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)


def affine_from_geometry(
    geometry: Geometry, matrix: tuple[int, int, int], fov_mm: Vector, *, volumetric: bool
) -> np.ndarray:
    """Return the affine that maps voxel indices (x, y, z) to RAS millimetres.

    With directions r, p, s, voxel sizes d = FOV / N and the position P_0 of the first slice

        LPS(x, y, z) = P_0 + (x - Nx//2) d_x r + (y - Ny//2) d_y p + z (P_1 - P_0)              2-D slices
        LPS(x, y, z) = P_0 + (x - Nx//2) d_x r + (y - Ny//2) d_y p + (z - Nz//2) d_z s          3-D slab

    Why N//2: the scanner demodulates so that the phase of a sample is exp(-2 pi i k.(r - P)), so the signal from P
    is constant over k. The inverse discrete transform with DC at index N//2 puts a constant at index N//2, not at the
    geometrical centre (N - 1)/2 of the block of pixels, which lies half a pixel off for even N. Centred cropping
    from N to M pixels that keeps index N//2 at M//2 keeps the rule.

    Args:
        geometry: directions and positions; its `fov_mm` is of the encoded space and is not used here.
        matrix: (nz, ny, nx) of the image.
        fov_mm: extent of the image along (read, phase, slice); the slice extent is the thickness of one slice for
            2-D scans and of the slab for 3-D scans.
        volumetric: the z axis is Fourier encoded.

    Returns:
        (4, 4) float64 affine.

    Raises:
        InputError: zero or non-finite extents, directions that are not orthonormal, a number of positions that
            contradicts the matrix, or slices that no single affine describes (unequal or zero spacing, or a stack
            that is not along the slice direction).
    """
    nz, ny, nx = matrix
    frame = geometry.frame()
    positions = np.array(geometry.positions_mm, dtype=np.float64).reshape(-1, 3)
    if not (np.all(np.isfinite(fov_mm)) and min(fov_mm) > 0 and np.all(np.isfinite(positions))):
        raise InputError(
            "geometry",
            found=f"field of view {tuple(fov_mm)} mm and positions {geometry.positions_mm}",
            expected="finite numbers and extents above 0 mm",
            fix="Correct the header or give the field of view.",
        )
    expected_positions = 1 if volumetric else nz
    if len(positions) != expected_positions:
        raise InputError(
            "geometry",
            found=f"{len(positions)} positions for an image of {nz} {'partitions' if volumetric else 'slices'}",
            expected=f"{expected_positions}",
            fix="Give one position per slice, or one for a 3-D slab.",
        )
    steps = frame * (np.array(fov_mm, dtype=np.float64) / (nx, ny, nz if volumetric else 1))
    if not volumetric and nz > 1:
        steps[:, 2] = _slice_step(positions, frame[:, 2])
    reference = np.array([nx // 2, ny // 2, nz // 2 if volumetric else 0])
    lps = np.eye(4)
    lps[:3, :3] = steps
    lps[:3, 3] = positions[0] - steps @ reference
    return LPS_TO_RAS @ lps


def _slice_step(positions: np.ndarray, slice_dir: np.ndarray) -> np.ndarray:
    """Return the one vector from each slice to the next, along the slice direction."""
    steps = np.diff(positions, axis=0)
    along = steps @ slice_dir
    spacing = along.mean()
    fix = "Reconstruct each group of equally spaced, stacked slices on its own."
    if abs(spacing) < SPACING_TOLERANCE_MM or np.abs(along - spacing).max() > SPACING_TOLERANCE_MM:
        raise InputError(
            "geometry",
            found=f"slice spacings from {along.min():.3f} to {along.max():.3f} mm",
            expected="equal spacings above 0 mm, which one affine can describe",
            fix=fix,
        )
    aside = np.linalg.norm(steps - along[:, None] * slice_dir, axis=1).max()
    if aside > SPACING_TOLERANCE_MM:
        raise InputError(
            "geometry",
            found=f"slices that shift {aside:.3f} mm sideways from one to the next",
            expected="slices stacked along the slice direction",
            fix=fix,
        )
    return slice_dir * spacing


def display_oriented(image: Image) -> Image:
    """Return the image with its in-plane axes permuted and flipped to the radiological convention.

    Rows then run as a radiologist expects for the nearest anatomical plane: axial and coronal images show the
    patient's right on the left, sagittal ones anterior on the left; superior or anterior is up. No value changes,
    and the affine and the phase-encode code follow the voxels. The slice axis stays.
    """
    toward = {"axial": ("L", "P"), "coronal": ("L", "I"), "sagittal": ("P", "I")}[plane(image.affine)]
    wanted = np.array([_RAS_OF[letter] for letter in toward])
    in_plane = image.affine[:3, :2] / np.linalg.norm(image.affine[:3, :2], axis=0)
    overlap = np.abs(wanted @ in_plane)
    data, affine, phase = image.data, image.affine.copy(), image.phase_encoding
    if overlap[0, 1] + overlap[1, 0] > overlap[0, 0] + overlap[1, 1]:
        data = data.transpose(-1, -2)
        affine[:, [0, 1]] = affine[:, [1, 0]]
        phase = phase.translate(str.maketrans("ij", "ji"))
    for axis, dim, letter in ((0, -1, "i"), (1, -2, "j")):
        if wanted[axis] @ affine[:3, axis] < 0:
            affine[:, 3] += (data.shape[dim] - 1) * affine[:, axis]
            affine[:, axis] *= -1
            data = data.flip(dim)
            if phase.startswith(letter):
                phase = letter if phase.endswith("-") else f"{letter}-"
    return replace(image, data=data.contiguous(), affine=affine, phase_encoding=phase)


_RAS_OF = {
    "R": (1.0, 0.0, 0.0),
    "L": (-1.0, 0.0, 0.0),
    "A": (0.0, 1.0, 0.0),
    "P": (0.0, -1.0, 0.0),
    "S": (0.0, 0.0, 1.0),
    "I": (0.0, 0.0, -1.0),
}


def plane(affine: np.ndarray) -> str:
    """Return "sagittal", "coronal" or "axial": the anatomical plane nearest to the slices."""
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    return ("sagittal", "coronal", "axial")[int(np.argmax(np.abs(normal)))]


def toward(direction: np.ndarray) -> str:
    """Return the letter (R, L, A, P, S or I) of the anatomical direction nearest to a RAS vector."""
    return max(_RAS_OF, key=lambda letter: float(np.dot(_RAS_OF[letter], direction)))


def check_output(path: str | os.PathLike[str], *, overwrite: bool = False, complex_output: bool = False) -> str:
    """Return the suffix by which `write_image` chooses the format; call it before long work.

    Raises:
        InputError: unknown suffix, a format that cannot hold complex voxels, an existing output or sidecar, or a
            folder that cannot be written.
    """
    from medical.sidecar import sidecar_path

    final = Path(path)
    suffix = ".nii.gz" if final.name.lower().endswith(".nii.gz") else final.suffix.lower()
    if suffix not in ("", ".nii", ".nii.gz", ".h5", ".png", ".dcm"):
        raise InputError(
            final,
            found=f"the suffix {suffix!r}",
            expected="one of .nii, .nii.gz, .h5, .png, .dcm, or a folder name for a DICOM series",
            fix="Rename the output.",
        )
    if complex_output and suffix not in (".nii", ".nii.gz", ".h5"):
        raise InputError(
            final, found="complex output", expected="a format that holds it", fix="Use .nii, .nii.gz or .h5."
        )
    for path in (final, sidecar_path(final)):
        refuse_existing(path, overwrite=overwrite)
        require_writable(path)
    return suffix


def write_image(
    image: Image, path: str | os.PathLike[str], *, overwrite: bool = False, complex_output: bool = False
) -> list[Path]:
    """Write an image in the format that the suffix names, with a JSON sidecar beside it.

    `.nii` and `.nii.gz` NIfTI-1; `.h5` HDF5; `.png` preview; `.dcm` one DICOM file; no suffix: a folder with a DICOM
    series. The sidecar of `brain.nii.gz` is `brain.json`, that of `brain.png` is `brain.png.json`. Image and sidecar
    appear whole or not at all.

    Args:
        image: the image.
        path: the output.
        overwrite: replace existing outputs. A folder is replaced only if it holds DICOM files and nothing else.
        complex_output: write complex64 instead of the magnitude (NIfTI only; HDF5 always keeps the complex data).

    Returns:
        The paths that were written, the image first.

    Raises:
        InputError: unknown suffix, existing output, NaN or infinite voxels, or a choice that the format cannot hold.
    """
    from medical import dicom, hdf5, nifti, preview
    from medical.sidecar import write_with_sidecar

    final = Path(path)
    suffix = check_output(final, overwrite=overwrite, complex_output=complex_output)
    writers: dict[str, Callable[[Image, Path], dict[str, Any]]] = {
        ".nii": nifti.write_complex if complex_output else nifti.write_magnitude,
        ".nii.gz": nifti.write_complex if complex_output else nifti.write_magnitude,
        ".h5": hdf5.write_hdf5,
        ".png": preview.write_preview,
        ".dcm": dicom.write_file,
        "": dicom.write_series,
    }
    if not bool(torch.isfinite(torch.view_as_real(image.data) if image.data.is_complex() else image.data).all()):
        raise InputError(
            final,
            found="NaN or infinite voxels in the image",
            expected="finite voxels",
            fix="Nothing was written; look at the input data and the reconstruction parameters.",
        )
    return write_with_sidecar(image, final, writers[suffix], overwrite=overwrite)
