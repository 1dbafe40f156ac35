"""Files of a pair to a `StereoPair`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from robotics.stereo.calibration import read_calibration
from robotics.stereo.formats import read_disparity, read_image
from robotics.stereo.pair import StereoPair
from shared.errors import InputError


def read_pair(
    left: Path,
    right: Path,
    *,
    calib: Path | None = None,
    calib_right: Path | None = None,
    baseline: float | None = None,
) -> StereoPair:
    """Read two images and, if one is given, their calibration.

    Args:
        left: image.
        right: image of the same size.
        calib: calibration, see `read_calibration`.
        calib_right: ROS file of the right camera.
        baseline: m, instead of the calibration's.

    Raises:
        InputError: a file that cannot be read, images of two sizes, a calibration for another size, or a baseline
            without a calibration.
    """
    images = read_image(left), read_image(right)
    (height, width), (other_height, other_width) = (image.shape[:2] for image in images)
    if (height, width) != (other_height, other_width):
        raise InputError(
            right, found=f"{other_width}x{other_height} pixels", expected=f"{width}x{height} as {left}",
            fix="Give two images of one rectified pair.",
        )  # fmt: skip
    if calib is None:
        if baseline is not None:
            raise InputError(
                "--baseline", found=f"{baseline:g} m without a calibration", expected="--calib with focal length and "
                "centre", fix="Give --calib.",
            )  # fmt: skip
        return StereoPair(*images)
    camera = read_calibration(calib, right=calib_right, size=(width, height), baseline=baseline)
    return StereoPair(*images, camera)


def read_raw(path: Path, pair: StereoPair, encoding: str = "auto", scale: float | None = None) -> np.ndarray:
    """Read a sensor's map of a pair's left image, (height, width) float32 in px with NaN in holes.

    Args:
        path: see `read_disparity`.
        pair: whose size it must have, and whose camera turns depths into disparities.
        encoding: of the file.
        scale: grey levels a pixel of an 8-bit map.

    Raises:
        InputError: as of `read_disparity`, a map of another size, or one of holes alone.
    """
    values = read_disparity(path, encoding, scale=scale, camera=pair.camera)
    height, width = pair.left.shape[:2]
    if values.shape != (height, width):
        raise InputError(
            path, found=f"{values.shape[1]}x{values.shape[0]} pixels", expected=f"{width}x{height} as the images",
            fix="Give the map of the left image at its size.",
        )  # fmt: skip
    if not np.isfinite(values).any():
        raise InputError(
            path, found="NaN or holes in every pixel", expected="a map that knows some", fix="Check the encoding, or "
            "begin with --first sgbm.",
        )  # fmt: skip
    return values
