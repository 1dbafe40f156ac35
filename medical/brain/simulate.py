r"""Synthetic whole heads of label maps, with the volumes of their structures: simulated data, no scans.

A head is made of an `Anatomy` on a grid finer than the one asked for, so that voxels at the borders of tissues hold
shares of both (partial volume):

1. Deformation: each voxel looks up its label at  A (p - c) + u(p),  A of rotations, scalings and shears, perhaps
   mirrored left to right, u smooth noise of two scales, and a pull towards (or away from) the lateral ventricles that
   widens (or narrows) them with the tissue around them.
2. Paint: one signal a tissue, drawn about its T1-weighted mean, or the tissues of another contrast
   (`medical.simulation.contrast`); muscle has fat between; all tissue has texture.
3. Blur of the scanner's point spread, and the mean over each voxel.
4. Shading exp(b), Rician noise, and the percentiles of `medical.brain.prepare` to [-1, 1].

All that is random comes from one seed. Reference: Billot et al., SynthSeg, Medical Image Analysis, 2023.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medical.brain.anatomy import CODES, DEEP_SOFT, MUSCLE, STRUCTURES, TISSUES, Anatomy
from medical.brain.config import SIZE, SPACING_MM
from medical.brain.prepare import PERCENTILES
from medical.simulation.contrast import TISSUE_OF_LABEL, Contrast, tissue_signals

COARSEST_MM, WHOLE_MM = 2.0, 1.4  # paint at most this coarse; voxels up to WHOLE_MM are not divided
POINT_SPREAD_MM = 0.6


@dataclass(frozen=True)
class Variation:
    """How much heads differ; standard deviations, and half widths of even distributions.

    Attributes:
        rotation_deg: half width, about each axis.
        shift_mm: half width, along each axis.
        scale: half width of the logarithm of the whole head's scale.
        stretch: standard deviation of the logarithm of the scale along each axis.
        shear: standard deviation.
        coarse_mm: standard deviation of the displacement of scale 40 mm, along each axis.
        fine_mm: likewise of scale 12 mm.
        ventricles_mm: half width of the pull at the walls of the lateral ventricles.
        mirror: probability of left and right exchanged.
        signal: standard deviation of the logarithm of a tissue's signal.
        texture: of the signal within a tissue, relative.
        shading: half-normal scale of the deviation of b.
        noise: least and most noise, white matter at 1.
    """

    rotation_deg: float = 8.0
    shift_mm: float = 4.0
    scale: float = 0.06
    stretch: float = 0.03
    shear: float = 0.025
    coarse_mm: float = 3.0
    fine_mm: float = 0.8
    ventricles_mm: float = 3.5
    mirror: float = 0.5
    signal: float = 0.05
    texture: float = 0.03
    shading: float = 0.1
    noise: tuple[float, float] = (0.005, 0.02)


STILL = Variation(
    rotation_deg=0, shift_mm=0, scale=0, stretch=0, shear=0, coarse_mm=0, fine_mm=0, ventricles_mm=0, mirror=0,
    signal=0, texture=0, shading=0, noise=(0, 0),
)  # fmt: skip
"""The label map as it is, every tissue in its mean signal."""


@dataclass(frozen=True, eq=False)
class SimulatedHead:
    """A simulated head.

    Attributes:
        x: (X, Y, Z) float32 in [-1, 1], voxel order LPS.
        labels: (X, Y, Z) int16, the code nearest the middle of each voxel.
        volumes_cm3: of the `STRUCTURES` within the field of view, counted before voxels are averaged.
        spacing_mm: of the voxels.
        anatomy: name of the subject.
        seed: of everything random.
        contrast: of the signals.
    """

    x: Tensor
    labels: Tensor
    volumes_cm3: dict[str, float]
    spacing_mm: float
    anatomy: str
    seed: int
    contrast: Contrast


def simulate_head(
    anatomy: Anatomy,
    seed: int,
    *,
    size: tuple[int, int, int] = SIZE,
    spacing_mm: float = SPACING_MM,
    contrast: Contrast = "T1w",
    variation: Variation | None = None,
) -> SimulatedHead:
    """Return one head of an anatomy, its brain near the middle.

    Args:
        anatomy: see `read_anatomy`.
        seed: of everything random: equal seeds give equal heads.
        size: voxels to the left, posterior, superior.
        spacing_mm: edge of a voxel.
        contrast: "T1w" has a signal for every structure; "T2w", "PD", "FLAIR" and "random" one for every tissue.
        variation: None is the default.
    """
    return head_and_codes(
        anatomy, seed, size=size, spacing_mm=spacing_mm, contrast=contrast, variation=variation
    )[0]  # fmt: skip


def head_and_codes(
    anatomy: Anatomy,
    seed: int,
    *,
    size: tuple[int, int, int] = SIZE,
    spacing_mm: float = SPACING_MM,
    contrast: Contrast = "T1w",
    variation: Variation | None = None,
) -> tuple[SimulatedHead, Tensor]:
    """Return a head and the labels that it is painted on, (P X, P Y, P Z) uint8, P^3 to each voxel.

    The labels are as the codes of `Anatomy`. Arguments as of `simulate_head`.
    """
    variation = variation or Variation()
    source = np.random.default_rng(np.random.SeedSequence([seed, 2**31 + 7]))
    parts = max(math.ceil(spacing_mm / COARSEST_MM - 1e-6), 1 if spacing_mm <= WHOLE_MM else 2)
    fine, fine_mm = tuple(parts * n for n in size), spacing_mm / parts
    codes = _looked_up(anatomy.codes, _where(anatomy, fine, fine_mm, variation, source))
    counts = torch.bincount(codes.flatten(), minlength=len(CODES)).tolist()
    volume = {code: count * fine_mm**3 / 1000 for code, count in zip(CODES, counts, strict=False)}
    painted = _painted(codes, fine_mm, contrast, variation, source)
    painted = _blurred(painted, POINT_SPREAD_MM / fine_mm)
    signal = F.avg_pool3d(painted[None, None], parts)[0, 0]
    signal = signal * torch.exp(abs(float(source.normal())) * variation.shading * _unit(size, 70 / spacing_mm, source))
    level = float(source.uniform(*variation.noise))
    real, imaginary = (torch.from_numpy(source.standard_normal(size, np.float32)) * level for _ in range(2))
    signal = torch.hypot(signal + real, imaginary)
    low, high = np.percentile(signal.numpy(), PERCENTILES)
    middle = slice(parts // 2, None, parts)
    head = SimulatedHead(
        ((signal - low) / max(high - low, 1e-6)).clamp(0, 1) * 2 - 1,
        torch.tensor([*CODES, 507], dtype=torch.int16)[codes[middle, middle, middle].long()],
        {name: sum(volume[code] for code in codes) for name, codes in STRUCTURES.items()},
        spacing_mm,
        anatomy.name,
        seed,
        contrast,
    )
    return head, codes


def head_seed(seed: int, number: int) -> int:
    """Return the seed of the head of this number in a set."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def _where(
    anatomy: Anatomy, fine: Sequence[int], fine_mm: float, variation: Variation, source: np.random.Generator
) -> Tensor:
    """Return where each fine voxel looks up its label, (3, X, Y, Z) float32 voxels of the anatomy."""
    inverse = np.linalg.inv(_matrix(variation, source))
    shift = source.uniform(-variation.shift_mm, variation.shift_mm, 3)
    pull = float(source.uniform(-variation.ventricles_mm, variation.ventricles_mm))
    per_mm = torch.tensor([1 / mm for mm in anatomy.spacing_mm], dtype=torch.float32)
    matrix = torch.from_numpy(inverse.astype(np.float32))
    x, y, z = (
        (torch.arange(n, dtype=torch.float32) - (n - 1) / 2) * fine_mm - float(s)
        for n, s in zip(fine, shift, strict=True)
    )
    rows = []
    for row in range(3):
        mm = matrix[row, 0] * x[:, None, None] + matrix[row, 1] * y[:, None] + matrix[row, 2] * z
        for scale, spread in ((40.0, variation.coarse_mm), (12.0, variation.fine_mm)):
            mm += spread * _smooth(fine, scale / fine_mm, source)
        rows.append(mm * per_mm[row] + anatomy.centre[row])
    where = torch.stack(rows)
    if pull:
        field = F.grid_sample(
            anatomy.towards_ventricles[None], _normalised(where, anatomy.codes.shape), mode="bilinear",
            padding_mode="zeros", align_corners=False,
        )[0]  # fmt: skip
        where += pull * field * per_mm[:, None, None, None]
    return where


