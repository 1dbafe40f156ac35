r"""Guidance towards values of scalars of the sample: a volume of a structure, a length, the score of a classifier.

A scalar v_k(x_0) should be c_k up to a tolerance tau_k: the target is p(x_0 | c), c_k = v_k(x_0) + tau_k n. That is a
measurement of a few numbers, so moment matching costs one backward pass a scalar, and no strength is left to tune:

    S         = diag(tau^2) + sigma^2/alpha  (grad v_i)^T J^T (grad v_j)          variance of c given x_t
    D'(x, t)  = D + sigma^2/alpha  J^T (grad v) S^-1 (c - v(D)),     J = dD/dx_t, grad v at D
    log p(c)  = -(c - v(D))^T S^-1 (c - v(D)) / 2 - ln det S / 2

It is exact for linear v on Gaussian priors. Where v or the prior bends, particles repair it (`shared.search.twisted`).
At high noise D is an average that v may never have seen; `below` leaves those levels alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shared.denoiser import Denoiser
from shared.errors import InputError
from shared.guidance.pigdm import GuidedEstimate
from shared.process import NoiseProcess, Time

Scalars = Callable[[Tensor], Tensor]
"""x_0 (N, ...) -> (N, K), differentiable; each sample's depend on it alone."""


@dataclass(frozen=True)
class Targets:
    """What the scalars should be.

    Attributes:
        scalars: v.
        values: c, one a scalar.
        tolerances: tau, above 0, one a scalar.
        below: highest level t at which they are asked; 1 is always.

    Raises:
        InputError: numbers of values and tolerances that differ, or a tolerance that is not above 0.
    """

    scalars: Scalars
    values: Sequence[float]
    tolerances: Sequence[float]
    below: float = 1.0

    def __post_init__(self) -> None:
        if len(self.values) != len(self.tolerances) or not self.values or not all(tau > 0 for tau in self.tolerances):
            raise InputError(
                "targets", found=f"values {tuple(self.values)}, tolerances {tuple(self.tolerances)}",
                expected="as many tolerances as values, all above 0", fix="Give each value a tolerance in its unit.",
            )  # fmt: skip

    def log_density(self, x0: Tensor) -> Tensor:
        """Return ln p(c | x_0) up to a constant, (N,) float64."""
        off = self._off(self.scalars(x0))
        return -0.5 * (off / off.new_tensor(tuple(self.tolerances))).square().sum(1)

    def estimate(self, denoiser: Denoiser, process: NoiseProcess, x: Tensor, t: float) -> GuidedEstimate:
        """Ask the denoiser once and return its estimate, the guided one and log p(c | x_t).

        Args:
            denoiser: of the prior, differentiable.
            process: noise process of the prior.
            x: noisy batch (N, ...), real.
            t: level of the batch, where alpha > 0.

        Raises:
            InputError: scalars of another shape than (N, K).
        """
        if t > self.below:
            with torch.no_grad():
                plain = denoiser(x, t)
            return GuidedEstimate(plain, plain, torch.zeros(len(x), dtype=torch.float64, device=x.device))
        factor = float(process.sigma(t) ** 2 / process.alpha(t))
        with torch.enable_grad():
            start = x.detach().requires_grad_(True)
            x0 = denoiser(start, t)
            leaf = x0.detach().requires_grad_(True)
            found = self.scalars(leaf)
            off = self._off(found.detach())
            count = off.shape[1]
            slopes = [torch.autograd.grad(found[:, k].sum(), leaf, retain_graph=True)[0] for k in range(count)]
            pulled = [torch.autograd.grad(x0, start, slope, retain_graph=True)[0] for slope in slopes]
        with torch.no_grad():
            slope, pull = (torch.stack(part, 1).flatten(2).double() for part in (slopes, pulled))
            spread = factor * slope @ pull.mT
            kept, axes = torch.linalg.eigh(0.5 * (spread + spread.mT))  # a network's J may make it indefinite
            total = (axes * kept.clamp_min(0)[:, None]) @ axes.mT + torch.diag(
                off.new_tensor(tuple(self.tolerances)).square()
            )
            w = torch.linalg.solve(total, off[..., None])
            step = factor * (w.mT @ pull)[:, 0].reshape(x.shape).to(x.dtype)
            log_density = -0.5 * (off[..., None] * w).sum((1, 2)) - 0.5 * torch.logdet(total)
            plain = x0.detach()
            return GuidedEstimate(plain, plain + step, log_density)

    def guided(self, denoiser: Denoiser, process: NoiseProcess) -> Denoiser:
        """Return the denoiser guided towards the values."""

        def denoise(x: Tensor, t: Time, /) -> Tensor:
            return self.estimate(denoiser, process, x, float(t)).guided

        return denoise

    def _off(self, found: Tensor) -> Tensor:
        """Return c - v, (N, K) float64."""
        if found.ndim != 2 or found.shape[1] != len(self.values):
            raise InputError(
                "scalars", found=f"shape {tuple(found.shape)}", expected=f"(samples, {len(self.values)})",
                fix="Return one number a sample and value.",
            )  # fmt: skip
        found = found.double()
        return found.new_tensor(tuple(self.values)) - found
