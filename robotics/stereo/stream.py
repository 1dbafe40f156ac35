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
        size = reduced.left.shape[:2]
        raw = None if depth is None else _raw(depth, reduced.camera, (height, width), size)
        far = (self.settings.max_disparity or FAR * width) * size[1] / width
        found = estimate(
            self.model,
            reduced,
            self.settings.model_copy(update={"max_disparity": far}),
            raw=raw,
            generator=torch.Generator().manual_seed(self.seed),
            video=self._memory,
        )
        return StreamFrame(
            disparity=enlarge_disparity(found.disparity, (height, width)),
            confidence=None if found.confidence is None else _resized(found.confidence, (height, width), "linear"),
            warm=found.warm,
        )


def reduce_pair(pair: StereoPair, scale: float) -> StereoPair:
    """Return the pair with width and height times `scale`, rounded, each pixel the mean of what it covers.

    Raises:
        InputError: less than 32 px would remain of an image that is larger.
    """
    height, width = pair.left.shape[:2]
    size = round(scale * height), round(scale * width)
    if size == (height, width):
        return pair
    if min(size) < LEAST:
        raise InputError(
            "scale", found=f"{scale:g}, which leaves {size[1]}x{size[0]} of {width}x{height} pixels",
            expected=f"at least {LEAST} pixels each", fix="Choose a larger one.",
        )  # fmt: skip
    left, right = (_resized(image, size, "area") for image in (pair.left, pair.right))
    return StereoPair(left, right, None if pair.camera is None else pair.camera.resized(size[1], size[0]))


def enlarge_disparity(disparity: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a map at a larger size, float32, its disparities in px of that size.

    Linear between pixels where that is within 0.5 px of the nearest one; there, the nearest: between an object and what
    is behind it is nothing, and a hole stays a hole.

    Args:
        disparity: (height, width), px, NaN in holes.
        size: height, width.
    """
    if disparity.shape == size:
        return disparity
    nearest, linear = (_resized(disparity, size, kind) for kind in ("nearest", "linear"))
    with np.errstate(invalid="ignore"):
        close = np.abs(linear - nearest) <= NEAR
    return (np.where(close, linear, nearest) * (size[1] / disparity.shape[1])).astype(np.float32)


def _raw(depth: np.ndarray, camera: StereoCamera | None, size: tuple[int, int], reduced: tuple[int, int]) -> np.ndarray:
    """Return the disparity that a depth in metres means at the reduced size, NaN in holes and below 0."""
    if depth.shape != size:
        raise InputError(
            "raw depth", found=f"{depth.shape[1]}x{depth.shape[0]} pixels", expected=f"{size[1]}x{size[0]} as the "
            "left image", fix="Give the depth in the left camera's view and size.",
        )  # fmt: skip
    if camera is None:
        raise InputError("raw depth", found="no camera", expected="focal length and baseline", fix="Calibrate.")
    disparity = camera.disparity(_resized(depth, reduced, "nearest"))
    with np.errstate(invalid="ignore"):
        return np.where(disparity >= 0, disparity, np.float32(np.nan))


def _resized(values: np.ndarray, size: tuple[int, int], kind: str) -> np.ndarray:
    import cv2

    kinds = {"area": cv2.INTER_AREA, "linear": cv2.INTER_LINEAR, "nearest": cv2.INTER_NEAREST_EXACT}
    if values.shape[:2] == size:
        return values
    return cv2.resize(values, size[::-1], interpolation=kinds[kind])
