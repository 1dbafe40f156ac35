"""Our stereo model beside semi-global matching, on the same pairs: quality, calls, guidance, confidence, time.

    python -m benchmarks.stereo_depth --scenes FOLDER [--part NAME ...] [--data FOLDER] [--model FILE] [--json FILE]

FOLDER is `fewstep stereo generate -o FOLDER --scenes 200 --seed 20261128`: scenes that no training and no calibration
saw, simulated. All numbers are over all pixels whose truth is known, without any alignment; the baseline is OpenCV's
matcher with its left border padded (`robotics/stereo/sgbm.py`), its holes filled from the background of their row.
"Seen x2": the network sees the same images enlarged (`enlarge`), and nothing finer.

| part | what |
| --- | --- |
| scenes | the held-out scenes by material and visibility |
| middlebury | seven real pairs at a width of 320 px, zero-shot: images by area, truth by the nearest pixel |
| subpixel | textures of limited bandwidth, moved by the phase of their spectrum by 7 to 7.875 px: bias and spread |
| calls | solvers and calls against quality, one sample; the calibrated solver is fitted to the last 4 scenes |
| guidance | each cost alone and together |
| confidence | area under the sparsification error, beside single signs; coverage of the 90 % interval |
| times | milliseconds of one pair on one core, in time of the processor |
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from robotics.stereo.confidence import LARGEST
from robotics.stereo.estimation import EstimateSettings, StereoResult, estimate
from robotics.stereo.files import load_stereo
from robotics.stereo.formats import read_disparity, read_image
from robotics.stereo.guidance import GuidanceWeights
from robotics.stereo.metrics import ause, counted, evaluate, evaluate_masks, standard_masks
from robotics.stereo.model import StereoModel, View
from robotics.stereo.networks import Prepared
from robotics.stereo.official import PixelConfig, pixel_unet
from robotics.stereo.pair import StereoPair
from robotics.stereo.scenes.shards import SceneSamples
from robotics.stereo.sgbm import fill_from_background, sgbm
from shared.calibration import calibrate
from shared.denoiser import Denoiser
from shared.grid import Grid
from shared.numbers import write_numbers
from shared.process import Time, standard_normal
from shared.sampling import Solver
from shared.solvers.ancestral import Ancestral
from shared.solvers.calibrated import CalibratedMultistep
from shared.solvers.ddim import DDIM
from shared.solvers.multistep import Multistep

WIDTH = 320
JUDGED = 4  # scenes, the last ones, that a calibrated solver is fitted to
FAR = 96.0  # px: the largest disparity searched in generated scenes of that width
PAIRS = {  # file of the truth, grey levels a pixel, largest disparity in px of the full size
    "tsukuba": ("disp_left.pgm", 16.0, 16),
    "venus": ("disp_left.pgm", 8.0, 32),
    "teddy": ("disp_left.png", 4.0, 64),
    "cones": ("disp_left.png", 4.0, 64),
    "Cloth3": ("disp_left.png", 2.0, 112),
    "Aloe": ("disp_left.png", 1.0, 224),
    "Motorcycle_skimage": ("disp_left.npz", None, 80),
}
COSTS = {
    "none": GuidanceWeights(),
    "photometric": GuidanceWeights(photometric=1.0),
    "left-right": GuidanceWeights(left_right=1.0),
    "smooth": GuidanceWeights(smooth=0.3),
    "raw": GuidanceWeights(raw=1.0),
    "all": GuidanceWeights(photometric=1.0, left_right=1.0, smooth=0.3, raw=1.0),
}
WAYS = ("SGBM, filled", "ours", "ours, seen x2")
Numbers = dict[str, float]


@dataclass(frozen=True)
class Case:
    """A pair with its truth.

    Attributes:
        name: of the pair.
        pair: images.
        truth: (height, width), px, NaN unknown.
        masks: of `standard_masks`.
        far: largest disparity to search, px.
    """

    name: str
    pair: StereoPair
    truth: np.ndarray
    masks: dict[str, np.ndarray]
    far: float


def scenes(folder: Path, most: int) -> Iterator[Case]:
    """Yield the first held-out scenes."""
    data = SceneSamples(folder)
    for index in range(min(most, len(data))):
        one = data[index]
        yield Case(str(index), one.pair, one.disparity_left, standard_masks(one.occluded, one.material), FAR)


def middlebury(folder: Path) -> Iterator[Case]:
    """Yield the real pairs at a width of `WIDTH`."""
    for name, (truth, scale, far) in PAIRS.items():
        place = folder / "middlebury" / name
        left, right = (
            read_image(next(path for path in sorted(place.iterdir()) if path.stem == side))
            for side in ("left", "right")
        )
        share = WIDTH / left.shape[1]
        size = WIDTH, round(left.shape[0] * share)
        true = share * read_disparity(place / truth, scale=scale)
        true = cv2.resize(true, size, interpolation=cv2.INTER_NEAREST)
        images = [cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in (left, right)]
        yield Case(name, StereoPair(*images), true, {}, share * far)


def matched(case: Case) -> np.ndarray:
    """Return the baseline's filled map."""
    return fill_from_background(sgbm(case.pair.left, case.pair.right, case.far))


