"""Mixtures of Gaussian volumes with smooth, periodic correlations: exact networks, samples and posteriors.

    x_0 | k ~ N(mean_k, C),     C = F^-1 diag(S) F,     S(f) ~ (f_0^2 + |f|^2)^-p, voxel variance std^2

F is the unitary Fourier transform, so E[x_0 | x_t, k] = mean_k + F^-1 a S / (a^2 S + b^2) F (x - a mean_k), and the
components' weights follow from F (x - a mean_k) and S. One component is a Gaussian volume.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medical.brain.config import Strategy
from medical.brain.model import STEPS, brain_process
from shared.process import NoiseProcess

DIM = (-3, -2, -1)


def spectrum(size: tuple[int, int, int], std: float, *, knee: float = 0.1, power: float = 1.5) -> Tensor:
    """Return S over the grid of frequencies, float64; its mean is std^2. power 0 is white."""
    axes = [torch.fft.fftfreq(n, dtype=torch.float64) for n in size]
    square = sum(f**2 for f in torch.meshgrid(*axes, indexing="ij"))
    shape = (knee**2 + square) ** -power
    return std**2 * shape / shape.mean()


def blobs(count: int, size: tuple[int, int, int], height: float, generator: torch.Generator) -> Tensor:
    """Return smooth random volumes (count, X, Y, Z) of this standard deviation."""
    noise = torch.randn((count, *size), generator=generator, dtype=torch.float64)
    return torch.fft.ifftn(
        torch.fft.fftn(noise, dim=DIM) * spectrum(size, height, knee=0.05, power=2).sqrt(), dim=DIM
    ).real


@dataclass(frozen=True, eq=False)
class VolumeMixture:
    """Components of equal weight.

    Attributes:
        means: (K, X, Y, Z) float64.
        spectrum: S, (X, Y, Z) float64.
    """

    means: Tensor
    spectrum: Tensor

    @property
    def size(self) -> tuple[int, int, int]:
        x, y, z = self.spectrum.shape
        return x, y, z

    def estimate(self, x: Tensor, a: float, b: float) -> Tensor:
        """Return E[x_0 | x_t = x], x (N, 1, X, Y, Z) in its dtype."""
        total = a**2 * self.spectrum + b**2
        off = torch.fft.fftn(x.double() - a * self.means[None], dim=DIM, norm="ortho")  # (N, K, X, Y, Z)
        weight = torch.softmax(-0.5 * (off.abs().square() / total).flatten(2).sum(2), 1)[..., None, None, None]
        each = self.means + torch.fft.ifftn(a * self.spectrum / total * off, dim=DIM, norm="ortho").real
        return (weight * each).sum(1, keepdim=True).to(x.dtype)

    def network(self, strategy: Strategy = "clean"):
        """Return what a network of the strategy answers at its optimum."""
        process = brain_process(strategy)

        def answer(x: Tensor, times: Tensor) -> Tensor:
            entry = float(times[0])
            t = entry / STEPS if strategy == "rflow" else (entry + 1) / STEPS
            a, b = float(process.alpha(t)), float(process.sigma(t))
            x0 = self.estimate(x, a, b)
            eps = (x - a * x0) / b
            return {"noise": eps, "clean": x0, "velocity": a * eps - b * x0, "flow": eps - x0, "rflow": x0 - eps}[
                strategy
            ]

        return answer

    def denoiser(self, process: NoiseProcess):
        """Return the estimate at a level of a process."""
        return lambda x, t: self.estimate(x, float(process.alpha(t)), float(process.sigma(t)))

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return samples (count, 1, X, Y, Z) float64."""
        chosen = torch.randint(len(self.means), (count,), generator=generator)
        noise = torch.randn((count, *self.size), generator=generator, dtype=torch.float64)
        return (self.means[chosen] + self.coloured(noise))[:, None]

    def coloured(self, noise: Tensor) -> Tensor:
        """Return C^(1/2) of white noise (..., X, Y, Z)."""
        return torch.fft.ifftn(torch.fft.fftn(noise, dim=DIM) * self.spectrum.sqrt(), dim=DIM).real

    def covariance(self) -> Tensor:
        """Return C, (X Y Z, X Y Z)."""
        voxels = self.spectrum.numel()
        root = self.coloured(torch.eye(voxels, dtype=torch.float64).view(voxels, *self.size)).view(voxels, voxels)
        return root @ root.T


def gaussian_volume(
    size: tuple[int, int, int], *, mean: float = 0.0, std: float = 0.2, power: float = 1.5
) -> VolumeMixture:
    return VolumeMixture(torch.full((1, *size), mean, dtype=torch.float64), spectrum(size, std, power=power))


def matrix_of(operator, size: tuple[int, int, int]) -> Tensor:
    """Return a linear operator as a real matrix (m, X Y Z), column by column; a complex number is two rows."""
    voxels = size[0] * size[1] * size[2]
    columns = operator(torch.eye(voxels, dtype=torch.float64).view(voxels, 1, *size))
    if columns.is_complex():
        columns = torch.view_as_real(columns)
    return columns.reshape(voxels, -1).T.contiguous()


def posterior(matrix: Tensor, y: Tensor, noise: float, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean (d,) and covariance (d, d) of x | y = A x + n, by the gain of Kalman."""
    gain = torch.linalg.solve(
        matrix @ covariance @ matrix.T + noise**2 * torch.eye(len(matrix), dtype=matrix.dtype), matrix @ covariance
    ).T
    return mean + gain @ (y - matrix @ mean), covariance - gain @ matrix @ covariance
