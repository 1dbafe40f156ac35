"""How far samplings of few calls of a brain model end from its exact ODE, noise by noise.

    python benchmarks/brain_calls.py MODEL.safetensors [--noises 2] [--calls 5 10 20] [--seed 100] [--json FILE]

Exact is Heun's method on 150 levels even in log SNR (299 calls). Error: root mean square over all voxels, whose range
is 2, mean over noises; the calibrations beside the model have not seen these. Rivals: MedForj's reference (DDIM on its
levels) with 64 and 256 steps; DDIM, and DPM-Solver++ 2M on three grids, with as many calls as the calibrations.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import fmean

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from medical.brain.calibrated import calibrated_sampling
from medical.brain.files import load_brain
from medical.brain.model import brain_process, reference_grid
from shared import DDIM, GRIDS, Heun, Multistep, log_snr_grid, sample
from shared.errors import InputError
from shared.grid import Grid
from shared.numbers import write_numbers
from shared.sampling import Solver
from shared.weights import find

EXACT_LEVELS = 150
GRID_NAMES = ("karras", "log_snr", "trailing")
REFERENCE = (64, 256)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--noises", type=int, default=2)
    parser.add_argument("--calls", type=int, nargs="+", default=[5, 10, 20])
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    model = load_brain(arguments.model)
    strategy, size = model.config.strategy, model.config.size
    process, denoiser = brain_process(strategy), model.denoiser()
    rivals: dict[str, tuple[Grid, Solver]] = {
        f"reference, DDIM {steps}": (reference_grid(strategy, steps), DDIM()) for steps in REFERENCE
    }
    for calls in arguments.calls:
        rivals[f"DDIM {calls}"] = reference_grid(strategy, calls), DDIM()
        for name in GRID_NAMES:
            rivals[f"DPM-Solver++ 2M {calls}, {name}"] = GRIDS[name](process, calls), Multistep(2)
        try:
            sampling = calibrated_sampling(model, find(arguments.model), calls)
        except InputError as error:
            print(error, file=sys.stderr)
        else:
            rivals[f"calibrated {calls}"] = sampling.grid(strategy), sampling.solver()
    errors: dict[str, list[float]] = {name: [] for name in rivals}
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for number in range(arguments.noises):
        generator = torch.Generator().manual_seed(arguments.seed + number)
        noise = process.noise((1, 1, *size), generator, device=model.device)
        exact = sample(denoiser, noise, log_snr_grid(process, EXACT_LEVELS), Heun())
        for name, (grid, solver) in rivals.items():
            begin = time.process_time()
            drawn = sample(denoiser, noise, grid, solver)
            seconds[name].append(time.process_time() - begin)
            errors[name].append(float((drawn - exact).square().mean().sqrt()))
            print(f"{number} {name}: {errors[name][-1]:.4f}", file=sys.stderr, flush=True)
    base = fmean(errors["reference, DDIM 64"])
    table = Table("sampling", "calls", "error", "of DDIM 64", "CPU s", title=f"{model.name}, {arguments.noises} noises")
    for name, (grid, _) in rivals.items():
        error = fmean(errors[name])
        table.add_row(name, str(grid.steps), f"{error:.4f}", f"{error / base:.2f}", f"{fmean(seconds[name]):.1f}")
    Console().print(table)
    if arguments.json:
        write_numbers(arguments.json, {name: fmean(values) for name, values in errors.items()})


if __name__ == "__main__":
    main()
