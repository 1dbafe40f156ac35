"""What is measured of every volume, one in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from medical.brain.qc.diversity import FINEST_MM
from medical.brain.qc.features import SEGMENTER, UNCNN, uncnn_features
from medical.brain.qc.inputs import Head, Source
from medical.brain.qc.meshnet import MeshNet
from medical.brain.qc.nearest import block_of, scanned_again
from medical.brain.segmenter import BrainSegmenter, on_spacing

BINS = 64
EDGES = np.linspace(0, 1, BINS + 1)


@dataclass(eq=False)
class Measured:
    """What is known of a set of heads, in the order of its volumes.

    Attributes:
        sources: of the volumes.
        volumes_cm3: structure -> one number a head.
        features: name -> one vector a head.
        blocks: aligned brains, see `medical.brain.qc.nearest.brain_block`.
        small: (X, Y, Z) float16 of 2 mm or coarser voxels, 0 to 1.
        histograms: shares of the voxels of the head (all but air) in `BINS` bins from 0 to 1.
        air: mean intensity of air.
        sharpness: mean length of the gradient in the brain, per mm, with its median intensity at 1.
    """

    sources: list[Source] = field(default_factory=list)
    volumes_cm3: dict[str, list[float]] = field(default_factory=dict)
    features: dict[str, list[Tensor]] = field(default_factory=dict)
    blocks: list[Tensor] = field(default_factory=list)
    small: list[Tensor] = field(default_factory=list)
    histograms: list[np.ndarray] = field(default_factory=list)
    air: list[float] = field(default_factory=list)
    sharpness: list[float] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """Return the names of the volumes."""
        return [source.name for source in self.sources]

    @property
    def subjects(self) -> list[str]:
        """Return the subjects of the volumes."""
        return [source.subject for source in self.sources]

    def cm3(self) -> dict[str, np.ndarray]:
        """Return the volumes of structures as arrays."""
        return {name: np.array(values) for name, values in self.volumes_cm3.items()}


@torch.no_grad()
def measured(
    heads: Iterable[Head],
    segmenter: BrainSegmenter,
    *,
    uncnn: bool = False,
    meshnet: MeshNet | None = None,
) -> Measured:
    """Measure heads.

    Args:
        heads: of `read_heads`.
        segmenter: of brains, classes and features.
        uncnn: also the features of that package.
        meshnet: measures the volumes of structures instead of the segmenter, on voxels of 1 mm.
    """
    found = Measured()
    for head in heads:
        mm = head.grid.spacing_mm
        shares, pooled = segmenter.shares_and_features(head.x, mm)
        volumes = (
            meshnet.volumes(head.x) if meshnet else {k: float(v) for k, v in segmenter.volumes_of(shares).items()}
        )  # fmt: skip
        for name, value in volumes.items():
            found.volumes_cm3.setdefault(name, []).append(value)
        found.features.setdefault(SEGMENTER, []).append(pooled[0])
        if uncnn:
            found.features.setdefault(UNCNN, []).append(uncnn_features(head))
        found.sources.append(head.source)
        found.blocks.append(block_of(head, segmenter, shares[0]))
        found.small.append(small_of(head))
        _intensities(found, head, shares[0], segmenter)
    return found


def small_of(head: Head) -> Tensor:
    """Return a head on voxels of 2 mm, or its own if they are larger, (X, Y, Z) float16."""
    mm = head.grid.spacing_mm
    return on_spacing(head.x, mm, max(FINEST_MM, mm))[0, 0].half()


@torch.no_grad()
def block_only(head: Head, segmenter: BrainSegmenter) -> Tensor:
    """Return the aligned brain of a head, and nothing else: training volumes are only compared with."""
    return block_of(head, segmenter, segmenter.shares(head.x, head.grid.spacing_mm)[0])


@torch.no_grad()
def block_again(head: Head, segmenter: BrainSegmenter, seed: int) -> Tensor:
    """Return the aligned brain of a head that is scanned again in simulation."""
    again = Head(head.source, scanned_again(head, seed), head.grid)
    return block_only(again, segmenter)


def _intensities(found: Measured, head: Head, shares: Tensor, segmenter: BrainSegmenter) -> None:
    """Add histogram, air and sharpness, on the grid of the segmenter but for the sharpness."""
    classes, wanted = segmenter.config.classes, segmenter.config.spacing_mm
    x = on_spacing(head.x, head.grid.spacing_mm, wanted)[0, 0]
    air = shares[classes.index("air")]
    counts, _ = np.histogram(x[air < 0.5].numpy(), EDGES)
    found.histograms.append(counts / max(int(counts.sum()), 1))
    clear = x[air > 0.95]
    found.air.append(float(clear.mean()) if len(clear) else float("nan"))
    brain = shares.sum(0) - air - shares[classes.index("head")] - shares[classes.index("fluid")] > 0.9
    parts = round(wanted / head.grid.spacing_mm)
    fine = brain.repeat_interleave(parts, 0).repeat_interleave(parts, 1).repeat_interleave(parts, 2)
    fine = fine[: head.x.shape[0], : head.x.shape[1], : head.x.shape[2]]
    slopes = torch.stack(torch.gradient(head.x)).square().sum(0).sqrt() / head.grid.spacing_mm
    level = float(head.x[fine].median()) if fine.any() else float("nan")
    found.sharpness.append(float(slopes[fine].mean()) / level if level > 0 else float("nan"))
