"""`ReadOptions`: what to read from a file that holds more than one image, and what a file without a header needs."""

from __future__ import annotations

import os
from dataclasses import dataclass

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class ReadOptions:
    """Choices of the user; every field has a default that suits a file with one image and a full header.

    Attributes:
        contrast, repetition, set_index, phase: which one to read. None reads the first and warns when there are more.
        slice_index: read only the slice with this number in the file; None reads all.
        key: name inside the file: an array of an .npz file or a group of an ISMRMRD file.
        axes: order of the axes of an .npy or .npz array, for example "coil,ky,kx". Names: slice, coil, kz, ky, kx.
        fov_mm: (read, phase, slice) extent of the encoded matrix; the slice extent is the thickness of one slice for
            2-D scans and of the slab for 3-D scans. For files without geometry.
        position_mm: LPS position of the centre of the (first) slice or slab. For files without geometry.
        slice_spacing_mm: distance between slices; None means that they touch. For files without geometry.
        centre: index of the zero frequency on (ky, kx) or (kz, ky, kx); None means N//2. For arrays.
        oversampling: the readout was sampled this many times finer than needed, so that the recon matrix is smaller
            than the encoded one. For arrays.
        mask: .npy file with the sampling mask: the shape of the k-space without coils, or of its last axes.
            None takes every sample that is not zero in all coils. For arrays.
        noise: .npy file with a noise-only scan (coil, sample). For arrays.
    """

    contrast: int | None = None
    repetition: int | None = None
    set_index: int | None = None
    phase: int | None = None
    slice_index: int | None = None
    key: str | None = None
    axes: str | None = None
    fov_mm: Vector | None = None
    position_mm: Vector | None = None
    slice_spacing_mm: float | None = None
    centre: tuple[int, ...] | None = None
    oversampling: float = 1.0
    mask: str | os.PathLike[str] | None = None
    noise: str | os.PathLike[str] | None = None
