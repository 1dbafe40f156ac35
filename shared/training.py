r"""The training loss of a preconditioned denoiser, the average of its weights, and the course of the learning rate.

    loss = E_{x_0, eps, sigma} [ (sigma^2 + s^2) / (sigma s)^2 |D(x_0 + sigma eps, sigma) - x_0|^2 ],
    ln sigma ~ N(mean, std^2),   s = sigma_data

The weight makes the expected loss of the raw network the same at every noise level.

Reference: Karras et al., Elucidating the Design Space, 2022, eq. 2 and table 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from shared.denoiser import PreconditionedDenoiser
from shared.process import VarianceExploding, along_batch, standard_normal


def denoising_loss(
    denoiser: PreconditionedDenoiser, x0: Tensor, sigma: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Return the weighted loss of every sample, (N,), differentiable in the network's parameters.

    Args:
        denoiser: of a `VarianceExploding` process.
        x0: clean batch (N, ...).
        sigma: noise of each sample (N,), at most the sigma_max of the process.
        generator: source of the noise.
    """
    process, s = denoiser.process, denoiser.sigma_data
    assert isinstance(process, VarianceExploding)
    t = sigma.double() / process.sigma_max
    noise = standard_normal(x0.shape, generator, dtype=x0.dtype, device=x0.device)
    error = (denoiser(process.add_noise(x0, noise, t), t) - x0) ** 2
    return (along_batch((sigma**2 + s**2) / (sigma * s) ** 2, x0) * error).flatten(1).mean(1)


def rate_share(step: int, steps: int, warm_up: int) -> float:
    """Return the learning rate in units of its height: a linear rise, then half a cosine to 0 at the last step."""
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm_up) / max(1, steps - warm_up))))


class AveragedWeights:
    """Exponential moving average of a network's parameters: a <- decay a + (1 - decay) w.

    Args:
        network: whose parameters are averaged.
        decay: weight of the past; early on (1 + n) / (10 + n) after n updates, whichever is smaller.
        power: 1 - (1 + n)^-power early on instead, a longer memory; Diffusion Policy takes 0.75.
    """

    def __init__(self, network: nn.Module, decay: float, *, power: float | None = None) -> None:
        self.decay, self.power = decay, power
        self.updates = 0
        self._learned = {name for name, _ in network.named_parameters(remove_duplicate=False)}
        self.average = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take the current parameters into the average."""
        n = self.updates
        early = (1 + n) / (10 + n) if self.power is None else 1 - (1 + n) ** -self.power
        self.updates += 1
        current = network.state_dict()
        learned = [name for name in current if name in self._learned]
        if learned:
            averages, values = ([state[name] for name in learned] for state in (self.average, current))
            torch._foreach_lerp_(averages, values, 1 - min(self.decay, early))
        for name in current.keys() - self._learned:  # counters, indices and masks (with their -inf) have no average
            self.average[name].copy_(current[name])
