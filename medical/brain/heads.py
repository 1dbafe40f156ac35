"""Heads to train on: simulated ones of label maps and prepared volumes, in one cache file.

A `HeadSet` is what a training draws from: volumes on one grid, with the name of the subject and the numbers that
conditions may be of. Subjects are held out whole: no head of a held-out label map is trained on.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from medical.brain.anatomy import STRUCTURES, read_anatomy, subject_of
from medical.brain.simulate import head_seed, simulate_head
from medical.brain.volume import WHITE, read_volume, to_lps
from medical.simulation.contrast import Contrast
from shared.errors import InputError
from shared.files import atomic_path

KIND = "fewstep heads 1"
VERSION = 1  # of the simulation: caches of another are made again


class Source(BaseModel):
    """Files to train on, and under which licence.

    Attributes:
        files: pattern below the data folder, such as "open/*_dseg.nii.gz".
        kind: "labels" for whole-head label maps, "volumes" for what `fewstep brain prepare` wrote.
        licence: of the files; goes into the card.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: str
    kind: Literal["labels", "volumes"]
    licence: str = Field(min_length=1)


@dataclass(frozen=True, eq=False)
class HeadSet:
    """Volumes on one grid.

    Attributes:
        x: (N, X, Y, Z) float16 in [-1, 1].
        subjects: N names.
        numbers: by name, N numbers each; NaN is unknown.
        words: by name, N words each; "" is unknown.
    """

    x: Tensor
    subjects: tuple[str, ...]
    numbers: dict[str, tuple[float, ...]]
    words: dict[str, tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.x)


def found_files(folder: Path, sources: Sequence[Source]) -> list[tuple[str, Path, Source]]:
    """Return (subject, file, source) of every file of the sources, sorted by name.

    Raises:
        InputError: a source without files.
    """
    found = []
    for source in sources:
        paths = sorted(path for path in folder.glob(source.files) if path.is_file())
        if not paths:
            raise InputError(
                folder, found=f"no file {source.files}", expected="the files of the configuration",
                fix="Give their folder with --data, or correct data: in the configuration.",
            )  # fmt: skip
        found += [(subject_of(path), path, source) for path in paths]
    return found


