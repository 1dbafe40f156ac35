r"""Learn which blocks to leave out: gates and low-rank updates of the weights together.

    min over l, (A, B) of  E_{m ~ p(m; l)} E_{x, t} [ loss(network with W + (alpha / r) B A, gates m) ],  tau: 4 -> 0.1

The updates stand for the fine-tuning that follows, so the gates learn which blocks are easiest to do without after it,
not which are least missed before it.

Reference: Fang et al., TinyFusion: Diffusion Transformers Learned Shallow, CVPR 2025, eq. 4 and section 3.3.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shared.pruning.gates import Gates, gated
from shared.pruning.groups import Group
from shared.pruning.loop import optimise
from shared.pruning.low_rank import add_low_rank, merge_low_rank
from shared.pruning.task import Task
from shared.reuse.interception import Block, check_blocks

TEMPERATURES = (4.0, 0.1)


@dataclass(frozen=True)
class Decision:
    """What the gates learned.

    Attributes:
        kept: bit of each block.
        probabilities: of every choice of each group, in the order of `Group.options`.
        network: the whole network with the learned updates merged into its weights, another start for recovery than
            the source.
    """

    kept: Tensor
    probabilities: tuple[tuple[float, ...], ...]
    network: nn.Module


def learn(
    task: Task,
    blocks: Sequence[Block],
    groups: Sequence[Group],
    *,
    steps: int,
    seed: int = 0,
    rank: int = 8,
    alpha: float = 16.0,
    rate: float = 1e-4,
    gate_rate: float = 1e-3,
    progress: str | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Decision:
    """Learn the decision; the network of the task is not changed.

    Dropout is as the network's mode (`eval`, `train`) has it.

    Args:
        task: network, data and levels.
        blocks: that can be left out.
        groups: of the blocks.
        steps: of training.
        seed: of data, noise, gates and updates.
        rank: r of the low-rank updates.
        alpha: their weight.
        rate: learning rate of the updates.
        gate_rate: learning rate of the logits.
        progress: label of a progress bar.
        checkpoint: see `shared.pruning.loop.optimise`.

    Raises:
        InputError: wrong blocks, groups or rank; a block that changes the shape of its input.
    """
    check_blocks(task.network, blocks)
    gates = Gates(groups, len(blocks))
    network = copy.deepcopy(task.network)
    updates = add_low_rank(network, rank=rank, alpha=alpha, seed=seed)
    gates.to(updates[0].device)
    begin, end = TEMPERATURES

    def loss(done: float, generator: torch.Generator) -> Tensor:
        problem = task.problem(generator)
        mask = gates.draw(len(problem.x), begin + (end - begin) * done, generator)
        with gated(network, blocks, mask):
            return task.error(task.answer(network, problem), problem.x0, problem.t)

    parameters = [{"params": updates, "lr": rate}, {"params": list(gates.parameters()), "lr": gate_rate}]
    trained = nn.ModuleDict({"network": network, "gates": gates})
    average = optimise(trained, parameters, loss, steps=steps, seed=seed, progress=progress, checkpoint=checkpoint)
    trained.load_state_dict(average)
    merge_low_rank(network)
    chances = tuple(tuple(float(chance) for chance in group.detach()) for group in gates.probabilities())
    return Decision(gates.kept(), chances, network.requires_grad_(False))
