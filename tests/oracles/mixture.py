"""A Gaussian mixture in 8 dimensions: its exact posterior mean E[x_0 | x_t], for any process.

x_t | component i ~ N(alpha mu_i, (alpha^2 s_i^2 + sigma^2) I)
D(x, t) = sum_i r_i(x) (sigma^2 mu_i + alpha s_i^2 x) / (alpha^2 s_i^2 + sigma^2)
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from shared.process import NoiseProcess, as_float64


def _means() -> Tensor:
    return torch.randn(4, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@dataclass(frozen=True)
class MixtureDenoiser:
    process: NoiseProcess
    means: Tensor = field(default_factory=_means)
    stds: Tensor = field(default_factory=lambda: torch.tensor([0.3, 0.5, 0.7, 0.4], dtype=torch.float64))
    weights: Tensor = field(default_factory=lambda: torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64))

    def __call__(self, x: Tensor, t) -> Tensor:
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        alpha, sigma = (as_float64(c).reshape(-1, 1, 1) for c in (alpha, sigma))
        state = x.double()[:, None, :]  # (n, 1, d)
        variance = alpha**2 * (self.stds**2)[None, :, None] + sigma**2  # (., 4, 1)
        distance = ((state - alpha * self.means) ** 2 / variance).sum(-1)
        logit = self.weights.log() - 0.5 * distance - 0.5 * x.shape[1] * variance[..., 0].log()
        posterior = torch.softmax(logit, -1)[..., None]
        component = (sigma**2 * self.means + alpha * (self.stds**2)[None, :, None] * state) / variance
        return (posterior * component).sum(1).to(x.dtype)
