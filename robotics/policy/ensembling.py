r"""Temporal ensembling: the action of a tick is the average of all chunks that foresaw it.

    a_t = sum_i w_i a_t^(i) / sum_i w_i,    w_i = exp(-m i),    i = 0 is the oldest prediction of tick t

The sums are kept and moved along with the actions, so that nothing is stored twice. It averages modes as readily as
noise: of two ways around an obstacle it takes the middle. Meant for a chunk a tick.

Reference: Zhao et al., Learning Fine-Grained Bimanual Manipulation (ACT), RSS 2023, section IV-A, m = 0.01.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from robotics.policy.acting import Acting, Tick, places_of
from robotics.policy.policy import Policy
from robotics.policy.warmstart import shifted
from shared.realtime import Until


class TemporalEnsemble:
    """Another way of acting, its chunks averaged.

    Args:
        acting: draws the chunks.
        rate: m, how much less each newer prediction counts; 0 is the plain mean.
    """

    def __init__(self, acting: Acting, *, rate: float = 0.01) -> None:
        self.acting, self.rate = acting, rate
        device, (length, size) = acting.policy.device, acting.policy.shape
        self._sum = torch.zeros(acting.environments, length, size, device=device)
        self._weight = torch.zeros(acting.environments, length, 1, device=device)
        self._predictions = torch.zeros(acting.environments, length, 1, device=device)

    @property
    def policy(self) -> Policy:
        """Return the policy that acts."""
        return self.acting.policy

    @property
    def environments(self) -> int:
        """Return how many worlds act at the same time."""
        return self.acting.environments

    def reset(self, environments: Sequence[int] | None = None) -> None:
        """Forget the predictions of these environments; None forgets all."""
        self.acting.reset(environments)
        self._forget(slice(None) if environments is None else list(environments))

    def _forget(self, places: slice | list[int] | Tensor) -> None:
        for kept in (self._sum, self._weight, self._predictions):
            kept[places] = 0

    def act(
        self,
        observations: Tensor,
        *,
        executed: int | Sequence[int] = 1,
        rows: Sequence[int] | None = None,
        generator: torch.Generator | None = None,
        until: Until | None = None,
    ) -> Tick:
        """Draw chunks and return the averages; a chunk after a detected change is averaged with later ones only."""
        places, moves = places_of(len(observations), self.environments, rows, executed)
        tick = self.acting.act(observations, executed=executed, rows=rows, generator=generator, until=until)
        self._forget(places[tick.restarted])
        length = self._sum.shape[1]
        places, moves = places.to(self._sum.device), moves.to(self._sum.device)
        foreseen = (torch.arange(length, device=moves.device) < (length - moves)[:, None])[..., None]
        total, weight, count = (
            shifted(kept[places], moves) * foreseen for kept in (self._sum, self._weight, self._predictions)
        )
        newest = torch.exp(-self.rate * count)
        total, weight = total + newest * tick.chunk.normalised, weight + newest
        self._sum[places], self._weight[places], self._predictions[places] = total, weight, count + 1
        return replace(tick, chunk=self.policy.chunk(total / weight))
