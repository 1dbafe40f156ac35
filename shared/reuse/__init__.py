"""Feature reuse: compute some blocks of a network at some steps only, and predict them at the others.

    blocks = unet_levels(network)                                   # or stack(network, "transformer_blocks")
    plan = solver.plan(grid)
    mask = uniform(plan.calls, len(blocks), interval=2, kept=[0])   # or any other producer of masks
    schedule = make_schedule(denoiser, blocks, mask, grid, plan.asked, shape=shape, costs=costs, producer="uniform 2")
    sample(schedule.bind(denoiser), x, grid, solver)

The mask [steps, blocks] is the currency: every method here makes one (`mask`, ...), and one executor runs it
(`ReusingNetwork`). Fewer plain steps at the same compute is the rival that each mask has to beat.

`RollingCache` is reuse between blocks of a sequence instead of between steps: keys and values of what is finished.
"""

from shared.reuse.blocks import stack, unet_levels
from shared.reuse.executor import Latest, Predictor, ReusingNetwork, Stored
from shared.reuse.interception import Block, Call, block_costs, intercepted
from shared.reuse.mask import check_mask, nested, price, uniform
from shared.reuse.predictors import Rectified, Taylor
from shared.reuse.rolling import RollingCache, kept_tokens
from shared.reuse.schedule import ReuseSchedule, load_schedule, make_schedule

__all__ = [
    "Block",
    "Call",
    "Latest",
    "Predictor",
    "Rectified",
    "ReuseSchedule",
    "ReusingNetwork",
    "RollingCache",
    "Stored",
    "Taylor",
    "block_costs",
    "check_mask",
    "intercepted",
    "kept_tokens",
    "load_schedule",
    "make_schedule",
    "nested",
    "price",
    "stack",
    "unet_levels",
    "uniform",
]  # fmt: skip
