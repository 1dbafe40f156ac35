r"""A Gaussian model of heads, around whose exact estimate a network works.

Heads are taken as a mean volume m plus a field whose cosine coefficients are independent, with variances P. Under
noise, x_t = alpha x_0 + sigma eps, the estimate of x_0 and the deviation of what is left over are known:

    g     = m + C^T [ w C (x_t - alpha m) ],   w = alpha P / (alpha^2 P + sigma^2),   C the orthonormal cosine transform
    s_b^2 = mean over frequencies of  |h_b|^2 P sigma^2 / (alpha^2 P + sigma^2)

s_b is the deviation of x_0 - g in the band b of the Haar coefficients of blocks of 2 x 2 x 2 voxels, whose filters h_b
are products of cosines and sines of half the frequencies. A network that answers F estimates

    x_0 = g + haar^-1 (s F)

so it begins as the best linear filter at every level, and corrects on the scale of what that filter cannot know. A
network that answers a velocity without g has to pass the noise of seven of eight bands through itself for it to be
taken away; what does not pass is grain in what is drawn.

This is the preconditioning of Karras et al. (2022, eq. 7) with a spectrum in the place of one variance.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

import torch
from torch import Tensor, nn

from shared.process import along_batch

LEAST = 1e-6  # variance of a coefficient: half precision keeps its logarithm, and sigma^2 stays far above
CHUNK = 64  # volumes transformed at once


@lru_cache(maxsize=16)
def cosines(count: int) -> Tensor:
    """Return the orthonormal cosine transform (DCT-II) of `count` values, (frequencies, values), float32."""
    k = torch.arange(count, dtype=torch.float64, device="cpu")
    matrix = torch.cos(math.pi / count * k[:, None] * (k + 0.5)) * (2 / count) ** 0.5
    matrix[0] *= 0.5**0.5
    return matrix.float()


def along_axes(x: Tensor, matrices: Iterable[Tensor]) -> Tensor:
    """Return x (..., X, Y, Z) with a matrix applied along each of the last three axes."""
    for axis, matrix in zip((-3, -2, -1), matrices, strict=True):
        x = (x.movedim(axis, -1) @ matrix.T).movedim(-1, axis)
    return x


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


class StationaryModel(nn.Module):
    """The Gaussian model of heads on one grid: fitted once, then part of the weights.

    Args:
        size: voxels along x, y, z; even numbers.
    """

    mean: Tensor
    log_variance: Tensor

    def __init__(self, size: tuple[int, int, int]) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("log_variance", torch.zeros(size))

    def fit(self, heads: Tensor, *, mirrored: bool) -> None:
        """Take mean and variances from heads.

        Args:
            heads: (N, X, Y, Z) on the CPU, of any floating dtype.
            mirrored: count every head also with left and right (the first axis) exchanged.
        """
        mean = torch.stack([part.float().sum(0) for part in heads.split(CHUNK)]).sum(0) / len(heads)
        if mirrored:
            mean = (mean + mean.flip(0)) / 2
        power = torch.zeros_like(mean)
        for part in heads.split(CHUNK):
            for turned in (part, part.flip(1)) if mirrored else (part,):
                power += along_axes(turned.float() - mean, map(cosines, self.size)).square().sum(0)
        self.mean.copy_(mean)
        self.log_variance.copy_((power / (len(heads) * (1 + mirrored))).clamp_min(LEAST).log())

    def estimate(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Return g like x (N, 1, X, Y, Z), and the deviations s (N, 8) of the Haar bands of x_0 - g.

        Args:
            x: noisy volumes.
            alpha: of the process, one number a volume.
            sigma: likewise.
        """
        alpha, sigma = along_batch(alpha, x), along_batch(sigma, x)
        variance = self.log_variance.exp()
        total = alpha**2 * variance + sigma**2
        transforms = [cosines(count).to(x) for count in self.size]
        coefficients = along_axes(x - alpha * self.mean, transforms)
        g = self.mean + along_axes(alpha * variance / total * coefficients, [matrix.T for matrix in transforms])
        return g, self._deviations(sigma**2 * variance / total)

    def entering(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return the deviations (N, 8) of the Haar bands of x_t - alpha m; alpha and sigma as of `estimate`."""
        variance = self.log_variance.exp()[None, None]
        return self._deviations(along_batch(alpha, variance) ** 2 * variance + along_batch(sigma, variance) ** 2)

    def _deviations(self, variance: Tensor) -> Tensor:
        """Return the deviations (N, 8) of the Haar bands of fields of these variances (N, 1, X, Y, Z)."""
        return variance.flatten(1).matmul(haar_shares(self.size).to(variance).T).sqrt()
