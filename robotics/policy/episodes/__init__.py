"""Recorded demonstrations.

    episodes = read_episodes("pusht.zarr.zip", ["keypoint", "state", "action"])
    episodes.arrays["action"], episodes.ends

| path | what | module |
| --- | --- | --- |
| `*.zarr`, `*.zarr.zip` | replay buffer of Diffusion Policy: `data/<name>` and `meta/episode_ends` | arrays |
| `*.npz` | arrays, frames first, and `episode_ends` | arrays |
| a folder with `meta/info.json` | LeRobotDataset v2.0, v2.1 or v3.0; reads no videos | lerobot |
| `*.hdf5`, `*.h5` | robomimic: `data/demo_<n>/{obs/<name>, actions}` | robomimic |
| a folder with `metadata.yaml`, or of such | bags of ROS 2, with a mapping of topics to names | bags |

Only the arrays that are asked for are read. `episode_ends` are cumulative and exclusive.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from robotics.policy.episodes.arrays import read_npz, read_zarr
from robotics.policy.episodes.bags import BagTopics, bags_in, read_bags
from robotics.policy.episodes.episode import ENDS, Episodes
from robotics.policy.episodes.lerobot import read_lerobot
from robotics.policy.episodes.robomimic import read_robomimic
from shared.errors import InputError

__all__ = ["BagTopics", "Episodes", "read_episodes"]

FORMATS = ".zarr, .zarr.zip, .npz, robomimic .hdf5, a LeRobot folder, or bags of ROS 2"


def read_episodes(
    path: str | os.PathLike[str],
    names: Sequence[str],
    *,
    topics: BagTopics | None = None,
    mask: str | None = None,
) -> Episodes:
    """Read the named arrays of all episodes.

    Args:
        path: a row of the module's table.
        names: of the arrays.
        topics: where the names are in bags.
        mask: subset of a robomimic file; None takes all demonstrations.

    Raises:
        InputError: no such file, another format, an array that is absent, lengths that do not fit, numbers that are not
            finite, or an option for another format.
        MissingExtra: the reader's package is absent.
    """
    place = Path(path)
    if not place.exists():
        raise InputError(place, found="nothing there", expected="a data set", fix="Check the path.")
    robomimic, bags = place.suffix in (".hdf5", ".h5"), bags_in(place)
    if mask is not None and not robomimic:
        raise InputError(place, found="no masks", expected="a robomimic file", fix="Leave the mask out.")
    if bags and topics is None:
        raise InputError(
            place, found="bags without a mapping", expected="the topic of each array",
            fix="Give --topics, a file as docs/policy.md shows it.",
        )  # fmt: skip
    try:
        if place.suffix == ".npz":
            episodes = read_npz(place, names)
        elif place.name.endswith((".zarr", ".zarr.zip")):
            episodes = read_zarr(place, names)
        elif robomimic:
            episodes = read_robomimic(place, names, mask)
        elif (place / "meta" / "info.json").is_file():
            episodes = read_lerobot(place, names)
        elif bags and topics is not None:
            episodes = read_bags(place, names, topics)
        else:
            raise InputError(place, found="an unknown format", expected=FORMATS, fix="Give one of these.")
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            place, found=f"a file that cannot be read ({error})", expected="a whole data set", fix="Copy it again."
        ) from error
    _check(episodes)
    return episodes


def _check(episodes: Episodes) -> None:
    place, ends = episodes.path, episodes.ends
    if ends.ndim != 1 or not len(ends) or (np.diff(ends, prepend=0) <= 0).any():
        raise InputError(place, found=f"{ENDS} {ends[:4]}", expected="rising frame numbers", fix="Repair the data.")
    for name, values in episodes.arrays.items():
        if len(values) != ends[-1]:
            raise InputError(
                place, found=f"{len(values)} frames of {name}", expected=f"{ends[-1]}, the last of {ENDS}",
                fix="Repair the data.",
            )  # fmt: skip
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            where = np.argwhere(~np.isfinite(values))[0]
            raise InputError(
                place, found=f"{name}: not finite in frame {where[0]}", expected="finite numbers",
                fix="Remove the broken episode.",
            )  # fmt: skip
