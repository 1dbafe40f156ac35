"""The exact network of a Gaussian volume: every voxel is N(mean, std^2), independent of the others."""

from __future__ import annotations

import numpy as np
import torch

MEAN, STD = 0.5, 0.2
ALPHAS_CUMPROD = np.cumprod(1 - np.linspace(1e-4, 2e-2, 1000))


def levels(strategy: str, entry: float) -> tuple[float, float]:
    """alpha and sigma at an entry of the table (linear in ln alpha between entries), or on the straight path."""
    if strategy == "rflow":
        return 1 - entry / 1000, entry / 1000
    abar = float(np.exp(np.interp(entry, np.arange(1000), np.log(ALPHAS_CUMPROD))))
    return abar**0.5, (1 - abar) ** 0.5


def exact_network(strategy: str, mean: float = MEAN, std: float = STD):
    """What a network of the strategy answers at its optimum, by the formulas of the paper."""

    def network(x: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        a, b = levels(strategy, float(times[0]))
        x0 = mean + a * std**2 / (a**2 * std**2 + b**2) * (x - a * mean)
        eps = b / (a**2 * std**2 + b**2) * (x - a * mean)
        return {"noise": eps, "clean": x0, "velocity": a * eps - b * x0, "flow": eps - x0, "rflow": x0 - eps}[strategy]

    return network
