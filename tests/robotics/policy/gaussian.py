"""A policy whose law is known: the chunk of tick n is N(sin(0.2 (n - 1 + i)) / 2, std^2) at entry i; it observes n.

Entries i and j have the correlation rho^|i - j|, 0 unless a test asks for more; the two actions are independent.
"""

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


def covariance_of(std: float, correlation: float) -> Tensor:
    """Return the covariance of the entries of a chunk, (16, 16) float64."""
    entry = torch.arange(LENGTH, dtype=torch.float64)
    return std**2 * correlation ** (entry[:, None] - entry).abs()


class ExactNetwork(nn.Module):
    def __init__(self, process, covariance: Tensor, drift: float) -> None:
        super().__init__()
        self.process, self.drift = process, drift
        self.variances, self.axes = torch.linalg.eigh(covariance)

    @staticmethod
    def conditioning(observations: Tensor) -> dict[str, Tensor]:
        return {"ticks": observations[:, -1, 0]}

    def forward(self, sample: Tensor, timestep: Tensor, *, ticks: Tensor) -> Tensor:
        t = (timestep.double() + 1) / self.process.steps
        alpha, sigma = (value[:, None, None] for value in (self.process.alpha(t), self.process.sigma(t)))
        mean = mean_of(ticks) + self.drift * ticks[:, None, None]
        along = self.axes.T @ (sample - alpha * mean)
        return (self.axes @ (sigma * along / (alpha**2 * self.variances[:, None] + sigma**2))).to(sample.dtype)


def identity(size: int) -> Normaliser:
    zero = torch.zeros(size)
    return Normaliser(torch.ones(size), zero, dict.fromkeys(("min", "max", "mean", "std"), zero))


def gaussian_policy(std: float = 0.2, *, drift: float = 0.0, correlation: float = 0.0, **action) -> Policy:
    """Return the policy; each tick its plan moves by `drift`, which no earlier plan knew."""
    config = PolicyConfig(
        observation=(ObservationField(name="tick", size=1),),
        action=ActionConfig(size=ACTIONS, **action),
        clip=None,
        network=MlpConfig(),
    )
    network = ExactNetwork(config.noise.process(), covariance_of(std, correlation), drift)
    return Policy(config, network, identity(1), identity(ACTIONS))  # type: ignore[arg-type]


def observing(tick: float, count: int) -> Tensor:
    """Return the observations (count, 2, 1) of a tick."""
    return torch.tensor([tick - 1, tick])[None, :, None].repeat(count, 1, 1).float()
