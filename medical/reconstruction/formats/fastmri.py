"""fastMRI HDF5: an array `kspace` (slice, [coil,] readout, phase) with the ISMRMRD header of the scan.

fastMRI stores the phase encode last, we store the readout last, so the planes are transposed. Its reference
`reconstruction_rss` is |inverse FFT| with rows along the readout and columns along the phase encode, and the files
carry no directions. The geometry is nominal: the readout runs to posterior and the phase encode to the left, so that
an image shown with anterior up and the patient's right on the left looks like the reference. For the same reason the
samples are not conjugated although the scanners are Siemens'.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medical.reconstruction.formats import mrd_header
from medical.reconstruction.formats.checks import FiniteCheck, require_extent
from medical.reconstruction.formats.options import ReadOptions
from medical.reconstruction.formats.placing import nominal_geometry
from medical.reconstruction.raw import RawScan
from shared.errors import InputError


def is_fastmri(file: Any) -> bool:
    """Whether an open h5py file has the fastMRI layout."""
    return "kspace" in file and "ismrmrd_header" in file


def read_fastmri(file: Any, path: Path, options: ReadOptions) -> RawScan:
    """Return the raw data of a volume.

    Sampled columns are those that the header says were encoded and, in test files, that the array `mask` selects; zero
    columns that pad the matrix are not samples.

    Args:
        file: h5py file opened for reading.
        path: its path, for messages.
        options: `slice_index` reads one slice.

    Raises:
        InputError: k-space that is not complex or contradicts header or mask, NaN, or a zero field of view.
    """
    kspace, header = _checked(file, path)
    encoding, warnings = mrd_header.encoding_of(str(path), header)
    slices = range(kspace.shape[0])
    if options.slice_index is not None:
        if options.slice_index not in slices:
            raise InputError(
                path,
                found=f"slices 0 to {len(slices) - 1}",
                expected=f"slice {options.slice_index}, which was asked for",
                fix="Choose one that the file holds.",
            )
        slices = range(options.slice_index, options.slice_index + 1)
    coils = 1 if kspace.ndim == 3 else kspace.shape[1]
    nx, ny = kspace.shape[-2:]
    samples = np.empty((len(slices), coils, ny, nx), dtype=np.complex64)
    check = FiniteCheck(path)
    for out, number in zip(samples, slices, strict=True):
        plane = kspace[number]
        check.see(plane, f"slice {number} ([coil,] readout, phase)")
        out[...] = np.swapaxes(plane, -1, -2)
    check.finish()
    sampled, mask_warnings = _columns(file, path, samples, header)
    mask = np.broadcast_to(sampled[None, :, None], (len(slices), ny, nx)).copy()
    require_extent(path, "an encoded field of view in mm (read, phase, slice)", encoding.fov_mm)
    require_extent(path, "a recon field of view in mm (read, phase, slice)", encoding.recon_fov_mm)
    geometry, place_warnings = nominal_geometry(encoding.fov_mm, len(slices), options, encoding.patient_position)
    geometry = replace(geometry, read_dir=(0.0, 1.0, 0.0), phase_dir=(1.0, 0.0, 0.0))
    facts = mrd_header.protocol(header)
    if "acquisition" in file.attrs:
        facts["acquisition"] = str(file.attrs["acquisition"])
    return RawScan(
        kspace=torch.from_numpy(samples),
        mask=torch.from_numpy(mask),
        geometry=geometry,
        recon_matrix=encoding.recon_matrix,
        recon_fov_mm=encoding.recon_fov_mm,
        source=str(path),
        header=facts,
        history=(
            f"Read {len(slices)} slices of fastMRI HDF5; {int(sampled.sum())} of {ny} columns are samples.",
            "Kept the samples' convention, in which fastMRI's reference images are made.",
        ),
        warnings=(*warnings, *mask_warnings, *place_warnings),
    )


def describe_fastmri(file: Any, path: Path, options: ReadOptions) -> dict[str, Any]:
    """Return JSON-able facts without reading samples."""
    del options
    kspace, header = _checked(file, path)
    encoding, warnings = mrd_header.encoding_of(str(path), header)
    return {
        "format": "fastMRI HDF5",
        "slices": kspace.shape[0],
        "coils": [1 if kspace.ndim == 3 else kspace.shape[1]],
        "encoded_matrix": [1, kspace.shape[-1], kspace.shape[-2]],
        "encoded_fov_mm": list(encoding.fov_mm),
        "recon_matrix": list(encoding.recon_matrix),
        "recon_fov_mm": list(encoding.recon_fov_mm),
        "centre_kz_ky": list(encoding.centre),
        "undersampled": "mask" in file,
        "trajectory": encoding.trajectory,
        "protocol": mrd_header.protocol(header),
        "warnings": list(warnings),
    }


def _checked(file: Any, path: Path) -> tuple[Any, Any]:
    kspace = file["kspace"]
    header = mrd_header.parse_header(path, file["ismrmrd_header"][()])
    (_, _, nx), *_ = mrd_header.spaces(header)
    if kspace.ndim not in (3, 4) or kspace.dtype.kind != "c" or 0 in kspace.shape:
        raise InputError(
            path,
            found=f"kspace of shape {kspace.shape} and type {kspace.dtype}",
            expected="complex (slice, coil, readout, phase) or (slice, readout, phase)",
            fix="Write k-space as fastMRI does.",
        )
    if kspace.shape[-2] != nx:
        raise InputError(
            path,
            found=f"kspace with {kspace.shape[-2]} readout samples",
            expected=f"the header's encoded readout of {nx}",
            fix="The header belongs to another scan or the axes are swapped.",
        )
    return kspace, header


def _columns(file: Any, path: Path, samples: np.ndarray, header: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return which phase-encode columns were sampled, and warnings.

    The array has as many columns as the encoded matrix. With the header's limits the encoded ones are

        first = Ny//2 - centre,    last = first + maximum
    """
    ny = samples.shape[2]
    (_, encoded_ny, _), *_ = mrd_header.spaces(header)
    nonzero = np.zeros(ny, dtype=bool)
    for plane in samples.reshape(-1, *samples.shape[2:]):
        nonzero |= np.any(plane != 0, axis=-1)
    if "mask" in file:
        given = np.asarray(file["mask"]).astype(bool).ravel()
        if given.shape != (ny,):
            raise InputError(
                path, found=f"a mask of {given.size} columns", expected=f"{ny}", fix="The mask is of another scan."
            )
        if (nonzero & ~given).any():
            raise InputError(
                path,
                found=f"{int((nonzero & ~given).sum())} columns with samples where the mask says not sampled, the "
                f"first at {int(np.argmax(nonzero & ~given))}",
                expected="a mask that agrees with the data",
                fix="The mask is of another scan.",
            )
    else:
        given = np.ones(ny, dtype=bool)
    limits = header.encoding[0].encodingLimits
    step = limits and limits.kspace_encoding_step_1
    if step is None or encoded_ny != ny:
        return nonzero & given, ("The header's limits do not fit; columns that are zero count as not sampled.",)
    first = encoded_ny // 2 - step.center
    encoded = np.zeros(ny, dtype=bool)
    encoded[max(first, 0) : max(first, 0) + step.maximum + 1] = True
    if (nonzero & ~encoded).any():
        return nonzero & given, ("Samples lie outside the header's limits; columns that are zero count as padding.",)
    return encoded & given, ()
