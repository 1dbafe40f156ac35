r"""A model of brain volumes: a network, what it predicts, and its sampling on the core.

x = -1 ... 1 is the intensity from air to the brightest fat. MedForj's strategies are predictions of the core:

| strategy | prediction                 | process                                             |
| -------- | -------------------------- | --------------------------------------------------- |
| noise    | eps (epsilon)              | 1000 betas, linear from 1e-4 to 2e-2                |
| clean    | x_0 (sample)               | the same                                            |
| velocity | alpha eps - sigma x_0 (v)  | the same                                            |
| flow     | eps - x_0 (flow)           | the same                                            |
| rflow    | x_0 - eps (reverse_flow)   | straight, x_t = (1 - t) x_0 + t eps, told 1000 t    |

The reference sampling asks at the entries round(linspace(0, 999, n)), from noise to data, with DDIM, and limits every
estimate to [-1, 1] except rflow's. For rflow the entry 0 is the data itself: asking there changes nothing, so n steps
are n - 1 calls.

Reference: MedForj, arXiv 2510.26834; piksl-research/medforj, `medforj/scheduler.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from medical.brain.conditions import encoded, guided
from medical.brain.config import BrainConfig, Strategy
from medical.brain.start import Start
from shared.denoiser import Denoiser, NetworkDenoiser, clipped
from shared.errors import InputError
from shared.grid import Grid, explicit_grid, log_snr_grid
from shared.predictions import Prediction
from shared.process import FlowMatching, NoiseProcess, VariancePreserving, standard_normal
from shared.sampling import Solver, sample
from shared.solvers.banded import BandedMultistep
from shared.solvers.calibrated import CalibratedMultistep
from shared.solvers.ddim import DDIM
from shared.solvers.multistep import Multistep

if TYPE_CHECKING:
    from medical.brain.latent import Autoencoder

STEPS = 1000
BETAS = (1e-4, 2e-2)
PREDICTIONS: dict[Strategy, Prediction] = {
    "noise": "epsilon",
    "clean": "sample",
    "velocity": "v",
    "flow": "flow",
    "rflow": "reverse_flow",
}


def brain_process(strategy: Strategy) -> NoiseProcess:
    """Return the noise process of a strategy."""
    if strategy == "rflow":
        return FlowMatching(time_scale=STEPS)
    return VariancePreserving.from_betas(torch.linspace(*BETAS, STEPS, dtype=torch.float64))


def told_level(strategy: Strategy, times: Tensor) -> Tensor:
    """Return the levels t, float64, that networks are told as `times`: the inverse of the process's `network_time`."""
    return (times.double() + (strategy != "rflow")) / STEPS


def reference_grid(strategy: Strategy, steps: int) -> Grid:
    """Return MedForj's levels for so many steps.

    Raises:
        InputError: fewer than 2 steps, or more than 1000.
    """
    if not 2 <= steps <= STEPS:
        raise InputError(
            "steps", found=f"{steps}", expected=f"2 to {STEPS}, the entries of the noise table", fix="Correct it."
        )
    entries = np.linspace(0, STEPS - 1, steps).round()[::-1]
    if strategy == "rflow":
        return explicit_grid(brain_process(strategy), [float(entry) / STEPS for entry in entries])
    return explicit_grid(brain_process(strategy), [*((float(entry) + 1) / STEPS for entry in entries), 0.0])


@dataclass(frozen=True)
class Sampling:
    """How a volume is drawn.

    Attributes:
        name: "reference" (MedForj's: its levels, DDIM), "multistep" (second order, levels even in log SNR) or
            "calibrated" (`medical.brain.calibrated` makes it).
        steps: of the grid.
        eta: share of fresh noise in the reference sampling, 0 to 1.
        table: nodes and coefficients of "calibrated".
    """

    name: str = "reference"
    steps: int = 256
    eta: float = 0.0
    table: CalibratedMultistep | BandedMultistep | None = None

    def __post_init__(self) -> None:
        if self.name not in ("reference", "multistep") and self.table is None:
            raise InputError("sampler", found=repr(self.name), expected="reference or multistep", fix="Correct it.")
        if self.name != "reference" and self.eta:
            raise InputError(
                "eta", found=f"{self.eta}", expected=f"0 for {self.name}", fix="Use the reference sampler."
            )

    def grid(self, strategy: Strategy) -> Grid:
        """Return the levels; errors as of `reference_grid`."""
        if self.table is not None:
            return self.table.grid(brain_process(strategy))
        if self.name == "reference":
            return reference_grid(strategy, self.steps)
        grid = log_snr_grid(brain_process(strategy), self.steps)
        if strategy == "rflow":  # its training never saw pure noise: the highest level is entry 999
            return grid.from_time((STEPS - 1) / STEPS)
        return grid

    def solver(self) -> Solver:
        """Return the solver."""
        if self.table is not None:
            return self.table
        return DDIM(self.eta) if self.name == "reference" else Multistep(2)


