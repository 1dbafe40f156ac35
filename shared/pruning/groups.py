r"""Which blocks may be left out together: groups of M blocks of which N stay, and the choices that this leaves.

A group of M blocks with N kept has C(M, N) choices, each a row of zeros and ones. Depth pruning chooses one row in each
group; together they are the decision, one bit for each block (True stays).

Reference: Fang et al., TinyFusion, CVPR 2025, section 3.2 (local structures, N:M).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import torch
from torch import Tensor

from shared.errors import InputError


@dataclass(frozen=True)
class Group:
    """Blocks among which a fixed number stays.

    Attributes:
        members: columns of the blocks.
        keep: how many of them stay, from 1 to all.

    Raises:
        InputError: no such number of members can stay, or a member is named twice.
    """

    members: tuple[int, ...]
    keep: int

    def __post_init__(self) -> None:
        if not 1 <= self.keep <= len(self.members):
            raise InputError(
                "group", found=f"{self.keep} kept of {len(self.members)}", expected=f"1 to {len(self.members)} kept",
                fix="Keep at least one block of each group and at most all.",
            )  # fmt: skip
        if len(set(self.members)) < len(self.members):
            raise InputError("group", found=f"members {self.members}", expected="different ones", fix="Name each once.")

    @cached_property
    def options(self) -> Tensor:
        """Return every choice, float [C(M, N), M], 1 for what stays."""
        rows = torch.zeros(0, len(self.members))
        for kept in combinations(range(len(self.members)), self.keep):
            row = torch.zeros(1, len(self.members))
            row[0, list(kept)] = 1
            rows = torch.cat([rows, row])
        return rows


def consecutive(count: int, *, size: int, keep: int) -> tuple[Group, ...]:
    """Return the groups 0..size-1, size..2 size-1, ... of `count` blocks, `keep` of each group kept.

    Raises:
        InputError: groups of that size do not divide the blocks, or more are kept than there are.
    """
    if size < 1 or count % size or not count:
        divisors = [n for n in range(1, count + 1) if count % n == 0]
        raise InputError(
            "groups", found=f"{count} blocks in groups of {size}", expected=f"groups of {divisors}",
            fix="Choose a size that divides the blocks, or make the groups by hand: shared.pruning.Group.",
        )  # fmt: skip
    return tuple(Group(tuple(range(first, first + size)), keep) for first in range(0, count, size))


def check_groups(groups: Sequence[Group], count: int) -> None:
    """Check that the groups are of `count` blocks, each in one group at most.

    Raises:
        InputError: they are not.
    """
    members = [member for group in groups for member in group.members]
    if not groups or len(set(members)) < len(members) or not set(members) <= set(range(count)):
        raise InputError(
            "groups", found=f"members {sorted(members)}", expected=f"columns 0 to {count - 1}, each once at most",
            fix="Make the groups for these blocks.",
        )  # fmt: skip


def best_scores(groups: Sequence[Group], scores: Sequence[float]) -> Tensor:
    """Return the decision that keeps the highest scores of each group, bool [blocks]; blocks in no group stay."""
    check_groups(groups, len(scores))
    kept = torch.ones(len(scores), dtype=torch.bool)
    for group in groups:
        ranked = sorted(group.members, key=lambda member: scores[member], reverse=True)
        kept[ranked[group.keep :]] = False
    return kept


def random_choice(groups: Sequence[Group], count: int, generator: torch.Generator) -> Tensor:
    """Return a decision drawn evenly from all that the groups allow, bool [count]."""
    return best_scores(groups, torch.rand(count, generator=generator).tolist())
