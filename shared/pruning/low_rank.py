r"""Low-rank updates of the weights of linear layers and convolutions: W + (alpha / r) B A.

A linear layer's W is (out, in), A (r, in), B (out, r). A convolution's kernel is (out, in / groups, *k), A is a kernel
(r, in / groups, *k) and B (out, r): a k x k convolution to r channels and then a 1 x 1 convolution,

    W'[o, i, p] = W[o, i, p] + (alpha / r) sum_q B[o, q] A[q, i, p].

B starts at 0, so that an untrained update changes nothing.

Reference: Hu et al., LoRA, 2021, eq. 3; for kernels as in Fang et al., TinyFusion, CVPR 2025, section 3.3.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from shared.errors import InputError

KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class LowRank(nn.Module):
    """The parametrisation W -> W + (alpha / r) B A.

    Args:
        weight: W.
        rank: r.
        alpha: weight of the update.
        generator: draws A ~ U(-1, 1) / sqrt(fan-in).
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        self.scale = alpha / rank
        spread = 1 / math.sqrt(weight[0].numel())
        draw = torch.rand(rank, *weight.shape[1:], generator=generator) * 2 - 1
        self.down = nn.Parameter((spread * draw).to(weight))
        self.up = nn.Parameter(weight.new_zeros(len(weight), rank))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the changed weight."""
        return weight + self.scale * (self.up @ self.down.flatten(1)).reshape(weight.shape)


def add_low_rank(network: nn.Module, *, rank: int = 8, alpha: float = 16.0, seed: int = 0) -> list[nn.Parameter]:
    """Give every linear layer and convolution a low-rank update, in place, and freeze everything else.

    Returns:
        The parameters to train: A and B of every layer.

    Raises:
        InputError: a rank below 1, a layer whose weight is already parametrised, or no layer at all.
    """
    if rank < 1:
        raise InputError("rank", found=f"{rank}", expected="1 or more", fix="8 is usual.")
    network.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    parameters: list[nn.Parameter] = []
    for name, module in list(network.named_modules()):
        if not isinstance(module, KINDS):
            continue
        if parametrize.is_parametrized(module):
            raise InputError(
                name, found="a weight that is already parametrised", expected="a plain weight",
                fix="Remove the parametrisation (merge_low_rank, remove_parametrizations) first.",
            )  # fmt: skip
        update = LowRank(module.weight, rank, alpha, generator)
        parametrize.register_parametrization(module, "weight", update)
        parameters += [update.down, update.up]
    if not parameters:
        raise InputError(
            type(network).__name__, found="no linear layer and no convolution", expected="one or more",
            fix="Use a network with some.",
        )  # fmt: skip
    return parameters


def merge_low_rank(network: nn.Module) -> None:
    """Write every low-rank update into its weight, in place: the network is as plain as before."""
    for module in list(network.modules()):
        updates = module.parametrizations if parametrize.is_parametrized(module, "weight") else None
        if isinstance(updates, nn.ModuleDict) and any(
            isinstance(update, LowRank) for update in updates["weight"].children()
        ):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
