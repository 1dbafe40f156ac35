"""Images and maps at another size: each resampled as its kind allows. A size is (height, width), px."""

from __future__ import annotations

import numpy as np

Size = tuple[int, int]


def resized_image(image: np.ndarray, size: Size) -> np.ndarray:
    """Return an image (height, width, 3) uint8 at another size: by area where it shrinks, cubic where it grows."""
    import cv2

    if image.shape[:2] == size:
        return image
    how = cv2.INTER_AREA if size[0] < image.shape[0] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(np.ascontiguousarray(image), size[::-1], interpolation=how))


def resized_disparity(disparity: np.ndarray, size: Size) -> np.ndarray:
    """Return a map (height, width) float32 of images at another size: the nearest pixel, scaled with the width.

    A mean of neighbours would invent depths at edges and spread holes.
    """
    return _nearest(disparity, size) * np.float32(size[1] / disparity.shape[1])


def resized_mask(mask: np.ndarray, size: Size) -> np.ndarray:
    """Return a mask (height, width) bool at another size: the nearest pixel."""
    return _nearest(mask.astype(np.uint8), size).astype(bool)


def shrunk_disparity(disparity: np.ndarray, size: Size) -> np.ndarray:
    """Return a map without holes, made of enlarged images, at the size before: the mean over each pixel, scaled."""
    import cv2

    if disparity.shape == size:
        return disparity
    mean = cv2.resize(disparity, size[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(mean) * np.float32(size[1] / disparity.shape[1])


def _nearest(value: np.ndarray, size: Size) -> np.ndarray:
    import cv2

    if value.shape == size:
        return value
    return np.asarray(cv2.resize(np.ascontiguousarray(value), size[::-1], interpolation=cv2.INTER_NEAREST_EXACT))
