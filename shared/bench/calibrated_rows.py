"""Calibrated sampling and every solver without fitting, each in 5, 8 and 10 calls on its best grid.

A packaged calibration of the case's network is used where there is one; it must fit the network, or the bench stops.
Otherwise one is fitted on `case.fit_noise`. A rival's grid is the one with the least error on the first batch of
held-out noises itself, which favours the rival.

The row "calibrated" has in `extra` its error over that of DPM-Solver++(2M), seed by seed, and over that of the best
rival. Where the data are at hand, five calls and the exact ODE also have the Frechet and the energy distance of their
samples to them, from the same noises. The estimate of the energy distance is unbiased and crosses zero, so only the
Frechet distance has a ratio.
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from shared.bench.case import GRID_NAMES, HELD_OUT_SEED, Case, Row, measure
from shared.bench.metrics import energy_distance, frechet, rmse
from shared.calibration import Calibration, available, calibrate, load_calibration
from shared.grid import GRIDS, Grid, log_snr_grid, truncated_power_grid
from shared.sampling import Solver, sample
from shared.solvers.ddim import DDIM
from shared.solvers.dpm_solver import DPMSolver
from shared.solvers.evodiff import EVODiff
from shared.solvers.multistep import Multistep
from shared.solvers.noise_multistep import NoiseMultistep
from shared.solvers.unipc import UniPC

CALLS = (5, 8, 10)
FIT_NOISES = 64
DISTANCE_SEED = HELD_OUT_SEED + 100
EXACT_SOLVER = Multistep(3, corrector=True)
EXACT_CALLS = 60
"""Accurate to a few thousandths, far below what a distance between distributions sees; `case.exact` is finer."""
DISTANCES = {"frechet": frechet, "energy_distance": energy_distance}
REFERENCE = "DPM-Solver++(2M)"
RIVALS: dict[str, Solver] = {
    "DDIM": DDIM(),
    REFERENCE: Multistep.dpm_solver_pp_2m(),
    "DPM-Solver++(3M)": DPMSolver(3),
    "Multistep(2) with corrector": Multistep(2, corrector=True),
    "UniPC 2": UniPC(2),
    "UniPC 3": UniPC(3),
    "DEIS 2": NoiseMultistep.deis(2),
    "DEIS 3": NoiseMultistep.deis(3),
    "iPNDM 3": NoiseMultistep.ipndm(3),
    "iPNDM 4": NoiseMultistep.ipndm(4),
}
UNIFORM_ONLY: dict[str, Solver] = {"EVODiff": EVODiff(), "EVODiff without final rule": EVODiff(final_rule=False)}
TRUNCATED: dict[int, Solver] = {5: DDIM(), 8: Multistep.dpm_solver_pp_2m()}
"""What the authors of the truncated power grid use with so many calls."""


def rows(case: Case, *, quick: bool) -> list[Row]:
    """Return the rows of the module docstring.

    Args:
        case: what to measure on.
        quick: fewer samples for the distances between distributions.
    """
    found = []
    for calls in CALLS:
        rivals = rival_rows(case, calls)
        calibration = calibration_of(case, calls)
        ours = measure(
            case, f"calibrated, {calls} calls", partial(drawn, case, calibration), family="calibrated_sampling"
        )
        reference = next(row for row in rivals if row.method.startswith(REFERENCE))
        ratios = [a / b for a, b in zip(ours.errors, reference.errors, strict=True)]
        extra = {
            "rmse_ratio_to_dpmpp2m": statistics.mean(ratios),
            "rmse_ratio_to_dpmpp2m_spread": statistics.stdev(ratios) if len(ratios) > 1 else 0.0,
            "rmse_ratio_to_best_rival": ours.rmse / min(row.rmse for row in rivals),
        }
        found += [replace(ours, extra=extra), *rivals]
    count = sample_count(case, quick=quick)
    data = data_of(case, count)
    return found if data is None else _with_distances(case, found, data, count)


def rival_rows(case: Case, calls: int) -> list[Row]:
    """Return every rival with so many calls on its best grid; the name says which."""
    found = []
    x, end = case.held_out[0], case.exact[0]
    for name, solver in RIVALS.items():
        errors = {kind: rmse(_sampled(case, GRIDS[kind](case.process, calls), solver, x), end) for kind in GRID_NAMES}
        best = min(errors, key=lambda kind: errors[kind])
        found.append(_row(case, name, calls, best, solver, family="multistep_presets"))
    for name, solver in UNIFORM_ONLY.items():
        found.append(_row(case, name, calls, "log_snr", solver, family="evodiff"))
    if calls in TRUNCATED:
        grid = truncated_power_grid(case.process, calls)
        solver, name = TRUNCATED[calls], f"truncated power grid, {calls} calls"
        found.append(measure(case, name, partial(_sampled, case, grid, solver), family="truncated_power_grid"))
    return found


def calibration_of(case: Case, calls: int) -> Calibration:
    """Return the packaged calibration of the case's network, or one fitted now.

    Raises:
        InputError: a packaged calibration of another network.
    """
    name = f"{case.name}_{calls}"
    if name not in available():
        return calibrate(case.denoiser, case.process, case.fit_noise(FIT_NOISES), calls)
    calibration = load_calibration(name)
    calibration.bind(case.denoiser, process=case.process)
    return calibration


def drawn(case: Case, calibration: Calibration, x: Tensor) -> Tensor:
    """Return samples of a calibration that was checked before; checking hashes the weights."""
    return sample(case.denoiser, x, calibration.grid, calibration.solver)


def sample_count(case: Case, *, quick: bool) -> int:
    """Return how many samples a seed the distances between distributions take: fewer where a call is expensive."""
    small = case.call_flops < 1e7
    return (1024 if small else 256) if quick else (2048 if small else 512)


def data_of(case: Case, count: int) -> Tensor | None:
    """Return data that the case's network was trained on, None for exact scores."""
    from shared.examples import data

    generator = torch.Generator().manual_seed(DISTANCE_SEED)
    if case.name == "shared/action_unet":
        return data.paths(count, generator)
    if case.name == "shared/photo_unet":
        return data.patches(count, generator)
    if case.name.startswith("shared/digits"):
        return torch.cat([data.labelled_digits()[0], data.labelled_digits(held_out=True)[0]])
    return None