def ours(model: StereoModel, case: Case, seed: int = 0, **settings: object) -> StereoResult:
    """Return our result, from the matcher's map where nothing else is said."""
    chosen = EstimateSettings.model_validate({"max_disparity": case.far, **settings})
    return estimate(model, case.pair, chosen, generator=torch.Generator().manual_seed(seed))


def every_way(model: StereoModel, case: Case) -> dict[str, np.ndarray]:
    """Return the maps of a pair by the name of the way they were made."""
    return dict(zip(WAYS, (matched(case), ours(model, case).dense, ours(model, case, enlarge=2.0).dense), strict=True))


def pooled(parts: list[tuple[Case, np.ndarray]]) -> Numbers:
    """Return the numbers over the pixels of all cases together."""
    names = list(parts[0][0].masks)
    maps, truths = (np.concatenate([value.ravel() for value in values])[None] for values in (
        [found for _, found in parts], [case.truth for case, _ in parts]
    ))  # fmt: skip
    masks = {name: np.concatenate([case.masks[name].ravel() for case, _ in parts])[None] for name in names}
    return evaluate_masks(maps, truths, masks)


def show(console: Console, title: str, rows: dict[str, Numbers], names: list[str]) -> None:
    """Print the chosen numbers of every row."""
    table = Table("", *names, title=title)
    for row, numbers in rows.items():
        table.add_row(row, *(f"{numbers[name]:.2f}" if name in numbers else "" for name in names))
    console.print(table)


def by_scenes(model: StereoModel, options: argparse.Namespace, console: Console) -> dict[str, Numbers]:
    """Compare on the held-out scenes."""
    found: dict[str, list[tuple[Case, np.ndarray]]] = {}
    for case in scenes(options.scenes, options.most):
        for way, disparity in {
            **every_way(model, case), "ours, from nothing": ours(model, case, first="none").dense
        }.items():  # fmt: skip
            found.setdefault(way, []).append((case, disparity))
    rows = {name: pooled(parts) for name, parts in found.items()}
    for mask in ("", "opaque.", "mirror.", "glass.", "translucent.", "noc.", "occ."):
        title = f"{len(found['ours'])} generated scenes: {mask.strip('.') or 'all pixels'}"
        show(console, title, rows, [f"{mask}{name}" for name in ("epe", "bad1", "bad2", "bad3", "d1")])
    return rows


