"""A policy whose law is known: the chunk of tick n is N(sin(0.2 (n - 1 + i)) / 2, std^2) at entry i; it observes n."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robotics.policy.config import ActionConfig, MlpConfig, ObservationField, PolicyConfig
from robotics.policy.normalise import Normaliser
from robotics.policy.policy import Policy

LENGTH, ACTIONS = 16, 2


def mean_of(ticks: Tensor) -> Tensor:
    """Return the means (N, 16, 2) of the chunks that begin to count at `ticks` (N,)."""
    entry = ticks.double()[:, None] - 1 + torch.arange(LENGTH)
    return (0.5 * torch.sin(0.2 * entry)).float()[..., None].expand(-1, -1, ACTIONS)


class ExactNetwork(nn.Module):
    def __init__(self, process, std: float, drift: float) -> None:
        super().__init__()
        self.process, self.std, self.drift = process, std, drift

    @staticmethod
    def conditioning(observations: Tensor) -> dict[str, Tensor]:
        return {"ticks": observations[:, -1, 0]}

    def forward(self, sample: Tensor, timestep: Tensor, *, ticks: Tensor) -> Tensor:
        t = (timestep.double() + 1) / self.process.steps
        alpha, sigma = (value.float()[:, None, None] for value in (self.process.alpha(t), self.process.sigma(t)))
        mean = mean_of(ticks) + self.drift * ticks[:, None, None]
        return sigma * (sample - alpha * mean) / (alpha**2 * self.std**2 + sigma**2)


def identity(size: int) -> Normaliser:
    zero = torch.zeros(size)
    return Normaliser(torch.ones(size), zero, dict.fromkeys(("min", "max", "mean", "std"), zero))


def gaussian_policy(std: float = 0.2, *, drift: float = 0.0, **action) -> Policy:
    """Return the policy; each tick its plan moves by `drift`, which no earlier plan knew."""
    config = PolicyConfig(
        observation=(ObservationField(name="tick", size=1),),
        action=ActionConfig(size=ACTIONS, **action),
        clip=None,
        network=MlpConfig(),
    )
    return Policy(config, ExactNetwork(config.noise.process(), std, drift), identity(1), identity(ACTIONS))  # type: ignore[arg-type]


def observing(tick: float, count: int) -> Tensor:
    """Return the observations (count, 2, 1) of a tick."""
    return torch.tensor([tick - 1, tick])[None, :, None].repeat(count, 1, 1).float()
