"""Calibrated sampling against every multistep solver, on noises that the fit has not seen.

    python benchmarks/calibration.py [--seeds 5] [--json FILE]

Digits: the packaged network (shared/digits_denoiser), root mean square difference from its own exact ODE (Heun, 200
steps) and Frechet distance to the 1797 images in pixel space; mean over held-out seeds, with the spread (standard
deviation over seeds). Every rival is shown at the best of the grids karras, log_snr and trailing for that number of
calls. Mixture: guided exact scores of 4 Gaussians in 8 dimensions, the last of which is the class. Needs the extra
`dev`.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.train_digits import frechet, images
from shared import DDIM, GRIDS, Heun, Multistep, NoiseMultistep, UniPC, VariancePreserving, log_snr_grid, sample
from shared.calibration import Calibration, calibrate, load_calibration
from shared.denoiser import Denoiser
from shared.digits import EXACT_STEPS, load_digits_denoiser
from shared.numbers import write_numbers
from shared.process import Time
from shared.sampling import Solver
from tests.oracles.mixture import MixtureDenoiser

CALLS = (5, 8, 10)
GRID_NAMES = ("karras", "log_snr", "trailing")
HELD_OUT_SEED = 10_000
RIVALS: dict[str, Solver] = {
    "DDIM": DDIM(),
    "DPM-Solver++(2M)": Multistep.dpm_solver_pp_2m(),
    "UniPC 2": UniPC(2),
    "UniPC 3": UniPC(3),
    "DEIS 2": NoiseMultistep.deis(2),
    "DEIS 3": NoiseMultistep.deis(3),
    "iPNDM 3": NoiseMultistep.ipndm(3),
    "iPNDM 4": NoiseMultistep.ipndm(4),
}
DENOISER = load_digits_denoiser()
PROCESS = DENOISER.process


def digits_noise(count: int, seed: int) -> Tensor:
    """Return noises of digits."""
    return PROCESS.noise((count, 8, 8), torch.Generator().manual_seed(seed))


def rms(a: Tensor, b: Tensor) -> float:
    """Return the root mean square difference."""
    return float((a - b).double().square().mean().sqrt())


def drawn(calibration: Calibration, x: Tensor) -> Tensor:
    """Draw digits; `bind` would hash the weights each time."""
    return sample(DENOISER, x, calibration.grid, calibration.solver)


def plainly(x: Tensor, *, solver: Solver, grid: str, calls: int) -> Tensor:
    """Draw digits on a plain grid."""
    return sample(DENOISER, x, GRIDS[grid](PROCESS, calls), solver)


class Seeds:
    """Held-out noises with their exact ends."""

    def __init__(self, count: int, samples: int) -> None:
        self.x = [digits_noise(samples, HELD_OUT_SEED + seed) for seed in range(count)]
        self.exact = [sample(DENOISER, x, log_snr_grid(PROCESS, EXACT_STEPS), Heun()) for x in self.x]

    def errors(self, draw: Callable[[Tensor], Tensor]) -> list[float]:
        """Return the error for each seed."""
        return [rms(draw(x), exact) for x, exact in zip(self.x, self.exact, strict=True)]


def solver_numbers(seeds: Seeds) -> dict[str, float]:
    """Compare the packaged calibrations with every rival at its best grid."""
    numbers: dict[str, float] = {}
    for calls in CALLS:
        best: dict[str, list[float]] = {}
        for name, solver in RIVALS.items():
            rows = {grid: seeds.errors(partial(plainly, solver=solver, grid=grid, calls=calls)) for grid in GRID_NAMES}
            grid = min(rows, key=lambda kind: statistics.mean(rows[kind]))
            best[f"{name}, {grid}"] = rows[grid]
        ours = seeds.errors(partial(drawn, load_calibration(f"shared/digits_denoiser_{calls}")))
        reference = next(errors for name, errors in best.items() if name.startswith("DPM-Solver++(2M)"))
        ratios = [a / b for a, b in zip(ours, reference, strict=True)]
        show(f"Digits, {calls} calls: error of x0", {"calibrated": ours, **best})
        print(f"ratio to DPM-Solver++(2M): {statistics.mean(ratios):.3f} +- {statistics.stdev(ratios):.3f}\n")
        key = f"digits.calibrated.{calls}"
        numbers[f"{key}.rmse"] = statistics.mean(ours)
        numbers[f"{key}.rmse_ratio_to_dpmpp2m"] = statistics.mean(ratios)
        numbers[f"{key}.rmse_ratio_to_dpmpp2m_spread"] = statistics.stdev(ratios)
        numbers[f"{key}.rmse_ratio_to_best_rival"] = statistics.mean(ours) / min(
            statistics.mean(errors) for errors in best.values()
        )
        numbers |= {f"digits.{name}.{calls}.rmse": statistics.mean(errors) for name, errors in best.items()}
    return numbers


def frechet_numbers(count: int) -> dict[str, float]:
    """Compare distributions: 2048 samples a seed against all images."""
    data = torch.cat(images())
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "exact_ode": lambda x: sample(DENOISER, x, log_snr_grid(PROCESS, 60), Heun()),
        **{f"calibrated.{n}": partial(drawn, load_calibration(f"shared/digits_denoiser_{n}")) for n in CALLS},
        **{
            f"{name} karras 5": partial(plainly, solver=RIVALS[name], grid="karras", calls=5)
            for name in ("DPM-Solver++(2M)", "iPNDM 3")
        },
    }
    found = {name: [] for name in ways}
    for seed in range(count):
        x = digits_noise(2048, HELD_OUT_SEED + 100 + seed)
        for name, way in ways.items():
            found[name].append(frechet(way(x).flatten(1), data))
    show("Digits: Frechet distance", found)
    ratios = [a / b for a, b in zip(found["calibrated.5"], found["exact_ode"], strict=True)]
    print(f"5 calls to exact ODE: {statistics.mean(ratios):.3f} +- {statistics.stdev(ratios):.3f}\n")
    return {f"digits.{name}.frechet": statistics.mean(values) for name, values in found.items()} | {
        "digits.calibrated.5.frechet_ratio_to_exact_ode": statistics.mean(ratios)
    }


def transfer_numbers(seeds: Seeds) -> dict[str, float]:
    """Vary number and seed of the noises of the fit, and how many answers a step looks at."""
    numbers: dict[str, float] = {}
    rows: dict[str, list[float]] = {}
    for calls in (5, 10):
        for count in (8, 16, 64, 256):
            fitted = calibrate(DENOISER, PROCESS, digits_noise(count, 1), calls)
            rows[f"{calls} calls, {count} noises"] = seeds.errors(partial(drawn, fitted))
        for seed in (2, 3):
            fitted = calibrate(DENOISER, PROCESS, digits_noise(64, seed), calls)
            rows[f"{calls} calls, 64 noises, fit seed {seed}"] = seeds.errors(partial(drawn, fitted))
        for history in (1, 2, 4):
            fitted = calibrate(DENOISER, PROCESS, digits_noise(64, 1), calls, history=history)
            rows[f"{calls} calls, 64 noises, history {history}"] = seeds.errors(partial(drawn, fitted))
    show("Digits: what the fit depends on (error of x0; 64 noises of seed 1, history 3 unless said)", rows)
    fitted = load_calibration("shared/digits_denoiser_5")
    whole = drawn(fitted, seeds.x[0])
    parts = torch.cat([drawn(fitted, part) for part in seeds.x[0].split(7)])
    numbers["digits.calibrated.5.batch_7_against_whole_batch"] = float((whole - parts).abs().max())
    print(f"largest difference between batches of 7 and one batch: {float((whole - parts).abs().max()):.2g}\n")
    return numbers | {f"digits.{name}.rmse": statistics.mean(errors) for name, errors in rows.items()}


def guided(scale: float) -> Denoiser:
    """Return D + scale (D of the class - D): guidance on exact posterior means."""
    process = VariancePreserving.linear()
    everything = MixtureDenoiser(process)
    members = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64).clamp_min(1e-30)
    of_class = replace(everything, weights=members)

    def denoise(x: Tensor, t: Time, /) -> Tensor:
        plain = everything(x, t)
        return plain + scale * (of_class(x, t) - plain)

    return denoise


def guidance_numbers() -> dict[str, float]:
    """Fit at one guidance scale, use at another; what `Calibration.bind` refuses is used here on purpose."""
    process = VariancePreserving.linear()
    scales = (0.0, 1.0, 2.0, 4.0)

    def noise(seed: int) -> Tensor:
        return process.noise((256, 8), torch.Generator().manual_seed(seed), dtype=torch.float64)

    fits = {scale: calibrate(guided(scale), process, noise(1)[:64], 5, guidance=scale) for scale in scales}
    rows: dict[str, list[float]] = {f"fitted at {scale:g}": [] for scale in scales}
    plain: list[float] = []
    for used in scales:
        denoiser, x = guided(used), noise(HELD_OUT_SEED)
        exact = sample(denoiser, x, log_snr_grid(process, EXACT_STEPS), Heun())
        for scale, fitted in fits.items():
            rows[f"fitted at {scale:g}"].append(rms(sample(denoiser, x, fitted.grid, fitted.solver), exact))
        solver = Multistep.dpm_solver_pp_2m()
        plain.append(min(rms(sample(denoiser, x, GRIDS[g](process, 5), solver), exact) for g in GRID_NAMES))
    rows["DPM-Solver++(2M), best grid"] = plain
    table = Table("", *(f"used at {scale:g}" for scale in scales), title="Mixture, 5 calls: guidance scales")
    for name, values in rows.items():
        table.add_row(name, *(f"{value:.3g}" for value in values))
    Console(width=120).print(table)
    return {
        f"guidance.{name}, used at {scale:g}.rmse": value
        for name, values in rows.items()
        for scale, value in zip(scales, values, strict=True)
    }


def show(title: str, rows: dict[str, list[float]]) -> None:
    """Print mean and spread over seeds."""
    table = Table("", "mean", "spread", title=title, title_justify="left")
    for name, values in rows.items():
        spread = statistics.stdev(values) if len(values) > 1 else math.nan
        table.add_row(name, f"{statistics.mean(values):.4g}", f"{spread:.2g}")
    Console(width=120).print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="held-out seeds, two or more")
    parser.add_argument("--samples", type=int, default=256, help="noises a seed")
    parser.add_argument("--json", type=Path, help="also write the numbers as a flat JSON object")
    settings = parser.parse_args(arguments)
    torch.set_num_threads(2)
    seeds = Seeds(settings.seeds, settings.samples)
    numbers = guidance_numbers() | solver_numbers(seeds) | frechet_numbers(settings.seeds) | transfer_numbers(seeds)
    if settings.json is not None:
        write_numbers(settings.json, numbers)


if __name__ == "__main__":
    main()