def by_middlebury(model: StereoModel, options: argparse.Namespace, console: Console) -> dict[str, Numbers]:
    """Compare on the real pairs."""
    rows: dict[str, Numbers] = {}
    for case in middlebury(options.data):
        for way, found in every_way(model, case).items():
            rows[f"{case.name}: {way}"] = evaluate(found, case.truth)
    for way in WAYS:
        chosen = [numbers for name, numbers in rows.items() if name.endswith(way)]
        rows[f"mean: {way}"] = {key: fmean(numbers[key] for numbers in chosen) for key in chosen[0]}
    show(console, f"Middlebury at width {WIDTH}, all true pixels", rows, ["epe", "bad1", "bad2", "bad3", "d1"])
    return rows


def by_subpixel(model: StereoModel, options: argparse.Namespace, console: Console) -> dict[str, Numbers]:
    """Measure the bias of fractions of a pixel."""
    rows: dict[str, Numbers] = {}
    for eighth in range(8):
        shift = 7 + eighth / 8
        case = Case(f"{shift}", moved_texture(shift), np.full((240, WIDTH), shift), {}, 32.0)
        inner = np.s_[16:-16, 48:-16]
        for way, found in every_way(model, case).items():
            error = (found - shift)[inner]
            rows[f"{shift}: {way}"] = {"bias": float(np.median(error)), "std": float(error.std())}
    show(console, "textures moved by fractions of a pixel: median error and spread, px", rows, ["bias", "std"])
    return rows


def moved_texture(shift: float) -> StereoPair:
    """Return a texture and the same moved left by `shift` px, up to a fifth of the sampling rate, periodic."""
    source = np.random.default_rng(0)
    across, down = np.fft.rfftfreq(WIDTH), np.fft.fftfreq(240)[:, None]
    radius = np.hypot(across, down)
    shape = (3, *radius.shape)
    spectrum = (source.standard_normal(shape) + 1j * source.standard_normal(shape)) * (radius < 0.2)
    images = [np.fft.irfft2(spectrum * np.exp(2j * np.pi * across * d), s=(240, WIDTH)) for d in (0.0, shift)]
    low, high = images[0].min(), images[0].max()
    left, right = (
        np.clip(255 * (image - low) / (high - low), 0, 255).round().astype(np.uint8).transpose(1, 2, 0)
        for image in images
    )
    return StereoPair(np.ascontiguousarray(left), np.ascontiguousarray(right))


