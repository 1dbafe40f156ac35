"""Labelled heads to train the segmenter on: simulated from label maps, kept in files, varied anew at each use.

A head is simulated once (`medical.brain.simulate`, seconds) and then seen many times, each time mirrored, shifted,
with other noise, shading, contrast curve and sharpness, and sometimes without its skull, as many data sets are shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medical.brain.anatomy import CODES, STRUCTURES, Anatomy, read_anatomy, subject_of
from medical.brain.segmenter import CLASSES, SegmenterConfig
from medical.brain.simulate import Variation, head_and_codes, head_seed
from medical.simulation.contrast import Contrast
from shared.errors import InputError
from shared.files import atomic_path
from shared.progress import tracked

SIZE = (48, 56, 48)
# What the brain holds besides the classes that STRUCTURES names: accumbens, ventral diencephalon, optic chiasm.
CODES_OF_CLASS = {
    "air": (0,),
    "fluid": (14, 15, 24, 72),
    "other_brain": (26, 28, 58, 60, 85),
    **{name: STRUCTURES[name] for name in CLASSES if name in STRUCTURES},
}
CONTRASTS: tuple[Contrast, ...] = ("T1w", "T1w", "T1w", "random")
WIDER = Variation(signal=0.12, texture=0.05, shading=0.15, noise=(0.005, 0.04))


@dataclass(frozen=True, eq=False)
class LabelledHead:
    """A simulated head with the true shares of its voxels.

    Attributes:
        x: (X, Y, Z) float32 in [-1, 1], voxel order LPS.
        shares: (K, X, Y, Z) float32 in the order of the classes.
        anatomy: name of the subject.
    """

    x: Tensor
    shares: Tensor
    anatomy: str


def class_of_code(classes: Sequence[str] = CLASSES) -> Tensor:
    """Return the class of every index of `Anatomy.codes`, (C + 1,) int64; what no class claims is head."""
    table = torch.full((len(CODES) + 1,), classes.index("head"))
    for name, codes in CODES_OF_CLASS.items():
        for code in codes:
            if code in CODES:
                table[CODES.index(code)] = classes.index(name)
    return table


def labelled_head(
    anatomy: Anatomy,
    seed: int,
    config: SegmenterConfig,
    *,
    contrast: Contrast = "T1w",
    variation: Variation | None = None,
    size: tuple[int, int, int] = SIZE,
) -> LabelledHead:
    """Return a simulated head with the shares of its voxels, counted on the grid that it was painted on.

    Args:
        anatomy: to deform.
        seed: of everything random.
        config: spacing and classes.
        contrast: see `simulate_head`.
        variation: likewise.
        size: voxels.
    """
    head, codes = head_and_codes(
        anatomy, seed, size=size, spacing_mm=config.spacing_mm, contrast=contrast, variation=variation
    )  # fmt: skip
    classes = class_of_code(config.classes).to(torch.uint8)[codes.int()]
    parts = codes.shape[0] // size[0]
    shares = [F.avg_pool3d((classes == k)[None, None].float(), parts)[0, 0] for k in range(len(config.classes))]
    return LabelledHead(head.x, torch.stack(shares), anatomy.name)


def labelled_heads(
    maps: Sequence[Path], count: int, seed: int, config: SegmenterConfig, folder: Path, *, progress: str | None = None
) -> list[LabelledHead]:
    """Return heads of the label maps in turn, simulated now or read from an earlier run's files.

    Args:
        maps: label maps of whole heads.
        count: of heads.
        seed: of all of them.
        config: of the segmenter.
        folder: of the files.
        progress: label of a progress bar.
    """
    from safetensors.torch import load_file, save_file

    anatomies: dict[Path, Anatomy] = {}
    folder.mkdir(parents=True, exist_ok=True)
    heads = []
    for number in tracked(range(count), progress):
        source = maps[number % len(maps)]
        path = folder / f"{seed}_{number:04d}_{source.name.partition('.')[0]}.safetensors"
        if not path.is_file():
            if source not in anatomies:
                anatomies[source] = read_anatomy(source)
            head = labelled_head(
                anatomies[source], head_seed(seed, number), config,
                contrast=CONTRASTS[number // len(maps) % len(CONTRASTS)], variation=WIDER,
            )  # fmt: skip
            with atomic_path(path) as scratch:
                save_file({"x": head.x.half(), "shares": (head.shares * 255).round().to(torch.uint8)}, scratch)
        tensors = load_file(path)
        heads.append(LabelledHead(tensors["x"], tensors["shares"], subject_of(source)))
    return heads


def label_maps(folder: Path, suffixes: Sequence[str] = (".nii", ".nii.gz")) -> list[Path]:
    """Return the label maps in a folder, by name.

    Raises:
        InputError: there are none.
    """
    found = sorted(path for path in folder.glob("*") if path.name.endswith(tuple(suffixes)))
    if not found:
        raise InputError(folder, found="no NIfTI file", expected="label maps of whole heads", fix="Check the folder.")
    return found


def varied(head: LabelledHead, config: SegmenterConfig, source: np.random.Generator) -> LabelledHead:
    """Return a head as it could have been scanned otherwise: x has air near 0 and may leave [-1, 1].

    Args:
        head: of `labelled_heads` (shares of 0 ... 255 or 0 ... 1).
        config: names of the classes.
        source: of all that is random.
    """
    x = (head.x.float() + 1) / 2
    shares = head.shares.float() / (255 if head.shares.dtype == torch.uint8 else 1)
    stripped = source.uniform() < 0.35
    if stripped:
        x, shares = _stripped(x, shares, config, source)
    if source.uniform() < 0.5:
        x, shares = x.flip(0), shares.flip(1)
    x, shares = _shifted(x, shares, config, source)
    if source.uniform() < 0.3:
        x = _blurred(x, float(source.uniform(0.3, 0.7)))
    top = float(x.max().clamp_min(1e-6))
    x = (x / top) ** float(np.exp(source.normal(0, 0.2))) * top
    knots = torch.from_numpy(source.normal(0, 0.15, (1, 1, 3, 3, 3)).astype(np.float32))
    x = x * torch.exp(F.interpolate(knots, x.shape, mode="trilinear", align_corners=True)[0, 0])
    noise = torch.from_numpy(source.standard_normal((2, *x.shape), np.float32)) * float(source.uniform(0, 0.03)) * top
    x = torch.hypot(x + noise[0], noise[1])
    if stripped and source.uniform() < 0.7:
        x = x * (shares[config.classes.index("air")] < 1)
    return LabelledHead(x, shares, head.anatomy)


def _stripped(x: Tensor, shares: Tensor, config: SegmenterConfig, source: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return a head of which only brain and some of the fluid around it is left; all else is air."""
    air, head, fluid = (config.classes.index(name) for name in ("air", "head", "fluid"))
    brain = 1 - shares[air] - shares[head] - shares[fluid]
    near = F.max_pool3d(brain[None, None], 3, 1, 1)[0, 0] if source.uniform() < 0.5 else brain
    kept = ((brain + near * shares[fluid]) > float(source.uniform(0.2, 0.6))).float()
    left = shares * kept
    left[air] += left[head] + 1 - kept
    left[head] = 0
    return x * kept * (1 - shares[head]), left


def _shifted(x: Tensor, shares: Tensor, config: SegmenterConfig, source: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return both moved by up to 4 voxels along each axis; what comes in is air."""
    by = source.integers(-4, 5, 3).tolist()
    pads = [p for shift in reversed(by) for p in (max(shift, 0), max(-shift, 0))]
    keep = tuple(slice(max(-shift, 0), max(-shift, 0) + n) for shift, n in zip(by, x.shape, strict=True))
    moved = F.pad(shares, pads)[(slice(None), *keep)]
    moved[config.classes.index("air")] += 1 - moved.sum(0)
    return F.pad(x, pads)[keep], moved


def _blurred(x: Tensor, sigma: float) -> Tensor:
    kernel = torch.exp(-0.5 * (torch.arange(-2, 3) / sigma) ** 2)
    kernel /= kernel.sum()
    for axis in range(3):
        shape = [1] * 5
        shape[2 + axis] = 5
        x = F.conv3d(x[None, None], kernel.reshape(shape), padding=[2 * (axis == k) for k in range(3)])[0, 0]
    return x
