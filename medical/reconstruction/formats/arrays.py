"""NumPy arrays (.npy, .npz): k-space samples without a header, described by options."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medical.reconstruction.formats.checks import FiniteCheck, require_extent, require_file
from medical.reconstruction.formats.options import ReadOptions
from medical.reconstruction.formats.placing import nominal_geometry
from medical.reconstruction.raw import RawScan
from shared.errors import InputError

AXES = ("slice", "coil", "kz", "ky", "kx")
NOMINAL_PIXEL_MM = 1.0
ARRAY_OPTIONS = ("axes", "fov_mm", "centre", "mask", "noise")


def refuse_array_options(path: Path, options: ReadOptions) -> None:
    """Raise `InputError` if options for files without a header are given for a file that has one."""
    defaults = ReadOptions()
    for name in (*ARRAY_OPTIONS, "oversampling"):
        if getattr(options, name) != getattr(defaults, name):
            raise InputError(
                path,
                found=f"the option {name}",
                expected="no such option for a format whose header says it",
                fix="Leave it out.",
            )


def read_array(path: Path, options: ReadOptions) -> RawScan:
    """Return the scan in a .npy or .npz file.

    Raises:
        InputError: no axes given, axes that do not fit, a real array, a mask that contradicts it, or NaN.
    """
    array = _load(path, options.key)
    return scan_from_array(path, array, _axes(path, array, options), options, "NumPy array")


def describe_array(path: Path, options: ReadOptions) -> dict[str, Any]:
    """Return shape and type of each array in the file."""
    facts: dict[str, Any] = {"format": "NumPy array"}
    if path.suffix.lower() == ".npy":
        array = _load(path, None)
        return {**facts, "shape": list(array.shape), "dtype": str(array.dtype), "axes": options.axes}
    with _npz(path) as content:
        arrays = {name: _member(path, content, name) for name in content.files}
    return {**facts, "arrays": {n: {"shape": list(a.shape), "dtype": str(a.dtype)} for n, a in arrays.items()}}


def scan_from_array(
    path: Path, array: np.ndarray, axes: tuple[str, ...], options: ReadOptions, format_name: str
) -> RawScan:
    """Return a `RawScan` of samples without a header.

    A zero frequency at index c of an axis of n samples makes an encoded axis of N = max(2 c, 2 (n - c) - 1) samples
    (the smallest with c at N//2), unless c = n//2 already; the others are missing samples (partial Fourier).

    Args:
        path: the file, for messages.
        array: complex samples.
        axes: names of its axes.
        options: geometry, mask, noise, centre and oversampling.
        format_name: name of the format, for the history.

    Raises:
        InputError: as `read_array`.
    """
    order = [axes.index(name) for name in AXES if name in axes]
    samples = np.transpose(array, order)
    for position, name in enumerate(AXES[:2]):
        if name not in axes:
            samples = np.expand_dims(samples, position)
    volumetric = "kz" in axes
    if volumetric and samples.shape[0] > 1:
        raise InputError(
            path, found="slice and kz axes", expected="one 3-D slab", fix="Give one slab, or kz as the slice axis."
        )
    spatial = samples.shape[2:]
    mask = _mask(path, samples, options)
    kspace, mask = _centred(path, samples, mask, options)
    check = FiniteCheck(path)
    check.see(kspace, f"the array with axes {','.join(n for n in AXES if n in axes or n in AXES[:2])}")
    noise = _noise(kspace.shape[1], options)
    check.finish()
    if not mask.any():
        raise InputError(path, found="only zeros", expected="k-space samples", fix="Check which array it is.")
    warnings: tuple[str, ...] = ()
    nz = kspace.shape[2] if volumetric else 1
    ny, nx = kspace.shape[-2:]
    fov = options.fov_mm
    if fov is None:
        fov = (nx * NOMINAL_PIXEL_MM, ny * NOMINAL_PIXEL_MM, nz * NOMINAL_PIXEL_MM)
        warnings = ("The file gives no field of view: pixels of 1 mm are assumed.",)
    require_extent(path, "a field of view in mm (read, phase, slice)", fov)
    require_extent(path, "a readout oversampling", (options.oversampling,))
    geometry, place_warnings = nominal_geometry(fov, 1 if volumetric else kspace.shape[0], options)
    recon_nx = round(nx / options.oversampling)
    history = [f"Read {format_name} of shape {tuple(array.shape)}, axes {','.join(axes)}."]
    if kspace.shape[2:] != spatial:
        history.append(f"Extended k-space from {tuple(spatial)} to {kspace.shape[2:]} to centre the zero frequency.")
    return RawScan(
        kspace=torch.from_numpy(kspace),
        mask=torch.from_numpy(mask),
        geometry=geometry,
        recon_matrix=(nz, ny, recon_nx),
        recon_fov_mm=(fov[0] * recon_nx / nx, fov[1], fov[2]),
        source=str(path),
        noise=noise,
        history=tuple(history),
        warnings=(*warnings, *place_warnings),
    )


def load_complex(path: str | os.PathLike[str], what: str) -> np.ndarray:
    """Return the array of a .npy file, which must be complex."""
    array = _load(Path(path), None)
    if not np.iscomplexobj(array):
        raise _not_complex(path, array, what)
    return array


def _load(path: Path, key: str | None) -> np.ndarray:
    require_file(path)
    if path.suffix.lower() == ".npy":
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise _broken(path, error) from error
    with _npz(path) as content:
        names = content.files
        name = key or (names[0] if len(names) == 1 else "")
        if name not in names:
            raise InputError(
                path,
                found=f"the arrays {', '.join(names)}",
                expected=f"an array {name!r}" if name else "a choice of one of them",
                fix="Name the k-space array with the option key.",
            )
        return _member(path, content, name)


def _member(path: Path, content: Any, name: str) -> np.ndarray:
    """Return one array of an open .npz file, whose checksum is only tested when it is read."""
    from zipfile import BadZipFile
    from zlib import error as ZlibError

    try:
        return content[name]
    except (ValueError, OSError, EOFError, KeyError, NotImplementedError, RuntimeError, BadZipFile, ZlibError) as error:
        raise _broken(path, error) from error


def _npz(path: Path) -> Any:
    from zipfile import BadZipFile

    try:
        content = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError, NotImplementedError, BadZipFile) as error:
        raise _broken(path, error) from error
    if not hasattr(content, "files"):
        raise _broken(path, ValueError("not a zip archive of arrays"))
    return content


def _broken(path: Path, error: Exception) -> InputError:
    return InputError(
        path,
        found=f"a file that does not load ({' '.join(str(error).split())[:100]})",
        expected="a complete NumPy array file of numbers",
        fix="The file is truncated, damaged or holds Python objects; write it again.",
    )


def _not_complex(path: str | os.PathLike[str], array: np.ndarray, what: str) -> InputError:
    return InputError(
        path, found=f"{what} of type {array.dtype}", expected="complex numbers", fix="Save complex64, not magnitudes."
    )


def _axes(path: Path, array: np.ndarray, options: ReadOptions) -> tuple[str, ...]:
    if not np.iscomplexobj(array):
        raise _not_complex(path, array, "k-space")
    if options.axes is None:
        raise InputError(
            path,
            found=f"an array of shape {array.shape} without a header",
            expected="the order of its axes",
            fix='Give the option axes, for example "coil,ky,kx".',
        )
    axes = tuple(name.strip() for name in options.axes.split(","))
    known = len(set(axes)) == len(axes) and set(axes) <= set(AXES) and {"ky", "kx"} <= set(axes)
    if not known or len(axes) != array.ndim:
        raise InputError(
            path,
            found=f"axes {options.axes!r} for an array of shape {array.shape}",
            expected=f"{array.ndim} different names out of {', '.join(AXES)}, with ky and kx",
            fix="Name every axis of the array once.",
        )
    return axes


def _mask(path: Path, samples: np.ndarray, options: ReadOptions) -> np.ndarray:
    """Return the sampling mask without the coil axis: given, or wherever a coil is not zero."""
    shape = (samples.shape[0], *samples.shape[2:])
    nonzero = np.zeros(shape, dtype=bool)
    for coil in range(samples.shape[1]):
        nonzero |= samples[:, coil] != 0
    if options.mask is None:
        return nonzero
    given = _load(Path(options.mask), None)
    if given.shape != shape[len(shape) - given.ndim :] or not np.all((given == 0) | (given == 1)):
        raise InputError(
            options.mask,
            found=f"a mask of shape {given.shape}",
            expected=f"zeros and ones of shape {shape} or of its last axes",
            fix="Save the mask without the coil axis.",
        )
    mask = np.broadcast_to(given.astype(bool), shape)
    if (nonzero & ~mask).any():
        raise InputError(
            options.mask,
            found=f"{int((nonzero & ~mask).sum())} samples that are not zero where the mask says not sampled",
            expected="a mask that agrees with the data",
            fix="Give the mask of this scan, or set unsampled data to zero.",
        )
    return mask.copy()


def _centred(path: Path, samples: np.ndarray, mask: np.ndarray, options: ReadOptions) -> tuple[np.ndarray, np.ndarray]:
    """Return k-space and mask with the zero frequency at N//2."""
    shape = samples.shape[2:]
    centre = options.centre or tuple(n // 2 for n in shape)
    if len(centre) != len(shape) or not all(0 <= c < n for c, n in zip(centre, shape, strict=True)):
        raise InputError(
            path,
            found=f"centre {centre} for k-space of shape {shape}",
            expected="one index within each axis",
            fix="Give the index of the zero frequency as (ky, kx) or (kz, ky, kx).",
        )
    sizes = [n if c == n // 2 else max(2 * c, 2 * (n - c) - 1) for c, n in zip(centre, shape, strict=True)]
    place = tuple(slice(m // 2 - c, m // 2 - c + n) for m, c, n in zip(sizes, centre, shape, strict=True))
    kspace = np.zeros((*samples.shape[:2], *sizes), dtype=np.complex64)
    kspace[(slice(None), slice(None), *place)] = samples
    placed = np.zeros((mask.shape[0], *sizes), dtype=bool)
    placed[(slice(None), *place)] = mask
    return kspace, placed


def _noise(coils: int, options: ReadOptions) -> torch.Tensor | None:
    if options.noise is None:
        return None
    noise = load_complex(options.noise, "noise")
    if noise.ndim != 2 or noise.shape[0] != coils:
        raise InputError(
            options.noise,
            found=f"noise of shape {noise.shape}",
            expected=f"({coils}, samples), one row per coil",
            fix="Save the noise scan as (coil, sample).",
        )
    check = FiniteCheck(options.noise)
    check.see(noise, "noise (coil, sample)")
    check.finish()
    return torch.from_numpy(np.array(noise, dtype=np.complex64))
