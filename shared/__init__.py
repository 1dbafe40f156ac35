"""The accelerated-denoising core that every domain stands on: process, denoiser, grid, solver, loop.

    process  = VariancePreserving.cosine()
    denoiser = NetworkDenoiser(network, process, prediction="epsilon")
    x0 = sample(denoiser, process.noise(shape, generator), log_snr_grid(process, 8), Multistep(order=2))

Names are imported when first used, so `import shared` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# ruff: noqa: F401 - the imports below tell type checkers and editors what __getattr__ brings
if TYPE_CHECKING:
    from shared.denoiser import Denoiser, NetworkDenoiser, PreconditionedDenoiser, clipped, counted
    from shared.errors import FewstepError, InputError, MissingExtra
    from shared.grid import (
        GRIDS,
        Grid,
        ays_grid,
        explicit_grid,
        karras_grid,
        log_snr_grid,
        polynomial_grid,
        trailing_grid,
        truncated_power_grid,
        uniform_grid,
    )
    from shared.ledger import Ledger
    from shared.predictions import Prediction, convert
    from shared.process import FlowMatching, NoiseProcess, VarianceExploding, VariancePreserving, squared_cosine_betas
    from shared.sampling import Plan, Solver, State, sample, step, steps
    from shared.solvers.ancestral import Ancestral
    from shared.solvers.ddim import DDIM
    from shared.solvers.dpm_solver import DPMSolver
    from shared.solvers.evodiff import EVODiff
    from shared.solvers.heun import Heun
    from shared.solvers.multistep import Multistep
    from shared.solvers.noise_multistep import NoiseMultistep
    from shared.solvers.unipc import UniPC

_HOMES = {
    "shared.denoiser": ("Denoiser", "NetworkDenoiser", "PreconditionedDenoiser", "clipped", "counted"),
    "shared.errors": ("FewstepError", "InputError", "MissingExtra"),
    "shared.grid": (
        "GRIDS", "Grid", "ays_grid", "explicit_grid", "karras_grid", "log_snr_grid", "polynomial_grid",
        "trailing_grid", "truncated_power_grid", "uniform_grid",
    ),
    "shared.ledger": ("Ledger",),
    "shared.predictions": ("Prediction", "convert"),
    "shared.process": (
        "FlowMatching", "NoiseProcess", "VarianceExploding", "VariancePreserving", "squared_cosine_betas",
    ),
    "shared.sampling": ("Plan", "Solver", "State", "sample", "step", "steps"),
    "shared.solvers.ancestral": ("Ancestral",),
    "shared.solvers.ddim": ("DDIM",),
    "shared.solvers.dpm_solver": ("DPMSolver",),
    "shared.solvers.evodiff": ("EVODiff",),
    "shared.solvers.heun": ("Heun",),
    "shared.solvers.multistep": ("Multistep",),
    "shared.solvers.noise_multistep": ("NoiseMultistep",),
    "shared.solvers.unipc": ("UniPC",),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
