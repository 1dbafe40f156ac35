r"""Distillation of a whole deterministic sampling into one call, from every noise level.

The student is a denoiser f. From a noised datum of level s its answer must be where the teacher's sampling ends:

    x_s   = alpha_s x_0 + sigma_s eps
    y     = DDIM of the teacher D from x_s to level 0, `calls` equal parts of the time s
    loss  = sqrt(|f(x_s, s) - y|^2 + c^2) - c,   c = 0.0053 sqrt(size of x)

Nothing is learned from the student's own answers, so that errors do not add up from level to level as they do in
consistency distillation, whose target is f(x_t, t) one level below. The price is `calls` forward calls of the teacher
for each answer, which a small network can pay. A network that predicts v is well conditioned at every level; one that
predicts eps is not at t = 1, where f = (x - sigma eps) / alpha multiplies its errors by 1 / alpha.

The root, and not the square, because where the teacher's end jumps between two modes a mean of both is no sample.

References:
    Luhman and Luhman, Knowledge Distillation in Iterative Generative Models, 2021 (from pure noise).
    Song and Dhariwal, Improved Techniques for Training Consistency Models, 2024, section 3.3 (the loss).
"""

from __future__ import annotations

import torch
from torch import Tensor

from shared.denoiser import Denoiser
from shared.process import NoiseProcess, along_batch

HUBER = 0.0053


def trajectory_end(teacher: Denoiser, process: NoiseProcess, x: Tensor, level: Tensor, calls: int) -> Tensor:
    """Return where the teacher's DDIM sampling ends, (N, ...), each sample from its own level.

    Args:
        teacher: D.
        process: its noise process.
        x: noised batch (N, ...).
        level: time of each sample, (N,), above 0.
        calls: number of equal steps.
    """
    for step in range(calls):
        s, t = level * (1 - step / calls), level * (1 - (step + 1) / calls)
        estimate = teacher(x, s)
        eps = (x - along_batch(process.alpha(s), x) * estimate) / along_batch(process.sigma(s), x)
        x = process.add_noise(estimate, eps, t)
    return x


def trajectory_loss(
    student: Denoiser,
    teacher: Denoiser,
    process: NoiseProcess,
    x0: Tensor,
    noise: Tensor,
    level: Tensor,
    *,
    calls: int = 10,
) -> Tensor:
    """Return the loss of every sample, (N,), differentiable in the student's parameters.

    Args:
        student: f.
        teacher: D; it gets no gradient.
        process: the noise process of both.
        x0: clean batch (N, ...).
        noise: eps, of the shape of x0.
        level: time of each sample, (N,), above 0.
        calls: of the teacher's sampling.
    """
    x = process.add_noise(x0, noise, level)
    with torch.no_grad():
        end = trajectory_end(teacher, process, x, level, calls)
    wrong = (student(x, level) - end).flatten(1).square().sum(1)
    c = HUBER * x0[0].numel() ** 0.5
    return torch.sqrt(wrong + c**2) - c
