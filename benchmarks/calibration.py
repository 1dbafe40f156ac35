"""Calibrated sampling against every multistep solver, on noises that the fit has not seen.

    python benchmarks/calibration.py [--seeds 5] [--json FILE]

Digits: the packaged network (shared/digits_denoiser), root mean square difference from its own exact ODE (Heun, 200
steps) and Frechet distance to the 1797 images in pixel space; mean over held-out seeds, with the spread (standard
deviation over seeds). Every rival is shown at the best of the grids karras, log_snr and trailing for that number of
calls. Guidance: exact scores of 4 Gaussians in 8 dimensions, the last of which is the class, and the packaged
transformer of labelled digits (shared/digits_dit); an error is that to the exact ODE of the guided denoiser. Needs the
extra `dev`. The other networks are measured by `fewstep bench core`.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
from shared.denoiser import Denoiser, NetworkDenoiser
from shared.digits import EXACT_STEPS, load_digits_denoiser
from shared.examples import CLASSES, labelled, load_example
from shared.numbers import write_numbers
from shared.process import NoiseProcess, Time
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
        **{
            f"{n} calls, history {history}, fit seed {seed}": partial(
                drawn, calibrate(DENOISER, PROCESS, digits_noise(64, seed), n, history=history)
            )
            for n in (5, 8)
            for history in (2, 3)
            for seed in (1, 2, 3)
        },
    }
    found = {name: [] for name in ways}
    for seed in range(count):
        x = digits_noise(2048, HELD_OUT_SEED + 100 + seed)
        for name, way in ways.items():
            found[name].append(frechet(way(x).flatten(1), data))
    show("Digits: Frechet distance", found)
    ratios = {name: [a / b for a, b in zip(values, found["exact_ode"], strict=True)] for name, values in found.items()}
    show("Digits: the same as ratio to the exact ODE", ratios)
    return {f"digits.{name}.frechet": statistics.mean(values) for name, values in found.items()} | {
        f"digits.{name}.frechet_ratio_to_exact_ode": statistics.mean(values) for name, values in ratios.items()
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
        for history in (1, 3, 4):
            fitted = calibrate(DENOISER, PROCESS, digits_noise(64, 1), calls, history=history)
            rows[f"{calls} calls, 64 noises, history {history}"] = seeds.errors(partial(drawn, fitted))
    show("Digits: what the fit depends on (error of x0; 64 noises of seed 1, history 2 unless said)", rows)
    fitted = load_calibration("shared/digits_denoiser_5")
    whole = drawn(fitted, seeds.x[0])
    parts = torch.cat([drawn(fitted, part) for part in seeds.x[0].split(7)])
    numbers["digits.calibrated.5.batch_7_against_whole_batch"] = float((whole - parts).abs().max())
    print(f"largest difference between batches of 7 and one batch: {float((whole - parts).abs().max()):.2g}\n")
    return numbers | {f"digits.{name}.rmse": statistics.mean(errors) for name, errors in rows.items()}


@dataclass(frozen=True)
class Guided:
    """D + scale (D of the class - D); a calibration knows it by its network's weights, if it has one, and its scale."""

    plain: Denoiser
    of_class: Denoiser
    scale: float

    @property
    def network(self) -> object:
        """Return the network."""
        return getattr(self.plain, "network", self.plain)

    def __call__(self, x: Tensor, t: Time, /) -> Tensor:
        """Return the guided estimate."""
        unconditional = self.plain(x, t)
        return unconditional + self.scale * (self.of_class(x, t) - unconditional)


@dataclass(frozen=True)
class Conditional:
    """A conditional model: its classes are drawn with the noises, so fit and measurement see different ones.

    Attributes:
        name: for the reader.
        process: noise process.
        shape: of one sample.
        dtype: of the noises.
        pair: from (number of samples, seed) the denoisers without and with class.
        fit_count: noises of the fit.
        count: noises of the measurement.
    """

    name: str
    process: NoiseProcess
    shape: tuple[int, ...]
    dtype: torch.dtype
    pair: Callable[[int, int], tuple[Denoiser, Denoiser]]
    fit_count: int
    count: int

    def noise(self, count: int, seed: int) -> Tensor:
        """Return noises."""
        return self.process.noise((count, *self.shape), torch.Generator().manual_seed(seed), dtype=self.dtype)


def mixture_model() -> Conditional:
    """Return the mixture whose class is its last component."""
    process = VariancePreserving.linear()
    everything = MixtureDenoiser(process)
    members = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64).clamp_min(1e-30)
    pair = everything, replace(everything, weights=members)
    return Conditional("mixture", process, (8,), torch.float64, lambda count, seed: pair, 64, 256)


def transformer_model() -> Conditional:
    """Return the diffusion transformer of digits, a random class for each sample."""
    model = load_example("shared/digits_dit")
    plain = model.denoiser
    assert isinstance(plain, NetworkDenoiser)

    def pair(count: int, seed: int) -> tuple[Denoiser, Denoiser]:
        labels = torch.randint(CLASSES, (count,), generator=torch.Generator().manual_seed(seed))
        return plain, labelled(plain, labels)

    return Conditional("transformer", model.process, model.shape, torch.float32, pair, 16, 128)


def guidance_numbers(model: Conditional) -> dict[str, float]:
    """Fit at one guidance scale, use at another; what `Calibration.bind` refuses is used here on purpose."""
    scales = (0.0, 1.0, 2.0, 4.0)
    fits = {
        scale: calibrate(
            Guided(*model.pair(model.fit_count, 1), scale), model.process, model.noise(model.fit_count, 1), 5,
            guidance=scale,
        )
        for scale in scales
    }  # fmt: skip
    rows: dict[str, list[float]] = {f"fitted at {scale:g}": [] for scale in scales}
    plain: list[float] = []
    x = model.noise(model.count, HELD_OUT_SEED)
    for used in scales:
        denoiser = Guided(*model.pair(model.count, HELD_OUT_SEED), used)
        exact = sample(denoiser, x, log_snr_grid(model.process, 80), Multistep(3, corrector=True))
        for scale, fitted in fits.items():
            rows[f"fitted at {scale:g}"].append(rms(sample(denoiser, x, fitted.grid, fitted.solver), exact))
        solver = Multistep.dpm_solver_pp_2m()
        plain.append(min(rms(sample(denoiser, x, GRIDS[g](model.process, 5), solver), exact) for g in GRID_NAMES))
    rows["DPM-Solver++(2M), best grid"] = plain
    table = Table("", *(f"used at {scale:g}" for scale in scales), title=f"{model.name}, 5 calls: guidance scales")
    for name, values in rows.items():
        table.add_row(name, *(f"{value:.3g}" for value in values))
    Console(width=120).print(table)
    return {
        f"guidance.{model.name}.{name}, used at {scale:g}.rmse": value
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
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--json", type=Path, help="also write the numbers as a flat JSON object")
    settings = parser.parse_args(arguments)
    torch.set_num_threads(settings.threads)
    seeds = Seeds(settings.seeds, settings.samples)
    numbers = (
        guidance_numbers(mixture_model())
        | guidance_numbers(transformer_model())
        | solver_numbers(seeds)
        | frechet_numbers(settings.seeds)
        | transfer_numbers(seeds)
    )
    if settings.json is not None:
        write_numbers(settings.json, numbers)


if __name__ == "__main__":
    main()
