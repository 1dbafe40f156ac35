"""PCA and k-means on neighbourhoods of the difference image (Celik, IEEE GRSL 2009).

The h x h blocks of the difference image (here: of the length of the change vector) have the principal components E. A
pixel's feature is f = E (n - m), of the block n around it. Two-means on the features gives the centres c_0 and c_1; the
cluster with the larger mean difference is change, and the score

    s = (|f - c_0|^2 - |f - c_1|^2) / (2 |c_1 - c_0|)

is the distance of f from the plane halfway between them, above 0 on the side of change.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from remote_sensing.classical.radiometry import Radiometry, fit_radiometry
from remote_sensing.classical.thresholds import otsu
from remote_sensing.rasters import Pair, Patch, Sample
from remote_sensing.settings import Normalisation

SIDE = 5  # h; odd, so that a pixel is the middle of its block
EXPLAINED = 0.9  # of the variance of the blocks by the components
BLOCKS = 200_000  # at most so many blocks are fitted to
ITERATIONS = 100


@dataclass(frozen=True)
class PcaKmeans:
    """The fitted clusters.

    Attributes:
        radiometry: of the change vectors.
        fill: length of the change vector that stands for missing pixels of a neighbourhood: the mean one.
        direction: (h, h) weights of the neighbourhood, E' (c_1 - c_0) / |c_1 - c_0|.
        offset: s = sum(direction * n) - offset.
        components: number of principal components.
    """

    radiometry: Radiometry
    fill: float
    direction: NDArray[np.float64]
    offset: float
    components: int

    halo = SIDE // 2
    unit = "distance from the boundary between the clusters"

    def score(self, patch: Patch) -> NDArray[np.float32]:
        """Return s, float32 (rows, columns), NaN where not valid; the outer `halo` pixels see no neighbours beyond."""
        from scipy.ndimage import correlate

        image = np.where(patch.valid, self.radiometry.magnitude(patch), self.fill).astype(np.float64)
        found = correlate(image, self.direction, mode="mirror") - self.offset
        return np.where(patch.valid, found, np.nan).astype(np.float32)

    def facts(self) -> dict[str, object]:
        """Return what is worth telling."""
        return {"components": self.components, "block": SIDE, **self.radiometry.facts()}


def fit_pca_kmeans(pair: Pair, sample: Sample, normalisation: Normalisation = "invariant") -> PcaKmeans:
    """Fit components and clusters to the blocks of a pair; one more pass over it."""
    from scipy.cluster.vq import kmeans2

    radiometry = fit_radiometry(sample, normalisation)
    fill = float(radiometry.sample_magnitude(sample).mean(dtype=np.float64))
    blocks = _blocks(pair, radiometry, fill)
    mean = blocks.mean(0)
    values, vectors = np.linalg.eigh(np.cov(blocks.T))
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    components = int(np.searchsorted(np.cumsum(values) / max(values.sum(), np.finfo(float).tiny), EXPLAINED)) + 1
    basis = vectors[:, : min(components, len(values))]
    features = (blocks - mean) @ basis
    lengths = blocks.mean(1)
    changed = lengths > otsu(lengths.astype(np.float32))
    if not changed.any() or changed.all():  # nothing to split: the boundary lies beyond every block
        direction = np.full((SIDE, SIDE), 1 / SIDE**2)
        return PcaKmeans(radiometry, fill, direction, float(lengths.max()) + 1.0, basis.shape[1])
    start = np.stack([features[~changed].mean(0), features[changed].mean(0)])
    centres, cluster = kmeans2(features, start, iter=ITERATIONS, minit="matrix")
    if lengths[cluster == 0].mean() > lengths[cluster == 1].mean():
        centres = centres[::-1]
    across = centres[1] - centres[0]
    direction = basis @ across / np.linalg.norm(across)
    offset = mean @ direction + (centres[1] @ centres[1] - centres[0] @ centres[0]) / (2 * np.linalg.norm(across))
    return PcaKmeans(radiometry, fill, direction.reshape(SIDE, SIDE), float(offset), basis.shape[1])


def _blocks(pair: Pair, radiometry: Radiometry, fill: float) -> NDArray[np.float64]:
    """Return whole blocks (blocks, h * h) with data in their middle, on a lattice that no cut into windows changes."""
    step = SIDE * max(1, int(np.ceil(np.sqrt(pair.grid.width * pair.grid.height / (BLOCKS * SIDE**2)))))
    size = step * max(1, 1024 // step)
    found = []
    for patch in pair.patches(pair.grid.windows(size)):
        image = np.where(patch.valid, radiometry.magnitude(patch), fill)
        if min(image.shape) < SIDE:
            continue
        inside = np.lib.stride_tricks.sliding_window_view(image, (SIDE, SIDE))[::step, ::step]
        seen = patch.valid[SIDE // 2 :, SIDE // 2 :][: image.shape[0] - SIDE + 1, : image.shape[1] - SIDE + 1]
        found.append(inside[seen[::step, ::step]].reshape(-1, SIDE * SIDE))
    found.append(np.full((2, SIDE * SIDE), fill))  # so that a raster smaller than a block has some
    return np.concatenate(found).astype(np.float64)
