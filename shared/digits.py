"""The digits denoiser: a small trained network on which solvers can be seen and compared.

    denoiser = load_digits_denoiser()
    drawn = draw_digits(denoiser, count=8, calls=(5, 10, 20))
    drawn.exact, drawn.images["multistep", 5], drawn.rmse["calibrated", 5]

The network and its training are described in `shared/weights/digits_denoiser.md`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shared.calibration.artefact import available, load_calibration
from shared.denoiser import PreconditionedDenoiser
from shared.grid import karras_grid, log_snr_grid
from shared.models import Model
from shared.networks import ResidualMLP
from shared.process import VarianceExploding
from shared.sampling import Solver, sample
from shared.solvers.ddim import DDIM
from shared.solvers.heun import Heun
from shared.solvers.multistep import Multistep
from shared.weights import load

EXACT_STEPS = 200
SHOWN: dict[str, Solver] = {"ddim": DDIM(), "multistep": Multistep.dpm_solver_pp_2m()}


def load_digits_denoiser(
    weights: str | os.PathLike[str] = "shared/digits_denoiser", *, device: torch.device | str = "cpu"
) -> PreconditionedDenoiser:
    """Return the trained denoiser of 8 x 8 digits in [-1, 1], shape (N, 8, 8); `denoiser.process` is its process.

    Args:
        weights: name or file, see `shared.weights`.
        device: where the network runs.

    Raises:
        InputError: no such weights.
    """
    stored = load(weights)
    facts = stored.metadata
    network = ResidualMLP(int(facts["features"]), width=int(facts["width"]), depth=int(facts["depth"]))
    network.load_state_dict({name: value.float() for name, value in stored.tensors.items()})
    network.to(device).eval().requires_grad_(False)
    process = VarianceExploding(float(facts["sigma_min"]), float(facts["sigma_max"]))
    return PreconditionedDenoiser(network, process, sigma_data=float(facts["sigma_data"]))


def digits_model(name: str, device: torch.device | str) -> Model:
    """Return the digits denoiser for `shared.models.load_model`."""
    denoiser = load_digits_denoiser(name, device=device)
    return Model(name, denoiser, denoiser.process, (8, 8))


@dataclass(frozen=True)
class DrawnDigits:
    """Digits drawn from the same noise in few calls and exactly.

    Attributes:
        exact: the end of the exact ODE, (N, 8, 8) in [-1, 1]: Heun with `EXACT_STEPS` steps.
        images: (solver, calls) -> (N, 8, 8).
        rmse: (solver, calls) -> root mean square difference from `exact`.
    """

    exact: Tensor
    images: dict[tuple[str, int], Tensor]
    rmse: dict[tuple[str, int], float]


def draw_digits(
    denoiser: PreconditionedDenoiser, *, count: int = 8, calls: Sequence[int] = (5, 10, 20), seed: int = 0
) -> DrawnDigits:
    """Draw digits with each solver of `SHOWN` and each number of network calls, all from one noise.

    Where a calibration is packaged for the number of calls, it draws too, under the name "calibrated".

    Args:
        denoiser: from `load_digits_denoiser`, with the packaged weights.
        count: number of digits.
        calls: numbers of network calls.
        seed: of the noise.
    """
    process = denoiser.process
    device = next(denoiser.network.parameters()).device if isinstance(denoiser.network, torch.nn.Module) else "cpu"
    x = process.noise((count, 8, 8), torch.Generator().manual_seed(seed), device=device)
    exact = sample(denoiser, x, log_snr_grid(process, EXACT_STEPS), Heun())
    images = {
        (name, n): sample(denoiser, x, karras_grid(process, n), solver) for name, solver in SHOWN.items() for n in calls
    }
    for n in calls:
        if (name := f"shared/digits_denoiser_{n}") in available():
            images["calibrated", n] = sample(denoiser, x, *load_calibration(name).bind(denoiser))
    rmse = {key: float((image - exact).square().mean().sqrt()) for key, image in images.items()}
    return DrawnDigits(exact, images, rmse)
