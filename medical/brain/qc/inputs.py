"""The volumes of a folder, one by one, on one grid and one scale of intensity.

A folder is a BIDS data set (`*_T1w.nii.gz` below it, without `derivatives` and `sourcedata`) or any folder of NIfTI
files. All volumes of a comparison have the same voxels: numbers of volumes on other grids would compare the grids.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medical.brain.prepare import PERCENTILES
from medical.brain.volume import WHITE, Volume, read_volume, to_lps
from medical.nifti import opened
from medical.sidecar import sidecar_path
from shared.errors import InputError
from shared.progress import tracked

NIFTI = (".nii", ".nii.gz")
LEFT_OUT = {"derivatives", "sourcedata"}
SPACINGS_MM = (0.5, 1.0, 2.0, 4.0)  # of which the segmenter's 4 mm and the 2 mm of neighbours are whole numbers
LEAST_SIDE_MM = 80.0


@dataclass(frozen=True)
class Source:
    """A volume on disk.

    Attributes:
        path: of the NIfTI file.
        name: below its folder.
        subject: of its name (`sub-...`), or its name.
    """

    path: Path
    name: str
    subject: str


@dataclass(frozen=True)
class Grid:
    """What all volumes of a comparison share.

    Attributes:
        size: voxels to the left, posterior, superior.
        spacing_mm: edge of a voxel.
    """

    size: tuple[int, int, int]
    spacing_mm: float

    def __str__(self) -> str:
        return f"{'x'.join(map(str, self.size))} voxels of {self.spacing_mm:.3g} mm"


@dataclass(frozen=True, eq=False)
class Head:
    """A volume ready to be measured.

    Attributes:
        source: where it comes from.
        x: (X, Y, Z) float32, voxel order LPS, 0 (air) to 1.
        grid: of its voxels.
    """

    source: Source
    x: Tensor
    grid: Grid


def find_volumes(folder: Path, *, least: int = 2) -> list[Source]:
    """Return the volumes of a folder, by name.

    Args:
        folder: BIDS, or plain.
        least: number of them that the caller can use.

    Raises:
        InputError: no such folder, or fewer volumes.
    """
    if not folder.is_dir():
        raise InputError(folder, found="no folder", expected="a folder of NIfTI volumes", fix="Check the path.")
    files = sorted(
        path for path in folder.rglob("*")
        if path.name.lower().endswith(NIFTI) and not _hidden(path.relative_to(folder))
    )  # fmt: skip
    t1w = [path for path in files if re.search(r"_T1w(_brain)?\.nii(\.gz)?$", path.name)]
    found = [Source(path, path.relative_to(folder).as_posix(), _subject(path)) for path in t1w or files]
    if len(found) < least:
        raise InputError(
            folder, found=f"{len(found)} NIfTI volume{'' if len(found) == 1 else 's'}", expected=f"{least} or more",
            fix="Give a folder of *_T1w.nii.gz files, such as fewstep brain generate or prepare writes.",
        )  # fmt: skip
    return found


def grid_of(sources: Sequence[Source]) -> Grid:
    """Return the grid of the first volume, from its file.

    Raises:
        InputError: a file that cannot be read, or voxels that cannot be measured.
    """
    volume, path = to_lps(read_volume(sources[0].path)), sources[0].path
    grid = _grid(volume)
    if max(volume.spacing_mm) > min(volume.spacing_mm) * 1.01 or not any(
        abs(grid.spacing_mm / mm - 1) < 0.01 for mm in SPACINGS_MM
    ):
        shown = " x ".join(f"{mm:.3g}" for mm in volume.spacing_mm)
        raise InputError(
            path, found=f"voxels of {shown} mm", expected="voxels of equal sides, 0.5, 1, 2 or 4 mm",
            fix="Put all volumes on one grid with fewstep brain prepare --spacing.",
        )  # fmt: skip
    if min(grid.size) * grid.spacing_mm < LEAST_SIDE_MM:
        raise InputError(
            path, found=f"{grid}", expected=f"a head, {LEAST_SIDE_MM:.0f} mm or more along each axis",
            fix="Give whole volumes.",
        )  # fmt: skip
    return grid


def on_fixed_scale(sources: Sequence[Source]) -> bool:
    """Return whether all files have fewstep's scale, on which 0 ... 65535 means the same in every volume.

    Raises:
        InputError: no readable NIfTI.
    """

    def has(path: Path) -> bool:
        with opened(path) as file:
            header = file.header
        return header.get_data_dtype() == np.uint16 and "cal_max" in header and bool(header["cal_max"] == WHITE)

    return all(has(source.path) for source in sources)


def read_heads(sources: Sequence[Source], grid: Grid, *, fixed: bool, progress: str | None = None) -> Iterator[Head]:
    """Yield the volumes, one in memory at a time.

    Args:
        sources: of `find_volumes`.
        grid: that all must have.
        fixed: 65535 becomes 1 in all of them; else each volume's own 0.1 and 99.9 percentiles become 0 and 1.
        progress: label of a progress bar.

    Raises:
        InputError: a file that cannot be read, voxels that are not finite, another grid, or no contrast.
    """
    for source in tracked(list(sources), progress):
        volume = to_lps(read_volume(source.path))
        if not _same(_grid(volume), grid) or max(volume.spacing_mm) > min(volume.spacing_mm) * 1.01:
            shown = " x ".join(f"{mm:.3g}" for mm in volume.spacing_mm)
            raise InputError(
                source.path, found=f"{'x'.join(map(str, volume.voxels.shape))} voxels of {shown} mm",
                expected=f"{grid}, as the first volume has",
                fix="Put all volumes, real and synthetic, on one grid with fewstep brain prepare --fov --spacing.",
            )  # fmt: skip
        low, high = (0.0, float(WHITE)) if fixed else np.percentile(volume.voxels, PERCENTILES)
        if not high > low or volume.voxels.min() == volume.voxels.max():
            raise InputError(source.path, found="no contrast", expected="a head", fix="Check or remove the volume.")
        yield Head(source, torch.from_numpy(np.clip((volume.voxels - low) / (high - low), 0, 1)).float(), grid)


def provenance(sources: Sequence[Source]) -> dict[str, Any]:
    """Return what the JSON files beside the volumes say: models, sampling, and how many are synthetic or simulated."""
    models: dict[str, int] = {}
    synthetic = simulated = 0
    sampling = None
    for source in sources:
        try:
            facts = json.loads(sidecar_path(source.path).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if not isinstance(facts, dict):
            continue
        synthetic += facts.get("Synthetic") is True
        simulated += facts.get("simulated") is True or facts.get("Simulated") is True
        sampling = facts.get("sampling", sampling)
        if isinstance(model := facts.get("model"), dict):
            named = f"{model.get('name')} (sha256 {str(model.get('sha256'))[:12]})"
            models[named] = models.get(named, 0) + 1
    return {"volumes": len(sources), "synthetic": synthetic, "simulated": simulated, "models": models} | (
        {"sampling": sampling} if sampling else {}
    )


def _hidden(relative: Path) -> bool:
    return any(part.startswith(".") or part in LEFT_OUT for part in relative.parts)


def _subject(path: Path) -> str:
    found = re.match(r"(sub-[A-Za-z0-9]+)", path.name)
    return found[1] if found else path.name


def _grid(volume: Volume) -> Grid:
    x, y, z = volume.voxels.shape
    return Grid((x, y, z), float(np.mean(volume.spacing_mm)))


def _same(a: Grid, b: Grid) -> bool:
    return a.size == b.size and abs(a.spacing_mm / b.spacing_mm - 1) < 0.01
