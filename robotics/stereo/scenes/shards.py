"""Data sets of generated samples on disk: a folder of safetensors shards and one `dataset.json`.

A shard holds `SHARD` samples, sample i at place i % SHARD of shard i // SHARD: images uint8 (n, height, width, 3),
disparities float16 (n, height, width) with NaN in the sensor's holes, `material` uint8, `occluded` uint8 0 or 1,
`camera` float64 (n, 6) of fx, fy, cx_l, cx_r, cy, baseline, and `index` int64. Files are mapped, so reading one sample
touches only its pages. float16 rounds disparities of 32 to 64 px to 1/32 px, 64 to 128 px to 1/16 px.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robotics.stereo.camera import StereoCamera
from robotics.stereo.pair import StereoPair, StereoSample
from shared.errors import InputError
from shared.files import atomic_path
from shared.jsontext import json_text

if TYPE_CHECKING:
    from robotics.stereo.scenes.config import ScenesConfig

KIND = "fewstep stereo scenes 1"
SHARD = 32
HEADER = "dataset.json"
CAMERA = ("fx", "fy", "cx_l", "cx_r", "cy", "baseline")


def generate(
    folder: Path, config: ScenesConfig, scenes: int, size: tuple[int, int], seed: int, *, jobs: int = 1
) -> Iterator[int]:
    """Write samples 0 to scenes - 1; complete shards that are there are kept. Yields the number of samples done.

    Args:
        folder: of the data set; an existing one must have the same configuration, size and seed.
        config: the family of scenes.
        scenes: number of samples; more than before extends the data set.
        size: (width, height) of the images, px.
        seed: of the data set.
        jobs: threads that make samples; the compiled part runs beside others.

    Raises:
        InputError: the folder holds something else.
    """
    from concurrent.futures import ThreadPoolExecutor

    from robotics.stereo.scenes.samples import make_sample  # needs a compiler, which reading does not

    header = {"kind": KIND, "size": list(size), "seed": seed, "shard": SHARD, "config": config.model_dump(mode="json")}
    _begin(folder, header)
    with ThreadPoolExecutor(jobs) as pool:
        for first in range(0, scenes, SHARD):
            indices = range(first, min(first + SHARD, scenes))
            path = shard_path(folder, first)
            if not (path.is_file() and _count(path) >= len(indices)):
                samples = list(pool.map(lambda index: make_sample(config, *size, seed, index), indices))
                _write(path, samples, indices)
            yield indices[-1] + 1


def shard_path(folder: Path, index: int) -> Path:
    """Return the file of sample `index`."""
    return folder / f"shard-{index // SHARD:05d}.safetensors"


class SceneSamples:
    """A generated data set, read as a sequence of `StereoSample`.

    Args:
        folder: of the data set. Samples are those of its complete shards, counted from the first.

    Raises:
        InputError: it is none, or it is empty.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.header = _header(self.folder)
        self.size: tuple[int, int] = tuple(self.header["size"])
        self._shards: list[Any] = []
        self._length = 0
        while (path := shard_path(self.folder, SHARD * len(self._shards))).is_file():
            from safetensors import safe_open

            self._shards.append(safe_open(path, "np"))
            self._length += _count(path)
            if self._length % SHARD:
                break
        if not self._length:
            raise InputError(
                self.folder, found="no shards", expected="at least one",
                fix="Run `fewstep stereo generate` again: it goes on where it stopped.",
            )  # fmt: skip

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> StereoSample:
        if not 0 <= index < self._length:
            raise IndexError(index)
        shard, place = self._shards[index // SHARD], index % SHARD

        def read(name: str) -> np.ndarray:
            values: np.ndarray = shard.get_slice(name)[place : place + 1][0]
            return values

        width, height = self.size
        camera = StereoCamera(width, height, **dict(zip(CAMERA, map(float, read("camera")), strict=True)))
        return StereoSample(
            pair=StereoPair(read("left"), read("right"), camera),
            disparity_left=read("disparity_left").astype(np.float32),
            disparity_right=read("disparity_right").astype(np.float32),
            occluded=read("occluded").astype(bool),
            material=read("material"),
            raw=read("raw").astype(np.float32),
            seed=int(read("index")),
        )


class SceneFolders:
    """Several generated data sets as one sequence, in the order given; like theirs, its samples stay on disk.

    Args:
        folders: of the data sets.
        smallest: (width, height) that the images of each must have at least, px.

    Raises:
        InputError: as of `SceneSamples`, or images that are too small.
    """

    def __init__(self, folders: Sequence[str | os.PathLike[str]], smallest: tuple[int, int] = (1, 1)) -> None:
        self.parts = [SceneSamples(folder) for folder in folders]
        for part in self.parts:
            if part.size[0] < smallest[0] or part.size[1] < smallest[1]:
                raise InputError(
                    part.folder, found=f"images of {part.size[0]}x{part.size[1]} pixels",
                    expected=f"at least {smallest[0]}x{smallest[1]}", fix="Give larger scenes or smaller crops.",
                )  # fmt: skip
        self._ends = np.cumsum([len(part) for part in self.parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> StereoSample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = int(np.searchsorted(self._ends, index, "right"))
        return self.parts[part][index - int(self._ends[part]) + len(self.parts[part])]

    def facts(self) -> list[dict[str, Any]]:
        """Return name, number of scenes, size and seed of each data set."""
        return [
            {"folder": part.folder.resolve().name, "scenes": len(part), "size": list(part.size),
             "seed": part.header["seed"]}
            for part in self.parts
        ]  # fmt: skip


def _begin(folder: Path, header: dict[str, Any]) -> None:
    """Write the header, or check that the one that is there is the same."""
    if not (folder / HEADER).exists():
        if folder.exists() and any(folder.iterdir()):
            raise InputError(
                folder, found="a folder with other files", expected="a new folder or a data set to go on with",
                fix="Choose another folder.",
            )  # fmt: skip
        with atomic_path(folder / HEADER) as scratch:
            scratch.write_text(json_text(header), encoding="utf-8")
    known = _header(folder)
    wanted = json.loads(json_text(header))
    if different := sorted(key for key in wanted if known.get(key) != wanted[key]):
        raise InputError(
            folder / HEADER, found=f"another {different[0]}", expected="the same data set",
            fix="Give the options it was begun with, or another folder.",
        )  # fmt: skip


def _header(folder: Path) -> dict[str, Any]:
    path = folder / HEADER
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
        if header["kind"] == KIND:
            return dict(header)
        found = repr(header["kind"])
    except (OSError, ValueError, KeyError, TypeError):
        found = "no header of generated scenes"
    raise InputError(path, found=found, expected=repr(KIND), fix="Give a folder of `fewstep stereo generate`.")


def _count(path: Path) -> int:
    """Return the number of samples in a shard, from its header alone."""
    from safetensors import safe_open

    with safe_open(path, "np") as shard:
        return int(shard.get_slice("index").get_shape()[0])


def _write(path: Path, samples: list[StereoSample], indices: range) -> None:
    from safetensors.numpy import save_file

    cameras = [sample.pair.camera for sample in samples]
    tensors = {
        "left": np.stack([sample.pair.left for sample in samples]),
        "right": np.stack([sample.pair.right for sample in samples]),
        "disparity_left": np.stack([sample.disparity_left for sample in samples]).astype(np.float16),
        "disparity_right": np.stack([sample.disparity_right for sample in samples]).astype(np.float16),
        "raw": np.stack([sample.raw for sample in samples]).astype(np.float16),
        "material": np.stack([sample.material for sample in samples]),
        "occluded": np.stack([sample.occluded for sample in samples]).astype(np.uint8),
        "camera": np.array([[getattr(camera, name) for name in CAMERA] for camera in cameras]),
        "index": np.array(indices, np.int64),
    }
    with atomic_path(path, overwrite=True) as scratch:
        save_file(tensors, scratch)
