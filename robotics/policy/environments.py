"""Worlds by name, for `fewstep policy evaluate`, `run` and `collect`.

| name | world | scripted expert |
| --- | --- | --- |
| `pusht` | Push-T (`robotics.policy.pusht`) | no |
| `metaworld/TASK` | an arm with a gripper, such as `metaworld/pick-place` (`robotics.policy.metaworld`) | yes |
| any other | the gymnasium environment of that id, `module:id` too (`robotics.policy.gym_world`) | no |

A new world is a class with the methods of `World` and a line in `FAMILIES`: the module whose function `environment`
makes an `Environment` of what follows the slash. Modules are imported only when their family is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, runtime_checkable

import numpy as np

from robotics.policy.evaluation import Task

FAMILIES = {"pusht": "robotics.policy.pusht", "metaworld": "robotics.policy.metaworld"}


class World(Task, Protocol):
    """A task that can also be run in real time and looked at.

    Attributes:
        limits: smallest and largest action, (A,) each.
        rest: for each number of the action, where it goes when there is no plan: 0 for a motion, None stays.
        over: whether the episode has ended without being solved; the world then stands still.
    """

    limits: tuple[np.ndarray, np.ndarray]
    rest: tuple[float | None, ...]
    over: bool

    def picture(self) -> np.ndarray:
        """Return how the world looks now, (rows, columns, 3) uint8."""
        ...


@runtime_checkable
class Demonstrated(Protocol):
    """A world with a scripted expert."""

    def expert(self) -> np.ndarray:
        """Return what the expert does now, an action within the limits."""
        ...


@dataclass(frozen=True)
class Environment:
    """A world by name.

    Attributes:
        name: as asked for.
        make: makes one.
        first_seed: of the evaluation's worlds; recordings begin at seed 0.
    """

    name: str
    make: Callable[[], World]
    first_seed: int = 100_000


def find_environment(name: str) -> Environment:
    """Return the environment of a name.

    Raises:
        InputError: no such environment; the families are listed.
        MissingExtra: its package is absent.
    """
    family, _, variant = name.partition("/")
    module = FAMILIES.get(family, "robotics.policy.gym_world")
    return import_module(module).environment(variant if family in FAMILIES else name)
