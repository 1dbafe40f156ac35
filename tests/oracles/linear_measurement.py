"""Linear measurements with Gaussian noise: a dense operator, and exact posteriors of Gaussian and mixture priors.

Prior N(mean, s^2) of every component, y = A x + n, n ~ N(0, sigma^2):

    covariance = (A^T A / sigma^2 + 1 / s^2)^-1,    mean = covariance (A^T y / sigma^2 + mean / s^2)

For a mixture each component has such a posterior, and weight w_i N(y; A mean_i, s_i^2 A A^T + sigma^2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Dense:
    """y = A x for flat samples (N, d); A is (m, d)."""

    matrix: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return x @ self.matrix.T

    def adjoint(self, y: Tensor) -> Tensor:
        return y @ self.matrix

    def normal(self, x: Tensor) -> Tensor:
        return x @ (self.matrix.T @ self.matrix)


def gaussian_posterior(matrix: Tensor, y: Tensor, noise: float, mean: Tensor, std: float) -> tuple[Tensor, Tensor]:
    precision = matrix.T @ matrix / noise**2 + torch.eye(matrix.shape[1], dtype=matrix.dtype) / std**2
    covariance = torch.linalg.inv(precision)
    return covariance @ (matrix.T @ y / noise**2 + mean / std**2), covariance


def mixture_posterior_samples(
    matrix: Tensor,
    y: Tensor,
    noise: float,
    means: Tensor,
    stds: Tensor,
    weights: Tensor,
    count: int,
    generator: torch.Generator,
) -> Tensor:
    """Return exact samples (count, d)."""
    eye = torch.eye(len(y), dtype=matrix.dtype)
    evidence = torch.stack(
        [
            torch.distributions.MultivariateNormal(matrix @ mean, std**2 * matrix @ matrix.T + noise**2 * eye).log_prob(
                y
            )
            for mean, std in zip(means, stds, strict=True)
        ]
    )
    chosen = torch.multinomial(torch.softmax(weights.log() + evidence, 0), count, replacement=True, generator=generator)
    samples = torch.empty(count, matrix.shape[1], dtype=matrix.dtype)
    for i in range(len(means)):
        mean, covariance = gaussian_posterior(matrix, y, noise, means[i], float(stds[i]))
        of = chosen == i
        z = torch.randn(int(of.sum()), matrix.shape[1], dtype=matrix.dtype, generator=generator)
        samples[of] = mean + z @ torch.linalg.cholesky(covariance).T
    return samples


def sliced_w1(a: Tensor, b: Tensor, projections: int = 128) -> float:
    """Return the mean Wasserstein-1 distance of equally many samples along random directions."""
    directions = torch.randn(a.shape[1], projections, dtype=a.dtype, generator=torch.Generator().manual_seed(7))
    directions = directions / directions.norm(dim=0)
    return float(((a @ directions).sort(0).values - (b @ directions).sort(0).values).abs().mean())
