r"""A Gaussian model of heads, around whose exact estimate a network works.

Heads are taken as a mean volume m plus a field whose cosine coefficients are independent, with variances P. Under
noise, x_t = alpha x_0 + sigma eps, the estimate of x_0 and the deviation of what is left over are known:

    g     = m + C^T [ w C (x_t - alpha m) ],   w = alpha P / (alpha^2 P + sigma^2),   C the orthonormal cosine transform
    s_b^2 = mean over frequencies of  |h_b|^2 P sigma^2 / (alpha^2 P + sigma^2)

s_b is the deviation of x_0 - g in the band b of the Haar coefficients of blocks of 2 x 2 x 2 voxels, whose filters h_b
are products of cosines and sines of half the frequencies. A network that answers F estimates

    x_0 = g + haar^-1 (s F)

so it begins as the best linear filter at every level, and corrects on the scale of what that filter cannot know. Heads
and the numbers c that a network may be told are Gaussian together: with K the known ones, m and P become

    m_K = m + A_K S_KK^-1 (c_K - E c_K),    P_K = P - (C A_K) S_KK^-1 (C A_K)^T, its diagonal,

A the covariance of heads with numbers, S that of the numbers. So what is told is heard from the first step on. A
network that answers a velocity without g has to pass the noise of seven of eight bands through itself for it to be
taken away; what does not pass is grain in what is drawn.

This is the preconditioning of Karras et al. (2022, eq. 7) with a spectrum in the place of one variance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from shared.cosine import from_waves, waves
from shared.process import along_batch

LEAST = 1e-6  # variance of a coefficient: half precision keeps its logarithm, and sigma^2 stays far above
CHUNK = 64  # volumes transformed at once
RIDGE = 1e-3  # of the variance of a number, added to it


@lru_cache(maxsize=4)
def haar_shares(size: tuple[int, int, int]) -> Tensor:
    """Return the mean square, in each Haar band, of a cosine of unit norm and every frequency: (8, X Y Z) float32.

    Bands are in the order of `medical.brain.network.haar`, frequencies in that of a flattened volume.
    """
    responses = []
    for count in size:
        half = math.pi / (2 * count) * torch.arange(count, device="cpu")
        response = torch.stack([2 * half.cos() ** 2, 2 * half.sin() ** 2])  # a pair's sum, difference / sqrt(2)
        response[:, count // 2] = torch.tensor([0.0, 2.0])  # this wave is zero in the middle of every pair
        responses.append(response)
    x, y, z = responses
    # `haar` takes x first and puts differences behind sums: band 4 k + 2 j + i is i along x, j along y, k along z.
    return torch.einsum("ix,jy,kz->kjixyz", x, y, z).reshape(8, -1) / math.prod(size)


@dataclass(frozen=True, eq=False)
class Heads:
    """A Gaussian distribution of heads, one for each volume of a batch, or one for all.

    Attributes:
        mean: (N, 1, X, Y, Z) or (1, 1, X, Y, Z).
        variance: of the cosine coefficients, likewise.
    """

    mean: Tensor
    variance: Tensor

    def estimate(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Return g like x (N, 1, X, Y, Z), and the deviations s (N, 8) of the Haar bands of x_0 - g.

        Args:
            x: noisy volumes.
            alpha: of the process, one number a volume.
            sigma: likewise.
        """
        alpha, sigma = along_batch(alpha, x), along_batch(sigma, x)
        total = alpha**2 * self.variance + sigma**2
        g = self.mean + from_waves(alpha * self.variance / total * waves(x - alpha * self.mean))
        return g, _deviations(sigma**2 * self.variance / total)

    def entering(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return the deviations (N, 8) of the Haar bands of x_t - alpha m; alpha and sigma as of `estimate`."""
        alpha, sigma = along_batch(alpha, self.variance), along_batch(sigma, self.variance)
        return _deviations(alpha**2 * self.variance + sigma**2)


def _deviations(variance: Tensor) -> Tensor:
    """Return the deviations (N, 8) of the Haar bands of fields whose coefficients have variances (N, 1, X, Y, Z)."""
    x, y, z = variance.shape[2:]
    return variance.flatten(1).matmul(haar_shares((x, y, z)).to(variance).T).sqrt()


class StationaryModel(nn.Module):
    """The Gaussian model of heads on one grid: fitted once, then part of the weights.

    Args:
        size: voxels along x, y, z; even numbers.
        told: how many numbers may be told.
    """

    mean: Tensor
    log_variance: Tensor
    told_mean: Tensor
    told_covariance: Tensor
    common: Tensor

    def __init__(self, size: tuple[int, int, int], told: int = 0) -> None:
        super().__init__()
        self.size, self.told = size, told
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("log_variance", torch.zeros(size))
        if told:
            self.register_buffer("told_mean", torch.zeros(told))
            self.register_buffer("told_covariance", torch.eye(told))
            self.register_buffer("common", torch.zeros(told, *size))  # covariance of each number with the heads

    def fit(self, heads: Tensor, numbers: Tensor | None = None, *, mirrored: bool) -> None:
        """Take mean, variances and covariances from heads.

        Args:
            heads: (N, X, Y, Z) on the CPU, of any floating dtype.
            numbers: what is told of each head, (N, told), NaN where unknown; None if nothing is told.
            mirrored: count every head also with left and right (the first axis) exchanged.
        """
        mean = torch.stack([part.float().sum(0) for part in heads.split(CHUNK)]).sum(0) / len(heads)
        if mirrored:
            mean = (mean + mean.flip(0)) / 2
        power = torch.zeros_like(mean)
        for part in heads.split(CHUNK):
            for turned in (part, part.flip(1)) if mirrored else (part,):
                power += waves((turned.float() - mean)[:, None]).square().sum((0, 1))
        self.mean.copy_(mean)
        self.log_variance.copy_((power / (len(heads) * (1 + mirrored))).clamp_min(LEAST).log())
        if self.told and numbers is not None:
            self._fit_told(heads, numbers, mirrored)

    def _fit_told(self, heads: Tensor, numbers: Tensor, mirrored: bool) -> None:
        known = ~numbers.isnan()
        counts = known.sum(0).clamp_min(1)
        self.told_mean.copy_(torch.where(known, numbers, 0.0).sum(0) / counts)
        beside = torch.where(known, numbers - self.told_mean, 0.0)
        pairs = (known.float().T @ known.float()).clamp_min(1)
        self.told_covariance.copy_(beside.T @ beside / pairs)
        common = torch.zeros(self.told, *self.size)
        for part, some in zip(heads.split(CHUNK), beside.split(CHUNK), strict=True):
            common += torch.einsum("nk,nxyz->kxyz", some, part.float() - self.mean)
        common /= counts[:, None, None, None]
        self.common.copy_((common + common.flip(1)) / 2 if mirrored else common)

    def given(self, numbers: Tensor | None = None) -> Heads:
        """Return the distribution of heads of which some numbers are known.

        Args:
            numbers: (N, told), NaN where unknown; None for the distribution of all heads.
        """
        mean, variance = self.mean[None, None], self.log_variance.exp()[None, None]
        if numbers is None or not self.told:
            return Heads(mean, variance)
        known = (~numbers.isnan()).to(mean)
        beside = torch.where(numbers.isnan(), 0.0, numbers.to(mean) - self.told_mean)
        spread = self.told_covariance.diagonal().clamp_min(LEAST)
        # Unknown numbers are cut out; a little is added, so that words, which say each other, can be told apart too.
        between = self.told_covariance * known[:, :, None] * known[:, None, :]
        between = between + torch.diag_embed((1 - known) + RIDGE * spread)
        inverse = torch.linalg.inv(between) * known[:, :, None] * known[:, None, :]
        moved = torch.einsum("nj,njk,kxyz->nxyz", beside, inverse, self.common)[:, None]
        common = waves(self.common[:, None])[:, 0]
        explained = torch.einsum("njk,jxyz,kxyz->nxyz", inverse, common, common)[:, None]
        return Heads(mean + moved, (variance - explained).clamp_min(LEAST))

    def draw_numbers(self, numbers: Tensor, generator: torch.Generator) -> Tensor:
        """Return the numbers (told,) of a head, those that are NaN drawn given the others.

        Args:
            numbers: (told,), NaN where to be drawn.
            generator: on the CPU.
        """
        known = ~numbers.isnan()
        mean, covariance = self.told_mean.cpu().double(), self.told_covariance.cpu().double()
        covariance = covariance + torch.diag(RIDGE * covariance.diagonal())
        gain = covariance[~known][:, known] @ torch.linalg.inv(covariance[known][:, known])
        expected = mean[~known] + gain @ (numbers[known].double() - mean[known])
        left = covariance[~known][:, ~known] - gain @ covariance[known][:, ~known]
        z = torch.randn(len(left), generator=generator, dtype=torch.float64)
        drawn = numbers.clone()
        drawn[~known] = (expected + torch.linalg.cholesky(left) @ z).to(drawn)
        return drawn
