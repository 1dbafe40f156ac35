"""robomimic data sets: one HDF5 file, `data/demo_<n>/{obs/<key>, actions, ...}`.

A name is looked for among the observations, then among the demonstration's own arrays, so an action is named `actions`.
Demonstrations come in the order of their numbers. `mask/<name>` lists the demonstrations of a subset. The simulator
that the file names (`env_args`) is kept as a fact; whoever evaluates has to make the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robotics.policy.episodes.episode import Episodes, absent, joined
from shared.errors import InputError

DEMO = re.compile(r"demo_\d+")


def read_robomimic(place: Path, names: Sequence[str], mask: str | None = None) -> Episodes:
    """Read arrays of the demonstrations of a file, of a subset where `mask` names one."""
    import h5py

    with h5py.File(place, "r") as file:
        data = file.get("data")
        demos = [] if data is None else sorted(filter(DEMO.fullmatch, data), key=_number)
        if not demos:
            raise InputError(
                place, found="no data/demo_<n>", expected="a robomimic data set", fix="Give a robomimic file."
            )
        if mask is not None:
            demos = _masked(place, file, mask, demos)
        facts: dict[str, Any] = {}
        if "env_args" in data.attrs:
            try:
                facts["env_args"] = json.loads(data.attrs["env_args"])
            except ValueError as error:
                raise InputError(
                    place, found="env_args that are no JSON", expected="the simulator", fix="Write the file again."
                ) from error
        return joined([_demo(place, data[demo], names) for demo in demos], place, facts)


def _number(demo: str) -> int:
    return int(demo.removeprefix("demo_"))


def _masked(place: Path, file: Any, mask: str, demos: list[str]) -> list[str]:
    masks = file.get("mask", {})
    if mask not in masks:
        raise InputError(
            place, found=f"no mask {mask!r}", expected=f"one of {', '.join(sorted(masks)) or 'none: it has no masks'}",
            fix="Correct the name, or take all demonstrations.",
        )  # fmt: skip
    wanted = {name.decode() if isinstance(name, bytes) else str(name) for name in masks[mask][()]}
    if wanted - {*demos} or not wanted:
        raise InputError(
            place, found=f"mask {mask} of {', '.join(sorted(wanted - {*demos})) or 'nothing'}",
            expected="demonstrations of the file", fix="Repair the mask.",
        )  # fmt: skip
    return [demo for demo in demos if demo in wanted]


def _demo(place: Path, demo: Any, names: Sequence[str]) -> dict[str, np.ndarray]:
    import h5py

    observed = demo.get("obs", {})
    own = {name: demo[name] for name in demo if isinstance(demo[name], h5py.Dataset)}
    found = {}
    for name in names:
        values = observed[name] if name in observed else own.get(name)
        if values is None:
            raise absent(place, f"{demo.name}: {name}", [*observed, *own])
        found[name] = np.asarray(values[()])
    return found
