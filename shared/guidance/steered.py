r"""Steering by the gradient of a loss of the estimate, and loops over one noise level.

Steered diffusion moves the result of a sampler's step down the gradient of a loss of the estimate, x_0 = D(x, t):

    x_next <- step(x, x_0) - k grad_x V(x_0),            V(x_0) = loss(f(x_0), c)

where f is any differentiable *inverse model*: a degradation, a segmenter, a projector. For a solver whose step is
x_next = gain x + w D + ..., this is the same as asking the solver to step with

    D'(x, t) = D(x, t) - (k / w) grad_x V(D(x, t)),

so it too is a function from Denoiser to Denoiser, given the plan that says w at each level. With V = |y - A x_0| it is
diffusion posterior sampling (DPS). `sample_looped` repeats each step n times: x_next goes back to the level of x by
fresh forward noise in between, which lets parts that the loss does not see adapt to those that it does.

References:
    Nair et al., Steered Diffusion, 2023, algorithm 1.
    Chung et al., Diffusion Posterior Sampling, 2023, algorithm 1 (scale zeta' divided by |y - A x_0|).
    Lugmayr et al., RePaint, 2022 (the loop).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from shared.denoiser import Denoiser
from shared.errors import InputError
from shared.grid import Grid
from shared.guidance.likelihood import GaussianLikelihood, inner
from shared.process import Time, standard_normal
from shared.sampling import Plan, Solver
from shared.solvers.linear import LinearPlan

Loss = Callable[[Tensor], Tensor]
"""x_0 (N, ...) -> one number a sample (N,), differentiable."""


def steered(denoiser: Denoiser, loss: Loss, plan: Plan, strength: float) -> Denoiser:
    """Return the denoiser with which a plan steps down the gradient of a loss.

    Args:
        denoiser: of the prior, differentiable.
        loss: V, for each sample; add the losses of several conditions.
        plan: of the solver that will be used, one answer of the network a step (`DDIM`, `Ancestral`, `Renoising`).
        strength: k; 0 returns `denoiser` itself.

    Raises:
        InputError: a plan whose steps use more than one answer; at a call, a level that is not the plan's.
    """
    if strength == 0:
        return denoiser
    weights = answer_weights(plan)

    def denoise(x: Tensor, t: Time, /) -> Tensor:
        if float(t) not in weights:
            raise InputError(
                "t", found=f"{float(t)}", expected="a level of the plan", fix="Sample with the grid of the plan."
            )
        with torch.enable_grad():
            start = x.detach().requires_grad_(True)
            x0 = denoiser(start, t)
            (gradient,) = torch.autograd.grad(loss(x0).sum(), start)
        return x0.detach() - strength / weights[float(t)] * gradient

    return denoise


def dps(denoiser: Denoiser, likelihood: GaussianLikelihood, plan: Plan, *, scale: float = 1.0) -> Denoiser:
    """Return the denoiser of diffusion posterior sampling: x_next <- step - scale grad_x |y - A D(x)|.

    The step is in units of x and knows nothing of sigma_y: `scale` has to be tuned to the problem.

    Args:
        denoiser: of the prior, differentiable.
        likelihood: the measurement; its noise is not used.
        plan: of the solver that will be used, such as `Ancestral`.
        scale: zeta'; 0 returns `denoiser` itself.
    """

    def distance(x0: Tensor) -> Tensor:
        rho = likelihood.residual(x0)
        return inner(rho, rho).sqrt()

    return steered(denoiser, distance, plan, scale)


def sample_looped(
    denoiser: Denoiser,
    x: Tensor,
    grid: Grid,
    solver: Solver,
    *,
    loops: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw a sample with every step but the last repeated; loops = 1 is `sample`.

    Between repetitions x_t returns to level s by the forward process, x_s = a x_t + b z, a = alpha_s / alpha_t,
    b^2 = sigma_s^2 - a^2 sigma_t^2. Calls: loops (steps - 1) + 1.

    Args:
        denoiser: gives the estimate of x_0.
        x: batch at the first level of the grid.
        grid: levels.
        solver: one answer of the network a step.
        loops: how often each step is made.
        generator: source of all noise.

    Raises:
        InputError: fewer than one loop, or a solver whose steps use more than one answer.
    """
    if loops < 1:
        raise InputError("loops", found=f"{loops}", expected="1 or more", fix="1 is plain sampling.")
    plan = solver.plan(grid)
    answer_weights(plan)
    state = plan.start(x)
    with torch.no_grad():
        for k in range(plan.calls):
            last = k == plan.calls - 1
            for repeat in range(1 if last else loops):
                if repeat:
                    a = grid.alpha[k] / grid.alpha[k + 1]
                    b = max(0.0, grid.sigma[k] ** 2 - (a * grid.sigma[k + 1]) ** 2) ** 0.5
                    z = standard_normal(x.shape, generator, dtype=x.dtype, device=x.device)
                    state = replace(state, x=a * state.x + b * z, t=grid.times[k], index=k)
                state = plan.advance(state, denoiser(state.x, state.t), generator)
    return state.x


def answer_weights(plan: Plan) -> dict[float, float]:
    """Return the weight of the newest answer in the step from each level.

    Raises:
        InputError: a plan whose steps use more than one answer, or none.
    """
    if not isinstance(plan, LinearPlan) or plan.memory > 1 or any(update.correct for update in plan.updates):
        raise InputError(
            "solver", found="steps that use several answers of the network", expected="one answer a step",
            fix="Use DDIM, Ancestral or Renoising.",
        )  # fmt: skip
    return {update.t: update.weights[0] for update in plan.updates}
