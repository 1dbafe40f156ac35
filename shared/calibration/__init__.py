r"""Calibrated sampling: nodes and coefficients for one model and one number of calls, from a few exact trajectories.

    calibration = calibrate(denoiser, process, process.noise((64, 8, 8), generator), nfe=5)
    x0 = sample(denoiser, x, *calibration.bind(denoiser))

1. `teacher`: the exact ODE from each noise, kept at some seventy candidate nodes.
2. `nodes`: shortest paths through the candidates, for two costs and several discounts.
3. `coefficients`: for each path, and for each plain grid, coefficients by sequential least squares; DPM-Solver++(2M) on
   the plain grids takes part as it is, so the result is never worse than the best of them on the calibration noises.
4. The candidate with the least error at the end wins.
5. `artefact`: all of it as one JSON file.

`docs/methods/calibrated_sampling.md` has the measurements and the prior art.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version

import torch
from torch import Tensor

from shared.calibration.artefact import Calibration, Errors, available, load_calibration
from shared.calibration.coefficients import fit
from shared.calibration.identity import Identity, identify
from shared.calibration.nodes import Path, paths
from shared.calibration.teacher import PLAIN_GRIDS, candidates, follow
from shared.cosine import SPACE, Bands
from shared.denoiser import Denoiser
from shared.errors import InputError
from shared.grid import GRIDS, Grid
from shared.process import NoiseProcess
from shared.sampling import sample
from shared.solvers.banded import BandedMultistep
from shared.solvers.calibrated import CalibratedMultistep
from shared.solvers.multistep import Multistep

__all__ = ["Calibration", "Errors", "Identity", "available", "calibrate", "identify", "load_calibration"]


Solved = CalibratedMultistep | BandedMultistep


@dataclass(frozen=True)
class _Trial:
    """A candidate with its error at the end; `path` leads through the teacher's nodes where it was fitted."""

    name: str
    solver: Solved
    error: float
    path: Path = ()


def calibrate(
    denoiser: Denoiser,
    process: NoiseProcess,
    x: Tensor,
    nfe: int,
    *,
    held_out: Tensor | None = None,
    history: int = 2,
    ridge: float = 1e-6,
    nodes: int = 61,
    bands: int = 1,
    guidance: float | None = None,
    name: str | None = None,
    progress: str | None = None,
) -> Calibration:
    """Fit nodes and coefficients to a model.

    Memory: states and answers at about nodes + 3 nfe levels, 2 (nodes + 3 nfe) times the size of x.

    Args:
        denoiser: the model, with its guidance and conditioning in it.
        process: its noise process.
        x: noises at t = 1, (n, ...), from `process.noise`; 8 are enough, 64 are comfortable.
        nfe: network calls of a sampling, 1 or more.
        held_out: other noises, on which the errors are measured too.
        history: how many answers a step looks at.
        ridge: pull of the coefficients towards DDIM, relative to the size of each term.
        nodes: candidate nodes, besides those of the plain grids.
        bands: of frequencies with coefficients of their own (`shared.solvers.banded`); for more than 1, x is (n, C,
            *space). They are taken if noises that are left out of the fit end nearer with them than without, so 2
            noises are the least.
        guidance: guidance scale of the denoiser, to be recorded and checked.
        name: of the model, for the reader.
        progress: label of a progress bar for the teacher, the longest part.

    Raises:
        InputError: nfe, history, ridge or bands out of range, x without space for bands, or a model whose exact
            trajectory is not finite.
    """
    _check(nfe, history, ridge, nodes, bands)
    shells = None if bands == 1 else _shells(x, bands)
    teacher = follow(denoiser, x, candidates(process, nfe, nodes), progress=progress)
    if not torch.isfinite(teacher.states[-1]).all():
        raise InputError(
            "denoiser", found="a trajectory that is not finite", expected="finite answers at every level",
            fix="Check the process, the prediction type and the dtype.",
        )  # fmt: skip

    def fitted(shells: Bands | None, path: Path, on: slice = slice(None)) -> tuple[Solved, Tensor]:
        grid = Grid(process, tuple(teacher.grid.times[place] for place in path))
        targets = [teacher.states[place][on] for place in path[1:]]
        return fit(denoiser, x[on], targets, grid, history=history, ridge=ridge, bands=shells)

    def best_of(shells: Bands | None) -> _Trial:
        trials = []
        for label, path in (paths(teacher, nfe, ridge=ridge, bands=shells) | plain).items():
            solver, end = fitted(shells, path)
            trials.append(_Trial(label, solver, _rms(end, teacher.states[-1]), path))
        return min([*trials, *rivals.values()], key=lambda candidate: candidate.error)

    def left_out(shells: Bands | None, trial: _Trial) -> float:
        """Return the error of noises that the coefficients are not fitted on: of each half by the other."""
        if not trial.path:
            return trial.error
        ends = torch.empty_like(x)
        for half in (0, 1):
            solver, _ = fitted(shells, trial.path, slice(1 - half, None, 2))
            ends[half::2] = _drawn(denoiser, x[half::2], process, solver)
        return _rms(ends, teacher.states[-1])

    plain = {f"{kind} grid": _path_of(GRIDS[kind](process, nfe), teacher.grid) for kind in PLAIN_GRIDS}
    rivals = {
        kind: _Trial(kind, solver, _rms(_drawn(denoiser, x, process, solver), teacher.states[-1]))
        for kind, solver in baselines(process, nfe).items()
    }
    best = best_of(None)
    if shells is not None and len(x) > 1:
        banded = best_of(shells)
        if left_out(shells, banded) < left_out(None, best):
            best = banded
    seen = None
    if held_out is not None:
        end = follow(denoiser, held_out, candidates(process, nfe, 1)).states[-1]
        compared = {"": best.solver, **baselines(process, nfe)}
        errors = {kind: _rms(_drawn(denoiser, held_out, process, solver), end) for kind, solver in compared.items()}
        seen = Errors(len(held_out), errors.pop(""), errors)
    return Calibration(
        model=identify(denoiser, process, x.shape[1:], name=name),
        process=process,
        shape=tuple(x.shape[1:]),
        guidance=guidance,
        solver=best.solver,
        nodes_from=best.name,
        ridge=ridge,
        calibration=Errors(len(x), best.error, {kind: rival.error for kind, rival in rivals.items()}),
        held_out=seen,
        version=version("fewstep"),
        date=datetime.now(timezone.utc).date().isoformat(),
    )


