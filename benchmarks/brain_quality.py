"""What a brain model of simulated heads knows: errors by level of noise, what it hears, and how its draws compare.

    python benchmarks/brain_quality.py MODEL.safetensors --data ../shared/data/brain -o FOLDER
        [--samplings reference:64 calibrated:10 ...] [--count 24] [--seed 1] [--parts levels heard draws] [--json FILE]

| part | what |
| --- | --- |
| levels | root mean square error of x_0 on twelve heads of held-out maps, beside the Gaussian model that a network begins as |
| heard | volumes, by `medical/brain_segmenter`, of draws that were told a volume of the ventricles |
| draws | `fewstep brain qc` of draws of every sampling from the same seeds, against 45 heads simulated from the maps of the training with other seeds |

Draws and reference heads stay in FOLDER (`drawn_<sampling>`, `reference`), and a run goes on from what is there.
"""  # noqa: E501

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from medical.brain.calibrated import calibrated_sampling
from medical.brain.conditions import numbers_told
from medical.brain.files import load_brain
from medical.brain.generate import generate
from medical.brain.heads import HeadSet, Source, found_files, load_heads
from medical.brain.model import BrainModel, Sampling, brain_process
from medical.brain.output import to_voxels
from medical.brain.qc.quality import QualitySettings, quality
from medical.brain.segmenter import load_segmenter
from medical.brain.training import condition_rows
from medical.brain.volume import write_volume
from shared.numbers import write_numbers
from shared.weights import find

LEVELS = (0.03, 0.079, 0.21, 0.41, 1.2, 3.4, 12.0)  # sigma / alpha
TOLD_CM3 = (15.0, 30.0, 50.0, 70.0)
GUIDANCE = (1.0, 3.0)
HELD_OUT, MEASURED, HELD_OUT_SEED = 48, range(0, 48, 4), 1  # some of those of the training's log
REFERENCE, REFERENCE_SEED = 45, 900
NUMBERS = (
    "fd",
    "fd_real_floor",
    "mmd",
    "mmd_p",
    "ms_ssim",
    "ms_ssim_real",
    "nearest_ncc_max",
    "sharpness",
    "sharpness_real",
    "air",
)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/brain"))
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--samplings", nargs="+", default=["reference:64", "multistep:20", "calibrated:10"])
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--draw-conditions", action="store_true", help="as of fewstep brain generate, in part draws")
    parser.add_argument("--parts", nargs="+", default=["levels", "heard", "draws"])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    model, found = load_brain(given.model), {}
    if "levels" in given.parts:
        found |= levels(model, simulated(model, given, held_out=True))
    if "heard" in given.parts:
        found |= heard(model, given)
    if "draws" in given.parts:
        found |= draws(model, simulated(model, given, held_out=False), given)
    if given.json:
        write_numbers(given.json, found)


def simulated(model: BrainModel, given: argparse.Namespace, *, held_out: bool) -> HeadSet:
    """Return heads of the maps that the model was trained on, or of those it was not."""
    data, wanted = model.training["data"], set(model.training["held_out"])
    sources = [Source.model_validate({key: entry[key] for key in Source.model_fields}) for entry in data]
    files = [file for file in found_files(given.data, sources) if (file[0] in wanted) == held_out]
    name, count, seed = ("held_out", HELD_OUT, HELD_OUT_SEED) if held_out else ("reference", REFERENCE, REFERENCE_SEED)
    return load_heads(
        files, given.output / f"{name}.safetensors", count=count, size=model.config.size,
        spacing_mm=model.config.spacing_mm, contrasts=("T1w",), seed=seed,
    )  # fmt: skip


