r"""Predictions of a block that is not computed, from what it gave before.

latest      f_i = f_c
taylor      f_i = f_c + (i - c) / (c - p) (f_c - f_p)
rectified   f_i = a_i f_c + b_i                              a_i, b_i fitted for each step and block
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_unflatten
from torch.utils._pytree import tree_structure as structure

from shared.errors import InputError
from shared.reuse.executor import Stored
from shared.reuse.interception import Call, Output, map_tensors

Table = tuple[tuple[float, ...], ...]


class Taylor:
    """First-order extrapolation in the step index (TaylorSeer of order 1, Liu et al. 2025).

    With one computed value it is reuse. Higher orders are worse at 20 steps or fewer, and log_snr instead of the index
    makes no difference.
    """

    memory = 2

    def __call__(self, call: Call, stored: Sequence[Stored], step: int) -> Output:
        """Return the extrapolated value."""
        newest = stored[0]
        if len(stored) == 1:
            return newest.value
        factor = (step - newest.step) / (newest.step - stored[1].step)
        before = tree_leaves(stored[1].value)
        leaves = [
            now + factor * (now - past) if isinstance(now, Tensor) else now
            for now, past in zip(tree_leaves(newest.value), before, strict=True)
        ]
        return tree_unflatten(leaves, structure(newest.value))


class Rectified:
    """Reuse with a scalar gain and offset for each step and block.

    Args:
        gain: a, [steps][blocks].
        offset: b, [steps][blocks].

    Raises:
        InputError: tables of different shapes.
    """

    memory = 1

    def __init__(self, gain: Sequence[Sequence[float]], offset: Sequence[Sequence[float]]) -> None:
        self.gain: Table = tuple(tuple(float(a) for a in row) for row in gain)
        self.offset: Table = tuple(tuple(float(b) for b in row) for row in offset)
        if [len(row) for row in self.gain] != [len(row) for row in self.offset]:
            raise InputError(
                "rectification", found="gains and offsets of different shapes", expected="one shape, (steps, blocks)",
                fix="Give a gain and an offset for each entry of the mask.",
            )  # fmt: skip

    def __call__(self, call: Call, stored: Sequence[Stored], step: int) -> Output:
        """Return a f + b."""
        a, b = self.gain[step][call.column], self.offset[step][call.column]
        return map_tensors(lambda value: a * value + b, stored[0].value)
