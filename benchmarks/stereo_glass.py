"""What the branch for glass and mirrors gives and costs, by the share of them that is expected (`--glass`).

    python -m benchmarks.stereo_glass --scenes FOLDER [--data FOLDER] [--model FILE] [--most N] [--json FILE]

FOLDER is `fewstep stereo generate -o FOLDER --scenes 200 --seed 20261128`: scenes that no training saw, simulated, with
4.7 % of glass and mirrors. The real pairs (`benchmarks.stereo_depth`) have none: there the branch can only harm. All
numbers are over all pixels whose truth is known; the baseline is OpenCV's matcher, filled.
"""

from __future__ import annotations

from statistics import fmean

import cv2
import torch
from rich.console import Console

from benchmarks.stereo_depth import Case, Numbers, arguments, matched, middlebury, ours, pooled, scenes, show
from robotics.stereo.files import load_stereo
from robotics.stereo.metrics import evaluate
from robotics.stereo.model import StereoModel
from shared.numbers import write_numbers

SHARES = (0.0, 0.01, 0.05, 0.2)
MASKS = ("opaque", "mirror", "glass")


def by_share(model: StereoModel, made: list[Case], real: list[Case]) -> dict[str, Numbers]:
    """Return the numbers of the matcher and of ours with each share, by their names."""
    rows: dict[str, Numbers] = {"SGBM, filled": pooled([(case, matched(case)) for case in made])}
    rows["SGBM, filled"] |= _real([evaluate(matched(case), case.truth) for case in real])
    for share in SHARES:
        seen = pooled([(case, ours(model, case, glass=share).dense) for case in made])
        harmed = [evaluate(ours(model, case, glass=share, enlarge=2.0).dense, case.truth) for case in real]
        rows[f"ours, glass {share:g}"] = seen | _real(harmed)
    return rows


def _real(found: list[Numbers]) -> Numbers:
    return {f"real.{name}": fmean(numbers[name] for numbers in found) for name in ("epe", "bad1")}


def main() -> None:
    """Print the table."""
    options = arguments(__doc__).parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    made, real = list(scenes(options.scenes, options.most)), list(middlebury(options.data))
    rows, console = by_share(load_stereo(options.model), made, real), Console(width=130)
    for mask in MASKS:
        names = [f"{mask}.{name}" for name in ("epe", "bad1", "bad2")]
        show(console, f"{len(made)} generated scenes: {mask}", rows, names)
    show(console, "seven real pairs, seen x2, without glass", rows, ["real.epe", "real.bad1"])
    if options.json is not None:
        write_numbers(
            options.json, {f"{row}.{name}": value for row, numbers in rows.items() for name, value in numbers.items()}
        )


if __name__ == "__main__":
    main()
