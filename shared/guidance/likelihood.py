r"""A linear measurement with Gaussian noise, and the two linear solves that guidance needs of it.

    y = A x_0 + n,      n ~ N(0, sigma_y^2) in every real component

With x_0 | x_t ~ N(D, v) for a denoiser's estimate D and a variance v:

    delta    = (A^T A + sigma_y^2 / v)^-1 A^T (y - A D)             E[x_0 | x_t, y] = D + delta
    log p(y) = -(y - A D)^T (y - A (D + delta)) / 2 sigma_y^2       up to ln det(v A A^T + sigma_y^2), equal for all x_t

delta minimises |A (D + d) - y|^2 / 2 sigma_y^2 + |d|^2 / 2 v: the proximal step of data consistency. The second line
uses (v A A^T + sigma_y^2)^-1 rho = (rho - A delta) / sigma_y^2.

Everything is linear over the reals; complex y counts as pairs of real components, <u, v> = Re sum conj(u) v.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from shared.errors import InputError
from shared.process import NoiseProcess, Time


class LinearOperator(Protocol):
    """A linear map A from batches of data to batches of measurements, with its transpose."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return A x."""
        ...

    def adjoint(self, y: Tensor) -> Tensor:
        """Return A^T y."""
        ...

    def normal(self, x: Tensor) -> Tensor:
        """Return A^T A x."""
        ...


class Proximal(Protocol):
    """A likelihood that can be joined with an estimate: all that DDS and DiffPIR ask of it."""

    def correction(self, x0: Tensor, variance: float) -> Tensor:
        """Return E[x_0 | x_t, y] - D, or another compromise, for the estimate D = x0 with variance v."""
        ...


@dataclass(frozen=True)
class GaussianLikelihood:
    """p(y | x_0) = N(y; A x_0, sigma_y^2).

    Attributes:
        operator: A.
        data: y, of the batch or with a batch of one.
        noise_std: sigma_y, of each real component.
        iterations: most iterations of conjugate gradients in a solve.
        tolerance: relative residual at which a solve stops earlier.

    Raises:
        InputError: a noise that is not above 0.
    """

    operator: LinearOperator
    data: Tensor
    noise_std: float
    iterations: int = 30
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        if not self.noise_std > 0:
            raise InputError(
                "noise_std", found=f"{self.noise_std}", expected="a number above 0",
                fix="Give the standard deviation of the noise in a real component of the data.",
            )  # fmt: skip

    def residual(self, x0: Tensor) -> Tensor:
        """Return y - A x0."""
        return self.data - self.operator(x0)

    def correction(self, x0: Tensor, variance: float) -> Tensor:
        """Return delta for the estimate x0 with variance v, by conjugate gradients from 0."""
        ridge = self.noise_std**2 / variance
        return solve_regularised(
            self.operator.normal, self.operator.adjoint(self.residual(x0)), ridge,
            iterations=self.iterations, tolerance=self.tolerance,
        )  # fmt: skip

    def log_marginal(self, x0: Tensor, delta: Tensor) -> Tensor:
        """Return log p(y) of the module docstring, float64 (N,).

        Args:
            x0: D.
            delta: `correction(x0, v)`.
        """
        before, after = self.residual(x0), self.residual(x0 + delta)
        return -0.5 * inner(before, after) / self.noise_std**2

    def chi_squared(self, x0: Tensor) -> Tensor:
        """Return |y - A x0|^2 / sigma_y^2, float64 (N,): about the number of real components at the truth.

        Components that A never measures must be 0 in y, and they count with 0.
        """
        rho = self.residual(x0)
        return inner(rho, rho) / self.noise_std**2


def posterior_variance(process: NoiseProcess, t: Time, data_std: float) -> float:
    """Return Var[x_0 | x_t] of white Gaussian data of standard deviation s: kappa^2 s^2 / (kappa^2 + s^2)."""
    kappa2 = float(process.sigma(t) / process.alpha(t)) ** 2
    return kappa2 * data_std**2 / (kappa2 + data_std**2) if kappa2 < float("inf") else data_std**2


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Return Re <a, b> of each sample, float64 (N,)."""
    if a.is_complex() or b.is_complex():
        a, b = torch.view_as_real(a.resolve_conj()), torch.view_as_real(b.resolve_conj())
    return (a.double() * b.double()).flatten(1).sum(1)


def solve_regularised(
    normal: Callable[[Tensor], Tensor], rhs: Tensor, ridge: float, *, iterations: int, tolerance: float
) -> Tensor:
    """Solve (B + ridge) x = b for each sample by conjugate gradients from 0 (Hestenes and Stiefel, 1952).

    Args:
        normal: x -> B x, positive semidefinite.
        rhs: b (N, ...), real.
        ridge: above 0.
        iterations: most iterations.
        tolerance: stop when |b - (B + ridge) x| <= tolerance |b| in every sample.
    """
    x = torch.zeros_like(rhs)
    r, p = rhs.clone(), rhs.clone()
    energy = inner(r, r)
    enough = tolerance**2 * energy
    for _ in range(iterations):
        if bool((energy <= enough).all()):
            break
        q = normal(p) + ridge * p
        step = _ratio(energy, inner(p, q))
        x = x + _along(step, p) * p
        r = r - _along(step, q) * q
        previous, energy = energy, inner(r, r)
        p = r + _along(_ratio(energy, previous), p) * p
    return x


def _along(numbers: Tensor, x: Tensor) -> Tensor:
    return numbers.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b > 0, a / b.clamp_min(torch.finfo(b.dtype).tiny), torch.zeros_like(a))
