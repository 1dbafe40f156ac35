r"""Step Rehash: skip the blocks at steps whose features barely change from one step to the next.

    schedule = step_rehash(denoiser, x, grid, solver, blocks, price=10.0)

Signal, measured on the plain sampling of a few noises: the change of each block between adjacent steps, and its mean
over the B blocks,

    s_i = 1/B sum_b |f_{b,i} - f_{b,i-1}|_1 / |f_{b,i}|_1 .

Since the last computed step k the changes add up, c[k, i] = s_{k+1} + ... + s_i, and the blocks are skipped while the
sum stays below delta (`profile.walk`); their stored features are used. The user gives the price and bisection finds
delta. The whole part of the network inside the blocks is skipped at such a step.

Source: Zhan et al., Fast and Memory-Efficient Video Diffusion Using Streamlined Inference, NeurIPS 2024
(arXiv 2411.01171), section on Step Rehash. Its rule is not in the released code; the sum and the threshold are ours. In
its networks the signal is taken after temporal layers; here, after the blocks that are given.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from shared.denoiser import NetworkDenoiser, PreconditionedDenoiser
from shared.grid import Grid
from shared.reuse.interception import Block
from shared.reuse.profile import affordable, computed_within, profiled, shares, step_mask
from shared.reuse.schedule import ReuseSchedule, make_schedule
from shared.sampling import Solver


def step_rehash(
    denoiser: NetworkDenoiser | PreconditionedDenoiser,
    x: Tensor,
    grid: Grid,
    solver: Solver,
    blocks: Sequence[Block],
    *,
    price: float,
    progress: str | None = None,
) -> ReuseSchedule:
    """Return the schedule of Step Rehash at a price.

    Args:
        denoiser: of the plain network, with its conditioning.
        x: noises to profile, (n, ...) at the first level of the grid.
        grid: levels.
        solver: deterministic, asks once a level.
        blocks: what is skipped, all together: for a UNet, `unet_levels(network)[1:]` (or a deeper tail).
        price: of a sampling in whole network calls, at most.
        progress: label of a progress bar.

    Raises:
        InputError: a price that does not buy the first step, a network that is no module, unknown blocks, or a solver
            that draws noise.
    """
    seen = profiled(denoiser, x, grid, solver, blocks, progress=progress)
    costs = shares(denoiser, blocks, x, seen.asked[0])
    budget = affordable(price, len(seen.asked), costs)
    computed, delta = computed_within(accumulated(seen.drifts()["mean"]), budget)
    return make_schedule(
        denoiser, blocks, step_mask(computed, len(blocks)), grid, seen.asked, shape=x.shape[1:], costs=costs,
        producer="step rehash", measured={"delta": delta},
    )  # fmt: skip


def accumulated(drift: Tensor) -> Tensor:
    """Return c[k, i] = s_{k+1} + ... + s_i for k < i, else 0, from s_i = drift[i - 1, i]."""
    sums = torch.cat([torch.zeros(1, dtype=drift.dtype), drift.diagonal(1)]).cumsum(0)
    return (sums[None, :] - sums[:, None]).triu()