@torch.no_grad()
def levels(model: BrainModel, heads: HeadSet) -> dict[str, float]:
    """Print errors by level: of the network, alone and told all conditions, and of its Gaussian model."""
    process, chosen = brain_process(model.config.strategy), list(MEASURED)
    x0 = heads.x[chosen].float()[:, None]
    rows = condition_rows(model.config, heads)[chosen]
    around = getattr(model.network, "heads", None)
    table, found = Table("estimate", *(f"{level:g}" for level in LEVELS), title="error of x_0 at sigma / alpha"), {}

    def line(name: str, errors: list[float]) -> None:
        table.add_row(name, *(f"{error:.4f}" for error in errors))
        found.update({f"levels.{name}.{level:g}": error for level, error in zip(LEVELS, errors, strict=True)})

    times = [float(process.time_of_log_snr(-np.log(level))) for level in LEVELS]
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(5))
    noisy = [process.add_noise(x0, noise, t) for t in times]
    if around is not None:
        at = [(process.alpha(torch.tensor([t])), process.sigma(torch.tensor([t]))) for t in times]
        for name, numbers in (("Gaussian", None), ("Gaussian, told", numbers_told(model.config.conditions, rows))):
            of = around.given(numbers)
            line(name, [_rms(of.estimate(x, *level)[0], x0) for x, level in zip(noisy, at, strict=True)])
    plain = model.denoiser()
    line("network", [_rms(torch.cat([plain(v, t) for v in x.split(1)]), x0) for x, t in zip(noisy, times, strict=True)])
    if model.config.conditions:
        names = [condition.name for condition in model.config.conditions]
        each = [
            model.denoiser(conditions={
                name: heads.numbers[name][head] for name, value in zip(names, row, strict=True) if not value.isnan()
            })
            for head, row in zip(chosen, rows, strict=True)
        ]  # fmt: skip
        line("network, told", [
            _rms(torch.cat([d(v, t) for d, v in zip(each, x.split(1), strict=True)]), x0)
            for x, t in zip(noisy, times, strict=True)
        ])  # fmt: skip
    Console(width=120).print(table)
    return found


@torch.no_grad()
def heard(model: BrainModel, given: argparse.Namespace, count: int = 4) -> dict[str, float]:
    """Print the ventricles of draws that were told how large they are; the same noises for every volume."""
    segmenter, found = load_segmenter(), {}
    sampling = _sampling(model, given.model, given.samplings[-1])
    table = Table(
        "told, cm3", *(f"guidance {scale:g}" for scale in GUIDANCE), title=f"ventricles drawn, {count} noises"
    )
    for told in TOLD_CM3:
        cells = []
        for scale in GUIDANCE:
            volumes = []
            for number in range(count):
                generator = torch.Generator().manual_seed(given.seed + number)
                x = model.draw(
                    sampling=sampling, conditions={"ventricles_cm3": told}, guidance=scale, generator=generator
                )
                volumes.append(float(segmenter.soft_volumes(x, model.config.spacing_mm)["lateral_ventricles"]))
            cells.append(f"{fmean(volumes):.1f} +- {stdev(volumes):.1f}")
            found[f"heard.{told:g}.{scale:g}"] = fmean(volumes)
        table.add_row(f"{told:g}", *cells)
    Console(width=120).print(table)
    return found


def draws(model: BrainModel, heads: HeadSet, given: argparse.Namespace) -> dict[str, float]:
    """Print what `fewstep brain qc` says of draws, by sampling."""
    reference, segmenter, found = given.output / "reference", load_segmenter(), {}
    for number, (x, subject) in enumerate(zip(heads.x, heads.subjects, strict=True)):
        path = reference / f"sub-{subject.removeprefix('sub-')}x{number}_T1w.nii.gz"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            write_volume(to_voxels(x.float(), model.config.spacing_mm)[0], path, "simulated")
    rows = {}
    for name in given.samplings:
        folder = given.output / f"drawn_{name.replace(':', '_')}{'_told' * given.draw_conditions}"
        sampling = _sampling(model, given.model, name)
        for written in generate(
            model, folder, given.count, given.seed, sampling=sampling, draw_conditions=given.draw_conditions
        ):
            print(written.path, file=sys.stderr, flush=True)
        rows[name] = quality(folder, reference, segmenter, QualitySettings())
    known = [number for number in NUMBERS if number in next(iter(rows.values())).numbers]
    table = Table("sampling", *known, "p < .05", "by Holm", title=f"{given.count} draws, {len(heads)} reference heads")
    for name, row in rows.items():
        tests = [test for test in row.tests if test.unit == "cm3" and test.statistic == "mean"]
        small, corrected = (sum(getattr(test, field) < 0.05 for test in tests) for field in ("p", "p_holm"))
        table.add_row(name, *(f"{row.numbers[number]:.4g}" for number in known), str(small), str(corrected))
        found |= {f"draws.{name}.{number}": value for number, value in row.numbers.items()}
    Console(width=160).print(table)
    return found


def _sampling(model: BrainModel, path: str, name: str) -> Sampling:
    kind, steps = name.split(":")
    return calibrated_sampling(model, find(path), int(steps)) if kind == "calibrated" else Sampling(kind, int(steps))


def _rms(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean().sqrt())


if __name__ == "__main__":
    main()
