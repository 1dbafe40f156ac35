"""What travels through stereo: a pair of images with its camera, and a pair whose truth is known."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from robotics.stereo.camera import StereoCamera
from shared.errors import InputError


class Surface(IntEnum):
    """Materials in a material mask."""

    DIFFUSE = 0
    GLOSSY = 1
    MIRROR = 2
    GLASS = 3
    THIN_GLASS = 4
    TRANSLUCENT = 5


OPAQUE = (Surface.DIFFUSE, Surface.GLOSSY)
TRANSPARENT = (Surface.GLASS, Surface.THIN_GLASS)


@dataclass(frozen=True)
class StereoPair:
    """A rectified pair; a point of the left image lies in the same row of the right one, d >= 0 columns to the left.

    Attributes:
        left: (height, width, 3) uint8, RGB; a grey camera has three equal channels.
        right: likewise, same size.
        camera: geometry; None if it is unknown, and then there is no depth in metres.
    """

    left: np.ndarray
    right: np.ndarray
    camera: StereoCamera | None = None

    def __post_init__(self) -> None:
        for name, image in (("left", self.left), ("right", self.right)):
            if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
                raise InputError(
                    f"{name} image", found=f"{image.dtype} {image.shape}", expected="uint8 (height, width, 3)",
                    fix="Read it with robotics.stereo.formats.read_image.",
                )  # fmt: skip
        if self.left.shape != self.right.shape:
            raise InputError(
                "right image", found=f"{self.right.shape[1]}x{self.right.shape[0]} pixels",
                expected=f"{self.left.shape[1]}x{self.left.shape[0]} as the left image",
                fix="Give two images of one rectified pair.",
            )  # fmt: skip
        if self.camera is not None and (self.camera.height, self.camera.width) != self.left.shape[:2]:
            raise InputError(
                "calibration", found=f"for {self.camera.width}x{self.camera.height} pixels",
                expected=f"{self.left.shape[1]}x{self.left.shape[0]} as the images",
                fix="Give the calibration of these images, or resize it with StereoCamera.resized.",
            )  # fmt: skip

    def resized(self, width: int, height: int) -> StereoPair:
        """Return the pair resampled by Lanczos windows, with its camera; disparities scale by width / old width."""
        from PIL import Image

        left, right = (
            np.array(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))
            for image in (self.left, self.right)
        )
        return StereoPair(left, right, None if self.camera is None else self.camera.resized(width, height))


@dataclass(frozen=True)
class StereoSample:
    """A pair with its truth; disparities are of the first surface, so glass and mirrors count as surfaces.

    Attributes:
        pair: images and camera.
        disparity_left: (height, width) float32, px, of the left image; NaN unknown.
        disparity_right: likewise of the right image, d >= 0 too (the point lies d columns to the right in the left).
        occluded: (height, width) bool: left pixels that the right camera does not see, see `occlusion`.
        material: (height, width) uint8, values of `Surface`, of the left image.
        raw: (height, width) float32: what a depth sensor would say, px, NaN in its holes.
        seed: of the scene; None for real data.
    """

    pair: StereoPair
    disparity_left: np.ndarray
    disparity_right: np.ndarray
    occluded: np.ndarray
    material: np.ndarray
    raw: np.ndarray
    seed: int | None = None


def occlusion(disparity_left: np.ndarray, disparity_right: np.ndarray, threshold: float = 1.0) -> np.ndarray:
    """Return where a left pixel has no partner: |D_l(x) - D_r(x - D_l(x))| > threshold, or x - D_l(x) out of view.

    D_r is read at the two columns around x - D_l(x) and the nearer value counts: interpolating across the edge of an
    object would invent a depth that nothing has.

    Args:
        disparity_left: (height, width), px, NaN unknown: counted as occluded.
        disparity_right: likewise of the right image.
        threshold: px.
    """
    height, width = disparity_left.shape
    column = np.arange(width, dtype=np.float32)[None] - disparity_left
    with np.errstate(invalid="ignore"):
        inside = (column >= -0.5) & (column <= width - 0.5)
    safe = np.where(inside, column, 0.0)
    rows = np.arange(height)[:, None]
    low = np.clip(np.floor(safe).astype(np.int64), 0, width - 1)
    high = np.minimum(low + 1, width - 1)
    gaps = [np.abs(disparity_left - disparity_right[rows, columns]) for columns in (low, high)]
    with np.errstate(invalid="ignore"):
        return ~(inside & (np.fmin(*gaps) <= threshold))
