r"""The last fraction of a pixel, by least squares on the images themselves.

Matchers that search whole pixels, and networks that begin from them, draw disparities towards whole numbers. With
L(x), R = R(x - d), g = R'(x - d), means over a window taken away from all three and a = |L| / |R| over it, which
leaves out brightness and gain,

    delta = - sum a g (L - a R) / sum (a g)^2

minimises sum (L - a R + a g delta)^2: steps of Gauss and Newton, of half a pixel at most together. A pixel stays as
it is where the window shows hardly any slope, lies on an edge of the disparity or out of the right image, and where
the images agree no better afterwards.

Reference: Lucas and Kanade, An Iterative Image Registration Technique, IJCAI 1981, eq. 4.
"""

from __future__ import annotations

import numpy as np

WINDOW = 9  # px
REACH = 0.5  # px
ROUNDS = 3
SLOPE = 4.0  # least variance of g over a window, squared grey levels a squared px: that of noise of 3 levels
STEP = 1.0  # px: disparities in a window that differ by more are an edge


def refined(disparity: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return a map moved by up to half a pixel to where the images fit best, (height, width) float32.

    Args:
        disparity: (height, width) float32 of the left image, px, no holes.
        left: (height, width, 3) uint8.
        right: likewise.
    """
    import cv2

    ours, other = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) for image in (left, right))
    height, width = disparity.shape
    columns = np.arange(width, dtype=np.float32)[None]
    rows = np.repeat(np.arange(height, dtype=np.float32)[:, None], width, 1)
    slope = np.zeros_like(other)
    slope[:, 1:-1] = (other[:, 2:] - other[:, :-2]) / 2

    def mean(values: np.ndarray) -> np.ndarray:
        return np.asarray(cv2.boxFilter(values, -1, (WINDOW, WINDOW), borderType=cv2.BORDER_REFLECT))

    mean_ours = mean(ours)
    spread_ours = mean(ours * ours) - mean_ours**2

    def fit(at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return delta, the variance of g, and what the images differ by, (0 to 2) |L|^2, at a map."""
        seen, g = (
            cv2.remap(image, columns - at, rows, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
            for image in (other, slope)
        )
        mean_seen, mean_g = mean(seen), mean(g)
        spread = mean(seen * seen) - mean_seen**2
        steep = mean(g * g) - mean_g**2
        gain = np.sqrt(np.maximum(spread_ours, SLOPE) / np.maximum(spread, SLOPE))
        both = (mean(g * ours) - mean_g * mean_ours) / gain - (mean(g * seen) - mean_g * mean_seen)
        apart = 2 * (spread_ours - gain * (mean(ours * seen) - mean_ours * mean_seen))
        return -both / np.maximum(steep, SLOPE), steep, apart

    window = np.ones((WINDOW, WINDOW), np.uint8)
    smooth = cv2.dilate(disparity, window) - cv2.erode(disparity, window) < STEP
    step, steep, before = fit(disparity)
    taken = smooth & (steep > SLOPE) & (disparity <= columns)
    found, after = disparity, before
    for _ in range(ROUNDS):
        found = np.clip(found + np.where(taken, step, np.float32(0)), disparity - REACH, disparity + REACH)
        step, _, after = fit(found)
    return np.where(taken & (after < before), found, disparity).astype(np.float32)
