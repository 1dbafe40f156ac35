"""The parameters of the stereo node: one table for their declaration, one function for what they mean together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from robotics.ros2.parameters import Spec, one_of
from robotics.stereo.estimation import EstimateSettings
from robotics.stereo.video import VideoSettings

DEFAULTS = EstimateSettings()
FIRSTS = ("sgbm", "raw", "none")

SPECS: dict[str, Spec] = {
    "weights": Spec("robotics/stereo_small", "model file (.safetensors) or packaged name"),
    "device": Spec("cpu", "where the network runs: cpu, cuda, cuda:1, ..."),
    "calls": Spec(DEFAULTS.calls, "network calls of a frame that starts from noise", 1, 1000),
    "samples": Spec(DEFAULTS.samples, "of a frame, in one batch; their spread is a part of the confidence", 1, 64),
    "first": Spec(DEFAULTS.first, f"what sampling begins from: {', '.join(FIRSTS)}; raw subscribes to raw/depth"),
    "enlarge": Spec(DEFAULTS.enlarge, "how many times larger the network sees images; slower by its square", 1.0, 4.0),
    "glass": Spec(DEFAULTS.glass, "share of the picture that may be glass or mirrors; 0 looks for none", 0.0, 0.99),
    "max_disparity": Spec(0.0, "largest disparity searched, px of the image; 0 is 30 % of the width", 0.0, 4096.0),
    "threshold": Spec(DEFAULTS.threshold, "confidence below which a pixel is a hole; 0 leaves none", 0.0, 0.999),
    "video": Spec(False, "start from the last frame instead of noise, except after a cut"),
    "scale": Spec(1.0, "of width and height, where the network works; the maps have the image's size", 0.05, 1.0),
    "seed": Spec(0, "of the noise, the same in every frame", 0, 2**31 - 1),
    "slop_ms": Spec(10.0, "largest difference of the stamps of a frame; less than half of a period", 0.0, 1000.0),
    "baseline": Spec(0.0, "m; 0 takes that of right/camera_info", 0.0, 100.0),
    "depth_mm": Spec(False, "also publish depth_mm, 16UC1 in mm"),
    "silence_s": Spec(2.0, "a topic without a message for so long is an error in /diagnostics", 0.1, 3600.0),
    "check_every_s": Spec(10.0, "look so often whether the pair is rectified and left is first; 0 never", 0.0, 3600.0),
}  # fmt: skip


@dataclass(frozen=True)
class StereoNodeSettings:
    """What the parameters mean.

    Attributes:
        weights: name or path.
        device: name.
        estimate: of each frame.
        video: how a frame starts from the last one; None starts from noise.
        scale: at which the network works.
        seed: of the noise.
        slop: s.
        baseline: m; None takes that of camera_info.
        millimetres: whether depth is also sent as 16UC1.
        silence: s.
        check_every: s; None for never.
    """

    weights: str
    device: str
    estimate: EstimateSettings
    video: VideoSettings | None
    scale: float
    seed: int
    slop: float
    baseline: float | None
    millimetres: bool
    silence: float
    check_every: float | None


def read(values: dict[str, Any]) -> StereoNodeSettings:
    """Return what the parameters mean; ROS has checked types and ranges.

    Args:
        values: of all parameters.

    Raises:
        InputError: an unknown `first`.
    """
    one_of("first", values["first"], FIRSTS)
    return StereoNodeSettings(
        weights=values["weights"],
        device=values["device"],
        estimate=EstimateSettings(
            calls=values["calls"],
            samples=values["samples"],
            first=values["first"],
            enlarge=values["enlarge"],
            glass=values["glass"],
            max_disparity=values["max_disparity"] or None,
            threshold=values["threshold"],
        ),
        video=VideoSettings() if values["video"] else None,
        scale=values["scale"],
        seed=values["seed"],
        slop=values["slop_ms"] / 1000,
        baseline=values["baseline"] or None,
        millimetres=values["depth_mm"],
        silence=values["silence_s"],
        check_every=values["check_every_s"] or None,
    )


def different(fitted: Mapping[str, Any], settings: StereoNodeSettings) -> str:
    """Return the settings of a fit of a confidence that the node's are not, for people; "" where they agree."""
    asked = settings.estimate.model_dump(mode="json") | {"scale": settings.scale, "video": settings.video is not None}
    ours = {"scale": 1.0, "video": False, "glass": 0.0} | dict(fitted)
    names = ("calls", "samples", "first", "enlarge", "glass", "scale", "video")
    return ", ".join(f"{name} {ours[name]}" for name in names if name in ours and ours[name] != asked[name])
