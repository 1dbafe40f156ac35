r"""Gates: a probability for every choice of a group, drawn so that gradients reach it.

    pi = softmax(s l),   y = softmax((s l + g) / tau),   g ~ Gumbel(0, 1),   k = argmax y ~ Categorical(pi)
    m  = sum_j z_j options_j,   z = onehot(k) + y - stop(y)           (straight through)
    x <- m block(x) + (1 - m) x                                       for each sample and block

l are the logits of a group and s = 100 their scale, so that the learning rates of the weights suit them too.

References:
    Fang et al., TinyFusion, CVPR 2025, eq. 5 to 7.
    Jang, Gu and Poole, Categorical Reparameterization with Gumbel-Softmax, 2017 (straight-through estimator).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from shared.errors import InputError
from shared.process import along_batch
from shared.pruning.groups import Group, check_groups
from shared.reuse.interception import Block, Call, intercepted

SCALE = 100.0


class Gates(nn.Module):
    """The logits of all groups, at first 0: every choice is equally probable.

    Args:
        groups: of the blocks.
        count: number of blocks; those in no group stay.

    Raises:
        InputError: the groups are not of these blocks.
    """

    def __init__(self, groups: Sequence[Group], count: int) -> None:
        super().__init__()
        check_groups(groups, count)
        self.groups = tuple(groups)
        self.count = count
        self.logits = nn.ParameterList(torch.zeros(len(group.options)) for group in groups)

    def probabilities(self) -> list[Tensor]:
        """Return pi of each group, (C(M, N),)."""
        return [torch.softmax(SCALE * logits, 0) for logits in self.logits]

    def draw(self, samples: int, temperature: float, generator: torch.Generator) -> Tensor:
        """Return masks [samples, blocks] of zeros and ones through which gradients reach the logits.

        Args:
            samples: rows, drawn independently.
            temperature: tau; low follows the choice closely with noisy gradients, high the opposite.
            generator: source of the Gumbel noise.
        """
        columns = list(torch.ones(self.count, samples, device=self.logits[0].device).unbind(0))
        for group, logits in zip(self.groups, self.logits, strict=True):
            uniform = torch.empty(samples, len(logits), device=generator.device).exponential_(generator=generator)
            gumbel = -torch.log(uniform).to(logits.device)
            soft = torch.softmax((SCALE * logits + gumbel) / temperature, 1)
            hard = nn.functional.one_hot(soft.argmax(1), len(logits)).to(soft.dtype)
            chosen = hard + (soft - soft.detach())  # in this order the value is exactly 0 or 1
            masks = chosen @ group.options.to(logits.device)
            for place, member in enumerate(group.members):
                columns[member] = masks[:, place]
        return torch.stack(columns, 1)

    def kept(self) -> Tensor:
        """Return the decision, bool [blocks]: the most probable choice of each group."""
        kept = torch.ones(self.count, dtype=torch.bool)
        for group, logits in zip(self.groups, self.logits, strict=True):
            kept[list(group.members)] = group.options[int(logits.argmax())].bool()
        return kept


@contextmanager
def gated(network: nn.Module, blocks: Sequence[Block], mask: Tensor) -> Iterator[None]:
    """Let x <- m block(x) + (1 - m) x stand for every module of the blocks while the context is open.

    Args:
        network: has the blocks.
        blocks: columns of the mask; their modules take and return a tensor of one shape.
        mask: [samples, blocks], or [blocks] for all samples.

    Raises:
        InputError: a mask of another shape; at a call, a module that changes the shape of its input or a batch of
            another size.
    """
    if mask.shape[-1] != len(blocks) or mask.ndim not in (1, 2):
        raise InputError(
            "gates", found=f"a mask of shape {tuple(mask.shape)}", expected=f"(samples, {len(blocks)})",
            fix="Give one column for each block.",
        )  # fmt: skip

    def rule(call: Call) -> Tensor:
        output = call.compute()
        check_keeps_shape(call, output)
        gate = mask[..., call.column]
        if gate.ndim and len(gate) != len(output):
            raise InputError(
                f"gate of {call.module}", found=f"a batch of {len(output)}", expected=f"{len(gate)}, as the mask has",
                fix="Draw one row for each sample; a module that folds other axes into the batch cannot be gated.",
            )  # fmt: skip
        gate = along_batch(gate, output)
        mixed: Tensor = gate * output + (1 - gate) * call.input
        return mixed

    with intercepted(network, blocks, rule):
        yield


def check_keeps_shape(call: Call, output: object) -> None:
    """Check that a module could be left out.

    Raises:
        InputError: it does not return a tensor of its input's shape.
    """
    if not isinstance(output, Tensor) or output.shape != call.input.shape:
        found = f"an output {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise InputError(
            call.module, found=f"{found} for an input {tuple(call.input.shape)}", expected="a tensor of the same shape",
            fix="Only blocks that keep the shape can be left out; see shared.pruning.prunable.",
        )  # fmt: skip
