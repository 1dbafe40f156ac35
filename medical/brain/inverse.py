r"""A model of brain volumes as the prior of a measurement: volumes drawn from p(x | y).

| method   | guidance                                                       | steps      | needs                   |
| -------- | -------------------------------------------------------------- | ---------- | ----------------------- |
| diffpir  | proximal step, weight lamda (`shared.guidance.diffpir`)         | Renoising  | linear or Rician        |
| dds      | proximal step of white Gaussian data of deviation data_std      | DDIM, eta  | linear or Rician        |
| pigdm    | the same through the network                                   | DDIM, eta  | linear                  |
| moments  | the covariance that the network implies (`shared.guidance.moments`) | DDIM, eta | linear                |
| dps      | gradient of the distance |A(D) - y| through the network         | DDIM, eta  | any                     |
| released | that gradient through the explicit x_t of D alone              | MedForj's  | any                     |

"released" is what MedForj's code does and calls DPS. With prediction p, D = c(t) x_t + d(t) p(x_t, t), and its network
is asked without gradients, so x_next = step - zeta c(t) grad_D |A(D) - y|, where DPS has the whole Jacobian of D in
place of c(t). ("clean" has c = 0; 1 is taken there, a straight-through gradient.) Neither knows the noise: their step
is a choice, so their spread is not that of the posterior.

zeta = 20 is MedForj's for 192 x 224 x 192 voxels (5e-4 for the Rician density). The gradient of a distance has length
about 1 however many voxels there are, so for other sizes 20 is scaled by the root of the number of voxels.

One volume is drawn at a time. Samples are independent, so their mean and deviation are those of what the method draws;
`docs/brain.md` has how far these are from exact posteriors.

References: Chung et al., Diffusion Posterior Sampling, 2023; piksl-research/medforj, `medforj/inverse_tools.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from medical.brain.forward import Measurement, RicianMeasurement
from medical.brain.model import PREDICTIONS, BrainModel, Sampling, brain_process, check_size, require_voxels
from shared.denoiser import Denoiser, clipped
from shared.errors import InputError
from shared.grid import Grid
from shared.guidance.dds import dds
from shared.guidance.diffpir import Renoising, diffpir
from shared.guidance.likelihood import GaussianLikelihood
from shared.guidance.moments import moment_matched
from shared.guidance.pigdm import pigdm
from shared.guidance.steered import answer_weights, steered
from shared.ledger import Ledger
from shared.predictions import conversion
from shared.process import Time, standard_normal
from shared.sampling import Solver, sample
from shared.solvers.ddim import DDIM

Method = Literal["diffpir", "dds", "pigdm", "moments", "dps", "released"]
ZETA, ZETA_RICIAN = 20.0, 5e-4
ZETA_VOXELS = 192 * 224 * 192


@dataclass(frozen=True)
class Solving:
    """How a posterior is sampled; the methods are in the module docstring.

    Attributes:
        method: name.
        samples: number of independent volumes.
        steps: of the sampling, one call of the network each.
        eta: share of fresh noise in the steps, but for diffpir.
        renoise: share of fresh noise in the steps of diffpir.
        lamda: trust of diffpir in the prior.
        data_std: deviation of a voxel, of dds and pigdm.
        zeta: step of dps and released; None is MedForj's, see the module docstring.
        iterations: of moments, each a backward pass through the network.

    Raises:
        InputError: an unknown method or a number out of range.
    """

    method: Method = "diffpir"
    samples: int = 4
    steps: int = 50
    eta: float = 1.0
    renoise: float = 0.3
    lamda: float = 1.0
    data_std: float = 0.5
    zeta: float | None = None
    iterations: int = 3

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            known = ", ".join(get_args(Method))
            raise InputError("method", found=repr(self.method), expected=f"one of {known}", fix="Correct it.")
        for name in ("samples", "steps", "lamda", "data_std", "zeta", "iterations"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise InputError(name, found=f"{value}", expected="a number above 0", fix="Correct it.")

    def solver(self) -> Solver:
        """Return the solver."""
        return Renoising(self.renoise) if self.method == "diffpir" else DDIM(self.eta)

    def facts(self, measurement: Measurement, size: tuple[int, int, int]) -> dict[str, Any]:
        """Return the settings that the method uses, JSON types."""
        used = {
            "diffpir": ("renoise", "lamda"), "dds": ("eta", "data_std"), "pigdm": ("eta", "data_std"),
            "moments": ("eta", "iterations"),
        }.get(self.method, ("eta",))  # fmt: skip
        facts = {name: getattr(self, name) for name in ("method", "samples", "steps", *used)}
        return facts if self.method not in ("dps", "released") else {**facts, "zeta": zeta_of(self, measurement, size)}


@dataclass(frozen=True, eq=False)
class Solved:
    """What was drawn.

    Attributes:
        samples: (n, X, Y, Z) on the CPU.
        misfit: of each sample, (n,); see the `misfit` of the measurement.
        calls: of the network, all samples together.
    """

    samples: Tensor
    misfit: Tensor
    calls: int

    @property
    def mean(self) -> Tensor:
        """Return the mean volume."""
        return self.samples.mean(0)

    @property
    def std(self) -> Tensor:
        """Return the standard deviation of every voxel; NaN for one sample."""
        return self.samples.std(0) if len(self.samples) > 1 else torch.full_like(self.samples[0], torch.nan)


def solve(
    model: BrainModel,
    measurement: Measurement,
    settings: Solving | None = None,
    *,
    size: tuple[int, int, int] | None = None,
    generator: torch.Generator | None = None,
    progress: str | None = None,
) -> Solved:
    """Draw volumes that agree with a measurement.

    Args:
        model: the prior.
        measurement: on the device of the model, float32 (or float64 with a network of that kind).
        settings: None for the default.
        size: voxels; None is the size of the training.
        generator: source of all noise.
        progress: label of a progress bar for each volume.

    Raises:
        InputError: a size that the network cannot take, steps that the grid cannot, a method that the measurement
            does not allow, or volumes that are not finite.
    """
    settings, size = settings or Solving(), size or model.config.size
    check_size(model.config, size)
    require_voxels(model.config, "solve")
    grid = Sampling("reference" if settings.method == "released" else "multistep", settings.steps).grid(
        model.config.strategy
    )
    solver = settings.solver()
    guided = guided_denoiser(model, measurement, settings, grid, solver, size)
    dtype = measurement.data.real.dtype if measurement.data.is_complex() else measurement.data.dtype
    drawn, misfit = [], []
    with Ledger() as ledger:
        for number in range(1, settings.samples + 1):
            x = standard_normal((1, 1, *size), generator, dtype=dtype, device=model.device)
            label = f"{progress} {number} of {settings.samples}" if progress else None
            x = sample(guided, x, grid, solver, generator=generator, progress=label)
            if not bool(torch.isfinite(x).all()):
                raise InputError(
                    settings.method, found="a volume with NaN or infinite voxels", expected="finite voxels",
                    fix="Lower zeta, or use another method.",
                )  # fmt: skip
            with torch.no_grad():
                misfit.append(measurement.misfit(x).cpu())
            drawn.append(x[0, 0].cpu())
    return Solved(torch.stack(drawn), torch.cat(misfit), ledger.calls)


def guided_denoiser(
    model: BrainModel,
    measurement: Measurement,
    settings: Solving,
    grid: Grid,
    solver: Solver,
    size: tuple[int, int, int],
) -> Denoiser:
    """Return the estimate of x_0 that agrees with a measurement.

    Raises:
        InputError: a method that the measurement does not allow.
    """
    method, process, likelihood = settings.method, grid.process, measurement.likelihood
    limited = model.config.strategy != "rflow"  # as the reference sampling does
    if method == "released":
        return _released(model, measurement, grid, solver, zeta_of(settings, measurement, size))
    if method == "dps":
        return steered(model.denoiser(), measurement.distance, solver.plan(grid), zeta_of(settings, measurement, size))
    if likelihood is None or (method in ("pigdm", "moments") and not isinstance(likelihood, GaussianLikelihood)):
        raise InputError(
            "method", found=f"{method} for {type(measurement).__name__}",
            expected="dps or released" if likelihood is None else "diffpir, dds, dps or released",
            fix="Choose one of these.",
        )  # fmt: skip
    if method == "dds":
        return dds(model.denoiser(), likelihood, process, data_std=settings.data_std)
    if method == "diffpir":
        return diffpir(model.denoiser(), likelihood, process, lamda=settings.lamda)
    assert isinstance(likelihood, GaussianLikelihood)
    # Limits would cut holes into the Jacobian: they come last.
    plain = model.denoiser(limited=False)
    if method == "pigdm":
        guided = pigdm(plain, likelihood, process, data_std=settings.data_std)
    else:
        guided = moment_matched(plain, likelihood, process, iterations=settings.iterations)
    return clipped(guided) if limited else guided


def zeta_of(settings: Solving, measurement: Measurement, size: tuple[int, int, int]) -> float:
    """Return the step of dps and released."""
    if settings.zeta is not None:
        return settings.zeta
    return (
        ZETA_RICIAN if isinstance(measurement, RicianMeasurement) else ZETA * math.sqrt(math.prod(size) / ZETA_VOXELS)
    )


def _released(model: BrainModel, measurement: Measurement, grid: Grid, solver: Solver, zeta: float) -> Denoiser:
    """Return the estimate with which a step of the solver is MedForj's (module docstring)."""
    plain, strategy = model.denoiser(limited=False), model.config.strategy
    process, limited, weights = brain_process(strategy), strategy != "rflow", answer_weights(solver.plan(grid))

    def denoise(x: Tensor, t: Time, /) -> Tensor:
        explicit = 1.0 if strategy == "clean" else float(conversion(process, t, PREDICTIONS[strategy], "sample")[0])
        with torch.no_grad():
            x0 = plain(x, t)
        with torch.enable_grad():
            leaf = x0.detach().requires_grad_(True)
            estimate = leaf.clamp(-1, 1) if limited else leaf
            (slope,) = torch.autograd.grad(measurement.distance(estimate).sum(), leaf)
        return estimate.detach() - zeta * explicit / weights[float(t)] * slope

    return denoise
