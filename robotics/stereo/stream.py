"""A stream of frames to maps at a reduced size: what a camera needs beyond `robotics.stereo.estimation`.

    stream = StereoStream(model, settings, scale=0.5, video=VideoSettings())
    frame  = stream.frame(pair, depth)
    frame.disparity, frame.confidence           # (height, width) of the images; disparity in px of the images

Every frame draws the same noise, so a still scene gives a still map.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from robotics.stereo.camera import StereoCamera
from robotics.stereo.estimation import FAR, EstimateSettings, estimate
from robotics.stereo.model import StereoModel
from robotics.stereo.pair import StereoPair
from robotics.stereo.resizing import resized_disparity
from robotics.stereo.video import VideoPair, VideoSettings
from shared.errors import InputError

LEAST = 32  # px: no image is reduced below
NEAR = 0.5  # px of the reduced size: what interpolation may differ from the nearest value


@dataclass(frozen=True)
class StreamFrame:
    """Maps of a left image, (height, width) float32.

    Attributes:
        disparity: px; NaN in holes.
        confidence: chance that the error is at most 1 px of the reduced size; None for a model without a fitted one.
        warm: whether it started from the last frame.
    """

    disparity: np.ndarray
    confidence: np.ndarray | None
    warm: bool


class StereoStream:
    """A model and what it remembers of one pair of cameras.

    Args:
        model: that draws.
        settings: of each frame, `max_disparity` in px of the images.
        video: how a frame starts from the last one; None starts every frame from noise.
        scale: of width and height, at which the network works, in (0, 1].
        seed: of the noise.
    """

    def __init__(
        self,
        model: StereoModel,
        settings: EstimateSettings,
        *,
        video: VideoSettings | None = None,
        scale: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.model, self.settings, self.scale, self.seed = model, settings, scale, seed
        self._memory = None if video is None else VideoPair.of(model, video, calls=settings.calls)

    def reset(self) -> None:
        """Forget the last frame."""
        if self._memory is not None:
            self._memory.reset()

    def warm_up(self, runs: int = 2) -> float:
        """Make maps that nobody uses, of 320 x 240 px, cold and warm; return the seconds of the last one.

        Raises:
            InputError: weights with NaN or infinity, or settings that `estimate` refuses.
        """
        if not all(bool(value.isfinite().all()) for value in self.model.network.parameters()):
            raise InputError("weights", found="NaN or infinity", expected="numbers", fix="Train or fetch them again.")
        wide = np.random.default_rng(0).integers(0, 256, (240, 328, 3), np.uint8)
        left, right = (np.ascontiguousarray(image) for image in (wide[:, :320], wide[:, 8:]))
        camera = StereoCamera(320, 240, 250.0, 250.0, 159.5, 159.5, 119.5, 0.1)
        depth = camera.depth(np.full((240, 320), 8.0)) if self.settings.first == "raw" else None
        seconds = 0.0
        for _ in range(runs):
            begin = time.perf_counter()
            self.frame(StereoPair(left, right, camera), depth)
            seconds = time.perf_counter() - begin
        self.reset()
        return seconds

    def frame(self, pair: StereoPair, depth: np.ndarray | None = None) -> StreamFrame:
        """Make the maps of a frame.

        Args:
            pair: rectified images; with a camera where depth is given.
            depth: a sensor's depth of the left image, (height, width) in m, NaN in holes; for `first="raw"`.

        Raises:
            InputError: as `estimate`, a depth of another size than the images, or without a camera.
        """
        height, width = pair.left.shape[:2]
        reduced = reduce_pair(pair, self.scale)
        rows, columns = reduced.left.shape[:2]
        far = (self.settings.max_disparity or FAR * width) * columns / width
        found = estimate(
            self.model,
            reduced,
            self.settings.model_copy(update={"max_disparity": far}),
            raw=None if depth is None else resized_disparity(_raw(depth, pair.camera), (rows, columns)),
            generator=torch.Generator().manual_seed(self.seed),
            video=self._memory,
        )
        return StreamFrame(
            disparity=enlarge_disparity(found.disparity, width, height),
            confidence=None if found.confidence is None else _linear(found.confidence, width, height),
            warm=found.warm,
        )


def reduce_pair(pair: StereoPair, scale: float) -> StereoPair:
    """Return the pair with width and height times `scale`, rounded.

    Raises:
        InputError: less than 32 px would remain of an image that is larger.
    """
    height, width = pair.left.shape[:2]
    size = round(scale * width), round(scale * height)
    if size == (width, height):
        return pair
    if min(size) < LEAST:
        raise InputError(
            "scale", found=f"{scale:g}, which leaves {size[0]}x{size[1]} of {width}x{height} pixels",
            expected=f"at least {LEAST} pixels each", fix="Choose a larger one.",
        )  # fmt: skip
    return pair.resized(*size)


def enlarge_disparity(disparity: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return a map at a larger size, float32, its disparities in px of that size.

    Linear between pixels where that is within 0.5 px (of the smaller size) of the nearest one; elsewhere, the nearest:
    between an object and what is behind it is nothing, and a hole stays a hole.

    Args:
        disparity: (height, width), px, NaN in holes.
        width: of the larger map, px.
        height: likewise.
    """
    if disparity.shape == (height, width):
        return disparity
    share = width / disparity.shape[1]
    nearest, linear = resized_disparity(disparity, (height, width)), share * _linear(disparity, width, height)
    with np.errstate(invalid="ignore"):
        close = np.abs(linear - nearest) <= NEAR * share
    return np.where(close, linear, nearest).astype(np.float32)


def _raw(depth: np.ndarray, camera: StereoCamera | None) -> np.ndarray:
    """Return the disparity that a depth in metres means, NaN in holes and below 0."""
    if camera is None:
        raise InputError("raw depth", found="no camera", expected="focal length and baseline", fix="Calibrate.")
    if depth.shape != (camera.height, camera.width):
        raise InputError(
            "raw depth", found=f"{depth.shape[1]}x{depth.shape[0]} pixels",
            expected=f"{camera.width}x{camera.height} as the left image", fix="Give it in the left camera's view.",
        )  # fmt: skip
    disparity = camera.disparity(depth)
    with np.errstate(invalid="ignore"):
        return np.where(disparity >= 0, disparity, np.float32(np.nan))


def _linear(values: np.ndarray, width: int, height: int) -> np.ndarray:
    import cv2

    return cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR)
