"""A raw T1-weighted head to the grid of the networks, as MedForj prepares its training data.

1. Axes finer than 1 mm are resampled to 1 mm (cubic spline, limited to the range of the input); coarser ones stay. With
   a spacing asked for, every axis gets it, and where voxels become larger a Gaussian comes first that gives a voxel the
   variance of a box of the new size.
2. Voxel order LPS.
3. Intensities are limited to their 0.1 and 99.9 percentiles and become 0 ... 65535 (uint16).
4. Cropped, or padded with 0, to 192 x 224 x 192 mm around the centre of the bounding box of the mask's largest piece.

The mask only places the field of view; nothing is masked away. Voxels keep their world positions: the affine of the
result includes the crop. (MedForj's script writes the affine from before the crop.)

Reference: piksl-research/medforj, `preprocess.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medical.brain.head_mask import brain_mask, deepbet_installed, head_mask, largest_piece
from medical.brain.volume import WHITE, Volume, read_volume, to_lps, write_volume
from shared.errors import InputError
from shared.files import atomic_path, refuse_existing, require_writable

FOV_MM = (192.0, 224.0, 192.0)
FINEST_MM = 1.0
PERCENTILES = (0.1, 99.9)
MOST_ANISOTROPY = 1.5
HEAD_NOTICE = (
    "no brain mask was given: the field of view is centred on the head (all that is brighter than air, upper 170 mm), "
    "not on the brain; give --mask, or install deepbet, for MedForj's placement"
)


@dataclass(frozen=True)
class Prepared:
    """A prepared volume.

    Attributes:
        volume: uint16, voxel order LPS.
        facts: how it was made, JSON types.
    """

    volume: Volume
    facts: dict[str, Any]


def prepare(
    raw: Volume,
    mask: np.ndarray,
    *,
    fov_mm: tuple[float, float, float] = FOV_MM,
    spacing_mm: float | None = None,
    source: str | Path = "volume",
) -> Prepared:
    """Return a raw volume on the grid of the networks.

    Args:
        raw: any orientation; at 0 intensity or around it is air.
        mask: brain or head, on the voxels of `raw`; places the field of view.
        fov_mm: along x, y, z of the result.
        spacing_mm: of all axes of the result; None only makes axes finer than 1 mm 1 mm.
        source: named in errors.

    Raises:
        InputError: a mask of another shape or an empty one, a constant image, or voxels that are too anisotropic.
    """
    if mask.shape != raw.voxels.shape or not mask.any():
        raise InputError(
            source, found=f"a mask of {mask.shape} with {int(mask.sum())} voxels set",
            expected=f"a mask of {raw.voxels.shape}, the image, with something in it",
            fix="Give a mask on the voxels of the image.",
        )  # fmt: skip
    target = _target_spacing(raw, spacing_mm, source)
    image = to_lps(resampled(raw, target, order=3, smooth=spacing_mm is not None))
    box = to_lps(resampled(Volume(mask.astype(np.float32), raw.affine), target, order=0))
    low, high = np.percentile(image.voxels, PERCENTILES)
    if not high > low:
        raise InputError(
            source, found=f"{PERCENTILES} percentiles of {low:g} and {high:g}", expected="an image with contrast",
            fix="Check the image.",
        )  # fmt: skip
    values = np.rint(np.clip((image.voxels - low) / (high - low), 0, 1) * WHITE).astype(np.uint16)
    size = _size(fov_mm, image.spacing_mm)
    placed, lost = placed_around(Volume(values, image.affine), box.voxels > 0.5, size)
    facts = {
        "spacing_mm": [round(value, 6) for value in image.spacing_mm],
        "size": list(size),
        "percentiles": list(PERCENTILES),
        "percentile_values": [float(low), float(high)],
        "raw_shape": list(raw.voxels.shape),
        "raw_spacing_mm": [round(value, 6) for value in raw.spacing_mm],
        "mask_voxels_outside": lost,
    }
    return Prepared(placed, facts)


def resampled(volume: Volume, spacing: tuple[float, float, float], *, order: int, smooth: bool = False) -> Volume:
    """Return the volume with another spacing over the same field of view, centred as it was.

    New voxel i lies at old index (i - (n - 1)/2) d + (N - 1)/2, d the ratio of spacings, N and n the numbers of voxels,
    n = round(N / d). Axes whose spacing stays are not touched.

    Args:
        volume: to resample.
        spacing: mm, along the axes of the volume.
        order: of the spline; beyond the border the outermost voxel continues.
        smooth: before an axis gets coarser, a Gaussian of variance (d^2 - 1)/12 voxels^2.
    """
    from scipy import ndimage

    ratios = np.array(spacing) / volume.spacing_mm
    if np.allclose(ratios, 1, rtol=0, atol=1e-6):
        return volume
    old = np.array(volume.voxels.shape)
    new = np.maximum(np.round(old / ratios), 1).astype(int)
    first = (old - 1) / 2 - (new - 1) / 2 * ratios
    values = volume.voxels
    if smooth:
        values = ndimage.gaussian_filter(values, np.sqrt(np.maximum(ratios**2 - 1, 0) / 12), mode="nearest")
    low, high = values.min(), values.max()
    values = ndimage.affine_transform(
        values, ratios, offset=first, output_shape=tuple(new), order=order, mode="nearest"
    )  # fmt: skip
    step = np.diag([*ratios, 1.0])
    step[:3, 3] = first
    return Volume(np.clip(values, low, high), volume.affine @ step)


def placed_around(volume: Volume, mask: np.ndarray, size: tuple[int, int, int]) -> tuple[Volume, int]:
    """Return the block of this size around the mask, 0 outside the volume, and how many voxels of the mask it cuts off.

    With c = (first + last) // 2 of the bounding box of the mask's largest piece, the block begins at c - (n - 1)//2.
    """
    where = np.argwhere(largest_piece(mask))
    centre = (where.min(axis=0) + where.max(axis=0)) // 2
    begin = centre - (np.array(size) - 1) // 2
    end = begin + size
    inside = tuple(slice(max(a, 0), max(min(b, n), 0)) for a, b, n in zip(begin, end, mask.shape, strict=True))
    pads = [(max(-a, 0), max(b - n, 0)) for a, b, n in zip(begin, end, mask.shape, strict=True)]
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ begin
    cut = int(np.any((where < begin) | (where >= end), axis=1).sum())
    return Volume(np.pad(volume.voxels[inside], pads), affine), cut


def prepare_file(
    path: Path,
    output: Path,
    *,
    mask: Path | None = None,
    fov_mm: tuple[float, float, float] = FOV_MM,
    spacing_mm: float | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Prepare a NIfTI file; write the result (.nii or .nii.gz) and a JSON file beside it.

    Without a mask, deepbet finds the brain where it is installed; else the head is found here, and "warnings" says so.

    Args:
        path: raw T1-weighted volume.
        output: .nii or .nii.gz.
        mask: NIfTI on the same grid; above 0.5 is inside.
        fov_mm: see `prepare`.
        spacing_mm: likewise.
        overwrite: replace existing outputs.

    Returns:
        The facts in the JSON file.

    Raises:
        InputError: an image or mask that cannot be used, see `read_volume` and `prepare`, or an existing output.
    """
    from medical.sidecar import NOT_FOR_DIAGNOSIS, base_name, sidecar_path, software
    from shared.jsontext import json_text

    if not output.name.endswith((".nii", ".nii.gz")):
        raise InputError(output, found=f"the suffix {output.suffix!r}", expected=".nii or .nii.gz", fix="Rename it.")
    beside = sidecar_path(output)
    for final in (output, beside):
        refuse_existing(final, overwrite=overwrite)
        require_writable(final)
    raw = read_volume(path)
    warnings: list[str] = []
    if mask is not None:
        given = read_volume(mask)
        if given.voxels.shape != raw.voxels.shape or not np.allclose(given.affine, raw.affine, atol=1e-2):
            raise InputError(
                mask, found=f"a grid of {given.voxels.shape}, or another affine", expected=f"the grid of {path.name}",
                fix="Resample the mask to the image.",
            )  # fmt: skip
        inside, kind = given.voxels > 0.5, "given"
    elif deepbet_installed():
        inside, kind = brain_mask(path), "deepbet"
    else:
        inside, kind = head_mask(raw.voxels, raw.affine), "head"
        warnings.append(HEAD_NOTICE)
    made = prepare(raw, inside, fov_mm=fov_mm, spacing_mm=spacing_mm, source=path)
    if cut := made.facts["mask_voxels_outside"]:
        warnings.append(f"{cut} voxels of the mask lie outside the field of view")
    facts = {
        "software": software(), "Notice": NOT_FOR_DIAGNOSIS, "source": base_name(path), "mask": kind, **made.facts,
        "warnings": warnings,
    }  # fmt: skip
    with atomic_path(output, overwrite=overwrite) as scratch, atomic_path(beside, overwrite=overwrite) as text:
        write_volume(made.volume, scratch, f"{software()}: prepared T1w; not for diagnosis")
        text.write_text(json_text(facts), encoding="utf-8")
    return facts


