"""Recorded demonstrations: a zarr replay buffer of Diffusion Policy, a LeRobot v3 data set, or an npz file.

    episodes = read_episodes("pusht.zarr.zip", ["keypoint", "state", "action"])
    episodes.arrays["action"], episodes.ends

| path | what |
| --- | --- |
| `*.zarr`, `*.zarr.zip` | groups `data` (arrays, frames first) and `meta/episode_ends`; needs zarr |
| a folder with `meta/info.json` | LeRobotDataset v3: parquet files under `data/`; needs pyarrow; reads no videos |
| `*.npz` | arrays, frames first, and `episode_ends` |

Only the arrays that are asked for are read. `episode_ends` are cumulative and exclusive.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robotics.packages import require
from shared.errors import InputError

ENDS = "episode_ends"


@dataclass(frozen=True)
class Episodes:
    """Episodes laid end to end.

    Attributes:
        arrays: name to numbers, frames first.
        ends: frame after the last one of each episode.
        path: where they were read.
    """

    arrays: Mapping[str, np.ndarray]
    ends: np.ndarray
    path: Path

    @property
    def frames(self) -> int:
        """Return the number of frames."""
        return int(self.ends[-1])

    @property
    def count(self) -> int:
        """Return the number of episodes."""
        return len(self.ends)

    @property
    def bounds(self) -> list[tuple[int, int]]:
        """Return (first frame, frame after the last) of each episode."""
        return list(zip([0, *self.ends[:-1].tolist()], self.ends.tolist(), strict=True))


def read_episodes(path: str | os.PathLike[str], names: Sequence[str]) -> Episodes:
    """Read the named arrays of all episodes.

    Raises:
        InputError: no such file, another format, an array that is absent, lengths that do not fit, or numbers that are
            not finite.
        MissingExtra: the reader's package is absent.
    """
    place = Path(path)
    if not place.exists():
        raise InputError(place, found="nothing there", expected="a data set", fix="Check the path.")
    try:
        if place.suffix == ".npz":
            arrays, ends = _read_npz(place, names)
        elif place.name.endswith((".zarr", ".zarr.zip")):
            arrays, ends = _read_zarr(place, names)
        elif (place / "meta" / "info.json").is_file():
            arrays, ends = _read_lerobot(place, names)
        else:
            raise InputError(
                place, found="an unknown format", expected=".zarr, .zarr.zip, .npz, or a LeRobot v3 folder",
                fix="Give one of these.",
            )  # fmt: skip
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(
            place, found=f"a file that cannot be read ({error})", expected="a whole data set", fix="Copy it again."
        ) from error
    _check(place, arrays, ends)
    return Episodes(arrays, ends, place)


def _absent(place: Path, name: str, known: Sequence[str]) -> InputError:
    return InputError(
        place, found=f"no array {name!r}", expected=f"one of {', '.join(sorted(known))}", fix="Correct the name."
    )


def _read_npz(place: Path, names: Sequence[str]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    with np.load(place, allow_pickle=False) as file:
        for name in (*names, ENDS):
            if name not in file:
                raise _absent(place, name, file.files)
        return {name: file[name] for name in names}, file[ENDS].astype(np.int64)


def _read_zarr(place: Path, names: Sequence[str]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    require("zarr", "to read a zarr replay buffer")
    import zarr

    store: Any = place
    if place.suffix == ".zip":
        module: Any = zarr.storage
        store = module.ZipStore(str(place), mode="r")
    try:
        root: Any = zarr.open_group(store, mode="r")
        if "data" not in root or "meta" not in root or ENDS not in root["meta"]:
            raise InputError(
                place, found="another layout", expected=f"groups data and meta/{ENDS}", fix="Give a replay buffer."
            )
        data = root["data"]
        for name in names:
            if name not in data:
                raise _absent(place, name, list(data.array_keys()))
        return {name: np.asarray(data[name][:]) for name in names}, np.asarray(root["meta"][ENDS][:]).astype(np.int64)
    finally:
        if place.suffix == ".zip":
            store.close()


def _read_lerobot(place: Path, names: Sequence[str]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    require("pyarrow", "to read a LeRobot data set")
    import pyarrow as arrow
    from pyarrow import parquet

    info = json.loads((place / "meta" / "info.json").read_text(encoding="utf-8"))
    version = str(info.get("codebase_version", "unknown"))
    if not version.startswith("v3"):
        raise InputError(
            place, found=f"LeRobot data of version {version}", expected="v3", fix="Convert it with LeRobot's converter."
        )
    for name in names:
        kind = info.get("features", {}).get(name, {}).get("dtype")
        if kind is None:
            raise _absent(place, name, list(info.get("features", {})))
        if kind in ("video", "image", "string"):
            raise InputError(place, found=f"{name} of type {kind}", expected="numbers", fix="Ask for another feature.")
    files = sorted((place / "data").rglob("*.parquet"))
    if not files:
        raise InputError(place, found="no parquet file under data/", expected="the frames", fix="Copy it again.")
    columns = [*names, "episode_index", "frame_index"]
    try:
        table = arrow.concat_tables([parquet.read_table(file, columns=columns) for file in files])
    except arrow.ArrowException as error:
        raise InputError(
            place, found=f"parquet files that do not fit ({error})", expected="the frames", fix="Copy it again."
        ) from error
    order = np.lexsort((table["frame_index"].to_numpy(), table["episode_index"].to_numpy()))
    episode = table["episode_index"].to_numpy()[order]
    ends = np.append(np.flatnonzero(np.diff(episode)) + 1, len(episode))
    if len(episode) != info.get("total_frames"):
        raise InputError(
            place, found=f"{len(episode)} frames", expected=f"{info.get('total_frames')}, as meta/info.json says",
            fix="Copy the missing files.",
        )  # fmt: skip
    arrays = {}
    for name in names:
        shape = info["features"][name]["shape"]
        column = table[name].combine_chunks()
        flat = column
        while arrow.types.is_list(flat.type) or arrow.types.is_fixed_size_list(flat.type):
            flat = flat.flatten()
        arrays[name] = flat.to_numpy(zero_copy_only=False).reshape(len(episode), *shape)[order]
    return arrays, ends.astype(np.int64)


def _check(place: Path, arrays: Mapping[str, np.ndarray], ends: np.ndarray) -> None:
    if ends.ndim != 1 or not len(ends) or (np.diff(ends, prepend=0) <= 0).any():
        raise InputError(place, found=f"{ENDS} {ends[:4]}", expected="rising frame numbers", fix="Repair the data.")
    for name, values in arrays.items():
        if len(values) != ends[-1]:
            raise InputError(
                place, found=f"{len(values)} frames of {name}", expected=f"{ends[-1]}, the last of {ENDS}",
                fix="Repair the data.",
            )  # fmt: skip
        if not np.isfinite(values).all():
            where = np.argwhere(~np.isfinite(values))[0]
            raise InputError(
                place, found=f"{name}: not finite in frame {where[0]}", expected="finite numbers",
                fix="Remove the broken episode.",
            )  # fmt: skip
