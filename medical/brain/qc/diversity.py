r"""How alike the volumes of a set are: multi-scale structural similarity of random pairs.

    MS-SSIM = prod_j c_j^{w_j} * l_M^{w_M}     (contrast and structure at every scale, luminance at the last)

in three dimensions with Gaussian windows of 11 voxels (deviation 1.5), three scales and the first three of the five
published weights, divided by their sum: five scales would want 176 voxels along each axis, and heads of 4 mm have 48.
Intensities are 0 to 1. 1 is a set of copies; compare synthetic heads with real ones on the same grid and nothing else.
Reference: Wang et al., 2003; computed by MONAI. Pairs of one subject do not count.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from shared.errors import MissingExtra
from shared.progress import tracked

WEIGHTS = (0.0448, 0.2856, 0.3001)
PAIRS = 60
FINEST_MM = 2.0


def ms_ssim(a: Tensor, b: Tensor) -> float:
    """Return the MS-SSIM of two volumes (X, Y, Z) of intensities 0 to 1.

    Raises:
        MissingExtra: MONAI is not installed.
    """
    try:
        from monai.metrics.regression import MultiScaleSSIMMetric
    except ImportError as error:
        raise MissingExtra(error.name or "monai", extra="brain", purpose="for MS-SSIM") from error
    weights = [weight / sum(WEIGHTS) for weight in WEIGHTS]
    metric = MultiScaleSSIMMetric(3, data_range=1.0, kernel_size=11, kernel_sigma=1.5, weights=weights)
    return float(metric(a[None, None], b[None, None])[0, 0])


def mean_similarity(
    volumes: Sequence[Tensor], subjects: Sequence[str], *, pairs: int = PAIRS, seed: int = 0, progress: str | None = None
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