def _with_distances(case: Case, found: list[Row], data: Tensor, count: int) -> list[Row]:
    """Add distances to the data to the row of the fewest calibrated calls, and the row of the exact ODE."""
    calibration = calibration_of(case, CALLS[0])
    exact, ours = [], []
    for seed in range(case.seeds):
        x = case.noise(count, DISTANCE_SEED + seed)
        exact.append(_distances(sample(case.denoiser, x, log_snr_grid(case.process, EXACT_CALLS), EXACT_SOLVER), data))
        ours.append(_distances(drawn(case, calibration, x), data))
    ratios = [mine["frechet"] / theirs["frechet"] for mine, theirs in zip(ours, exact, strict=True)]
    extra = {kind: statistics.mean(one[kind] for one in ours) for kind in DISTANCES} | {
        "frechet_ratio_to_exact_ode": statistics.mean(ratios),
        "frechet_ratio_spread": statistics.stdev(ratios) if len(ratios) > 1 else 0.0,
    }
    first = f"calibrated, {CALLS[0]} calls"
    found = [replace(row, extra={**row.extra, **extra}) if row.method == first else row for row in found]
    truth = {kind: statistics.mean(one[kind] for one in exact) for kind in DISTANCES}
    return [*found, Row(case.name, "exact ODE", 2.0 * case.exact_steps, (0.0,) * case.seeds, "exact", truth)]


def _distances(drawn: Tensor, data: Tensor) -> dict[str, float]:
    return {kind: distance(drawn.cpu(), data) for kind, distance in DISTANCES.items()}


def _row(case: Case, name: str, calls: int, grid: str, solver: Solver, *, family: str) -> Row:
    draw = partial(_sampled, case, GRIDS[grid](case.process, calls), solver)
    return measure(case, f"{name}, {grid}, {calls} calls", draw, family=family)


def _sampled(case: Case, grid: Grid, solver: Solver, x: Tensor) -> Tensor:
    return sample(case.denoiser, x, grid, solver)
