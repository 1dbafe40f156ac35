"""Whole-head label maps as anatomies to simulate heads of: their codes, their tissues and where their brains lie.

Codes are FreeSurfer's within the brain and 5xx outside it, as in the training maps of SynthSeg (Billot et al., Medical
Image Analysis, 2023). What the 5xx are is not documented there; they are named here by where they lie. In those maps
136, 137, 163 and 164 lie inside the lateral ventricles (choroid plexus) and 25, 57 at their horns (lesions).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medical.brain.volume import read_volume, to_lps
from shared.errors import InputError

# name: codes, and the T1-weighted signal with white matter near 1 (in the brain the means of 35 scans).
TISSUES: dict[str, tuple[tuple[int, ...], float]] = {
    "air": ((0,), 0.0),
    "white_matter": ((2, 41, 85, 192, 250, 251, 252, 253, 254, 255), 0.98),
    "lesion": ((25, 57, 77, 78, 79), 0.75),
    "cortex": ((3, 42), 0.62),
    "cerebellar_white": ((7, 46), 0.95),
    "cerebellar_grey": ((8, 47), 0.65),
    "thalamus": ((10, 49), 0.82),
    "caudate": ((11, 50), 0.70),
    "putamen": ((12, 51), 0.80),
    "pallidum": ((13, 52), 0.96),
    "accumbens": ((26, 58), 0.72),
    "hippocampus": ((17, 53), 0.64),
    "amygdala": ((18, 54), 0.64),
    "brain_stem": ((16,), 0.87),
    "ventral_diencephalon": ((28, 60), 0.87),
    "ventricle": ((4, 5, 14, 15, 43, 44, 72), 0.32),
    "choroid_plexus": ((31, 63, 136, 137, 163, 164), 0.48),
    "csf": ((24,), 0.26),
    "vessel": ((30, 62, 502), 0.55),
    "venous_sinus": ((514,), 0.45),
    "eye": ((506,), 0.30),
    "soft": ((507,), 1.3),  # fat; deeper than FAT_DEPTH_MM mostly MUSCLE
    "septum": ((508,), 0.55),
    "mucosa": ((509,), 0.50),
    "skin": ((511,), 0.65),
    "cord": ((512,), 0.80),
    "bone": ((515,), 0.12),
    "marrow": ((516,), 0.85),
    "pituitary": ((530,), 0.85),
}
NAMES = tuple(TISSUES)
MUSCLE = 0.55
FAT_DEPTH_MM = 6.0  # deeper below the skin soft tissue is muscle with fat between

# What is measured; the brain is all but its fluid, as the manual labels of OASIS count it.
STRUCTURES: dict[str, tuple[int, ...]] = {
    "brain": (
        2, 3, 7, 8, 10, 11, 12, 13, 16, 17, 18, 25, 26, 28, 41, 42, 46, 47, 49, 50, 51, 52, 53, 54, 57, 58, 60, 77, 78,
        79, 85, 192, 250, 251, 252, 253, 254, 255,
    ),
    "white_matter": (2, 25, 41, 57, 77, 78, 79, 192, 250, 251, 252, 253, 254, 255),
    "cortex": (3, 42),
    "cerebellum": (7, 8, 46, 47),
    "brain_stem": (16,),
    "lateral_ventricles": (4, 5, 31, 43, 44, 63, 136, 137, 163, 164),
    "thalamus": (10, 49),
    "caudate": (11, 50),
    "putamen": (12, 51),
    "pallidum": (13, 52),
    "hippocampus": (17, 53),
    "amygdala": (18, 54),
}  # fmt: skip
CODES = tuple(sorted({code for codes, _ in TISSUES.values() for code in codes}))
DEEP_SOFT = len(CODES)  # the index after the codes: 507 deep below the skin
FIELD_MM = 4.0  # of the grid on which the ventricles' gradient is kept
VENTRICLE_BLUR_MM = 7.0


@dataclass(frozen=True, eq=False)
class Anatomy:
    """A whole-head label map, ready to be deformed.

    Attributes:
        name: of the subject.
        codes: (X, Y, Z) uint8, voxel order LPS; indices into `CODES`, or `DEEP_SOFT`; 0 is air.
        spacing_mm: of the voxels, along x, y, z.
        centre: of the brain's bounding box, voxels.
        towards_ventricles: (3, x, y, z) float32, direction to the lateral ventricles on a grid of about 4 mm over the
            same volume; its longest vector has length 1.
    """

    name: str
    codes: Tensor
    spacing_mm: tuple[float, float, float]
    centre: tuple[float, float, float]
    towards_ventricles: Tensor


def read_anatomy(path: Path) -> Anatomy:
    """Read a label map of a whole head, NIfTI.

    Raises:
        InputError: no label map, codes that are not of the table, or no brain.
    """
    volume = to_lps(read_volume(path))
    labels = np.rint(volume.voxels).astype(np.int32)
    return anatomy_of(labels, volume.spacing_mm, name=subject_of(path), source=path)


def subject_of(path: Path) -> str:
    """Return the subject that a file is of: the first part of its name, as BIDS has it."""
    return path.name.partition("_")[0].partition(".")[0]


def anatomy_of(
    labels: np.ndarray, spacing_mm: tuple[float, float, float], *, name: str = "", source: str | Path = "label map"
) -> Anatomy:
    """Return an anatomy of labels (X, Y, Z) in voxel order LPS; arguments and errors as of `read_anatomy`."""
    index = np.full(max(int(labels.max()), max(CODES)) + 1, -1, dtype=np.int16)
    index[list(CODES)] = range(len(CODES))
    low = labels.min() < 0
    if low or (
        unknown := np.flatnonzero((index < 0) & (np.bincount(labels.ravel(), minlength=len(index)) > 0)).tolist()
    ):
        raise InputError(
            source, found=f"{'negative codes' if low else 'codes ' + ', '.join(map(str, unknown[:8]))}",
            expected="FreeSurfer's codes of subcortical segmentation, and 502 to 530 outside the brain",
            fix="Give a whole-head label map with those codes (not one of cortical parcels).",
        )  # fmt: skip
    codes = torch.from_numpy(index.astype(np.uint8)[labels])
    brain = _any(codes, STRUCTURES["brain"])
    if not brain.any():
        raise InputError(source, found="no voxel of the brain", expected="a head", fix="Give a label map of a head.")
    where = [torch.nonzero(brain.any(a).any(b)).flatten() for a, b in ((2, 1), (2, 0), (1, 0))]
    x, y, z = ((int(line[0]) + int(line[-1])) / 2 for line in where)
    codes[_any(codes, (507,)) & ~_near(_any(codes, (0, 511)), FAT_DEPTH_MM, spacing_mm)] = DEEP_SOFT
    towards = _towards(_any(codes, STRUCTURES["lateral_ventricles"]), spacing_mm)
    return Anatomy(name, codes, spacing_mm, (x, y, z), towards)


def _any(codes: Tensor, wanted: tuple[int, ...]) -> Tensor:
    """Return where the codes of indices are among the wanted ones."""
    table = torch.zeros(len(CODES) + 1, dtype=torch.bool)
    table[[CODES.index(code) for code in wanted]] = True
    return table[codes.int()]


def _near(mask: Tensor, distance_mm: float, spacing_mm: tuple[float, float, float]) -> Tensor:
    """Return where a box of this half width around a voxel meets the mask; beyond the volume is in the mask."""
    far = (~mask).float()[None, None]
    for axis, mm in enumerate(spacing_mm):
        radius = max(1, round(distance_mm / mm))
        kernel = [1, 1, 1]
        kernel[axis] = 2 * radius + 1
        pads = [0] * 6
        pads[4 - 2 * axis : 6 - 2 * axis] = [radius, radius]
        far = -F.max_pool3d(-F.pad(far, pads), kernel, stride=1)
    return far[0, 0] == 0


def _towards(mask: Tensor, spacing_mm: tuple[float, float, float]) -> Tensor:
    """Return the gradient of a blurred mask on the coarse grid, its longest vector made 1 (0 without a mask)."""
    from scipy import ndimage

    shape = [max(2, round(n * mm / FIELD_MM)) for n, mm in zip(mask.shape, spacing_mm, strict=True)]
    share = F.interpolate(mask.float()[None, None], size=shape, mode="area")[0, 0].numpy()
    edges = [n * mm / m for n, mm, m in zip(mask.shape, spacing_mm, shape, strict=True)]
    smooth = ndimage.gaussian_filter(share, [VENTRICLE_BLUR_MM / edge for edge in edges])
    gradient = np.stack([np.gradient(smooth, edge, axis=axis) for axis, edge in enumerate(edges)]).astype(np.float32)
    longest = float(np.linalg.norm(gradient, axis=0).max())
    return torch.from_numpy(gradient / longest if longest > 0 else gradient)
