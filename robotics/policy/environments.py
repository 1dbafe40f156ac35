"""Worlds by name, for `fewstep policy evaluate`, `run` and `collect`.

| name | world | scripted expert |
| --- | --- | --- |
| `pusht` | Push-T (`robotics.policy.pusht`) | no |
| `metaworld/TASK` | an arm with a gripper, such as `metaworld/pick-place` (`robotics.policy.metaworld`) | yes |
| any other | the gymnasium environment of that id, `module:id` too (`robotics.policy.gym_world`) | no |

`with_mirrored` doubles demonstrations by the symmetry of a world (`pusht`).

A new world is a class with the methods of `World` and a line in `FAMILIES`: the module whose function `environment`
makes an `Environment` of what follows the slash and of the pictures that the policy looks at. Modules are imported only
when their family is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Protocol, runtime_checkable

import numpy as np

from robotics.policy.config import ImageField
from robotics.policy.episodes import Episodes
from robotics.policy.evaluation import Task
from shared.errors import InputError

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


def find_environment(name: str, images: Sequence[ImageField] = ()) -> Environment:
    """Return the environment of a name.

    Args:
        name: a row of the module's table.
        images: pictures that a policy looks at; so far only Push-T has them.

    Raises:
        InputError: no such environment; the families are listed. Or pictures that it has not.
        MissingExtra: its package is absent.
    """
    family, _, variant = name.partition("/")
    module = FAMILIES.get(family, "robotics.policy.gym_world")
    return import_module(module).environment(variant if family in FAMILIES else name, images)


def with_mirrored(episodes: Episodes, name: str) -> Episodes:
    """Return the episodes and, after them and in their order, their mirror images by the symmetry of a world.

    Args:
        episodes: recorded in that world.
        name: of the family of worlds, whose module has a function `mirrored`.

    Raises:
        InputError: a world without a known symmetry, or arrays that it cannot reflect.
    """
    reflect = getattr(import_module(FAMILIES[name]), "mirrored", None) if name in FAMILIES else None
    if reflect is None:
        raise InputError("mirror", found=repr(name), expected="pusht", fix="Leave mirror out of the configuration.")
    reflected = reflect(episodes.arrays)
    arrays = {name: np.concatenate([values, reflected[name]]) for name, values in episodes.arrays.items()}
    return replace(episodes, arrays=arrays, ends=np.concatenate([episodes.ends, episodes.ends + episodes.frames]))


def refuse_images(name: str, images: Sequence[ImageField]) -> None:
    """Raise `InputError` where a world without pictures is asked for some."""
    if images:
        raise InputError(
            name, found=f"a policy that looks at {', '.join(field.name for field in images)}",
            expected="one of numbers, because this world gives no pictures", fix="Take Push-T, or another policy.",
        )  # fmt: skip
