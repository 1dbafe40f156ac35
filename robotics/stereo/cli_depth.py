"""`fewstep stereo depth`: a pair of images to disparity, confidence and metres."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robotics.stereo.options import (
    Baseline,
    Calib,
    CalibRight,
    Calls,
    Enlarge,
    First,
    Glass,
    GuidanceOption,
    LeftImage,
    MaxDisparity,
    ModelName,
    RightImage,
    Samples,
    command_line,
    guidance_of,
)
from shared.errors import InputError
from shared.options import Device, Json, Overwrite, Quiet, Seed

if TYPE_CHECKING:
    from robotics.stereo.checks import PairReport
    from robotics.stereo.estimation import EstimateSettings
    from robotics.stereo.files import StereoFile


def depth(
    context: typer.Context,
    left: LeftImage,
    right: RightImage,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to make.")],
    calib: Calib = None,
    calib_right: CalibRight = None,
    baseline: Baseline = None,
    model: ModelName = "robotics/stereo_small",
    calls: Calls = 1,
    samples: Samples = 4,
    first: First = "sgbm",
    raw: Annotated[
        Path | None, typer.Option(help="A sensor's map of the left image, for --first raw and --guidance raw=...")
    ] = None,
    raw_encoding: Annotated[str, typer.Option(help="Of --raw: auto, or a name in formats.py, such as realsense.")] = (
        "auto"
    ),
    raw_scale: Annotated[float | None, typer.Option(help="Grey levels a pixel of an 8-bit --raw.")] = None,
    max_disparity: MaxDisparity = None,
    threshold: Annotated[
        float, typer.Option(min=0, max=0.999, help="Confidence below which the map has a hole; 0 keeps all.")
    ] = 0.0,
    guidance: GuidanceOption = None,
    scale: Annotated[
        float, typer.Option(min=0.05, max=1, help="Work on smaller images; the results have this size.")
    ] = 1.0,
    enlarge: Enlarge = 1.0,
    glass: Glass = 0.0,
    seed: Seed = 0,
    device: Device = "cpu",
    json: Json = None,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Estimate the disparity of a rectified pair, with a confidence and, from --calib, metres and points.

    Writes disparity.pfm, confidence.pfm, depth.npy, points.ply, disparity.png, report.html and result.json into DIR.
    --max-disparity and --raw are in pixels of the images as they are.
    """
    import torch

    from robotics.stereo.checks import require_pair
    from robotics.stereo.estimation import EstimateSettings, estimate
    from robotics.stereo.files import read_stereo
    from robotics.stereo.inputs import read_pair, read_raw
    from robotics.stereo.outputs import result_numbers, write_result
    from robotics.stereo.resizing import resized_disparity
    from shared.devices import resolve_device
    from shared.files import refuse_existing, require_writable
    from shared.ledger import Ledger
    from shared.numbers import write_numbers
    from shared.weights import sha256

    refuse_existing(output, overwrite=overwrite)
    require_writable(output)
    chosen, weights = resolve_device(device), guidance_of(guidance)
    if raw is not None and first != "raw" and weights.off:
        raise InputError(
            raw,
            found="a raw map that nothing uses",
            expected="--first raw, or --guidance",
            fix="Give one, or leave it.",
        )
    pair = read_pair(left, right, calib=calib, calib_right=calib_right, baseline=baseline)
    known = None if raw is None else read_raw(raw, pair, raw_encoding, raw_scale)
    height, width = pair.left.shape[:2]
    if scale != 1:
        size = round(scale * width), round(scale * height)
        pair, known = pair.resized(*size), None if known is None else resized_disparity(known, size[::-1])
    share = pair.left.shape[1] / width
    far = None if max_disparity is None else share * max_disparity
    report = require_pair(pair, f"{left}, {right}", far)
    settings = EstimateSettings(
        calls=calls,
        samples=samples,
        first=first,
        enlarge=enlarge,
        glass=glass,
        max_disparity=far,
        threshold=threshold,
        guidance=weights,
    )
    file = read_stereo(model)
    loaded = file.model(chosen)
    begin = time.monotonic()
    with Ledger() as ledger:
        result = estimate(loaded, pair, settings, raw=known, generator=torch.Generator().manual_seed(seed))
    seconds = round(time.monotonic() - begin, 3)
    numbers = result_numbers(pair, result)
    given = {"left": left, "right": right, "calibration": calib, "raw": raw}
    facts = {
        "inputs": {name: {"name": path.name, "sha256": sha256(path)} for name, path in given.items() if path},
        "size": [pair.left.shape[1], pair.left.shape[0]],
        "scale": share,
        "camera": None if pair.camera is None else asdict(pair.camera),
        "check": report.numbers(),
        "warnings": _warnings(report, file, settings),
        "settings": settings.model_dump(mode="json"),
        "model": {
            "name": model,
            "sha256": file.sha256,
            "training": file.training,
            "confidence": None if file.fitted is None else file.fitted.model_dump(mode="json"),
        },
        "numbers": numbers,
        "network_calls": ledger.calls,
        "seconds": seconds,
        "device": str(chosen),
        "seed": seed,
        "command": command_line(context),
    }
    paths = write_result(output, pair, result, facts, overwrite=overwrite)
    if json is not None:
        write_numbers(json, {**numbers, "network_calls": ledger.calls, "seconds": seconds})
    if not quiet:
        for name, value in numbers.items():
            typer.echo(f"{name:20}{value:.4g}")
    for warning in facts["warnings"]:
        typer.echo(f"warning: {warning}", err=True)
    for path in paths:
        typer.echo(str(path))


def _warnings(report: PairReport, file: StereoFile, settings: EstimateSettings) -> list[str]:
    found = [f"{finding.found}. {finding.fix}" for finding in report.findings]
    if file.fitted is None:
        return [*found, "The model has no fitted confidence: run `fewstep stereo calibrate`."]
    asked = settings.model_dump(mode="json")
    fitted = {"glass": 0.0} | file.fitted.settings  # files of before the branch for glass do not say
    names = [name for name in fitted if name != "max_disparity" and fitted[name] != asked[name]]
    if names:
        other = ", ".join(f"{name} {fitted[name]}" for name in names)
        found.append(f"The confidence was fitted with {other}: with other settings it is not calibrated.")
    return found
