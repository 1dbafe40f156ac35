"""Task files: what a body should do in a scene, one after the other, as YAML.

    - walk_to: sofa                  # an object of the scene, or a point [x, y] in metres
    - sit_on: sofa
      seconds: 3                     # how long; 2 if it is not said
    - stand_up
    - walk_to: [1.0, 2.5]
      speed: 1.3                     # m/s
      via: [[0, 1], [0.5, 2]]        # on a curve through these places; without them, the best way is looked for
    - lie_on: bed
    - wait: 1.5                      # s

The list may also be the entry `tasks` of a mapping with `start: [x, y]`, m, and `facing`, degrees counter-clockwise
from x, of the body before the first task.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.errors import InputError

Point = tuple[float, float]
Seconds = Field(default=2.0, gt=0, le=600)


class _Task(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Walk(_Task):
    """Walk to an object or a point."""

    walk_to: Point | str
    via: tuple[Point, ...] = ()
    speed: float | None = Field(default=None, ge=0.3, le=2.0)


class Sit(_Task):
    """Sit down on an object and stay."""

    sit_on: str
    seconds: float = Seconds


class Lie(_Task):
    """Lie down on an object and stay."""

    lie_on: str
    seconds: float = Seconds


class StandUp(_Task):
    """Stand up from where the body sits or lies."""

    stand_up: None = None


class Wait(_Task):
    """Stay as one is."""

    wait: float = Field(gt=0, le=600)


Task = Walk | Sit | Lie | StandUp | Wait
KINDS: dict[str, type[Task]] = {"walk_to": Walk, "sit_on": Sit, "lie_on": Lie, "stand_up": StandUp, "wait": Wait}


class TaskList(_Task):
    """What a file says.

    Attributes:
        start: (x, y) of the body, m; None where any place will do.
        facing: of the body, degrees; None to look to where it goes.
        tasks: in order.
        source: the file, for messages.
    """

    start: Point | None = None
    facing: float | None = None
    tasks: tuple[Task, ...] = Field(min_length=1)
    source: str = "tasks"


def read_tasks(path: str | os.PathLike[str]) -> TaskList:
    """Return the tasks of a YAML file.

    Raises:
        InputError: no such file, no YAML, or a task that is none, by number.
    """
    file = Path(path)
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(file, found="no such file", expected="a YAML list of tasks", fix="Check the path.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(
            file, found=f"no YAML ({' '.join(str(error).split())})", expected="a list of tasks", fix="Correct it."
        ) from error
    return parse_tasks(data, source=str(file))


def parse_tasks(data: Any, *, source: str = "tasks") -> TaskList:
    """Return tasks from what a YAML file holds: a list, or a mapping with `tasks`.

    Raises:
        InputError: something is no task, by number.
    """
    whole = {"tasks": data} if isinstance(data, list) else data
    if not isinstance(whole, dict) or not isinstance(whole.get("tasks"), list) or not whole["tasks"]:
        raise InputError(
            source, found="no tasks" if data in (None, [], {}) else f"a {type(data).__name__} without a list of tasks",
            expected="a list such as '- walk_to: sofa'", fix="Write one task a line.",
        )  # fmt: skip
    tasks = [_task(item, f"{source}: task {number}") for number, item in enumerate(whole["tasks"], 1)]
    return _validated(TaskList, {**whole, "tasks": tasks, "source": source}, source)


def _task(item: Any, source: str) -> Task:
    given = {item: None} if isinstance(item, str) else item
    found = [name for name in KINDS if isinstance(given, dict) and name in given]
    if len(found) != 1:
        raise InputError(
            source, found=repr(item), expected=f"one of {', '.join(KINDS)}", fix="Write for example '- walk_to: sofa'."
        )
    if found[0] == "walk_to" and not isinstance(given["walk_to"], (str, list, tuple)):
        raise InputError(
            source, found=f"walk_to: {given['walk_to']!r}", expected="a name or a point [x, y]", fix="Correct it."
        )
    return _validated(KINDS[found[0]], given, source)


def _validated(kind: Any, values: dict[str, Any], source: str) -> Any:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(
            source, found=f"{key}: {first['input']!r}", expected=first["msg"], fix="Correct this entry."
        ) from error
