r"""What a pruned network is trained on: noisy data, and the error of its raw output.

A denoiser is D = A(t) x + B(t) F, with F the raw output of the network (`shared.denoiser`). The loss is the square
error of F, which is that of D over B^2,

    |F - F*|^2 = |D - D*|^2 / B(t)^2,

so that it is the loss of the network's own training for every prediction and for the preconditioning of EDM.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from shared.denoiser import NetworkDenoiser, PreconditionedDenoiser
from shared.errors import InputError
from shared.predictions import conversion
from shared.process import NoiseProcess, along_batch, standard_normal

NetworkBacked = NetworkDenoiser | PreconditionedDenoiser
Draw = Callable[[int, torch.Generator], tuple[Tensor, Mapping[str, Any]]]
"""Draws clean samples (N, ...) and the keyword arguments that the network gets with them."""
Levels = Callable[[int, torch.Generator], Tensor]
"""Draws levels t in [0, 1], (N,)."""


@dataclass(frozen=True)
class Problem:
    """A batch with noise in it.

    Attributes:
        x: noisy batch (N, ...).
        t: level of each sample (N,).
        x0: clean batch.
        conditioning: keyword arguments of the network.
    """

    x: Tensor
    t: Tensor
    x0: Tensor
    conditioning: Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """What is trained: a denoiser, its data and its levels.

    Attributes:
        denoiser: around the network that is pruned or taught; its network is never changed.
        draw: data.
        levels: noise.
        batch: samples a step.
    """

    denoiser: NetworkBacked
    draw: Draw
    levels: Levels
    batch: int = 64

    @property
    def network(self) -> nn.Module:
        """Return the network.

        Raises:
            InputError: the denoiser is around something else.
        """
        if not isinstance(self.denoiser.network, nn.Module):
            raise InputError(
                "pruning", found=f"a network of type {type(self.denoiser.network).__name__}", expected="a torch module",
                fix="Give the denoiser of the plain network.",
            )  # fmt: skip
        return self.denoiser.network

    def problem(self, generator: torch.Generator) -> Problem:
        """Return a new batch on the network's device."""
        parameter = next(self.network.parameters())
        x0, conditioning = self.draw(self.batch, generator)
        t = self.levels(len(x0), generator)
        noise = standard_normal(x0.shape, generator, dtype=x0.dtype, device=x0.device)
        x = self.denoiser.process.add_noise(x0, noise, t)

        def place(value: Any) -> Any:
            return value.to(parameter.device) if isinstance(value, Tensor) else value

        return Problem(place(x), place(t), place(x0), {key: place(value) for key, value in conditioning.items()})

    def answer(self, network: nn.Module, problem: Problem) -> Tensor:
        """Return D(x, t) of the denoiser around `network`."""
        return conditioned(self.denoiser.with_network(network), problem.conditioning)(problem.x, problem.t)

    def error(self, answer: Tensor, target: Tensor, t: Tensor) -> Tensor:
        """Return the mean square error of the raw output, of which D is `answer` and should be `target`."""
        return (along_batch(1 / raw_scale(self.denoiser, t), answer) * (answer - target)).square().mean()


def conditioned(denoiser: NetworkBacked, conditioning: Mapping[str, Any]) -> NetworkBacked:
    """Return the denoiser with these keyword arguments of the network added or replaced."""
    if not conditioning:
        return denoiser
    if isinstance(denoiser, NetworkDenoiser):
        return denoiser.given(**conditioning)
    return PreconditionedDenoiser(
        denoiser.network, denoiser.process, sigma_data=denoiser.sigma_data,
        conditioning={**denoiser.conditioning, **conditioning}, time_argument=denoiser.time_argument,
    )  # fmt: skip


def raw_scale(denoiser: NetworkBacked, t: Tensor) -> Tensor:
    """Return |B(t)|, the weight of the raw output in D, float64 of the shape of t."""
    process = denoiser.process
    if isinstance(denoiser, NetworkDenoiser):
        return conversion(process, t, denoiser.prediction, "sample")[1].abs()
    kappa, s = process.sigma(t) / process.alpha(t), denoiser.sigma_data
    return kappa * s / torch.sqrt(kappa**2 + s**2)


def even_levels(process: NoiseProcess) -> Levels:
    """Return the draw of t ~ U(t_min, 1): the levels by which DDPM and flow matching train."""

    def draw(count: int, generator: torch.Generator) -> Tensor:
        return process.t_min + (1 - process.t_min) * torch.rand(count, generator=generator, dtype=torch.float64)

    return draw


def log_normal_levels(process: NoiseProcess, mean: float = -1.2, std: float = 1.2) -> Levels:
    """Return the draw of ln(sigma / alpha) ~ N(mean, std^2), cut to [t_min, 1]: the levels by which EDM trains."""

    def draw(count: int, generator: torch.Generator) -> Tensor:
        log_kappa = mean + std * torch.randn(count, generator=generator, dtype=torch.float64)
        return process.time_of_log_snr(-log_kappa).clamp(process.t_min, 1.0)

    return draw
