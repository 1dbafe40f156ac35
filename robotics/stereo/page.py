"""The HTML page of an estimation.

`facts` of `result_page`, which result.json holds as well:

| key | what |
| --- | --- |
| inputs | name and SHA-256 of each file |
| size, scale | (width, height) worked at, px, and its share of the images' size |
| camera | of that size, None without a calibration |
| check | numbers of `PairReport` |
| warnings | sentences |
| settings | of `EstimateSettings` |
| model | name, sha256, training, confidence: header of the model file |
| numbers | of `result_numbers` |
| network_calls, seconds, device, seed | of the estimation |
| command | that does it again |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from robotics.stereo.estimation import StereoResult
from robotics.stereo.pair import StereoPair
from shared.pictures import Window, png_bytes, render
from shared.report import Code, Picture, Report, Table

if TYPE_CHECKING:
    from PIL.Image import Image as Bitmap

SIDE = 720  # px, widest picture of the page
HOLE = (58, 62, 70)
UNITS = {
    "density": "%", "first_known": "%", "out_of_view": "%", "disparity": "px", "spread": "px", "left_right": "px",
    "interval": "px", "depth": "m",
}  # fmt: skip


def disparity_picture(disparity: np.ndarray) -> Bitmap:
    """Return a map in colours, from 0 to its 99.5th percentile, holes grey."""
    from PIL import Image

    pixels = np.array(render(disparity, Window.at_percentile(disparity), colours="heat"))
    pixels[~np.isfinite(disparity)] = HOLE
    return Image.fromarray(pixels)


def result_page(pair: StereoPair, result: StereoResult, facts: Mapping[str, Any]) -> Report:
    """Return the page of a result; see the module's docstring for the facts."""
    width, height = facts["size"]
    numbers, model = facts["numbers"], facts["model"]
    left, right = facts["inputs"]["left"]["name"], facts["inputs"]["right"]["name"]
    report = Report(f"Depth from {left} and {right}", f"{width}x{height} pixels, {numbers['density']:.1f} % known")
    report.warnings += facts["warnings"]
    report.facts |= {
        "model": f"{model['name']} (sha256 {model['sha256'][:16]})",
        "disparity": _range(numbers, "disparity", "px"),
        "depth": _range(numbers, "depth", "m") if facts["camera"] else "unknown: no calibration",
        "network calls": facts["network_calls"],
        "time": f"{facts['seconds']:.1f} s on {facts['device']}",
        "scale": facts["scale"],
    }
    report.section(
        "Pair",
        [Picture(_shown(pair.left), f"left: {left}", "left image"), Picture(_shown(pair.right), f"right: {right}",
                                                                            "right image")],
    )  # fmt: skip
    window = Window.at_percentile(result.disparity)
    said = Picture(
        _small(disparity_picture(result.disparity)), f"disparity, px [{window}]; grey: no value", "disparity map"
    )
    report.section("Disparity", [said, _trust(result)])
    report.section("Numbers", Table(("number", "value", "unit"), [(k, v, _unit(k)) for k, v in numbers.items()]))
    report.section(
        "Pair check",
        "Corners of the left image looked for in the right one: rows must agree and disparities be positive.",
        Table(("number", "value"), list(facts["check"].items())),
    )
    report.section("Settings", Table(("setting", "value"), [*facts["settings"].items(), ("seed", facts["seed"])]))
    report.section("Model", Table(("fact", "value"), _model_rows(model)))
    files = [(name, entry["name"], entry["sha256"]) for name, entry in facts["inputs"].items()]
    report.section("Provenance", Table(("input", "file", "sha256"), files), Code(facts["command"]))
    return report


def _trust(result: StereoResult) -> Picture:
    """Return the confidence or, of a model without one, the spread of the samples."""
    if result.confidence is not None:
        bitmap = render(result.confidence, Window(0.0, 1.0))
        return Picture(
            _small(bitmap), "confidence: chance that the error is at most 1 px, black 0, white 1", "confidence map"
        )
    window = Window.at_percentile(result.spread)
    return Picture(
        _small(render(result.spread, window)), f"standard deviation of the samples, px [{window}]", "spread map"
    )


def _shown(image: np.ndarray) -> bytes:
    from PIL import Image

    bitmap = Image.fromarray(image)
    bitmap.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return png_bytes(bitmap)


def _small(bitmap: Bitmap) -> bytes:
    """Return a picture of numbers at most `SIDE` wide; the nearest pixel, because a mean of two depths is neither."""
    from PIL import Image

    share = min(1.0, SIDE / bitmap.width)
    size = max(1, round(share * bitmap.width)), max(1, round(share * bitmap.height))
    return png_bytes(bitmap.resize(size, Image.Resampling.NEAREST))


def _range(numbers: Mapping[str, float], name: str, unit: str) -> str:
    if f"{name}_min" not in numbers:
        return "none"
    low, middle, high = (numbers[f"{name}_{part}"] for part in ("min", "median", "max"))
    return f"{low:.3g} to {high:.3g} {unit}, median {middle:.3g}"


def _unit(name: str) -> str:
    return next((unit for start, unit in UNITS.items() if name.startswith(start)), "")


def _model_rows(model: Mapping[str, Any]) -> list[tuple[str, Any]]:
    training, fitted = model["training"], model["confidence"]
    rows = [("name", model["name"]), ("sha256", model["sha256"])]
    rows += [(f"trained: {key}", training[key]) for key in ("steps", "scenes", "parameters", "seed") if key in training]
    if fitted is None:
        return [*rows, ("confidence", "not fitted: `fewstep stereo calibrate`")]
    rows += [(f"confidence fitted with: {key}", value) for key, value in fitted["settings"].items()]
    return rows + [(f"confidence measured: {key}", value) for key, value in fitted["measured"].items()]
