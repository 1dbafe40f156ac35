r"""Real-time chunking: the next chunk agrees with the actions that are already on their way.

While a chunk is drawn the robot executes d more actions of the last one, Y (moved by the n actions executed since). The
new chunk must keep them, should join on smoothly, and is free where Y ends. Each entry i has a weight, with f the entry
of now and T the length:

    W_i = 1                                  i < f + d                 committed, the past included
          c (e^c - 1) / (e - 1)              f + d <= i < T - n        c = (T - n - i) / (T - n - f - d + 1)
          0                                  T - n <= i                Y says nothing

Two ways to draw a chunk given Y, both functions from Denoiser to Denoiser, for any prediction of the network:

    in-painting    D' = W Y + (1 - W) D(x~, t),    x~ = alpha Y + sigma z where W = 1, x elsewhere
    vjp            D' = D + min(b sigma, sigma^2 / (alpha r^2)) J^T W (Y - D),     J = dD/dx,
                   r^2 = kappa^2 s^2 / (kappa^2 + s^2),   kappa = sigma / alpha

The published form is for a velocity v at flow time tau and s = 1. There alpha = tau, sigma = 1 - tau and
D = x + sigma v, so its v' = v + min(b, (1 - tau) / (tau r^2)) J^T W (Y - D) is the second line.

What each neglects, on Gaussian chunks of covariance S: the gain of the exact conditional is
C_iP (C_PP)^-1 on the committed entries P, C = kappa^2 S (S + kappa^2)^-1. In-painting shows the network only the noised
Y, at every level; vjp puts r^2 for C_PP, which for one committed number whose correlation with the rest is rho falls
short of it by at most rho^2 / 4 to leading order. It then costs a backward pass a call.

References:
    Black, Galliker and Levine, Real-Time Execution of Action Chunking Flow Policies, 2025, arXiv 2506.07339.
    Song et al., Score-Based Generative Modeling through SDEs, 2021, appendix I.2 (replacement).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from shared.denoiser import Denoiser
from shared.errors import InputError
from shared.guidance.likelihood import posterior_variance
from shared.process import NoiseProcess, Time, along_batch, standard_normal


@dataclass(frozen=True)
class RealTimeChunking:
    """How a chunk is joined to the last one.

    Attributes:
        delay: d, actions of the last chunk that are executed before the new one counts: the latency in ticks.
        method: "inpaint" or "vjp".
        most: b, limit of the vjp form's guidance where alpha is small and J is not to be trusted.
        data_std: s, standard deviation of a normalised action in the vjp form.

    Raises:
        InputError: a delay below 0.
    """

    delay: int = 0
    method: Literal["inpaint", "vjp"] = "inpaint"
    most: float = 5.0
    data_std: float = 1.0

    def __post_init__(self) -> None:
        if self.delay < 0:
            raise InputError("delay", found=f"{self.delay}", expected="0 or more ticks", fix="Give the latency.")

    def guided(
        self,
        denoiser: Denoiser,
        process: NoiseProcess,
        target: Tensor,
        weights: Tensor,
        generator: torch.Generator | None = None,
    ) -> Denoiser:
        """Return the denoiser of chunks that agree with Y.

        Args:
            denoiser: of the policy; differentiable for "vjp".
            process: its noise process.
            target: Y (N, T, A).
            weights: W (N, T).
            generator: source of z, drawn once, so that D' is a function of x and t.
        """
        if self.method == "vjp":
            return guided_by_vjp(denoiser, process, target, weights, most=self.most, data_std=self.data_std)
        noise = standard_normal(target.shape, generator, dtype=target.dtype, device=target.device)
        return inpainted(denoiser, process, target, weights, noise)


def soft_mask(length: int, committed: int, executed: Tensor) -> Tensor:
    """Return W (N, T) of the module docstring.

    Args:
        length: T.
        committed: f + d, entries kept, at least as far as the last chunk reaches.
        executed: n of each environment, (N,).
    """
    entry = torch.arange(length, device=executed.device, dtype=torch.float32)
    end = (length - executed)[:, None]
    c = ((end - entry) / (end - committed + 1).clamp(min=1)).clamp(0, 1)
    soft = c * torch.expm1(c) / (math.e - 1)
    return torch.where(entry < committed, 1.0, soft) * (entry < end)


def inpainted(denoiser: Denoiser, process: NoiseProcess, target: Tensor, weights: Tensor, noise: Tensor) -> Denoiser:
    """Return the denoiser that sees Y, noised by `noise` (N, T, A), at the committed entries and keeps it by W."""
    w = weights[..., None]

    def denoise(x: Tensor, t: Time, /) -> Tensor:
        seen = torch.where(w == 1, process.add_noise(target, noise, t), x)
        return torch.lerp(denoiser(seen, t), target, w)

    return denoise


def guided_by_vjp(
    denoiser: Denoiser,
    process: NoiseProcess,
    target: Tensor,
    weights: Tensor,
    *,
    most: float = 5.0,
    data_std: float = 1.0,
) -> Denoiser:
    """Return the denoiser drawn towards Y through the network's Jacobian."""

    def denoise(x: Tensor, t: Time, /) -> Tensor:
        with torch.enable_grad():
            start = x.detach().requires_grad_(True)
            x0 = denoiser(start, t)
            wanted = (weights[..., None] * (target - x0)).detach()
            (pull,) = torch.autograd.grad(x0, start, wanted)
        alpha, sigma = process.alpha(t), process.sigma(t)
        full = sigma**2 / (alpha * posterior_variance(process, t, data_std))
        return x0.detach() + along_batch(torch.minimum(most * sigma, full), x) * pull

    return denoise
