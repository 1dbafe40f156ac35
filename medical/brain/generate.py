"""A batch of synthetic volumes: planned, drawn one by one, resumed.

One volume is drawn at a time, since one fills the memory; each has its own seed, made from that of the batch and its
number, so a batch that was stopped, or is asked for more volumes, has the volumes of one that was not.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from medical.brain.conditions import completed
from medical.brain.dicom import series_path, write_series_of
from medical.brain.memory import available, choose
from medical.brain.model import BrainModel, Sampling, check_size, require_voxels
from medical.brain.output import Written, done, image_seed, volume_path, write_description, write_synthetic
from medical.brain.start import Start
from shared.files import require_writable

FOV_TOLERANCE = 0.1
OTHER = 0x5EED  # turns the seed of a volume's noise into that of its conditions


def generate(
    model: BrainModel,
    folder: Path,
    count: int,
    seed: int,
    *,
    sampling: Sampling | None = None,
    size: tuple[int, int, int] | None = None,
    spacing_mm: float | None = None,
    conditions: Mapping[str, float | str] | None = None,
    draw_conditions: bool = False,
    guidance: float = 1.0,
    start: Start | None = None,
    memory: float | None = None,
    dicom: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> Iterator[Written]:
    """Draw volumes 1 ... count into a BIDS folder; yield each as it is written or found.

    Everything is checked before the first one is drawn.

    Args:
        model: of `load_brain`.
        folder: of the data set.
        count: of volumes.
        seed: of the batch.
        sampling: how; None is the reference sampling.
        size: voxels along x, y, z; None is that of the training.
        spacing_mm: written voxel size; None is that of the training.
        conditions: what the network is told, by name.
        draw_conditions: draw the other conditions of each volume as in the training (`medical.brain.conditions`).
        guidance: scale of classifier-free guidance; 1 is none.
        start: a volume that each one starts from; None is noise.
        memory: bytes to stay within; None is what is free on the device.
        dicom: also write a DICOM series of each volume (`medical.brain.dicom`).
        overwrite: replace volumes that were made with other settings.
        progress: tell the planned memory and show a bar for each volume, on standard error.

    Raises:
        InputError: a size, steps or conditions that the model cannot take, a volume that does not fit into memory, or
            a folder with volumes of other settings.
    """
    size, spacing = size or model.config.size, spacing_mm or model.config.spacing_mm
    sampling = sampling or Sampling()
    check_size(model.config, size)
    model.require_autoencoder()
    grid = sampling.grid(model.config.strategy)
    if start is not None:
        require_voxels(model.config, "--start")
        grid, _ = start.noised(grid, torch.empty(1, 1, *size))
    sampling.solver().plan(grid)
    model.denoiser(conditions=conditions, guidance=guidance)
    require_writable(folder / "x")
    how = _sampled(sampling, model, start)

    def told(number: int) -> Mapping[str, float | str] | None:
        if not draw_conditions:
            return conditions
        generator = torch.Generator().manual_seed(image_seed(seed, number) ^ OTHER)
        return completed(model.config, getattr(model.network, "heads", None), conditions or {}, generator)

    facts = [
        batch_facts(model, seed, number, size, spacing, told(number), guidance) | how for number in range(1, count + 1)
    ]  # fmt: skip
    paths = [volume_path(folder, number) for number in range(1, count + 1)]
    there = [done(path, fact, overwrite=overwrite) for path, fact in zip(paths, facts, strict=True)]
    if not all(there) and isinstance(model.network, torch.nn.Module):
        free = available(model.device) if memory is None else memory
        plan = choose(model.config, model.network, size, free, spacing_mm=spacing, autoencoder=model.autoencoder)
        model = plan.applied(model)
        if progress:
            sys.stderr.write(f"{plan}\n")
    warnings = off_training(model, size, spacing)
    write_description(folder, model.name)
    drawn = _drawn(model, sampling, size, start, list(zip(paths, facts, there, strict=True)), warnings, progress)
    return _with_series(drawn, folder) if dicom else drawn


def off_training(model: BrainModel, size: tuple[int, int, int], spacing_mm: float) -> list[str]:
    """Return warnings about a grid that is not that of the training: networks draw well only on theirs."""
    config = model.config
    warnings = []
    if abs(spacing_mm / config.spacing_mm - 1) > 0.01:
        warnings.append(f"voxels of {spacing_mm:g} mm, and the model was trained on {config.spacing_mm:g} mm")
    if any(abs(a / b - 1) > FOV_TOLERANCE for a, b in zip(size, config.size, strict=True)):
        warnings.append(
            f"{'x'.join(map(str, size))} voxels, and the model was trained on {'x'.join(map(str, config.size))}"
        )
    return warnings


def batch_facts(
    model: BrainModel,
    seed: int,
    number: int,
    size: tuple[int, int, int],
    spacing_mm: float,
    conditions: Mapping[str, float | str] | None,
    guidance: float,
) -> dict[str, Any]:
    """Return what decides a volume of a batch beside how it is drawn, JSON types.

    Args:
        model: that draws.
        seed: of the batch.
        number: of the volume, from 1.
        size: voxels.
        spacing_mm: written voxel size.
        conditions: what the network is told; None or empty is nothing.
        guidance: counts with conditions only.
    """
    return {
        "seed": image_seed(seed, number),
        "batch_seed": seed,
        "number": number,
        "model": {"name": model.name, "sha256": model.sha256, "strategy": model.config.strategy}
        | ({} if model.autoencoder is None else {"autoencoder_sha256": model.autoencoder.sha256}),
        "size": list(size),
        "spacing_mm": spacing_mm,
        "device": model.device.type,
        "conditions": dict(conditions) if conditions else None,  # None as in sidecars of before there were any
        "guidance": guidance if conditions else None,
    }


def _sampled(sampling: Sampling, model: BrainModel, start: Start | None) -> dict[str, Any]:
    facts = {name: value for name, value in asdict(sampling).items() if value is not None}
    if "table" in facts:
        facts["table"] = hashlib.sha256(json.dumps(facts["table"]).encode()).hexdigest()
    return {
        "sampling": {
            **facts,
            "calls": sampling.grid(model.config.strategy).steps,
        },
        "start": None if start is None else {"name": start.name, "sha256": start.sha256, "strength": start.strength},
    }


def _drawn(
    model: BrainModel,
    sampling: Sampling,
    size: tuple[int, int, int],
    start: Start | None,
    volumes: list[tuple[Path, dict[str, Any], bool]],
    warnings: list[str],
    progress: bool,
) -> Iterator[Written]:
    for number, (path, facts, there) in enumerate(volumes, 1):
        if not there:
            generator = torch.Generator().manual_seed(facts["seed"])
            label = f"volume {number} of {len(volumes)}" if progress else None
            facts["slabs"] = getattr(model.network, "slabs", 0)  # not compared: they change the rounding only
            told = {} if facts["conditions"] is None else {name: facts[name] for name in ("conditions", "guidance")}
            x = model.draw(size, sampling, **told, start=start, generator=generator, progress=label)
            write_synthetic(path, x, facts, warnings)
        yield Written(path, not there)


def _with_series(drawn: Iterator[Written], folder: Path) -> Iterator[Written]:
    for written in drawn:
        series = series_path(folder, written.path)
        if written.new or not series.exists():
            write_series_of(written.path, series)
        yield written