def _matrix(variation: Variation, source: np.random.Generator) -> np.ndarray:
    """Return the linear map of the head, 3 x 3: rotations, shears, scalings, mirror."""
    from scipy.spatial.transform import Rotation

    half = variation.rotation_deg
    turn = Rotation.from_euler("xyz", source.uniform(-half, half, 3), degrees=True).as_matrix()
    scales = np.exp(source.uniform(-variation.scale, variation.scale) + variation.stretch * source.standard_normal(3))
    shear = np.eye(3)
    shear[np.triu_indices(3, 1)] = variation.shear * source.standard_normal(3)
    if source.uniform() < variation.mirror:
        scales[0] *= -1
    matrix: np.ndarray = turn @ shear @ np.diag(scales)
    return matrix


def _normalised(where: Tensor, shape: Sequence[int]) -> Tensor:
    """Return voxel positions (3, X, Y, Z) as `grid_sample` wants them, (1, X, Y, Z, 3) with the last axis z, y, x."""
    scaled = [(2 * where[axis] + 1) / shape[axis] - 1 for axis in (2, 1, 0)]
    return torch.stack(scaled, dim=-1)[None]


def _looked_up(values: Tensor, where: Tensor) -> Tensor:
    """Return uint8 values at the nearest voxels, 0 beyond the volume."""
    padded = F.pad(values, (1, 1, 1, 1, 1, 1))
    flat = torch.zeros(where.shape[1:], dtype=torch.int32)
    for axis, size in enumerate(padded.shape):
        flat.mul_(size).add_(where[axis].add(1).round_().clamp_(0, size - 1).int())
    return padded.flatten()[flat]