def by_calls(model: StereoModel, options: argparse.Namespace, console: Console) -> dict[str, Numbers]:
    """Compare numbers of calls and solvers, one sample each, the matcher's map first."""
    solvers: dict[str, Callable[[], Solver]] = {
        "DDIM": DDIM, "Multistep 2": lambda: Multistep(order=2), "DDPM": Ancestral,
    }  # fmt: skip
    cases = [*scenes(options.scenes, options.most // 4), *middlebury(options.data)]
    rows: dict[str, Numbers] = {}
    views = [
        model.look(case.pair.left, case.pair.right, sgbm(case.pair.left, case.pair.right, case.far), case.far)
        for case in cases
    ]
    ways: dict[str, dict[str, Any]] = {
        f"{name}, {calls}": {"calls": calls, "solver": solver()}
        for name, solver in solvers.items()
        for calls in (1, 2, 4, 8, 16)
    }
    fitted = calibrated(model, options.scenes, 4)
    ways["calibrated, 4"] = {"grid": Grid(model.process, fitted.times), "solver": fitted}
    for name, way in ways.items():
        parts = []
        for case, view in zip(cases, views, strict=True):
            drawn = model.draw(view, generator=torch.Generator().manual_seed(0), **way)
            parts.append((case, drawn.disparity[0].cpu().numpy()))
        made, real = [part for part in parts if part[0].masks], [part for part in parts if not part[0].masks]
        rows[name] = pooled(made) | {
            f"middlebury.{key}": fmean(evaluate(found, case.truth)[key] for case, found in real)
            for key in ("epe", "bad1")
        }
    names = ["epe", "bad1", "opaque.bad1", "glass.bad1", "mirror.bad1", "middlebury.epe", "middlebury.bad1"]
    show(console, f"calls ({options.most // 4} scenes, {len(PAIRS)} real pairs)", rows, names)
    return rows


@dataclass(frozen=True)
class Known:
    """A denoiser that a calibration knows by its network, because its answers hold for these pairs alone."""

    denoiser: Denoiser
    network: torch.nn.Module

    def __call__(self, x: torch.Tensor, t: Time, /) -> torch.Tensor:
        """Return the estimate."""
        return self.denoiser(x, t)


def calibrated(model: StereoModel, folder: Path, calls: int) -> CalibratedMultistep:
    """Return the core's calibrated solver, fitted to scenes that no other part looks at."""
    data = SceneSamples(folder)
    seen = []
    for index in range(len(data) - JUDGED, len(data)):
        left, right = data[index].pair.left, data[index].pair.right
        seen.append(model.look(left, right, sgbm(left, right, FAR), FAR))
    together = Prepared(*(
        torch.cat([getattr(view.prepared, field.name) for view in seen]) for field in fields(Prepared)
    ))  # fmt: skip
    view = View(model, together, seen[0].height, seen[0].width)
    denoiser = Known(model.denoiser(view), model.network)
    noise = standard_normal(
        together.start.shape, torch.Generator().manual_seed(1), dtype=torch.float32, device=model.device
    )
    return calibrate(denoiser, model.process, noise, calls).solver


def by_guidance(model: StereoModel, options: argparse.Namespace, console: Console) -> dict[str, Numbers]:
    """Compare the costs; the matcher's own map is the raw one."""
    rows: dict[str, Numbers] = {}
    cases = list(scenes(options.scenes, options.most // 4))
    for name, weights in COSTS.items():
        parts = []
        for case in cases:
            raw = sgbm(case.pair.left, case.pair.right, case.far)
            chosen = EstimateSettings(calls=4, max_disparity=case.far, first="raw", guidance=weights)
            source = torch.Generator().manual_seed(0)
            parts.append((case, estimate(model, case.pair, chosen, raw=raw, generator=source).dense))
        rows[name] = pooled(parts)
    names = ["epe", "bad1", "opaque.bad1", "glass.bad1", "mirror.bad1", "glass.epe", "occ.bad1"]
    show(console, f"guidance ({len(cases)} scenes, first map and raw cost from the matcher)", rows, names)
    return rows


def by_confidence(model: StereoModel, options: argparse.Namespace, console: Console) -> dict[str, Numbers]:
    """Compare what tells wrong pixels."""
    parts: dict[str, list[np.ndarray]] = {}
    for case in scenes(options.scenes, options.most // 2):
        found = ours(model, case)
        assert found.confidence is not None
        assert found.interval is not None
        counts = counted(case.truth, None)
        apart = np.where(np.isfinite(found.disagreement), np.minimum(found.disagreement, LARGEST), LARGEST)
        inside = np.abs(found.dense - case.truth) <= found.interval
        for name, values in {
            "error": np.abs(found.dense - case.truth), "confidence": found.confidence, "left-right check": -apart,
            "spread of the samples": -found.spread, "inside": inside, "width": 2 * found.interval,
        }.items():  # fmt: skip
            parts.setdefault(name, []).append(values[counts])
    whole = {name: np.concatenate(values) for name, values in parts.items()}
    error = whole["error"]
    rows: dict[str, Numbers] = {
        name: {"ause": ause(error, whole[name])} for name in ("confidence", "left-right check", "spread of the samples")
    }
    rows["nothing"] = {"ause": ause(error, np.zeros_like(error))}
    rows["confidence"] |= {"coverage": 100 * float(whole["inside"].mean()), "width": float(np.median(whole["width"]))}
    for low in np.arange(0, 1, 0.2):
        chosen = (whole["confidence"] >= low) & (whole["confidence"] < low + 0.2 + 1e-9)
        if chosen.any():
            rows[f"said {low:.1f} to {low + 0.2:.1f}"] = {
                "said": float(whole["confidence"][chosen].mean()),
                "within 1 px": float((error[chosen] <= 1).mean()),
                "share": float(chosen.mean()),
            }
    show(console, "confidence", rows, ["ause", "coverage", "width", "said", "within 1 px", "share"])
    return rows


def by_times(model: StereoModel, options: argparse.Namespace, console: Console) -> dict[str, Numbers]:
    """Time one pair on one core."""
    rows: dict[str, Numbers] = {}
    seed = pixel_unet(PixelConfig()).eval()  # as large untrained as trained
    for size in ((320, 240), (640, 480)):
        case = next(iter(scenes(options.scenes, 1)))
        left, right = (
            cv2.resize(image, size, interpolation=cv2.INTER_LINEAR) for image in (case.pair.left, case.pair.right)
        )
        far = FAR * size[0] / WIDTH
        case = Case("", StereoPair(left, right), np.zeros(size[::-1]), {}, far)
        first = sgbm(left, right, far)
        view = model.look(left, right, first, far)
        ways: dict[str, Callable[[], object]] = {
            "SGBM": partial(sgbm, left, right, far),
            "ours: features and volume": partial(model.look, left, right, first, far),
            "ours: 1 call and the whole size": partial(model.draw, view, calls=1),
            "ours: 4 calls and the whole size": partial(model.draw, view, calls=4),
            "ours: map and confidence, 4 samples of 1 call": partial(ours, model, case),
            "ours: map and confidence, 4 samples of 4 calls": partial(ours, model, case, calls=4),
            "ours: the same, seen x2": partial(ours, model, case, calls=4, enlarge=2.0),
        }
        for name, way in ways.items():
            rows.setdefault(name, {})[f"{size[0]}x{size[1]} ms"] = milliseconds(way)
        seen = torch.zeros(1, seed.config.in_channels, size[1] // 32 * 32, size[0])
        one = milliseconds(partial(torch.no_grad()(seed), seen, 64), 1)
        rows.setdefault("D3RoMa's pixel network: 1 call", {})[f"{size[0]}x{size[1]} ms"] = one
    show(console, "time of the processor, median of 3, one thread", rows, ["320x240 ms", "640x480 ms"])
    return rows


def milliseconds(way: Callable[[], object], count: int = 3) -> float:
    """Return the median time of the processor after one run that does not count."""
    found = []
    for _ in range(count + 1):
        begin = time.process_time()
        way()
        found.append(1000 * (time.process_time() - begin))
    return float(np.median(found[1:]))


PARTS = {
    "scenes": by_scenes,
    "middlebury": by_middlebury,
    "subpixel": by_subpixel,
    "calls": by_calls,
    "guidance": by_guidance,
    "confidence": by_confidence,
    "times": by_times,
}


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return what every benchmark of a stereo model asks for."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=Path, required=True, help="held-out generated scenes")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/stereo"), help="with the folder middlebury")
    parser.add_argument("--model", default="robotics/stereo_small", help="packaged name or file")
    parser.add_argument("--most", type=int, default=200, help="scenes; some parts take fewer of them")
    parser.add_argument("--json", type=Path, help="also write all numbers")
    return parser


def main() -> None:
    """Print the tables."""
    parser = arguments(__doc__)
    parser.add_argument("--part", action="append", choices=PARTS, help="several times; default: all")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    model, console = load_stereo(options.model), Console(width=130)
    numbers: Numbers = {}
    for part in options.part or PARTS:
        for row, found in PARTS[part](model, options, console).items():
            numbers |= {f"{part}.{row}.{key}": value for key, value in found.items()}
        if options.json is not None:
            write_numbers(options.json, numbers)


if __name__ == "__main__":
    main()
