"""Replay buffers: arrays with the frames of all episodes, and where each episode ends (`npz`, zarr)."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robotics.packages import require
from robotics.policy.episodes.episode import ENDS, Episodes, absent
from shared.errors import InputError


def read_npz(place: Path, names: Sequence[str]) -> Episodes:
    """Read arrays and `episode_ends` of an npz file."""
    with np.load(place, allow_pickle=False) as file:
        for name in (*names, ENDS):
            if name not in file:
                raise absent(place, name, file.files)
        return Episodes({name: file[name] for name in names}, file[ENDS].astype(np.int64), place)


def read_zarr(place: Path, names: Sequence[str]) -> Episodes:
    """Read the groups `data` and `meta/episode_ends` of a zarr folder or zip: Diffusion Policy's replay buffer."""
    require("zarr", "to read a zarr replay buffer")
    import zarr

    store: Any = place
    if place.suffix == ".zip":
        zipfile.ZipFile(place).close()  # or the error of a damaged one would be lost: its store cannot be closed
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
                raise absent(place, name, list(data.array_keys()))
        ends = np.asarray(root["meta"][ENDS][:]).astype(np.int64)
        return Episodes({name: np.asarray(data[name][:]) for name in names}, ends, place)
    finally:
        if place.suffix == ".zip":
            store.close()
