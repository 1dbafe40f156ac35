"""A pair to a disparity map with its confidence: first map, samples, the right map, and what they say together.

    result = estimate(model, pair, EstimateSettings(), generator=torch.Generator().manual_seed(0))
    result.disparity, result.confidence         # (height, width); disparity NaN where the confidence is too low

The right map comes from the same network: both images mirrored and exchanged, the map mirrored back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt

from robotics.stereo.confidence import Confidence, disagreement, trouble
from robotics.stereo.config import Settings
from robotics.stereo.guidance import Guidance, GuidanceWeights
from robotics.stereo.model import StereoModel
from robotics.stereo.pair import StereoPair
from robotics.stereo.resizing import Size, resized_disparity, resized_image, shrunk_disparity
from robotics.stereo.sgbm import sgbm
from robotics.stereo.subpixel import refined
from robotics.stereo.video import VideoPair
from shared.errors import InputError

FAR = 0.3  # of the width: the largest disparity that is searched, without other words


class EstimateSettings(Settings):
    """How a map is made.

    Attributes:
        calls: of the network, for each sample. One gives the middle of what is possible, on average nearest to the
            truth; more walk to one possibility, and guidance needs two.
        samples: drawn in one batch; their median, refined below a pixel, is the map, their spread a sign of trouble.
        first: what the sampling begins from: "sgbm", the "raw" map that is given, or "none", the best of the network's
            own cost volume.
        enlarge: how many times larger than they are the network sees the images. It works at a quarter of their size,
            so that in small pictures what is thin is found only so; the time grows with the square.
        glass: share of the picture that is expected to be glass or mirrors. Where they are likely the map follows
            what the whole picture tells of their surface, not what is seen through or in them; 0 does not look for
            them.
        max_disparity: px; None is 30 % of the width.
        threshold: confidence below which the map has a hole; 0 leaves it dense.
        guidance: of the left map, with the right one known.
    """

    calls: PositiveInt = 1
    samples: PositiveInt = 4
    first: Literal["sgbm", "raw", "none"] = "sgbm"
    enlarge: Annotated[float, Field(ge=1, le=4)] = 1.0
    glass: Annotated[float, Field(ge=0, lt=1)] = 0.0
    max_disparity: PositiveFloat | None = None
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.0
    guidance: GuidanceWeights = GuidanceWeights()


@dataclass(frozen=True)
class StereoResult:
    """Maps of the left image, (height, width) float32.

    Attributes:
        disparity: px; NaN in holes.
        dense: the same without holes.
        spread: standard deviation of the samples, px.
        disagreement: with the right map, px; NaN where the partner is out of view.
        known: bool, where the first map had measured.
        right: disparity of the right image, px.
        confidence: chance that the error is at most 1 px; None for a model without a fitted one.
        interval: half of the width of the 90 % interval, px; None likewise.
        warm: whether the map started from the last frame.
    """

    disparity: np.ndarray
    dense: np.ndarray
    spread: np.ndarray
    disagreement: np.ndarray
    known: np.ndarray
    right: np.ndarray
    confidence: np.ndarray | None
    interval: np.ndarray | None
    warm: bool


def estimate(
    model: StereoModel,
    pair: StereoPair,
    settings: EstimateSettings | None = None,
    *,
    raw: np.ndarray | None = None,
    confidence: Confidence | None = None,
    generator: torch.Generator | None = None,
    video: VideoPair | None = None,
) -> StereoResult:
    """Make a map.

    Args:
        model: that draws.
        pair: rectified images.
        settings: how.
        raw: a sensor's map of the left image, (height, width) in px, NaN in holes; for `first="raw"`, and for guidance.
        confidence: fitted numbers; None for the model's own, and without those confidence and interval are left out.
        generator: source of all noise.
        video: the last frame, from which this one starts, and then this one; a frame that starts from noise takes its
            number of calls.

    Raises:
        InputError: a raw map that is asked for and absent, of another size, or a threshold without a confidence.
    """
    chosen = settings or EstimateSettings()
    if raw is None and (chosen.first == "raw" or chosen.guidance.raw):
        raise InputError("raw", found="none", expected="a sensor's map", fix="Give one, or begin and guide without it.")
    judge = confidence or model.confidence
    if chosen.threshold and judge is None:
        raise InputError(
            "threshold", found=f"{chosen.threshold:g}, and a model without a fitted confidence", expected="0",
            fix="Fit one with `fewstep stereo calibrate`, or leave the threshold out.",
        )  # fmt: skip
    height, width = pair.left.shape[:2]
    far = chosen.max_disparity or FAR * width
    left, right = pair.left, pair.right
    first = raw if chosen.first == "raw" else _matched(left, right, far, chosen.first)
    mirrored = np.ascontiguousarray(right[:, ::-1]), np.ascontiguousarray(left[:, ::-1])
    # A sensor's map is of the left camera: the right one begins as if there were none.
    other = _matched(*mirrored, far, "none" if chosen.first == "raw" else chosen.first)
    size = round(chosen.enlarge * height), round(chosen.enlarge * width)

    def seen(pair: tuple[np.ndarray, np.ndarray], first: np.ndarray | None) -> tuple[Any, ...]:
        """Return what the network looks at: images, first map and largest disparity at the size it sees."""
        return *(resized_image(image, size) for image in pair), _resized(first, size), far * size[1] / width

    memory = video or VideoPair.of(model, calls=chosen.calls)
    drawn = memory.right.draw(*seen(mirrored, other), glass=chosen.glass, samples=1, generator=generator).drawn
    from_right = drawn.disparity[0].cpu().numpy()[:, ::-1].copy()
    guidance = None
    if not chosen.guidance.off:
        maps = from_right, _resized(raw, size)
        tensors = (None if value is None else torch.from_numpy(value).to(model.device) for value in maps)
        guidance = Guidance(chosen.guidance, *tensors)
    frame = memory.left.draw(
        *seen((left, right), first), glass=chosen.glass, samples=chosen.samples, generator=generator, guidance=guidance
    )
    samples = np.stack([shrunk_disparity(one, (height, width)) for one in frame.drawn.disparity.cpu().numpy()])
    from_right = shrunk_disparity(from_right, (height, width))
    # Of an even number the lower one in the middle: the mean of both could lie between two surfaces.
    dense = np.sort(samples, 0)[(chosen.samples - 1) // 2]
    if chosen.first != "raw":  # a sensor knows fractions of a pixel by itself
        dense = refined(dense, left, right)
    spread = samples.std(0).astype(np.float32)
    apart = disagreement(dense, from_right)
    known = np.zeros(dense.shape, bool) if first is None else np.isfinite(first)
    signs = trouble(spread, apart, known)
    sure = None if judge is None else judge.probability(signs)
    return StereoResult(
        disparity=dense if sure is None else np.where(sure < chosen.threshold, np.float32(np.nan), dense),
        dense=dense,
        spread=spread,
        disagreement=apart,
        known=known,
        right=from_right,
        confidence=sure,
        interval=None if judge is None else judge.interval(signs),
        warm=frame.warm,
    )


def _matched(left: np.ndarray, right: np.ndarray, far: float, first: str) -> np.ndarray | None:
    return sgbm(left, right, far) if first == "sgbm" else None


def _resized(disparity: np.ndarray | None, size: Size) -> np.ndarray | None:
    return None if disparity is None else resized_disparity(disparity, size)