def baselines(process: NoiseProcess, nfe: int) -> dict[str, CalibratedMultistep]:
    """Return DPM-Solver++(2M) on every plain grid, by the grid's name, as tables of coefficients."""
    tables = {}
    for kind in PLAIN_GRIDS:
        grid = GRIDS[kind](process, nfe)
        updates = Multistep.dpm_solver_pp_2m().plan(grid).updates
        tables[kind] = CalibratedMultistep(
            grid.times, tuple(update.gain for update in updates), tuple(update.weights for update in updates)
        )
    return tables


def _drawn(denoiser: Denoiser, x: Tensor, process: NoiseProcess, solver: Solved) -> Tensor:
    return sample(denoiser, x, solver.grid(process), solver)


def _path_of(grid: Grid, among: Grid) -> Path:
    """Return the places of the grid's nodes among the candidates, which contain them up to rounding."""
    times = torch.tensor(among.times, dtype=torch.float64)
    return tuple(int((times - t).abs().argmin()) for t in grid.times)


def _rms(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().double().square().mean().sqrt())


def _shells(x: Tensor, bands: int) -> Bands:
    if x.ndim <= SPACE:
        raise InputError(
            "bands", found=f"{bands} for a shape {tuple(x.shape)}", expected="(n, channels, and axes of space)",
            fix="Calibrate with one band.",
        )  # fmt: skip
    return Bands.geometric(tuple(x.shape[SPACE:]), bands)


def _check(nfe: int, history: int, ridge: float, nodes: int, bands: int) -> None:
    wrong = [
        (option, value, expected)
        for option, value, low, expected in (
            ("nfe", nfe, 1, "1 call or more"),
            ("history", history, 1, "1 answer or more"),
            ("ridge", ridge, 0, "a number that is not negative"),
            ("nodes", nodes, nfe, f"at least the {nfe} calls"),
            ("bands", bands, 1, "1 band or more"),
        )
        if not value >= low
    ]
    for option, value, expected in wrong:
        raise InputError(option, found=f"{value}", expected=expected, fix="Correct it.")