def _painted(
    codes: Tensor, fine_mm: float, contrast: Contrast, variation: Variation, source: np.random.Generator
) -> Tensor:
    """Return the signal of every fine voxel, float32."""
    fat, muscle, means = _signals(contrast, variation, source)
    painted = torch.from_numpy(means)[codes.int()]
    share = torch.sigmoid(5 * (_smooth(codes.shape, 7 / fine_mm, source) - 0.8))
    painted = torch.where(codes == DEEP_SOFT, muscle + (fat - muscle) * share, painted)
    texture = _smooth(codes.shape, 1.5 / fine_mm, source).add_(_smooth(codes.shape, 8 / fine_mm, source))
    return painted.mul_(texture.mul_(variation.texture).add_(1)).clamp_min_(0)


def _signals(contrast: Contrast, variation: Variation, source: np.random.Generator) -> tuple[float, float, np.ndarray]:
    """Return the signals of fat, of muscle, and of every code, then of `DEEP_SOFT`, float32."""
    if contrast == "T1w":
        means, muscle = {name: signal for name, (_, signal) in TISSUES.items()}, MUSCLE
    else:
        signals = tissue_signals(contrast, source)
        group = {code: name for name, codes in TISSUE_OF_LABEL.items() for code in codes}
        muscle = signals["muscle"]
        signals |= {"skin": 0.5 * (muscle + signals["fat"]), "marrow": 0.6 * signals["fat"] + 0.2 * muscle}
        means = {name: signals.get(group.get(codes[0], ""), 0.0) for name, (codes, _) in TISSUES.items()}
        means |= {
            "soft": signals["fat"], "lesion": signals["grey"], "choroid_plexus": (signals["csf"] + signals["grey"]) / 2
        }  # fmt: skip
    jitter = np.exp(variation.signal * source.standard_normal(len(means) + 1))
    means = {name: value * float(factor) for (name, value), factor in zip(means.items(), jitter, strict=False)}
    muscle *= float(jitter[-1])
    of_code = {code: means[name] for name, (codes, _) in TISSUES.items() for code in codes}
    return means["soft"], muscle, np.array([*(of_code[code] for code in CODES), muscle], dtype=np.float32)


def _smooth(shape: Sequence[int], scale: float, source: np.random.Generator) -> Tensor:
    """Return smooth noise of variance 1 over draws, float32: a cubic spline through white noise, one knot a scale.

    Args:
        shape: of the field.
        scale: distance of the knots, voxels.
        source: of the noise.
    """
    knots = [max(4, math.ceil((n - 1) / scale) + 4) for n in shape]
    noise = torch.from_numpy(source.standard_normal(knots, np.float32))
    starts = source.uniform(0, 1, 3).round(2)
    x, y, z = (
        torch.from_numpy(_spline(n, count, scale, float(start)))
        for n, count, start in zip(shape, knots, starts, strict=True)
    )
    return (y @ (x @ noise.flatten(1)).unflatten(1, noise.shape[1:])) @ z.T


@lru_cache(maxsize=1024)
def _spline(n: int, knots: int, scale: float, start: float) -> np.ndarray:
    """Return weights (n, knots) of cubic B-splines at i / scale + start, rows of Euclidean length 1."""
    place = np.arange(n) / scale + start + 1
    distance = np.abs(place[:, None] - np.arange(knots))
    weights = np.where(
        distance < 1, 2 / 3 - distance**2 + distance**3 / 2, np.where(distance < 2, (2 - distance) ** 3 / 6, 0)
    )
    result: np.ndarray = (weights / np.linalg.norm(weights, axis=1, keepdims=True)).astype(np.float32)
    return result


def _unit(shape: Sequence[int], scale: float, source: np.random.Generator) -> Tensor:
    """Return smooth noise with mean 0 and standard deviation 1 over this field."""
    field = _smooth(shape, scale, source)
    return (field - field.mean()) / field.std().clamp_min(1e-6)


def _blurred(values: Tensor, sigma: float) -> Tensor:
    """Return values (X, Y, Z) after a Gaussian of this many voxels; beyond the border the outermost continue."""
    radius = max(1, round(3 * sigma))
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    for axis in range(3):
        n = values.shape[axis]
        ends = values.narrow(axis, 0, 1), values.narrow(axis, n - 1, 1)
        padded = torch.cat([ends[0]] * radius + [values] + [ends[1]] * radius, dim=axis)
        values = sum((float(w) * padded.narrow(axis, k, n) for k, w in enumerate(kernel)), torch.zeros(()))
    return values
