r"""The nearest real brain to a synthetic one: is it a copy of somebody?

    NCC = <u, v> / (|u| |v|),   u = y - mean(y)

y is the brain (the segmenter's, whole head around it removed) with white matter at 1, limited to 1.5, on voxels of 2 mm
or the coarser ones given, its centre of mass in the middle of a block of 192 x 224 x 192 mm. Each brain is compared as
it is and mirrored left to right.

A cut tells a copy from a likeness. It lies midway between

- strangers: the most alike pair of different subjects of the reference, and
- repeats: the least alike pair of scans of one subject; where the reference has none, each head is scanned again in
  simulation: turned by a degree or two, moved by a part of a voxel, with other noise and shading.

Coarser voxels make strangers more alike, so the cut is calibrated on the reference, at its own resolution. Where fewer
than `LEAST_SUBJECTS` subjects are there, it is that of the OASIS scans at 2 mm: 0.9475, between the 0.941 of the most
alike of 590 pairs of strangers and the 0.954 of the least alike of 5 pairs of scans of one person.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medical.brain.qc.inputs import Head
from medical.brain.segmenter import BrainSegmenter

FINEST_MM = 2.0
BLOCK_MM = (192.0, 224.0, 192.0)
BRIGHTEST = 1.5
OASIS_CUT = 0.9475
LEAST_SUBJECTS = 5
MOST_REPEATS = 12  # heads that are scanned again in simulation
ROTATION_DEG, NOISE, SHADING = 2.0, 0.03, 0.05


@dataclass(frozen=True, eq=False)
class Matches:
    """The nearest of some brains to each of N.

    Attributes:
        ncc: (N,).
        index: (N,) of the nearest.
        mirrored: (N,) whether it is nearest when left and right are exchanged.
    """

    ncc: np.ndarray
    index: np.ndarray
    mirrored: np.ndarray


@dataclass(frozen=True)
class Cut:
    """Above which NCC two brains count as one person's.

    Attributes:
        value: the cut.
        source: how it was found, a sentence.
        stranger_max: NCC of the most alike pair of different subjects below the repeats; NaN without a calibration.
        repeat_min: NCC of the least alike pair of one subject.
        separable: whether strangers are less alike than repeats.
        alike: pairs of subjects of the reference that are as alike as repeats: (index, index, NCC).
    """

    value: float
    source: str
    stranger_max: float = float("nan")
    repeat_min: float = float("nan")
    separable: bool = True
    alike: tuple[tuple[int, int, float], ...] = ()


def brain_block(
    x: Tensor,
    spacing_mm: float,
    *,
    shares: Tensor | None = None,
    classes: Sequence[str] = (),
    segmented_mm: float = 4.0,
) -> Tensor:
    """Return an aligned brain, (X, Y, Z) float16 of mean 0 and length 1 (rounded): products of two are their NCC.

    Args:
        x: (X, Y, Z) intensities from 0 (air), voxel order LPS.
        spacing_mm: of its voxels.
        shares: (K, x, y, z) of a segmenter; None for a volume without skull, which counts as it is and has its white
            matter at the 90th percentile of what is not 0.
        classes: of the shares.
        segmented_mm: edge of their voxels, a whole number of `spacing_mm`.
    """
    from scipy import ndimage

    mm = max(FINEST_MM, spacing_mm)
    if shares is None:
        y = x / float(x[x > 0].quantile(0.9) if (x > 0).any() else 1)
    else:
        needed = [classes.index(name) for name in ("air", "head", "white_matter")]
        scale = round(segmented_mm / spacing_mm)
        fine = F.interpolate(shares[None, needed].float(), scale_factor=scale, mode="trilinear", align_corners=False)[0]
        outer, head, white = fine[:, : x.shape[0], : x.shape[1], : x.shape[2]]
        deep = x[white > 0.8]
        level = float(deep.median() if len(deep) else x.max())
        y = x * (outer + head < 0.5) / max(level, 1e-6)
    block = y.clamp(0, BRIGHTEST).numpy()
    size = tuple(round(side / mm) for side in BLOCK_MM)
    middle = np.array(ndimage.center_of_mass(block)) if block.any() else (np.array(block.shape) - 1) / 2
    ratio = mm / spacing_mm
    moved = ndimage.affine_transform(
        block, np.full(3, ratio), offset=middle - ratio * (np.array(size) - 1) / 2, output_shape=size, order=1
    )
    u = torch.from_numpy(moved - moved.mean())
    return (u / u.norm().clamp_min(1e-9) * 100).half()  # 100: float16 keeps more of values near 0.1 than near 0.001


def ncc(blocks: Sequence[Tensor], others: Sequence[Tensor], *, mirrored: bool = False) -> np.ndarray:
    """Return the NCC of every block of one set with every one of another, (N, M); the others mirrored if asked for."""
    table = np.empty((len(blocks), len(others)))
    for begin in range(0, len(others), 32):
        part = torch.stack([other.flip(0) if mirrored else other for other in others[begin : begin + 32]]).float()
        rows = part.flatten(1) / part.flatten(1).norm(dim=1, keepdim=True).clamp_min(1e-9)
        for number, block in enumerate(blocks):
            one = block.float().flatten()
            table[number, begin : begin + 32] = (rows @ (one / one.norm().clamp_min(1e-9))).numpy()
    return table


def nearest(blocks: Sequence[Tensor], others: Sequence[Tensor], *, among_themselves: bool = False) -> Matches:
    """Return the nearest of the others, as they are or mirrored, to each block.

    Args:
        blocks: of `brain_block`.
        others: likewise.
        among_themselves: both are one set, of which nobody is their own nearest.
    """
    straight, turned = ncc(blocks, others), ncc(blocks, others, mirrored=True)
    if among_themselves:
        np.fill_diagonal(straight, -1)
        np.fill_diagonal(turned, -1)
    best = np.maximum(straight, turned)
    index = best.argmax(1)
    rows = np.arange(len(index))
    return Matches(best[rows, index], index, turned[rows, index] > straight[rows, index])


def calibrated(blocks: Sequence[Tensor], subjects: Sequence[str], repeats: Sequence[tuple[int, Tensor]]) -> Cut:
    """Return the cut that a reference gives, see the module.

    Args:
        blocks: of the reference.
        subjects: name of each.
        repeats: index and block of heads of the reference scanned again in simulation.
    """
    if len(set(subjects)) < LEAST_SUBJECTS:
        return Cut(OASIS_CUT, f"fewer than {LEAST_SUBJECTS} subjects in the reference: that of OASIS at 2 mm")
    table = np.maximum(ncc(blocks, blocks), ncc(blocks, blocks, mirrored=True))
    pairs = list(itertools.combinations(range(len(blocks)), 2))
    same = [table[i, j] for i, j in pairs if subjects[i] == subjects[j]]
    kind = f"{len(same)} pairs of scans of one subject"
    if not same:
        same = [float(ncc([again], [blocks[index]])[0, 0]) for index, again in repeats]
        kind = f"{len(same)} heads scanned again in simulation"
    strangers = [(i, j, float(table[i, j])) for i, j in pairs if subjects[i] != subjects[j]]
    repeat_min = float(min(same))
    below = [value for *_, value in strangers if value < repeat_min]
    alike = tuple(sorted((pair for pair in strangers if pair[2] >= repeat_min), key=lambda pair: -pair[2]))
    stranger_max = max(below, default=float("nan"))
    separable = len(alike) <= 0.05 * len(strangers) and bool(below)
    value = (stranger_max + repeat_min) / 2 if separable else repeat_min
    told = (
        f"midway between {len(strangers)} pairs of strangers (most alike {stranger_max:.4f}) and {kind} (least alike "
        f"{repeat_min:.4f})"
    )
    if not separable:
        told = (
            f"strangers of the reference are as alike as {kind} (least alike {repeat_min:.4f}) at this resolution: the "
            "cut is that of the repeats, and copies cannot be told from likeness"
        )
    return Cut(value, told, stranger_max, repeat_min, separable, alike)


def scanned_again(head: Head, seed: int) -> Tensor:
    """Return the head as another scan would see it, (X, Y, Z): simulated, see the module."""
    from scipy import ndimage
    from scipy.spatial.transform import Rotation

    source = np.random.default_rng(np.random.SeedSequence([seed, 77]))
    x = head.x.numpy()
    turn = Rotation.from_euler("xyz", source.uniform(-ROTATION_DEG, ROTATION_DEG, 3), degrees=True).as_matrix()
    middle = (np.array(x.shape) - 1) / 2
    offset = middle + source.uniform(-0.5, 0.5, 3) - turn @ middle
    moved = torch.from_numpy(ndimage.affine_transform(x, turn, offset=offset, order=3, mode="nearest").clip(0))
    knots = torch.from_numpy(source.normal(0, SHADING, (1, 1, 3, 3, 3)).astype(np.float32))
    shade = F.interpolate(knots, x.shape, mode="trilinear", align_corners=True)[0, 0].exp()
    level = NOISE * float(np.percentile(x, 95))
    noise = torch.from_numpy(source.standard_normal((2, *x.shape), np.float32)) * level
    return torch.hypot(moved * shade + noise[0] * (moved > 0), noise[1] * (moved > 0))


def block_of(head: Head, segmenter: BrainSegmenter, shares: Tensor) -> Tensor:
    """Return `brain_block` of a head whose shares (K, x, y, z) are known."""
    config = segmenter.config
    return brain_block(
        head.x, head.grid.spacing_mm, shares=shares, classes=config.classes, segmented_mm=config.spacing_mm
    )
