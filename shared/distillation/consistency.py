r"""Consistency distillation: one call that goes where the teacher's whole deterministic sampling would end.

The student is a denoiser f with f(x, 0) = x. On the teacher's trajectory its answer must be the same everywhere, so
neighbouring levels s > t of a grid are compared:

    x_s   = alpha_s x_0 + sigma_s eps
    x_t   = alpha_t D(x_s, s) + sigma_t (x_s - alpha_s D(x_s, s)) / sigma_s         DDIM step of the teacher D
    loss  = sqrt(|f(x_s, s) - stopgrad f(x_t, t)|^2 + c^2) - c,   c = 0.00054 sqrt(size of x)

The first rung is anchored, f(x_t, 0) = x_t, and each next one stands on the one below. A network that predicts v is
such an f, f = alpha x - sigma v, and well conditioned at every level; one that predicts eps is not at t = 1, where
f = (x - sigma eps) / alpha multiplies its errors by 1 / alpha.

References:
    Song et al., Consistency Models, 2023, algorithm 2 (distillation).
    Song and Dhariwal, Improved Techniques for Training Consistency Models, 2024: no average of weights in the target,
    and the loss above (section 3.2 and 3.3).
"""

from __future__ import annotations

import torch
from torch import Tensor

from shared.denoiser import Denoiser
from shared.grid import Grid
from shared.process import NoiseProcess, along_batch

HUBER = 0.00054


def consistency_loss(
    student: Denoiser,
    teacher: Denoiser,
    process: NoiseProcess,
    x0: Tensor,
    noise: Tensor,
    grid: Grid,
    place: Tensor,
) -> Tensor:
    """Return the loss of every sample, (N,), differentiable in the student's parameters.

    Args:
        student: f, with f(x, 0) = x.
        teacher: D; it gets no gradient.
        process: the noise process of both.
        x0: clean batch (N, ...).
        noise: eps, of the shape of x0.
        grid: levels of the teacher's sampling, ending at 0.
        place: which step of the grid each sample compares, (N,), 0 is the first, the noisiest.
    """
    times = torch.tensor(grid.times, dtype=torch.float64, device=x0.device)
    s, t = times[place], times[place + 1]
    x = process.add_noise(x0, noise, s)
    with torch.no_grad():
        estimate = teacher(x, s)
        eps = (x - along_batch(process.alpha(s), x) * estimate) / along_batch(process.sigma(s), x)
        target = student(process.add_noise(estimate, eps, t), t)
    wrong = (student(x, s) - target).flatten(1).square().sum(1)
    c = HUBER * x0[0].numel() ** 0.5
    return torch.sqrt(wrong + c**2) - c
