"""Run a network by a mask: the blocks of a row are computed or predicted from what they gave before.

    cached = ReusingNetwork(network, blocks, mask, times)
    denoiser.with_network(cached)

The row is found from the time that the network is told, not by counting calls, so a second sampling, a batch in parts
or a stopped sampling cannot put rows and steps out of step. The first row clears the store.

Each `ReusingNetwork` has its own store. Guidance needs two of them around one network, one for the conditional and one
for the unconditional call; a second call at the same time is refused, because it would read the features of another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from shared.errors import InputError
from shared.reuse.interception import Block, Call, Output, check_blocks, intercepted, map_tensors
from shared.reuse.mask import check_mask

TIME_TOLERANCE = 1e-4  # of the range of the times; float32 networks are told rounded times


@dataclass(frozen=True)
class Stored:
    """What a module gave at an earlier step.

    Attributes:
        step: row of the mask.
        value: its output, or output - input for residual blocks.
    """

    step: int
    value: Output


class Predictor(Protocol):
    """How a block that is not computed is predicted.

    Attributes:
        memory: how many computed values it looks at.
    """

    memory: int

    def __call__(self, call: Call, stored: Sequence[Stored], step: int) -> Output:
        """Return the value (in the form of `Stored.value`) for row `step`; `stored` is the newest first."""
        ...


class Latest:
    """Reuse: the latest computed value, unchanged."""

    memory = 1

    def __call__(self, call: Call, stored: Sequence[Stored], step: int) -> Output:
        """Return the latest value."""
        return stored[0].value


class ReusingNetwork:
    """A network that computes only the blocks that the mask names, called as the network is.

    Args:
        network: called as network(x, time, ...).
        blocks: columns of the mask.
        mask: [steps, blocks], True computes; the first row all True.
        times: what the network is told as time at each step: `denoiser.time_input(t)` for t in `plan.asked`.
        predictor: gives the blocks that are not computed.
        time_argument: name of the network's time argument when it is not the second positional one.

    Raises:
        InputError: an unknown module, a mask of another shape, repeated times; at a call, a time that is not one of
            `times`, times that go back without starting again, or a batch of another shape than that of the store.
    """

    def __init__(
        self,
        network: nn.Module,
        blocks: Sequence[Block],
        mask: Tensor,
        times: Sequence[float],
        *,
        predictor: Predictor | None = None,
        time_argument: str | None = None,
    ) -> None:
        check_blocks(network, blocks)
        self.network = network
        self.blocks = tuple(blocks)
        self.mask = check_mask(mask, steps=len(times), blocks=len(self.blocks))
        self.times = torch.tensor(list(times), dtype=torch.float64)
        self.predictor = predictor if predictor is not None else Latest()
        self.time_argument = time_argument
        span = float(self.times.max() - self.times.min())
        self._tolerance = TIME_TOLERANCE * span if span else TIME_TOLERANCE * max(1.0, abs(float(self.times[0])))
        if len(self.times) > 1 and float(self.times.sort().values.diff().min()) <= 2 * self._tolerance:
            raise InputError(
                "times", found="two steps at one time", expected="different times",
                fix="Reuse needs a solver that asks once a level.",
            )  # fmt: skip
        self._used = (~self.mask).any(0).tolist()
        self._rows = self.mask.tolist()
        self.reset()

    def reset(self) -> None:
        """Forget everything stored; a call at the first time does so too."""
        self._store: dict[str, tuple[Stored, ...]] = {}
        self._step = -1
        self._shape: tuple[int, ...] = ()

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return what the network returns, with the blocks of this step computed or predicted."""
        step = self._row(args[0] if self.time_argument is None else kwargs[self.time_argument])
        if step == 0:
            self.reset()
        elif step <= self._step or self._step < 0:
            raise InputError(
                f"call of step {step}",
                found="no earlier step" if self._step < 0 else f"step {self._step} just made",
                expected="the steps in order, from the first",
                fix="Use one ReusingNetwork for each sampling: one for conditional, one for unconditional calls.",
            )
        elif tuple(x.shape) != self._shape:
            raise InputError(
                f"call of step {step}", found=f"a batch {tuple(x.shape)}", expected=f"{self._shape}, as it began",
                fix="Use one ReusingNetwork for each sampling.",
            )  # fmt: skip
        row = self._rows[step]

        def rule(call: Call) -> Output:
            if not row[call.column]:
                return call.restored(self.predictor(call, self._store[call.module], step))
            output = call.compute()
            if self._used[call.column]:
                new = Stored(step, map_tensors(torch.Tensor.detach, call.stored(output)))
                self._store[call.module] = (new, *self._store.get(call.module, ()))[: self.predictor.memory]
            return output

        with intercepted(self.network, self.blocks, rule):
            result = self.network(x, *args, **kwargs)
        self._step, self._shape = step, tuple(x.shape)
        return result

    def _row(self, time: Tensor) -> int:
        told = torch.as_tensor(time).detach().double().cpu().reshape(-1)
        distance, row = (self.times - told[0]).abs().min(0)
        if float(distance) > self._tolerance or bool((told - told[0]).abs().max() > self._tolerance):
            found = f"time {float(told[0]):g}" if float(distance) > self._tolerance else "several times in one batch"
            raise InputError(
                "reuse", found=found, expected=f"one of the {len(self.times)} times of the mask",
                fix="Make the mask for the grid and solver that are used: times from plan.asked.",
            )  # fmt: skip
        return int(row)