def _target_spacing(raw: Volume, spacing_mm: float | None, source: str | Path) -> tuple[float, float, float]:
    """Return the spacing along the axes of the raw volume; MedForj rounds to 0.01 mm before it compares with 1 mm."""
    x, y, z = (spacing_mm if spacing_mm is not None else max(FINEST_MM, round(value, 2)) for value in raw.spacing_mm)
    coarsest, limit = max(raw.spacing_mm), MOST_ANISOTROPY * min(x, y, z)
    if coarsest > limit * (1 + 1e-6):
        shown = " x ".join(f"{value:.3g}" for value in raw.spacing_mm)
        raise InputError(
            source, found=f"voxels of {shown} mm",
            expected=f"none longer than {limit:.3g} mm, {MOST_ANISOTROPY:g} times the finest spacing of the result",
            fix="Use a 3-D scan of about 1 mm, or ask for coarser voxels with --spacing.",
        )  # fmt: skip
    return x, y, z


def _size(fov_mm: tuple[float, float, float], spacing: tuple[float, float, float]) -> tuple[int, int, int]:
    """Return the voxels of a field of view; rounding first guards against 224 / 0.8 = 279.999..."""
    x, y, z = (math.floor(round(f / round(s, 2), 6)) for f, s in zip(fov_mm, spacing, strict=True))
    if min(x, y, z) < 1:
        raise InputError("field of view", found=f"{fov_mm} mm", expected="a voxel or more", fix="Enlarge it.")
    return x, y, z
