"""The currency of feature reuse: which block is computed at which step.

A mask is a boolean tensor [steps, blocks]; True computes, False reuses. The first row is all True. Its price is counted
in network calls: a step costs the share of the network outside the blocks plus that of the computed blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from shared.errors import InputError


def check_mask(mask: Tensor, *, steps: int | None = None, blocks: int | None = None) -> Tensor:
    """Return the mask as a boolean tensor on the CPU.

    Raises:
        InputError: not two-dimensional, not zeros and ones, another shape than asked, or a first row not all ones.
    """
    wanted = f"({'steps' if steps is None else steps}, {'blocks' if blocks is None else blocks})"
    shape = tuple(mask.shape)
    if len(shape) != 2 or (steps is not None and shape[0] != steps) or (blocks is not None and shape[1] != blocks):
        raise InputError(
            "mask", found=f"shape {shape}", expected=f"shape {wanted}",
            fix="One row for each network call and one column for each block.",
        )  # fmt: skip
    if mask.dtype != torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
        raise InputError("mask", found="values that are not 0 or 1", expected="0 or 1", fix="Round the scores first.")
    mask = mask.bool().cpu()
    if not bool(mask[0].all()):
        raise InputError(
            "mask", found="a first step that reuses", expected="a first step that computes all",
            fix="Set the first row to ones: nothing is stored before it.",
        )  # fmt: skip
    return mask


def uniform(steps: int, blocks: int, interval: int, *, kept: Sequence[int] = ()) -> Tensor:
    """Return the mask that computes everything at every `interval`-th step.

    Args:
        steps: network calls.
        blocks: columns.
        interval: 1 computes always.
        kept: columns that are computed at every step.

    Raises:
        InputError: interval below 1, or a column that the mask does not have.
    """
    if any(not 0 <= column < blocks for column in kept):
        raise InputError("kept", found=f"{list(kept)}", expected=f"columns from 0 to {blocks - 1}", fix="Correct them.")
    if interval < 1:
        raise InputError("interval", found=f"{interval}", expected="1 or more", fix="1 computes every step.")
    mask = torch.zeros(steps, blocks, dtype=torch.bool)
    mask[::interval] = True
    mask[:, list(kept)] = True
    return mask


def nested(depths: Sequence[int], levels: int) -> Tensor:
    """Return the mask of a UNet that computes the outermost depths[i] levels at step i.

    Raises:
        InputError: a depth outside 0..levels.
    """
    if any(not 0 <= depth <= levels for depth in depths):
        raise InputError("depths", found=f"{list(depths)}", expected=f"numbers from 0 to {levels}", fix="Correct them.")
    return torch.arange(levels)[None, :] < torch.tensor(list(depths))[:, None]


def price(mask: Tensor, costs: Sequence[float]) -> float:
    """Return the cost of a masked sampling in whole network calls.

    Args:
        mask: [steps, blocks].
        costs: share of each block, from `block_costs`; what they leave of 1 is computed at every step.

    Raises:
        InputError: a cost for each column is not given.
    """
    if len(costs) != mask.shape[1]:
        raise InputError("costs", found=f"{len(costs)}", expected=f"{mask.shape[1]}", fix="Count the same blocks.")
    shares = torch.tensor(list(costs), dtype=torch.float64)
    return float(mask.shape[0] * (1 - shares.sum()) + (mask.double() @ shares).sum())
