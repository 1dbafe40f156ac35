r"""Observed orders of convergence: the Gaussian mixture, sigma from 10 down to 0.05, nodes uniform in log_snr.

order = log2(error with N steps / error with 2 N steps), N = 160, the error being the root mean square difference from
the end of the exact ODE d(x/alpha)/d log_snr = D - x/alpha, which SciPy's DOP853 solves to 1e-10.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from shared.bench.exact import mixture
from shared.bench.metrics import rmse
from shared.errors import MissingExtra
from shared.grid import Grid
from shared.process import VarianceExploding
from shared.sampling import Solver, sample
from shared.solvers.ddim import DDIM
from shared.solvers.dpm_solver import DPMSolver
from shared.solvers.evodiff import EVODiff
from shared.solvers.heun import Heun
from shared.solvers.multistep import Multistep
from shared.solvers.noise_multistep import NoiseMultistep
from shared.solvers.unipc import UniPC

SIGMAS = (10.0, 0.05)
STEPS = 160
NOISE_SEED = 10_000
SOLVERS: dict[str, Solver] = {
    "ddim": DDIM(),
    "heun": Heun(),
    "multistep2": Multistep(2),
    "multistep2_corrected": Multistep(2, corrector=True),
    "multistep3_corrected": Multistep(3, corrector=True),
    "dpm_solver_pp_2m": Multistep.dpm_solver_pp_2m(),
    "dpm_solver_pp_3m": DPMSolver(3),
    "unipc2": UniPC(2),
    "unipc3": UniPC(3),
    "deis3": NoiseMultistep.deis(3),
    "ipndm4": NoiseMultistep.ipndm(4),
    "evodiff": EVODiff(),
    "evodiff_without_final_rule": EVODiff(final_rule=False),
}


def order_numbers(*, quick: bool) -> dict[str, float]:
    """Return gmm.<solver>.order for every solver of `SOLVERS`.

    Args:
        quick: 32 samples instead of 256.

    Raises:
        MissingExtra: SciPy is not installed.
    """
    process = VarianceExploding(sigma_min=SIGMAS[1], sigma_max=SIGMAS[0])
    denoiser = mixture(process)[1]
    count = 32 if quick else 256
    x = process.noise((count, 8), torch.Generator().manual_seed(NOISE_SEED), dtype=torch.float64)
    truth = exact_end(denoiser, x)

    def error(solver: Solver, steps: int) -> float:
        return rmse(sample(denoiser, x, _spaced(process, steps), solver), truth)

    return {
        f"gmm.{name}.order": math.log2(error(solver, STEPS) / error(solver, 2 * STEPS))
        for name, solver in SOLVERS.items()
    }


def exact_end(denoiser: Any, x: Tensor) -> Tensor:
    """Return the state at the lowest sigma from x at the highest: a variance-exploding process, so alpha = 1.

    Raises:
        MissingExtra: SciPy is not installed.
    """
    try:
        from scipy.integrate import solve_ivp
    except ImportError as error:
        raise MissingExtra("scipy", extra="bench", purpose="for the exact ODE of the order table") from error

    def slope(log_snr: float, flat: Any) -> Any:
        state = torch.from_numpy(flat).reshape(x.shape)
        return (denoiser(state, math.exp(-log_snr) / SIGMAS[0]) - state).reshape(-1).numpy()

    span = tuple(-math.log(sigma) for sigma in SIGMAS)
    end = solve_ivp(slope, span, x.reshape(-1).numpy(), method="DOP853", rtol=1e-10, atol=1e-10).y[:, -1]
    return torch.from_numpy(end.copy()).reshape(x.shape)


def _spaced(process: VarianceExploding, steps: int) -> Grid:
    """Return nodes uniform in log_snr; t = sigma / sigma_max."""
    ratio = SIGMAS[1] / SIGMAS[0]
    return Grid(process, (1.0, *(ratio ** (k / steps) for k in range(1, steps + 1))))
