r"""Exact scores: posterior means of Gaussian mixtures, on which a sampling error is the solver's alone.

x_0 ~ sum_i w_i N(mu_i, s_i^2 I),   x_t = alpha x_0 + sigma eps,   v_i = alpha^2 s_i^2 + sigma^2
r_i(x) ~ w_i v_i^{-d/2} exp(-|x - alpha mu_i|^2 / (2 v_i)),   D(x, t) = sum_i r_i (sigma^2 mu_i + alpha s_i^2 x) / v_i

With one component an image and one s it is the kernel density of a data set.
"""

from __future__ import annotations

import torch
from torch import Tensor

from shared.bench.case import Case
from shared.denoiser import counted
from shared.examples.data import labelled_digits
from shared.process import NoiseProcess, Time, VarianceExploding, VariancePreserving, along_batch, as_float64

BANDWIDTH = 0.1  # of the kernel density of the digits, in units of pixels in [-1, 1]


class MixtureDenoiser:
    """The posterior mean of a Gaussian mixture (module docstring).

    Args:
        process: noise process.
        means: (m, *shape), float64.
        stds: (m,) or a number.
        weights: (m,), positive; by default equal.
    """

    def __init__(
        self, process: NoiseProcess, means: Tensor, stds: Tensor | float, weights: Tensor | None = None
    ) -> None:
        self.process = process
        self.means = means.double().flatten(1)
        self.stds = torch.as_tensor(stds, dtype=torch.float64).expand(len(means))
        self.weights = torch.ones(len(means), dtype=torch.float64) if weights is None else weights.double()
        self.weights = self.weights / self.weights.sum()

    def __call__(self, x: Tensor, t: Time, /) -> Tensor:
        """Return E[x_0 | x] for x (N, *shape)."""
        flat = x.double().flatten(1)
        alpha, sigma = (
            along_batch(as_float64(value), flat) for value in (self.process.alpha(t), self.process.sigma(t))
        )
        variance = alpha**2 * self.stds**2 + sigma**2
        scaled = flat @ self.means.T
        distance = flat.square().sum(1, keepdim=True) - 2 * alpha * scaled + alpha**2 * self.means.square().sum(1)
        logit = self.weights.log() - distance / (2 * variance) - 0.5 * flat.shape[1] * variance.log()
        share = torch.softmax(logit, 1) / variance
        answer = (share * sigma**2) @ self.means + (share * alpha * self.stds**2).sum(1, keepdim=True) * flat
        return answer.reshape(x.shape).to(x.dtype)


def mixture(process: NoiseProcess | None = None) -> tuple[NoiseProcess, MixtureDenoiser]:
    """Return a mixture of 4 Gaussians in 8 dimensions under a process, by default the linear VP process."""
    process = VariancePreserving.linear() if process is None else process
    means = torch.randn(4, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    stds, weights = torch.tensor([0.3, 0.5, 0.7, 0.4]), torch.tensor([0.1, 0.2, 0.3, 0.4])
    return process, MixtureDenoiser(process, means, stds, weights)


def exact_case(name: str, *, quick: bool = False) -> Case:
    """Return "exact/mixture" or "exact/digits_kde" as a case without network: its price is counted in calls."""
    if name == "exact/mixture":
        process, denoiser = mixture()
        return Case(name, counted(denoiser), process, (8,), [], 128 if quick else 256, 2 if quick else 5, 400)
    data, _ = labelled_digits()
    exploding = VarianceExploding(0.002, 80.0)
    digits = MixtureDenoiser(exploding, data, BANDWIDTH)
    return Case(name, counted(digits), exploding, (1, 8, 8), [], 64 if quick else 256, 2 if quick else 5, 200)
