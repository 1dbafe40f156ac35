r"""Resampling of weighted particles, in independent ensembles.

Weights are kept as logarithms (ensembles, particles), not normalised.

Reference: Douc, Cappé and Moulines, Comparison of Resampling Schemes for Particle Filtering, 2005.
"""

from __future__ import annotations

import torch
from torch import Tensor


def effective_size(log_weights: Tensor) -> Tensor:
    """Return 1 / sum_i w_i^2 of normalised weights (E,): between 1 and the number of particles."""
    normalised = torch.softmax(log_weights, dim=1)
    return 1 / normalised.square().sum(1)


def systematic(log_weights: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw ancestors (E, K), sorted: particle i is drawn floor(K w_i) or ceil(K w_i) times, K w_i on average.

    One uniform number an ensemble places K equally spaced points in the cumulated weights.

    Args:
        log_weights: (E, K).
        generator: source of randomness.
    """
    ensembles, particles = log_weights.shape
    cumulated = torch.softmax(log_weights.double(), dim=1).cumsum(1)
    cumulated = cumulated / cumulated[:, -1:]  # rounding must not leave the last point beyond the end
    source = log_weights.device if generator is None else generator.device
    start = torch.rand(ensembles, 1, generator=generator, dtype=torch.float64, device=source).to(log_weights.device)
    points = (start + torch.arange(particles, dtype=torch.float64, device=log_weights.device)) / particles
    return torch.searchsorted(cumulated, points).clamp_max(particles - 1)
