"""LeRobot data sets: `meta/info.json` and parquet files, of the two layouts in use.

| version | files | episodes |
| --- | --- | --- |
| v2.0, v2.1 | `data/chunk-000/episode_000000.parquet`, one an episode | `meta/episodes.jsonl`: index and length |
| v3.0 | `data/chunk-000/file-000.parquet`, many episodes each | `meta/episodes/**.parquet`, not read |

Either way the columns `episode_index` and `frame_index` order the frames, and `total_frames` says how many there are.
Images in the parquet files (PNG or JPEG) are read, videos are not.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robotics.packages import require
from robotics.policy.episodes.episode import Episodes, absent
from shared.errors import InputError

VERSIONS = ("v2.0", "v2.1", "v3.0")


def read_lerobot(place: Path, names: Sequence[str]) -> Episodes:
    """Read features of a data set's folder."""
    require("pyarrow", "to read a LeRobot data set")
    import pyarrow as arrow
    from pyarrow import parquet

    info = json.loads((place / "meta" / "info.json").read_text(encoding="utf-8"))
    version = str(info.get("codebase_version", "unknown"))
    if version not in VERSIONS:
        raise InputError(
            place, found=f"LeRobot data of version {version}", expected=", ".join(VERSIONS),
            fix="Convert it with LeRobot's converter.",
        )  # fmt: skip
    for name in names:
        kind = info.get("features", {}).get(name, {}).get("dtype")
        if kind is None:
            raise absent(place, name, list(info.get("features", {})))
        if kind in ("video", "string"):
            raise InputError(
                place, found=f"{name} of type {kind}", expected="numbers or images", fix="Ask for another feature."
            )
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
    ends = np.append(np.flatnonzero(np.diff(episode)) + 1, len(episode)).astype(np.int64)
    _check_frames(place, info, version, episode, ends)
    arrays = {name: _values(table[name].combine_chunks(), name, info, place)[order] for name in names}
    kept = {"codebase_version": version, "robot_type": info.get("robot_type"), "rate_hz": info.get("fps")}
    facts = {name: value for name, value in kept.items() if value is not None}
    return Episodes(arrays, ends, place, facts)


def _check_frames(place: Path, info: dict[str, Any], version: str, episode: np.ndarray, ends: np.ndarray) -> None:
    if len(episode) != info.get("total_frames"):
        raise InputError(
            place, found=f"{len(episode)} frames", expected=f"{info.get('total_frames')}, as meta/info.json says",
            fix="Copy the missing files.",
        )  # fmt: skip
    list_of_episodes = place / "meta" / "episodes.jsonl"
    if version.startswith("v3") or not list_of_episodes.is_file():
        return
    rows = [json.loads(line) for line in list_of_episodes.read_text(encoding="utf-8").splitlines() if line.strip()]
    said = {int(row["episode_index"]): int(row["length"]) for row in rows}
    found = dict(zip(episode[ends - 1].tolist(), np.diff(ends, prepend=0).tolist(), strict=True))
    wrong = [index for index in sorted({*said, *found}) if said.get(index) != found.get(index)]
    if wrong:
        index = wrong[0]
        raise InputError(
            place, found=f"episode {index} of {found.get(index, 'no')} frames",
            expected=f"{said.get(index, 'none')}, as meta/episodes.jsonl says", fix="Copy the data set again.",
        )  # fmt: skip


def _values(column: Any, name: str, info: dict[str, Any], place: Path) -> np.ndarray:
    """Return the numbers of a column in its feature's shape, frames first; images are (frames, H, W, 3) uint8."""
    import pyarrow as arrow

    feature = info["features"][name]
    if feature["dtype"] == "image":
        return np.stack([_image(cell, name, place) for cell in column.to_pylist()])
    flat = column
    while arrow.types.is_list(flat.type) or arrow.types.is_fixed_size_list(flat.type):
        flat = flat.flatten()
    values: np.ndarray = flat.to_numpy(zero_copy_only=False).reshape(len(column), *feature["shape"])
    return values


def _image(cell: dict[str, Any], name: str, place: Path) -> np.ndarray:
    from PIL import Image

    if not cell.get("bytes"):
        raise InputError(
            place, found=f"{name}: {cell.get('path')!r} outside the parquet files", expected="images inside them",
            fix="Write the data set again with its images embedded.",
        )  # fmt: skip
    with Image.open(io.BytesIO(cell["bytes"])) as image:
        return np.asarray(image.convert("RGB"))