class BrainModel:
    """A model ready to draw.

    Args:
        config: of the network.
        network: (x, times) -> prediction, in evaluation mode.
        name: of its file.
        sha256: of its file.
        training: what its file says of its training, JSON types.
        autoencoder: of a latent model; without it, latents can be estimated but no volume drawn.
        device: where to compute.
    """

    def __init__(
        self,
        config: BrainConfig,
        network: Callable[..., Any],
        *,
        name: str = "",
        sha256: str = "",
        training: Mapping[str, Any] | None = None,
        autoencoder: Autoencoder | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.autoencoder = autoencoder
        self.config, self.name, self.sha256, self.device = config, name, sha256, torch.device(device)
        self.training = dict(training or {})
        self.network = network.to(self.device) if isinstance(network, torch.nn.Module) else network

    def denoiser(
        self,
        *,
        limited: bool | None = None,
        conditions: Mapping[str, float | str] | None = None,
        guidance: float = 1.0,
    ) -> Denoiser:
        """Return the estimate of x_0.

        Args:
            limited: to [-1, 1]; None as the reference does: all but rflow.
            conditions: what the network is told, by name; the rest is unknown to it.
            guidance: scale of classifier-free guidance; 1 is none.

        Raises:
            InputError: conditions that the model does not have, or values that it does not know.
        """
        strategy = self.config.strategy
        plain = NetworkDenoiser(self.network, brain_process(strategy), PREDICTIONS[strategy])
        denoiser: Denoiser = plain
        if conditions:
            values = encoded(self.config, conditions).to(self.device)
            denoiser = guided(plain.given(conditions=values), plain, guidance)
        return clipped(denoiser) if (strategy != "rflow" if limited is None else limited) else denoiser

    def draw(
        self,
        size: tuple[int, int, int] | None = None,
        sampling: Sampling | None = None,
        *,
        conditions: Mapping[str, float | str] | None = None,
        guidance: float = 1.0,
        start: Start | None = None,
        generator: torch.Generator | None = None,
        progress: str | None = None,
    ) -> Tensor:
        """Draw one volume, (x, y, z) toward left, posterior and superior, nominally in [-1, 1].

        Args:
            size: voxels; None is the size of the training.
            sampling: how.
            conditions: what the network is told, see `denoiser`.
            guidance: likewise.
            start: a volume to start from; None is noise.
            generator: source of all noise.
            progress: label of a progress bar.

        Raises:
            InputError: a size that the network cannot take, see `check_size`; steps, see `Sampling`; a start of another
                size, or one for a calibrated sampling or a latent model; a latent model without its autoencoder.
        """
        size, sampling = size or self.config.size, sampling or Sampling()
        check_size(self.config, size)
        self.require_autoencoder()
        noise = standard_normal((1, *self.config.sampled(size)), generator, dtype=torch.float32, device=self.device)
        grid = sampling.grid(self.config.strategy)
        denoiser = self.denoiser(conditions=conditions, guidance=guidance)
        if start is not None:
            require_voxels(self.config, "--start")
            grid, noise = start.noised(grid, noise)
        drawn = sample(denoiser, noise, grid, sampling.solver(), generator=generator, progress=progress)
        return (drawn if self.autoencoder is None else self.autoencoder.decode(drawn))[0, 0]

    def require_autoencoder(self) -> None:
        """Raise `InputError` if volumes cannot be drawn for want of the autoencoder."""
        if self.config.latent != "none" and self.autoencoder is None:
            raise InputError(
                self.name or "model", found="a latent model alone", expected="its autoencoder as well",
                fix="Give it with --autoencoder: NVIDIA's autoencoder_v1.pt.",
            )  # fmt: skip


def require_voxels(config: BrainConfig, what: str) -> None:
    """Raise `InputError` if the model samples latents, where `what` works on voxels."""
    if config.latent != "none":
        raise InputError(
            what, found="a latent model", expected="a model of voxels", fix="Choose another model."
        )  # fmt: skip


def check_size(config: BrainConfig, size: tuple[int, int, int]) -> None:
    """Raise `InputError` unless the network takes volumes of this size."""
    if config.skip == "stationary" and size != config.size:
        raise InputError(
            "size", found="x".join(map(str, size)), expected="x".join(map(str, config.size)) + ", the grid of its mean",
            fix="Use that size, or a model without skip: stationary.",
        )  # fmt: skip
    multiple = config.multiple
    if any(side < multiple or side % multiple for side in size):
        near = [max(multiple, multiple * round(side / multiple)) for side in size]
        raise InputError(
            "size", found="x".join(map(str, size)), expected=f"multiples of {multiple}, for this network",
            fix=f"Such as {'x'.join(map(str, near))}.",
        )  # fmt: skip
