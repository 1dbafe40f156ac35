"""Files around `medical.brain.inverse`: prepared volumes and stacks of thick slices in, mean and deviation out.

Intensities in are those of `fewstep brain prepare`: 0 is air (x = -1) and 65535 is x = 1. A stack of thick slices is
placed here, since `prepare` takes volumes of about 1 mm only: voxel order LPS, limited to its 0.1 and 99.9 percentiles,
the two fine axes resampled to the voxels of the model, and cut or filled with air to its size around the centre.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medical.brain.anatomy import read_anatomy
from medical.brain.config import BrainConfig
from medical.brain.prepare import PERCENTILES, resampled
from medical.brain.simulate import STILL, simulate_head
from medical.brain.start import Start
from medical.brain.volume import WHITE, Volume, read_volume, to_lps, write_volume
from medical.sidecar import NOT_FOR_DIAGNOSIS, base_name, sidecar_path, software
from shared.errors import InputError
from shared.files import atomic_path, refuse_existing, require_writable
from shared.jsontext import json_text
from shared.weights import sha256

THICK = 1.5  # times the voxels of the model: slices from this distance on are a stack
DARK = 0.2  # of the full range: what the brightest voxels of a prepared volume exceed
SYNTHETIC = "drawn from a generative prior: voxels that were not measured are synthetic, and may look real and be wrong"


def read_prepared(path: Path) -> tuple[Tensor, Volume]:
    """Return a prepared volume as x, (X, Y, Z) float32 in -1 ... 1, and as it lies in the world, in voxel order LPS.

    Raises:
        InputError: no readable volume, or intensities that are not those of `fewstep brain prepare`.
    """
    volume = to_lps(read_volume(path))
    low, high = float(volume.voxels.min()), float(volume.voxels.max())
    if low < 0 or high > WHITE or high < DARK * WHITE:
        raise InputError(
            path, found=f"intensities from {low:g} to {high:g}", expected=f"0 (air) to about {WHITE}",
            fix="Prepare the volume first: fewstep brain prepare.",
        )  # fmt: skip
    return torch.from_numpy(volume.voxels / WHITE * 2 - 1), volume


def read_start(path: Path, strength: float) -> Start:
    """Return a prepared volume as the start of a sampling; errors as of `read_prepared`."""
    x, _ = read_prepared(path)
    return Start(x, strength, base_name(path), sha256(path))


def read_labels(path: Path, strength: float, config: BrainConfig) -> Start:
    """Return a label map of a whole head as the start of a sampling: its tissues in their mean T1-weighted signals.

    The map is centred on its brain and averaged to the voxels of the model.

    Args:
        path: NIfTI with FreeSurfer's codes, see `medical.brain.anatomy`.
        strength: see `Start`.
        config: of the model.

    Raises:
        InputError: as of `read_anatomy`, and a strength out of range.
    """
    painted = simulate_head(
        read_anatomy(path), 0, size=config.size, spacing_mm=config.spacing_mm, variation=STILL
    )  # fmt: skip
    return Start(painted.x, strength, base_name(path), sha256(path))


def read_mask(path: Path, like: Volume) -> Tensor:
    """Return a mask on the voxels of a volume in LPS, bool (X, Y, Z), true above 0.5.

    Raises:
        InputError: another grid.
    """
    mask = to_lps(read_volume(path))
    if mask.voxels.shape != like.voxels.shape or not np.allclose(mask.affine, like.affine, atol=1e-2):
        raise InputError(
            path, found=f"a grid of {mask.voxels.shape}, or another affine", expected=f"one of {like.voxels.shape}",
            fix="Resample the mask to the volume.",
        )  # fmt: skip
    return torch.from_numpy(mask.voxels > 0.5)


def read_stack(
    path: Path, size: tuple[int, int, int], spacing_mm: float
) -> tuple[Tensor, int, float, np.ndarray, list[str]]:
    """Return a stack of thick slices for a model.

    Args:
        path: NIfTI.
        size: of the model's volumes.
        spacing_mm: of their voxels.

    Returns:
        x with slices along one axis, that axis, the distance between slices in mm, the affine of the volume to be
        drawn, and warnings.

    Raises:
        InputError: no axis that is coarser than the voxels of the model.
    """
    raw = to_lps(read_volume(path))
    axis = int(np.argmax(raw.spacing_mm))
    separation = raw.spacing_mm[axis]
    if separation < THICK * spacing_mm:
        raise InputError(
            path, found=f"slices {separation:.3g} mm apart",
            expected=f"{THICK * spacing_mm:.3g} mm or more for this model",
            fix="Use fewstep brain prepare, or another task.",
        )  # fmt: skip
    wanted = [spacing_mm] * 3
    wanted[axis] = separation
    image = resampled(raw, (wanted[0], wanted[1], wanted[2]), order=3, smooth=True)
    low, high = np.percentile(image.voxels, PERCENTILES)
    if not high > low:
        raise InputError(path, found="a constant image", expected="an image with contrast", fix="Check the image.")
    values = np.clip((image.voxels - low) / (high - low), 0, 1) * 2 - 1
    target = list(size)
    target[axis] = min(values.shape[axis], int(size[axis] * spacing_mm / separation + 1e-9))
    cut = values.shape[axis] - target[axis]
    begin = [(have - want) // 2 for have, want in zip(values.shape, target, strict=True)]
    inside = tuple(slice(max(b, 0), max(b, 0) + n) for b, n in zip(begin, target, strict=True))
    kept = values[inside]
    pads = [(max(-b, 0), n - have - max(-b, 0)) for b, n, have in zip(begin, target, kept.shape, strict=True)]
    placed = np.pad(kept, pads, constant_values=-1)
    centre = image.affine @ [*(b + (n - 1) / 2 for b, n in zip(begin, target, strict=True)), 1.0]
    affine = image.affine.copy()
    affine[:3, :3] *= spacing_mm / np.array(image.spacing_mm)
    affine[:3, 3] = centre[:3] - affine[:3, :3] @ ((np.array(size) - 1) / 2)
    warnings = ["the centre of the stack was taken for the centre of the field of view"]
    if cut > 0:
        warnings.append(f"{cut} slices lie outside the field of view of the model and were left out")
    return torch.from_numpy(placed.astype(np.float32)), axis, separation, affine, warnings


def outputs(output: Path, *, each: int, overwrite: bool) -> dict[str, Path]:
    """Return where mean ("mean"), deviation ("std") and samples ("1", "2", ...) are written, checked.

    Args:
        output: of the mean, .nii or .nii.gz.
        each: number of samples to be written.
        overwrite: replace existing outputs.

    Raises:
        InputError: another suffix, or an existing output.
    """
    suffix = next((end for end in (".nii.gz", ".nii") if output.name.endswith(end)), None)
    if suffix is None:
        raise InputError(output, found=f"the suffix {output.suffix!r}", expected=".nii or .nii.gz", fix="Rename it.")
    stem = output.name[: -len(suffix)]
    paths = {"mean": output, "std": output.with_name(f"{stem}_std{suffix}")}
    paths |= {f"{n}": output.with_name(f"{stem}_sample{n}{suffix}") for n in range(1, each + 1)}
    for path in paths.values():
        for final in (path, sidecar_path(path)):
            refuse_existing(final, overwrite=overwrite)
            require_writable(final)
    return paths


def write_solved(
    paths: Mapping[str, Path], volumes: Mapping[str, Tensor], affine: np.ndarray, facts: dict[str, Any]
) -> None:
    """Write volumes with their sidecars, all whole or none.

    Args:
        paths: of `outputs`.
        volumes: (X, Y, Z) for every path: intensities in -1 ... 1, and "std" in units of these, up to 1.
        affine: voxels to RAS mm.
        facts: how they were made, JSON types.
    """
    with ExitStack() as opened:
        scratch = {
            name: (
                opened.enter_context(atomic_path(sidecar_path(path), overwrite=True)),
                opened.enter_context(atomic_path(path, overwrite=True)),
            )
            for name, path in paths.items()
        }
        for name, (text, image) in scratch.items():
            x = volumes[name].numpy()
            share = np.clip(x, 0, 1) if name == "std" else (np.clip(x, -1, 1) + 1) / 2
            voxels = np.rint(share * WHITE).astype(np.uint16)
            kind = {"mean": "posterior mean", "std": "posterior deviation"}.get(name, f"posterior sample {name}")
            write_volume(Volume(voxels, affine), image, f"SYNTHETIC PRIOR {software()} {kind}; not for diagnosis")
            meaning = (
                f"{WHITE} is a standard deviation of 1, where the full range of intensities is 2" if name == "std"
                else f"0 is x = -1 (air), {WHITE} is x = 1"
            )  # fmt: skip
            sidecar = {
                "ConversionSoftware": "fewstep", "Modality": "MR", "Synthetic": True, "SyntheticPrior": SYNTHETIC,
                "Notice": NOT_FOR_DIAGNOSIS, "software": software(), "image": kind, "intensity": meaning, **facts,
            }  # fmt: skip
            text.write_text(json_text(sidecar), encoding="utf-8")
