r"""HarmoniCa: masks from a router that is trained along the student's own sampling (`shared.reuse.router`).

The mask is s > tau. What a user asks for is a price, so beta is found by bisection: each beta is one training from the
same logits and noises, and of the masks that cost at most the price the one of least error is kept.

    schedule = harmonica(denoiser, stack(network, "blocks"), grid, solver, price=6.0, costs=costs, shape=(8, 8))

Reference: Huang et al., HarmoniCa: Harmonizing Training and Inference for Better Feature Caching in Diffusion
Transformer Acceleration, ICML 2025.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from shared.denoiser import NetworkDenoiser, PreconditionedDenoiser
from shared.errors import InputError
from shared.grid import Grid
from shared.reuse.endpoint import Endpoint
from shared.reuse.interception import Block
from shared.reuse.mask import price as mask_price
from shared.reuse.router import Setting, Training, activated, first_beta, train_router
from shared.reuse.schedule import ReuseSchedule, make_schedule
from shared.sampling import Solver

FACTOR = 8.0  # between two values of beta until one is too small and one is large enough


def harmonica(
    denoiser: NetworkDenoiser | PreconditionedDenoiser,
    blocks: Sequence[Block],
    grid: Grid,
    solver: Solver,
    *,
    price: float,
    costs: Sequence[float],
    shape: Sequence[int],
    nested: bool = False,
    training: Training | None = None,
    trials: int = 8,
    progress: str | None = None,
) -> ReuseSchedule:
    """Train routers and return the best mask that costs at most `price` network calls.

    `measured` of the result has its error on noises of the training ("rmse"), and its "beta".

    Args:
        denoiser: of the plain network; a conditional one with the conditions of a batch.
        blocks: columns of the mask.
        grid: levels.
        solver: asks once a level and adds no noise.
        price: of the mask, in network calls.
        costs: share of each block, from `block_costs`.
        shape: of one sample.
        nested: the blocks are levels of a UNet (`unet_levels`).
        training: how each router is trained; the defaults are those of the paper's code but for its 20 000 iterations.
        trials: number of trainings.
        progress: label of a progress bar; None is silent.

    Raises:
        InputError: a price below that of computing everything in the first step only, or no mask that is cheap enough
            after all trials.
    """
    training = training if training is not None else Training()
    plan = solver.plan(grid)
    setting = Setting(denoiser, tuple(blocks), tuple(costs), plan, tuple(shape), nested)
    x = setting.noise(training.batch, torch.Generator().manual_seed(training.seed))
    endpoint = Endpoint(denoiser, blocks, x, grid, solver)
    cheapest = torch.zeros(plan.calls, len(blocks), dtype=torch.bool)
    cheapest[0] = True
    if price < mask_price(cheapest, costs):
        raise InputError(
            "price", found=f"{price:g} network calls",
            expected=f"at least {mask_price(cheapest, costs):.3g}: the first step and what lies outside the blocks",
            fix="Allow more, or use fewer steps.",
        )  # fmt: skip
    too_small, enough = 0.0, math.inf
    beta = first_beta(setting, training)
    found, seen = [], []
    for _ in range(trials):
        label = None if progress is None else f"{progress}, beta {beta:.1e}"
        logits = train_router(setting, training, beta, progress=label)
        mask = activated(logits, nested=nested) > training.threshold
        mask[0] = True
        spent = mask_price(mask, costs)
        seen.append(spent)
        if spent <= price * (1 + 1e-9):
            found.append((endpoint.rmse(mask), spent, beta, mask))
            enough = beta
        else:
            too_small = beta
        if math.isinf(enough):
            beta *= FACTOR
        elif not too_small:
            beta /= FACTOR
        else:
            beta = math.sqrt(too_small * enough)
    if not found:
        raise InputError(
            "price", found=f"{price:g} network calls",
            expected=f"{min(seen, default=math.nan):.3g} or more, the cheapest mask of {trials} trainings",
            fix="Train longer, or allow more trials.",
        )  # fmt: skip
    error, _, beta, mask = min(found, key=lambda one: one[:3])
    return make_schedule(
        denoiser, blocks, mask, grid, plan.asked, shape=shape, costs=costs, producer="harmonica",
        measured={"rmse": error, "beta": beta},
    )  # fmt: skip
