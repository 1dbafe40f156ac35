r"""Scores by which blocks are kept without learning: the rivals of `learn`, used through `best_scores`.

    magnitude         mean |w| over the weights of the block
    block influence   E[1 - cos(input, output)], over samples and levels

Reference: Men et al., ShortGPT, 2024, eq. 1 (block influence).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from shared.pruning.gates import check_keeps_shape
from shared.pruning.task import Task
from shared.reuse.interception import Block, Call, Output, check_blocks, intercepted


def magnitude(network: nn.Module, blocks: Sequence[Block]) -> list[float]:
    """Return the mean absolute weight of each block."""
    check_blocks(network, blocks)
    found = []
    for block in blocks:
        weights = [p.detach().flatten() for name in block.modules for p in network.get_submodule(name).parameters()]
        found.append(float(torch.cat(weights).abs().mean()) if weights else 0.0)
    return found


def block_influence(task: Task, blocks: Sequence[Block], *, batches: int = 8, seed: int = 0) -> list[float]:
    """Return 1 - cos(input, output) of each block, averaged over its modules, samples and levels of the task."""
    total = [0.0] * len(blocks)

    def rule(call: Call) -> Output:
        output = call.compute()
        check_keeps_shape(call, output)
        cosine = nn.functional.cosine_similarity(output.flatten(1).double(), call.input.flatten(1).double(), dim=1)
        total[call.column] += float((1 - cosine).mean()) / (batches * len(call.block.modules))
        return output

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad(), intercepted(task.network, blocks, rule):
        for _ in range(batches):
            task.answer(task.network, task.problem(generator))
    return total
