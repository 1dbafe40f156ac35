"""How wrong a disparity map is, and whether its confidence knows it.

Errors are e = |d - d*| in pixels of the map's own size, over all pixels whose truth is known. Nothing is aligned,
clipped or left out: a hole counts as an error above every threshold and, in the means and quantiles, as if it said
d = 0, so its error is d*; `density` says how many pixels have a prediction, and `epe_known` is the mean over those.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from robotics.stereo.pair import Surface
from shared.errors import InputError

THRESHOLDS = (0.5, 1.0, 2.0, 3.0)
QUANTILES = (50, 90, 95, 99)


def evaluate(disparity: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> dict[str, float]:
    """Return the numbers of one map.

    | name | what |
    | --- | --- |
    | epe, rms | mean and root mean square of e, px |
    | bad0.5, bad1, bad2, bad3 | % of pixels with e above so many px, or a hole |
    | d1 | % with e > 3 px and e > 5 % of d*, or a hole |
    | a50 ... a99 | quantiles of e, px |
    | density | % of pixels with a prediction |
    | epe_known | mean of e over those; NaN without any |
    | pixels | number of pixels |

    Args:
        disparity: (height, width), NaN in holes.
        truth: likewise, NaN unknown.
        mask: which pixels count; None for all.

    Raises:
        InputError: the sizes differ, or no pixel counts.
    """
    error, known = errors(disparity, truth, mask)
    true = truth[counted(truth, mask)].astype(np.float64)
    numbers = {"epe": float(error.mean()), "rms": float(np.sqrt((error**2).mean()))}
    for threshold in THRESHOLDS:
        numbers[f"bad{threshold:g}"] = 100 * float(((error > threshold) | ~known).mean())
    numbers["d1"] = 100 * float((((error > 3) & (error > 0.05 * true)) | ~known).mean())
    for quantile in QUANTILES:
        numbers[f"a{quantile}"] = float(np.percentile(error, quantile))
    numbers["density"] = 100 * float(known.mean())
    numbers["epe_known"] = float(error[known].mean()) if known.any() else float("nan")
    numbers["pixels"] = float(len(error))
    return numbers


def evaluate_masks(disparity: np.ndarray, truth: np.ndarray, masks: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the numbers over all pixels, and those of each mask as `name.epe` and so on; empty masks are left out."""
    numbers = evaluate(disparity, truth)
    for name, mask in masks.items():
        if counted(truth, mask).any():
            numbers |= {f"{name}.{key}": value for key, value in evaluate(disparity, truth, mask).items()}
    return numbers


def standard_masks(occluded: np.ndarray | None, material: np.ndarray | None) -> dict[str, np.ndarray]:
    """Return the masks noc and occ, and opaque, mirror, glass (solid and thin) and translucent, as far as known."""
    masks: dict[str, np.ndarray] = {}
    if occluded is not None:
        masks |= {"noc": ~occluded, "occ": occluded}
    if material is not None:
        masks |= {
            "opaque": np.isin(material, (Surface.DIFFUSE, Surface.GLOSSY)),
            "mirror": material == Surface.MIRROR,
            "glass": np.isin(material, (Surface.GLASS, Surface.THIN_GLASS)),
            "translucent": material == Surface.TRANSLUCENT,
        }
    return masks


def errors(disparity: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return e of the pixels that count, (N,) float64, and whether each has a prediction, (N,) bool.

    Raises:
        InputError: the sizes differ, or no pixel counts.
    """
    if disparity.shape != truth.shape or (mask is not None and mask.shape != truth.shape):
        other = mask.shape if mask is not None and disparity.shape == truth.shape else disparity.shape
        raise InputError(
            "disparity", found=f"{other[1]}x{other[0]} pixels",
            expected=f"{truth.shape[1]}x{truth.shape[0]} as the truth",
            fix="Give maps of one size; resizing a disparity map must scale its values too.",
        )  # fmt: skip
    counts = counted(truth, mask)
    if not counts.any():
        raise InputError("truth", found="no known pixel", expected="at least one", fix="Give another mask or truth.")
    said = disparity[counts].astype(np.float64)
    known = np.isfinite(said)
    return np.abs(np.where(known, said, 0.0) - truth[counts].astype(np.float64)), known


def counted(truth: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Return the pixels whose truth is known and that the mask keeps, bool."""
    known = np.isfinite(truth)
    return known if mask is None else known & mask.astype(bool)


def risk_coverage(error: np.ndarray, confidence: np.ndarray, points: int = 101) -> tuple[np.ndarray, np.ndarray]:
    """Return coverages (points,) from 1 / points to 1 and the mean error of the most confident share of pixels.

    Pixels of equal confidence are taken in a fixed random order, so a constant confidence gives a flat curve.

    Args:
        error: (N,).
        confidence: (N,), larger is surer.
        points: of the curve.
    """
    shuffled = np.random.default_rng(0).permutation(len(error))
    order = shuffled[np.argsort(-confidence[shuffled], kind="stable")]
    coverage = np.linspace(1 / points, 1.0, points)
    count = np.maximum(1, np.rint(coverage * len(error)).astype(np.int64))
    return coverage, np.cumsum(error[order].astype(np.float64))[count - 1] / count


def ause(error: np.ndarray, confidence: np.ndarray, points: int = 101) -> float:
    """Return the area under the sparsification error: between the risk-coverage curve and that of the errors' order.

    0 is a confidence that sorts pixels as their errors do. In px: it is not divided by the mean error.
    """
    coverage, risk = risk_coverage(error, confidence, points)
    _, oracle = risk_coverage(error, -error, points)
    return float(np.trapezoid(risk - oracle, coverage))


def interval_coverage(low: np.ndarray, high: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Return the share, %, of pixels that count whose truth lies in [low, high]; a hole is outside."""
    counts = counted(truth, mask)
    true = truth[counts]
    with np.errstate(invalid="ignore"):
        return 100 * float(((low[counts] <= true) & (true <= high[counts])).mean())