def load_heads(
    files: Sequence[tuple[str, Path, Source]],
    cache: Path,
    *,
    count: int,
    size: tuple[int, int, int],
    spacing_mm: float,
    contrasts: tuple[Contrast, ...],
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> HeadSet:
    """Return simulated heads and the prepared volumes of files; made once, then read from the cache file.

    Args:
        files: of `found_files`.
        cache: file of the heads; made anew unless it holds these.
        count: of simulated heads, every label map equally often.
        size: voxels along x, y, z.
        spacing_mm: edge of a voxel.
        contrasts: of simulated heads, in turn.
        seed: of the simulation.
        progress: called with how many are done, of how many.

    Raises:
        InputError: a file that cannot be read, or a volume on another grid.
    """
    wanted = {
        "kind": KIND, "version": VERSION, "count": count, "size": list(size), "spacing_mm": spacing_mm,
        "contrasts": list(contrasts), "seed": seed,
        "files": [[subject, source.kind, _digest(path)] for subject, path, source in files],
    }  # fmt: skip
    if (kept := _kept(cache, wanted)) is not None:
        return kept
    made = _made(files, wanted, contrasts, progress)
    _keep(cache, made, wanted)
    return made


def _made(
    files: Sequence[tuple[str, Path, Source]],
    wanted: dict,
    contrasts: tuple[Contrast, ...],
    progress: Callable[[int, int], None] | None,
) -> HeadSet:
    x, y, z = wanted["size"]
    maps = [path for _, path, source in files if source.kind == "labels"]
    volumes = [(subject, path) for subject, path, source in files if source.kind == "volumes"]
    total = (wanted["count"] if maps else 0) + len(volumes)
    voxels = torch.empty((total, x, y, z), dtype=torch.float16)
    subjects: list[str] = [""] * total
    numbers = {_number_name(name): [float("nan")] * total for name in STRUCTURES}
    words = {"contrast": [""] * total}
    done = 0
    for index, path in enumerate(maps):  # one map in memory at a time
        anatomy = read_anatomy(path)
        for place in range(index, wanted["count"], len(maps)):
            contrast = contrasts[place // len(maps) % len(contrasts)]
            seed = head_seed(wanted["seed"], place)
            head = simulate_head(
                anatomy, seed, size=(x, y, z), spacing_mm=wanted["spacing_mm"], contrast=contrast
            )  # fmt: skip
            voxels[place], subjects[place], words["contrast"][place] = head.x.half(), anatomy.name, contrast
            for name, value in head.volumes_cm3.items():
                numbers[_number_name(name)][place] = value
            done += 1
            if progress is not None:
                progress(done, total)
    tables = {path.parent: _participants(path.parent) for _, path in volumes}
    for place, (subject, path) in enumerate(volumes, total - len(volumes)):
        voxels[place], subjects[place] = _prepared(path, (x, y, z), wanted["spacing_mm"]), subject
        words["contrast"][place] = "T1w"
        for name, text in tables[path.parent].get(subject, {}).items():
            _note(numbers, words, name, text, place, total)
    return HeadSet(
        voxels, tuple(subjects), {name: tuple(values) for name, values in numbers.items()},
        {name: tuple(values) for name, values in words.items()},
    )  # fmt: skip


def _number_name(structure: str) -> str:
    """Return the name of a structure's volume as a condition: ventricles_cm3, brain_cm3, ..."""
    return f"{structure.removeprefix('lateral_')}_cm3"


def _prepared(path: Path, size: tuple[int, int, int], spacing_mm: float) -> Tensor:
    volume = to_lps(read_volume(path))
    if volume.voxels.shape != size or not np.allclose(volume.spacing_mm, spacing_mm, rtol=0.01):
        raise InputError(
            path, found=f"{'x'.join(map(str, volume.voxels.shape))} voxels of {volume.spacing_mm[0]:g} mm",
            expected=f"{'x'.join(map(str, size))} of {spacing_mm:g} mm",
            fix=f"Run fewstep brain prepare with --spacing {spacing_mm:g}.",
        )  # fmt: skip
    return torch.from_numpy(volume.voxels / WHITE * 2 - 1).half()


def _participants(folder: Path) -> dict[str, dict[str, str]]:
    """Return the rows of the nearest `participants.tsv` at or above a folder, three levels at most, by subject."""
    for place in (folder, *list(folder.parents)[:2]):
        if (path := place / "participants.tsv").is_file():
            with path.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file, delimiter="\t"))
            return {
                row["participant_id"]: {k: v for k, v in row.items() if k != "participant_id" and v} for row in rows
            }
    return {}


def _note(
    numbers: dict[str, list[float]], words: dict[str, list[str]], name: str, text: str, place: int, total: int
) -> None:
    if text == "n/a":
        return
    try:
        value = float(text)
    except ValueError:
        words.setdefault(name, [""] * total)[place] = text
    else:
        numbers.setdefault(name, [float("nan")] * total)[place] = value


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _kept(cache: Path, wanted: dict) -> HeadSet | None:
    from safetensors import SafetensorError, safe_open

    if not cache.is_file():
        return None
    try:
        with safe_open(cache, framework="pt") as file:
            header = dict(file.metadata() or {})
            if json.loads(header.get("wanted", "null")) != wanted:
                return None
            x = file.get_tensor("x")
    except SafetensorError:
        return None
    facts = json.loads(header["facts"])
    return HeadSet(
        x, tuple(facts["subjects"]),
        {name: tuple(float("nan") if v is None else v for v in values) for name, values in facts["numbers"].items()},
        {name: tuple(values) for name, values in facts["words"].items()},
    )  # fmt: skip


def _keep(cache: Path, heads: HeadSet, wanted: dict) -> None:
    from safetensors.torch import save_file

    facts = {
        "subjects": heads.subjects,
        "numbers": {k: [None if v != v else v for v in values] for k, values in heads.numbers.items()},
        "words": heads.words,
    }
    cache.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(cache, overwrite=True) as scratch:
        save_file({"x": heads.x}, scratch, {"wanted": json.dumps(wanted), "facts": json.dumps(facts)})
