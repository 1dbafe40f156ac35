"""Semi-global matching by OpenCV: the baseline, and what a depth sensor would say."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SgbmSettings:
    """Of cv2.StereoSGBM, in its three-way mode; the defaults are those of our tables.

    Attributes:
        block: edge of the matching window, px, odd.
        p1: cost of a change of disparity by 1 between neighbours.
        p2: cost of a larger change.
        left_right: largest difference of the left-right check, px.
        uniqueness: margin of the best cost over the second best, %.
        speckle_size: regions of fewer pixels are removed.
        speckle_range: change of disparity within a region, px.
        pre_filter: truncation of the filtered images' values.
    """

    block: int = 5
    p1: int = 600
    p2: int = 2400
    left_right: int = 1
    uniqueness: int = 10
    speckle_size: int = 100
    speckle_range: int = 2
    pre_filter: int = 31


def sgbm(
    left: np.ndarray, right: np.ndarray, max_disparity: float, settings: SgbmSettings | None = None, *, pad: bool = True
) -> np.ndarray:
    """Return the disparity of the left image, (height, width) float32 in px with NaN in holes.

    A disparity of 0 is a hole too: it is the end of the search, where what has no partner gathers.

    Args:
        left: (height, width, 3) or (height, width) uint8.
        right: likewise.
        max_disparity: px; the search covers at least 0 to this, in a multiple of 16.
        settings: None for the defaults.
        pad: repeat the left border of both images first, or OpenCV leaves the leftmost columns, as many as the search
            is wide, without any disparity.
    """
    import cv2

    settings = settings or SgbmSettings()
    count = 16 * max(1, math.ceil(max_disparity / 16))
    # 3-way mode splits a row into windows and needs more columns than disparities.
    border = count if pad else 0
    images = [
        cv2.copyMakeBorder(np.ascontiguousarray(image), 0, 0, border, 0, cv2.BORDER_REPLICATE)
        for image in (left, right)
    ]
    matcher = cv2.StereoSGBM_create(  # type: ignore[attr-defined]
        minDisparity=0, numDisparities=count, blockSize=settings.block, P1=settings.p1, P2=settings.p2,
        disp12MaxDiff=settings.left_right, uniquenessRatio=settings.uniqueness,
        speckleWindowSize=settings.speckle_size, speckleRange=settings.speckle_range,
        preFilterCap=settings.pre_filter,
        mode=cv2.STEREO_SGBM_MODE_SGBM_3WAY,
    )  # fmt: skip
    found = matcher.compute(*images)[:, border:]
    return np.where(found > 0, found.astype(np.float32) / 16, np.float32(np.nan))


def fill_from_background(disparity: np.ndarray) -> np.ndarray:
    """Return the disparity with every hole filled, float32: the usual filling of semi-global matching.

    A hole takes the smaller of the nearest known values left and right of it in its row, because what is hidden is
    behind; a row without any takes that of the row above, else below, and a map without any becomes 0.
    """
    filled = disparity.astype(np.float32, copy=True)
    height, width = filled.shape
    known = np.isfinite(filled)
    columns = np.arange(width)
    before = np.maximum.accumulate(np.where(known, columns, -1), axis=1)
    after = np.minimum.accumulate(np.where(known, columns, width)[:, ::-1], axis=1)[:, ::-1]
    rows = np.arange(height)[:, None]
    left = np.where(before >= 0, filled[rows, np.maximum(before, 0)], np.inf)
    right = np.where(after < width, filled[rows, np.minimum(after, width - 1)], np.inf)
    filled = np.where(known, filled, np.minimum(left, right))
    has = known.any(1)
    if not has.any():
        return np.zeros_like(filled)
    source = np.maximum.accumulate(np.where(has, np.arange(height), -1))
    source = np.where(source >= 0, source, int(has.argmax()))
    return filled[source]
