r"""How alike the volumes of a set are: multi-scale structural similarity of random pairs.

    MS-SSIM = prod_j c_j^{w_j} * l_M^{w_M}     (contrast and structure at every scale, luminance at the last)

in three dimensions with Gaussian windows of 11 voxels (deviation 1.5), three scales and the first three of the five
published weights, divided by their sum: five scales would want 176 voxels along each axis, and heads of 4 mm have 48.
Intensities are 0 to 1. 1 is a set of copies; compare synthetic heads with real ones on the same grid and nothing else.
Reference: Wang et al., 2003; the numbers are MONAI's, whose windows are not separable and take forty times as long.
Pairs of one subject do not count.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from shared.progress import tracked

WEIGHTS = (0.0448, 0.2856, 0.3001)
WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2
PAIRS = 60
FINEST_MM = 2.0


def ms_ssim(a: Tensor, b: Tensor) -> float:
    """Return the MS-SSIM of two volumes (X, Y, Z) of intensities 0 to 1, (X, Y, Z) of 44 voxels or more."""
    pair = torch.stack([a, b]).float()
    value = 1.0
    for scale, weight in enumerate(WEIGHTS):
        if scale:
            pair = F.avg_pool3d(pair[:, None], 2)[:, 0]
        x, y = pair
        mean_x, mean_y, xx, yy, xy = _windowed(torch.stack([x, y, x * x, y * y, x * y]))
        spread = xx - mean_x**2 + yy - mean_y**2
        similar = (2 * (xy - mean_x * mean_y) + C2) / (spread + C2)
        if scale == len(WEIGHTS) - 1:
            similar = similar * (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
        value *= max(float(similar.mean()), 0.0) ** (weight / sum(WEIGHTS))
    return value


def _windowed(values: Tensor) -> Tensor:
    """Return Gaussian means of volumes (N, X, Y, Z), axis by axis, of the windows that lie inside."""
    window = torch.exp(-0.5 * ((torch.arange(WINDOW) - WINDOW // 2) / SIGMA) ** 2)
    window /= window.sum()
    found = values[:, None]
    for axis in range(3):
        shape = [1, 1, 1, 1, 1]
        shape[2 + axis] = WINDOW
        found = F.conv3d(found, window.reshape(shape))
    return found[:, 0]


def mean_similarity(
    volumes: Sequence[Tensor],
    subjects: Sequence[str],
    *,
    pairs: int = PAIRS,
    seed: int = 0,
    progress: str | None = None,
) -> tuple[float, int]:
    """Return the mean MS-SSIM of random pairs of different subjects, and how many there were.

    Args:
        volumes: (X, Y, Z) each.
        subjects: name of each.
        pairs: at most; all of them where there are fewer.
        seed: of the choice.
        progress: label of a progress bar.
    """
    candidates = [
        (i, j) for i in range(len(volumes)) for j in range(i + 1, len(volumes)) if subjects[i] != subjects[j]
    ]  # fmt: skip
    if not candidates:
        return float("nan"), 0
    chosen = np.random.default_rng(seed).permutation(len(candidates))[:pairs]
    with torch.no_grad():
        found = [
            ms_ssim(volumes[i].float(), volumes[j].float())
            for i, j in (candidates[k] for k in tracked(chosen.tolist(), progress))
        ]  # fmt: skip
    return float(np.mean(found)), len(found)
