"""What an estimation leaves on disk: one folder, whole or not at all.

| file | what |
| --- | --- |
| disparity.pfm | float32 px of the left image, inf in holes |
| confidence.pfm | chance that the error is at most 1 px; of a model with a fitted confidence |
| depth.npy | float32 metres along the optical axis, NaN in holes; with a calibration |
| points.ply | coloured points in the left camera's frame, metres; with a calibration |
| disparity.png | the map in colours, holes grey |
| report.html, result.json | pictures, numbers, what was found of the pair, settings, model, provenance |
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from robotics.stereo.estimation import StereoResult
from robotics.stereo.formats import pfm_bytes, write_disparity
from robotics.stereo.geometry import points_of, write_ply
from robotics.stereo.page import disparity_picture, result_page
from robotics.stereo.pair import StereoPair
from shared.files import atomic_path
from shared.jsontext import json_text
from shared.pictures import png_bytes

KINDS = (".pfm", ".npy", ".ply", ".png", ".html", ".json")


def result_numbers(pair: StereoPair, result: StereoResult) -> dict[str, float]:
    """Return the numbers of a result.

    | name | what |
    | --- | --- |
    | density | % of pixels with a disparity |
    | disparity_min, _median, _max | of these, px |
    | first_known | % of pixels that the first map had measured |
    | spread_median | standard deviation of the samples, px |
    | out_of_view | % of pixels whose partner is outside the right image |
    | left_right_median | disagreement with the right map where it is in view, px |
    | confidence_mean, interval_median | with a confidence: mean chance, half of the 90 % interval, px |
    | depth_min, _median, _max | with a camera, m |
    """
    known = np.isfinite(result.disparity)
    numbers = {
        "density": 100 * float(known.mean()),
        **_spread("disparity", result.disparity[known]),
        "first_known": 100 * float(result.known.mean()),
        "spread_median": float(np.median(result.spread)),
    }
    seen = result.disagreement[np.isfinite(result.disagreement)]
    numbers["out_of_view"] = 100 * (1 - seen.size / result.disagreement.size)
    numbers["left_right_median"] = float(np.median(seen)) if seen.size else float("nan")
    if result.confidence is not None and result.interval is not None:
        numbers["confidence_mean"] = float(result.confidence.mean())
        numbers["interval_median"] = float(np.median(result.interval))
    if pair.camera is not None:
        depth = pair.camera.depth(result.disparity)
        numbers |= _spread("depth", depth[np.isfinite(depth)])
    return numbers


def write_result(
    folder: Path, pair: StereoPair, result: StereoResult, facts: dict[str, Any], *, overwrite: bool = False
) -> list[Path]:
    """Write the folder of the module's table and return its files.

    Args:
        folder: to make.
        pair: that was looked at.
        result: of `estimate`.
        facts: see `robotics.stereo.page`; the names of the files are added.
        overwrite: replace an earlier folder.

    Raises:
        InputError: the folder exists and may not be replaced, or holds files of other kinds.
    """
    with atomic_path(folder, overwrite=overwrite, kinds=KINDS) as scratch:
        scratch.mkdir()
        write_disparity(scratch / "disparity.pfm", result.disparity)
        if result.confidence is not None:
            (scratch / "confidence.pfm").write_bytes(pfm_bytes(result.confidence))
        if pair.camera is not None:
            np.save(scratch / "depth.npy", pair.camera.depth(result.disparity))
            write_ply(scratch / "points.ply", points_of(result.disparity, pair.camera), pair.left)
        (scratch / "disparity.png").write_bytes(png_bytes(disparity_picture(result.disparity)))
        names = sorted(path.name for path in scratch.iterdir())
        facts = {**facts, "files": [*names, "report.html", "result.json"]}
        (scratch / "report.html").write_text(result_page(pair, result, facts).html(), encoding="utf-8")
        (scratch / "result.json").write_text(json_text(facts), encoding="utf-8")
    return [folder / name for name in facts["files"]]


def _spread(name: str, values: np.ndarray) -> dict[str, float]:
    if not values.size:
        return {}
    return {
        f"{name}_min": float(values.min()),
        f"{name}_median": float(np.median(values)),
        f"{name}_max": float(values.max()),
    }
