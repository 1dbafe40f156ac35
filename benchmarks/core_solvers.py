"""Our solvers and those of diffusers and MONAI on problems whose answer is known.

    python benchmarks/core_solvers.py [--json FILE]

One process, the same exact score, the same noise. Needs the extra `diffusers`, and MONAI and SciPy (extra `dev`).

(a) Mixture: 4 Gaussians in 8 dimensions, their exact posterior mean, linear beta table of DDPM. Root mean square
    difference from the exact end of the ODE (SciPy, order 8) for 256 samples. Every solver chooses its nodes as it does
    by default or, where it can, is given ours; the number is network calls.
(b) Order: the same mixture from sigma 10 to 0.05, nodes uniform in log-SNR; errors at 160 and 320 steps give the order.
(c) Gaussian: N(0.5, 0.2^2); the standard deviation that DDIM must have on its own grid against the one that it has.
(d) Digits: the packaged network; difference from its own exact ODE.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, DEISMultistepScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from monai.networks.schedulers import DDIMScheduler as MonaiDDIM
from rich.console import Console
from rich.table import Table
from scipy.integrate import solve_ivp
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from shared import (
    DDIM,
    Denoiser,
    DPMSolver,
    EVODiff,
    Grid,
    Heun,
    Multistep,
    NoiseMultistep,
    UniPC,
    VarianceExploding,
    VariancePreserving,
    ays_grid,
    convert,
    explicit_grid,
    karras_grid,
    log_snr_grid,
    sample,
    trailing_grid,
    truncated_power_grid,
    uniform_grid,
)
from shared.digits import load_digits_denoiser
from shared.files import atomic_path
from shared.process import NoiseProcess
from tests.oracles.gaussian import GaussianDenoiser, ddim_moments
from tests.oracles.mixture import MixtureDenoiser

TABLE = VariancePreserving.from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))
CALLS = (5, 10, 20, 40)
SOLVERS = {
    "DDIM": DDIM(),
    "Multistep.dpm_solver_pp_2m()": Multistep.dpm_solver_pp_2m(),
    "Multistep(2)": Multistep(2),
    "Multistep(2, corrector=True)": Multistep(2, corrector=True),
    "Multistep(3)": Multistep(3),
    "Multistep(3, corrector=True)": Multistep(3, corrector=True),
    "Multistep(4, corrector=True)": Multistep(4, corrector=True),
    "Heun (two calls a step)": Heun(),
    "DPMSolver(3)": DPMSolver(3),
    "UniPC(2)": UniPC(2),
    "UniPC(3)": UniPC(3),
    "NoiseMultistep.deis(3)": NoiseMultistep.deis(3),
    "NoiseMultistep.ipndm(4)": NoiseMultistep.ipndm(4),
    "EVODiff()": EVODiff(per_channel=False),
    "EVODiff(final_rule=False)": EVODiff(final_rule=False, per_channel=False),
}
GRIDS_OF = {  # EVODiff takes nodes uniform in log-SNR only
    name: (log_snr_grid,) if isinstance(solver, EVODiff) else (log_snr_grid, trailing_grid, karras_grid, ays_grid)
    for name, solver in SOLVERS.items()
}
PEERS: dict[str, Callable[[], object]] = {
    "diffusers DDIM, linspace": lambda: DDIMScheduler(clip_sample=False, timestep_spacing="linspace"),
    "diffusers DDIM, leading (default)": lambda: DDIMScheduler(clip_sample=False),
    "diffusers DDIM, trailing": lambda: DDIMScheduler(clip_sample=False, timestep_spacing="trailing"),
    "diffusers DPM-Solver++ 2M, log-SNR (lu)": lambda: DPMSolverMultistepScheduler(use_lu_lambdas=True),
    "diffusers DPM-Solver++ 2M, linspace (default)": DPMSolverMultistepScheduler,
    "diffusers UniPC 2, linspace (default)": UniPCMultistepScheduler,
    "diffusers UniPC 3, linspace": lambda: UniPCMultistepScheduler(solver_order=3),
    "diffusers DEIS 2, linspace (default)": DEISMultistepScheduler,
    "MONAI DDIM": lambda: MonaiDDIM(1000, schedule="linear_beta", beta_start=1e-4, beta_end=0.02, clip_sample=False),
}

Rows = list[tuple[str, dict[str, float]]]


def run_peer(scheduler: object, calls: int, denoiser: Denoiser, x: Tensor) -> Tensor:
    """Sample with a scheduler of diffusers or MONAI; its network is asked at the timestep that it names."""
    scheduler.set_timesteps(calls)  # type: ignore[attr-defined]
    for timestep in scheduler.timesteps:  # type: ignore[attr-defined]
        t = (timestep.double() + 1) / 1000
        eps = convert(denoiser(x, t), x, t, TABLE, source="sample", target="epsilon")
        key = int(timestep) if isinstance(scheduler, MonaiDDIM | DDIMScheduler) else timestep
        result = scheduler.step(eps, key, x)  # type: ignore[attr-defined]
        x = result[0] if isinstance(result, tuple) else result.prev_sample
    return x


def exact_end(denoiser: Denoiser, process: NoiseProcess, x: Tensor, t_end: float) -> Tensor:
    """Return x/alpha at t_end from the exact ODE d(x/alpha)/d log_snr = D - x/alpha, started at t = 1."""

    def slope(log_snr: float, flat: np.ndarray) -> np.ndarray:
        t = process.time_of_log_snr(log_snr)
        scaled = torch.from_numpy(flat).reshape(x.shape)
        return (denoiser(scaled * process.alpha(t), t) - scaled).reshape(-1).numpy()

    span = (float(process.log_snr(1.0)), float(process.log_snr(t_end)))
    start = (x / process.alpha(1.0)).reshape(-1).numpy()
    end = solve_ivp(slope, span, start, method="DOP853", rtol=1e-10, atol=1e-10).y[:, -1]
    return torch.from_numpy(end).reshape(x.shape)


def rmse(a: Tensor, b: Tensor) -> float:
    """Return the root mean square difference."""
    return float((a.double() - b.double()).square().mean().sqrt())


def mixture_rows() -> Rows:
    """Table (a)."""
    denoiser = MixtureDenoiser(TABLE)
    x = torch.randn(256, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    truth = exact_end(denoiser, TABLE, x, 1e-7)  # sigma = 1e-5 there, nothing of the noise is left
    rows: Rows = []
    for name, solver in SOLVERS.items():
        for grid in GRIDS_OF[name]:
            errors = {}
            for n in CALLS:
                levels = grid(TABLE, (n + 1) // 2 if isinstance(solver, Heun) else n)
                errors[str(n)] = rmse(sample(denoiser, x, levels, solver), truth)
            rows.append((f"{name}, {grid.__name__.removesuffix('_grid')}", errors))
    for denoise in (True, False):
        levels = truncated_power_grid(TABLE, 5, denoise=denoise)
        name = f"DDIM, truncated power{'' if denoise else ', raw'}"
        rows.append((name, {"5": rmse(sample(denoiser, x, levels, DDIM()), truth)}))
    for name, make in PEERS.items():
        rows.append((name, {str(n): rmse(run_peer(make(), n, denoiser, x), truth) for n in CALLS}))
    return rows


def order_rows() -> Rows:
    """Table (b)."""
    process = VarianceExploding(sigma_min=0.05, sigma_max=10.0)
    denoiser = MixtureDenoiser(process)
    x = process.noise((256, 8), torch.Generator().manual_seed(1), dtype=torch.float64)
    truth = exact_end(denoiser, process, x, 0.05 / 10)

    def levels(n: int) -> Grid:
        return explicit_grid(process, (1.0, *(np.geomspace(10, 0.05, n + 1)[1:] / 10)))

    rows: Rows = []
    for name, solver in SOLVERS.items():
        errors = {str(n): rmse(sample(denoiser, x, levels(n), solver), truth) for n in (5, 10, 20, 80, 160, 320)}
        rows.append((name, {**errors, "order": math.log2(errors["160"] / errors["320"])}))
    return rows


def gaussian_rows() -> Rows:
    """Table (c): the standard deviation, which is the slope of an affine map; the data have 0.2."""
    denoiser = GaussianDenoiser(TABLE)
    x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    counts = (4, 10, 64, 100, 128, 256, 1000)

    def slope(result: Tensor) -> float:
        return float(result[1] - result[0])

    rows: Rows = []
    for label, spacing in (("linspace", "uniform"), ("trailing", "trailing")):
        grid = uniform_grid if spacing == "uniform" else trailing_grid
        levels = {n: grid(TABLE, n) for n in counts}
        rows.append((f"formula of DDIM, {label} levels", {
            str(n): ddim_moments(g.alpha, g.sigma, 1.0)[1] for n, g in levels.items()}))  # fmt: skip
        rows.append((f"ours, {spacing}", {str(n): slope(sample(denoiser, x, g, DDIM())) for n, g in levels.items()}))
        peer = f"diffusers DDIM, {label}"
        rows.append((peer, {str(n): slope(run_peer(PEERS[peer](), n, denoiser, x)) for n in counts}))
    rows.append(("MONAI DDIM", {str(n): slope(run_peer(PEERS["MONAI DDIM"](), n, denoiser, x)) for n in counts}))
    best = {str(n): slope(sample(denoiser, x, log_snr_grid(TABLE, n), Multistep(2, corrector=True))) for n in counts}
    rows.append(("ours, Multistep(2, corrector=True), log_snr", best))
    return rows


def digits_rows() -> Rows:
    """Table (d)."""
    denoiser = load_digits_denoiser()
    process = denoiser.process
    x = process.noise((512, 8, 8), torch.Generator().manual_seed(0))
    truth = sample(denoiser, x, log_snr_grid(process, 200), Heun())
    rows: Rows = []
    for name, solver in SOLVERS.items():
        for grid in GRIDS_OF[name]:
            if grid not in (log_snr_grid, karras_grid):
                continue
            errors = {}
            for n in (5, 6, 8, 10, 15, 20):
                levels = grid(process, (n + 1) // 2 if isinstance(solver, Heun) else n)
                errors[str(n)] = rmse(sample(denoiser, x, levels, solver), truth)
            rows.append((f"{name}, {grid.__name__.removesuffix('_grid')}", errors))
    return rows


TABLES: Sequence[tuple[str, str, Callable[[], Rows]]] = (
    ("mixture", "(a) Mixture: error of x0 by network calls", mixture_rows),
    ("order", "(b) Mixture: error by steps, and the order of convergence", order_rows),
    ("gaussian", "(c) Gaussian N(0.5, 0.2^2): standard deviation of the samples by network calls", gaussian_rows),
    ("digits", "(d) Digits network: error of x0 by network calls", digits_rows),
)


def show(title: str, rows: Rows) -> None:
    """Print a table."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for column in rows[0][1]:
        table.add_column(column, justify="right")
    for name, values in rows:
        table.add_row(name, *[f"{value:.3g}" for value in values.values()])
    Console(width=140).print(table)


def main() -> None:
    """Run all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--json", type=Path, help="also write the numbers as a flat JSON object")
    settings = parser.parse_args()
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    torch.set_num_threads(settings.threads)
    numbers: dict[str, float] = {}
    for key, title, make in TABLES:
        rows = make()
        show(title, rows)
        numbers |= {f"{key}/{name}/{column}": value for name, values in rows for column, value in values.items()}
    if settings.json is not None:
        with atomic_path(settings.json, overwrite=True) as scratch:
            scratch.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
