r"""The one update that every linear solver is.

For a fixed grid, first-order, multistep, predictor-corrector, two-call and stochastic solvers differ only in numbers.
With D_i the answer of the network to call i, asked at (x_i, t_i), and z ~ N(0, 1),

    y_{i+1} = keep y_i + take x_i + sum_j correct_j D_{i-j}      the anchor: where the step starts, corrected
    x_{i+1} = gain y_{i+1} + sum_j weights_j D_{i-j} + noise z   where the network is asked next

| solver              | anchor                                         | point                                       |
| ------------------- | ---------------------------------------------- | ------------------------------------------- |
| DDIM, multistep     | y = x                                          | x = a y + sum_j b_j D_{i-j} (+ c z)         |
| with corrector      | y = a y_old + sum_j c_j D_{i-j}                | x = a y + sum_j b_j D_{i-j}                 |
| Heun, first call    | y = x                                          | x = a y + b D_i                             |
| Heun, second call   | y = a y_old + c_0 D_i + c_1 D_{i-1}            | x = y                                       |

The numbers are Python floats computed in float64 before the loop, so the loop synchronises with no device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from shared.errors import InputError
from shared.process import standard_normal
from shared.sampling import State


@dataclass(frozen=True)
class Update:
    """What one answer of the network does to the state; the symbols are those of the module docstring.

    Attributes:
        t: level at which the network is asked.
        gain: weight of the anchor in the next point.
        weights: weights of D_i, D_{i-1}, ... in the next point.
        noise: standard deviation of the noise added to the next point.
        keep: weight of the old anchor in the new one.
        take: weight of x_i in the new anchor.
        correct: weights of D_i, D_{i-1}, ... in the new anchor.
    """

    t: float
    gain: float
    weights: tuple[float, ...]
    noise: float = 0.0
    keep: float = 0.0
    take: float = 1.0
    correct: tuple[float, ...] = ()


@dataclass(frozen=True)
class LinearPlan:
    """A table of updates, one a network call.

    Attributes:
        updates: in the order of the calls.
        t_end: level of the result.
    """

    updates: tuple[Update, ...]
    t_end: float

    @property
    def calls(self) -> int:
        """Return the number of network calls."""
        return len(self.updates)

    @property
    def asked(self) -> tuple[float, ...]:
        """Return the level of each call."""
        return tuple(update.t for update in self.updates)

    @cached_property
    def memory(self) -> int:
        """Return how many answers of the network an update looks back on, the newest included."""
        return max(1, *(max(len(update.weights), len(update.correct)) for update in self.updates))

    def start(self, x: Tensor) -> State:
        """Return the state before the first call."""
        return State(x=x, t=self.updates[0].t)

    def advance(self, state: State, x0: Tensor, generator: torch.Generator | None = None) -> State:
        """Return the state after the answer x0 = D(state.x, state.t).

        Raises:
            InputError: the sampling is already complete.
        """
        if state.index >= self.calls:
            raise InputError(
                "state",
                found=f"{state.index} calls made",
                expected=f"fewer than the {self.calls} of the plan",
                fix="Start a new sampling.",
            )
        update = self.updates[state.index]
        history = (x0, *state.history)[: self.memory]
        anchor = state.x
        if update.keep or update.correct or update.take != 1:
            anchor = _combine([(update.keep, state.anchor), (update.take, state.x)], update.correct, history)
        x = anchor
        if update.weights or update.gain != 1:
            x = _combine([(update.gain, anchor)], update.weights, history)
        if update.noise:
            z = standard_normal(x.shape, generator, dtype=x.dtype, device=x.device)
            x = torch.add(x, z, alpha=update.noise)
        index = state.index + 1
        last = index == self.calls
        return State(
            x=x,
            t=self.t_end if last else self.updates[index].t,
            index=index,
            history=history,
            anchor=anchor if not last and self.updates[index].keep else None,
        )


def _combine(
    terms: Sequence[tuple[float, Tensor | None]], weights: tuple[float, ...], history: tuple[Tensor, ...]
) -> Tensor:
    """Return the weighted sum; terms of weight zero are not touched."""
    total: Tensor | None = None
    for weight, tensor in (*terms, *zip(weights, history, strict=False)):
        if weight and tensor is not None:
            total = weight * tensor if total is None else torch.add(total, tensor, alpha=weight)
    return torch.zeros_like(history[0]) if total is None else total
