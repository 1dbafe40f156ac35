"""What every way of executing a policy in a control loop has in common.

| way | module | what becomes of the last chunk |
| --- | --- | --- |
| `RollingPolicy` | rolling | the start of the next sampling, or nothing (cold) |
| `RollingPolicy` with `RealTimeChunking` | rolling, chunking | what the next one must agree with |
| `TemporalEnsemble` of any way | ensembling | averaged with the next ones |
| `BidirectionalDecoding` | bidirectional | what the best of many samples is near to |
| `PartialDenoising` | partial | its half-way states are continued |

All are `Acting`, so an evaluation or a robot takes any of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from robotics.policy.policy import Chunk, Policy
from shared.errors import InputError
from shared.realtime import Until


@dataclass(frozen=True)
class Tick:
    """What one call of a rolling policy gave.

    Attributes:
        chunk: the actions.
        calls: network calls that each environment's chunk took, (N,) int64, those before a restart included.
        warm: which chunks started from the last one, (N,) bool.
        restarted: which warm starts the change detector turned into cold ones, (N,) bool.
        complete: False where a deadline stopped the sampling; the chunk is then the best estimate so far.
    """

    chunk: Chunk
    calls: Tensor
    warm: Tensor
    restarted: Tensor
    complete: bool


class Acting(Protocol):
    """A policy in a control loop of several environments."""

    @property
    def policy(self) -> Policy:
        """Return the policy that acts."""
        ...

    @property
    def environments(self) -> int:
        """Return how many worlds act at the same time."""
        ...

    def reset(self, environments: Sequence[int] | None = None) -> None:
        """Forget what is remembered of these environments; None forgets all."""
        ...

    def act(
        self,
        observations: Tensor,
        *,
        executed: int | Sequence[int] = 1,
        rows: Sequence[int] | None = None,
        generator: torch.Generator | None = None,
        until: Until | None = None,
    ) -> Tick:
        """Draw the chunks that begin now; see `robotics.policy.rolling.RollingPolicy.act`."""
        ...


class Memory:
    """The last chunk and observed numbers (`Policy.numbers`) of each environment, and which are known.

    Args:
        policy: gives the shapes.
        environments: how many.
    """

    def __init__(self, policy: Policy, environments: int) -> None:
        device = policy.device
        self.chunk = torch.zeros(environments, *policy.shape, device=device)
        self.observation = torch.zeros(environments, policy.config.numbers_size, device=device)
        self.known = torch.zeros(environments, dtype=torch.bool, device=device)

    def forget(self, environments: Sequence[int] | None) -> None:
        """Forget these environments; None forgets all."""
        self.known[... if environments is None else list(environments)] = False

    def remember(self, places: Tensor, chunk: Tensor, observation: Tensor) -> None:
        """Keep chunks (N, T, A) and numbers of observations (N, D) of the environments `places` (N,)."""
        places = places.to(self.chunk.device)
        self.chunk[places], self.observation[places], self.known[places] = chunk, observation, True


def places_of(
    count: int, environments: int, rows: Sequence[int] | None, executed: int | Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return the environment and the executed actions of each of `count` observations, (N,) each.

    Args:
        count: N.
        environments: of the policy.
        rows: which environments; None is all, in order.
        executed: one number, or one an observation.

    Raises:
        InputError: the numbers differ, or one is negative.
    """
    places = torch.arange(environments) if rows is None else torch.as_tensor(list(rows))
    moves = torch.as_tensor(executed).expand(count) if isinstance(executed, int) else torch.as_tensor(list(executed))
    if len(places) != count or len(moves) != count or bool((moves < 0).any()):
        raise InputError(
            "observations",
            found=f"{count} of them, {len(places)} environments, executed {moves.tolist()[:4]}",
            expected="one observation and one number, 0 or more, for each environment",
            fix="Give rows=, or make the policy with environments=.",
        )
    return places, moves
