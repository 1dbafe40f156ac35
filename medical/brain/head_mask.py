"""Where the head is in a volume: enough to place a field of view, not a segmentation.

`brain_mask` of deepbet finds the brain where that package is installed. `head_mask` needs nothing: it is everything
brighter than air, without the neck.
"""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path

import numpy as np

HEAD_MM = 170.0  # from the top of the scalp down: brain and cerebellum lie in it, the neck does not
SMOOTH_MM = 2.0


def head_mask(voxels: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return the largest piece brighter than air, of the upper 170 mm.

    Otsu's threshold of the cube root (which evens bright fat and tissue) of the volume, smoothed with a deviation of
    2 mm, so that noise in air stays below it; on every second voxel where they are 1 mm or finer.

    Args:
        voxels: (x, y, z), any orientation.
        affine: (4, 4) voxel to RAS mm.

    Returns:
        bool array of the same shape; empty if the volume is constant.
    """
    from scipy import ndimage

    strides = np.maximum(1, (SMOOTH_MM / np.linalg.norm(affine[:3, :3], axis=0) + 1e-3).astype(int))
    thin = voxels[tuple(slice(None, None, stride) for stride in strides)]
    steps = affine[:3, :3] * strides
    low = np.percentile(thin, 0.1)
    sigma = SMOOTH_MM / np.linalg.norm(steps, axis=0)
    smooth = np.cbrt(ndimage.gaussian_filter(np.maximum(thin - low, 0).astype(np.float32), sigma))
    if smooth.max() == smooth.min():
        return np.zeros(voxels.shape, dtype=bool)
    piece = largest_piece(smooth > otsu(smooth))
    height = np.tensordot(steps[2], np.indices(thin.shape, dtype=np.float32), axes=1)  # superior, mm
    kept = piece & (height >= height[piece].max() - HEAD_MM)
    for axis, stride in enumerate(strides):
        kept = np.repeat(kept, stride, axis=axis)
    x, y, z = voxels.shape
    return kept[:x, :y, :z]


def otsu(values: np.ndarray, bins: int = 256) -> float:
    """Return the threshold of the largest variance between classes (Otsu 1979)."""
    counts, edges = np.histogram(values, bins)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = counts.sum() - below
    sums = np.cumsum(counts * centres)
    mean_below = sums[:-1] / np.maximum(below, 1)
    mean_above = (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    return float(edges[1:-1][np.argmax(below * above * (mean_below - mean_above) ** 2)])


def largest_piece(mask: np.ndarray) -> np.ndarray:
    """Return the largest component of a mask; voxels touch by faces, edges and corners. An empty mask stays empty."""
    from scipy import ndimage

    labels, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    if count == 0:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    piece: np.ndarray = labels == sizes.argmax()
    return piece


def deepbet_installed() -> bool:
    """Whether the package deepbet, which finds the brain, is there."""
    return importlib.util.find_spec("deepbet") is not None


def brain_mask(path: Path) -> np.ndarray:
    """Return the brain in a NIfTI file by deepbet, on its voxels."""
    import nibabel
    from deepbet import run_bet

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "mask.nii.gz"
        run_bet([str(path)], mask_paths=[str(out)], no_gpu=True, skip_broken=False)
        found: np.ndarray = np.asanyarray(nibabel.load(out).dataobj) > 0
    return found.reshape(found.shape[:3])
