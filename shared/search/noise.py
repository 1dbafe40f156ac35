r"""Optimisation of the noise that a deterministic sampling starts from, until what it ends in has a low loss.

    z <- argmin_z  loss(S(z)) + w R(z),          S: x at t = 1 -> sample, in a few calls

Adam on z, with the gradient of each sample divided by its norm, so that losses of any unit take steps of one length;
the rate rises linearly and falls along half a cosine. The sample stays where the prior puts its mass as long as z looks
like noise. Two ways to hold it there:

| way | what |
| --- | --- |
| sphere | z moves along the sphere it was drawn on, whose radius is about sqrt(dim): a step along it, then back to it |
| decorrelation | R(z) = sum over scales of mean(z_k z_{k+1})^2 along an axis, pairs averaged by scale (DNO) |

With a one-call student S is one network call, and a step costs one call and its gradient (DITTO-2); with a sampler of k
calls it costs k. `search_noise` returns the best of all it has seen, and stops with samples whose loss is 0.

References:
    Karunratanakul et al., Optimizing Diffusion Noise Can Serve As Universal Motion Priors, 2024 (`NoiseSearch.dno`).
    Novack et al., DITTO-2: Distilled Diffusion Inference-Time T-Optimization, 2024 (through a one-call student).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from shared.denoiser import Denoiser
from shared.errors import InputError
from shared.grid import Grid
from shared.sampling import Solver, steps
from shared.training import rate_share

Sampler = Callable[[Tensor], Tensor]
"""x at t = 1 (N, ...) -> sample (N, ...), deterministic and differentiable; each sample depends on its own x alone."""

Loss = Callable[[Tensor], Tensor]
"""Samples (N, ...) -> one number a sample (N,), 0 or more, differentiable."""

TINY = 1e-20  # norm of a gradient under which it is none


@dataclass(frozen=True)
class NoiseSearch:
    """How the noise is optimised.

    Attributes:
        steps: of Adam.
        rate: largest learning rate: about how far each number of z moves in a step.
        warm_up: steps in which the rate rises.
        sphere: stay at the radius of the start.
        decorrelation: w, weight of R.
        axis: along which R is, of z with the batch in front.

    Raises:
        InputError: numbers that are out of range.
    """

    steps: int = 50
    rate: float = 0.3
    warm_up: int = 5
    sphere: bool = True
    decorrelation: float = 0.0
    axis: int = 1

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.rate > 0 or self.warm_up < 0 or self.decorrelation < 0 or self.axis < 1:
            raise InputError(
                "noise search", found=f"{self}", expected="steps and axis from 1, a positive rate, no negative number",
                fix="Correct it.",
            )  # fmt: skip

    @classmethod
    def dno(cls, steps: int = 500) -> NoiseSearch:
        """Return DNO's published setting: 500 steps for refinement, 300 for editing.

        Its cosine begins with the warm-up, here it begins after it; and where its axis is no power of two long, it is
        filled up with noise, while here the last one without a partner is left out.
        """
        return cls(steps, rate=0.05, warm_up=50, sphere=False, decorrelation=1000.0)


@dataclass(frozen=True, eq=False)
class FoundNoise:
    """What a search found.

    Attributes:
        noise: z, (N, ...).
        sample: S(z), (N, ...).
        loss: of the samples, (N,).
        history: (steps made + 1, N) losses before each step and after the last; of samples that are done, 0.
    """

    noise: Tensor
    sample: Tensor
    loss: Tensor
    history: Tensor


def sampler_of(denoiser: Denoiser, grid: Grid, solver: Solver) -> Sampler:
    """Return a deterministic sampling as a differentiable function of its start."""

    def sampled(x: Tensor) -> Tensor:
        *_, last = steps(denoiser, x, grid, solver)
        return last.x

    return sampled


def search_noise(sampler: Sampler, loss: Loss, noise: Tensor, settings: NoiseSearch | None = None) -> FoundNoise:
    """Return the best noise found from each start; nothing random is drawn.

    Args:
        sampler: S; it is asked for the samples that are not done yet.
        loss: what should be small.
        noise: where to start, (N, ...): x at t = 1.
        settings: None for `NoiseSearch()`.

    Raises:
        InputError: a loss that is not one finite number a sample.
    """
    settings = settings or NoiseSearch()
    z = noise.detach().clone().requires_grad_(True)
    radius = _norm(z.detach())
    optimiser = torch.optim.Adam([z], lr=settings.rate)
    best_noise, best_loss = z.detach().clone(), z.new_full((len(z),), torch.inf)
    best_sample = torch.empty_like(best_noise)
    history: list[Tensor] = []
    for step in range(settings.steps + 1):
        (asked,) = (best_loss > 0).nonzero(as_tuple=True)
        with torch.enable_grad():
            start = z[asked]
            sample = sampler(start)
            value = loss(sample)
            _check(value, len(asked))
            total = value.sum()
            if settings.decorrelation:
                total = total + settings.decorrelation * correlation(start, settings.axis).sum()
        found = best_loss.new_zeros(len(z))
        found[asked] = value.detach()
        history.append(found)
        better = asked[found[asked] < best_loss[asked]]
        kept = torch.isin(asked, better)
        best_noise[better], best_loss[better] = z.detach()[better], found[better]
        best_sample[better] = sample.detach()[kept]
        if step == settings.steps or not bool((best_loss > 0).any()):
            break
        (gradient,) = torch.autograd.grad(total, z)
        if settings.sphere:
            # Along the sphere only: Adam would turn what points off it into steps along it.
            outward = z.detach() / radius
            gradient = gradient - (gradient * outward).flatten(1).sum(1).reshape(radius.shape) * outward
        z.grad = gradient / _norm(gradient).clamp_min(TINY)
        optimiser.param_groups[0]["lr"] = settings.rate * rate_share(step, settings.steps, settings.warm_up)
        optimiser.step()
        if settings.sphere:
            with torch.no_grad():
                z.mul_(radius / _norm(z))
    return FoundNoise(best_noise, best_sample, best_loss, torch.stack(history))


def correlation(z: Tensor, axis: int = 1) -> Tensor:
    """Return R of each sample, (N,), along an axis that is closed to a ring.

    R = sum over scales of mean(z_k z_{k+1})^2, the mean over all numbers of the sample. From one scale to the next,
    pairs are averaged, until two are left.
    """
    z = z.movedim(axis, -1)
    total = z.new_zeros(len(z))
    while True:
        total = total + (z * z.roll(1, -1)).flatten(1).mean(1).square()
        size = z.shape[-1] // 2
        if size < 2:
            return total
        z = z[..., : 2 * size].unflatten(-1, (size, 2)).mean(-1)


def _norm(x: Tensor) -> Tensor:
    """Return the norm of each sample, (N, 1, ...)."""
    return x.flatten(1).norm(dim=1).reshape(-1, *[1] * (x.ndim - 1))


def _check(value: Tensor, count: int) -> None:
    if value.shape != (count,) or not bool(torch.isfinite(value).all()):
        raise InputError(
            "loss", found=f"shape {tuple(value.shape)}, {'finite' if torch.isfinite(value).all() else 'not finite'}",
            expected=f"{count} finite numbers, one a sample", fix="Correct the loss, or lower the rate.",
        )  # fmt: skip
