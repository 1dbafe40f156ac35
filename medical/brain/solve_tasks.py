"""The tasks of `fewstep brain solve`: a file and some options as a measurement on the grid of a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medical.brain.forward import (
    MagnitudeMeasurement,
    Measurement,
    RicianMeasurement,
    block_operator,
    kspace_operator,
    linear_measurement,
    phase_encode_mask,
    rician,
    simulated,
    slice_profile,
    zero_filled_magnitude,
)
from medical.brain.generate import off_training
from medical.brain.model import BrainModel, check_size
from medical.brain.solve_files import read_mask, read_prepared, read_stack
from medical.brain.volume import Volume
from medical.reconstruction.axis_matrix import AxisMatrix
from medical.reconstruction.operators import Mask
from shared.errors import InputError

RICIAN_NOTICE = "a prepared volume has lost its zero to percentiles, so its noise is Rician only about"
SIMULATED_SLICE_MM = 7.0
SLICE_AXIS = 2


@dataclass(frozen=True)
class TaskOptions:
    """Options of the command; the defaults and units are there."""

    simulate: bool
    mask: Path | None
    noise: float
    thickness_mm: float | None
    separation_mm: float
    blocks: str
    acceleration: float


@dataclass(eq=False)
class Case:
    """A measurement with what belongs to it.

    Attributes:
        measurement: on the device of the model.
        size: of the volumes to be drawn.
        affine: of these volumes.
        facts: for the sidecar.
        truth: x (X, Y, Z) of a simulated measurement, for numbers only; None of a real one.
        unmeasured: bool (X, Y, Z), voxels that were not measured, of inpaint.
        warnings: sentences.
    """

    measurement: Measurement
    size: tuple[int, int, int]
    affine: np.ndarray
    facts: dict[str, Any]
    truth: Tensor | None = None
    unmeasured: Tensor | None = None
    warnings: list[str] = field(default_factory=list)

    def against_truth(self, mean: Tensor, std: Tensor) -> dict[str, float]:
        """Return errors of the mean where the truth is known: over all voxels, or those that were not measured.

        "psnr_db" is for the range 2 of x; "error_over_std" is the root mean square error of the mean over that of the
        deviation, near 1 where samples scatter as much as they err.
        """
        if self.truth is None:
            return {}
        where = torch.ones_like(self.truth, dtype=torch.bool) if self.unmeasured is None else self.unmeasured
        square = float((mean - self.truth)[where].double().square().mean())
        found = {"rmse": square**0.5, "psnr_db": float(10 * np.log10(4 / square))}
        if bool(torch.isfinite(std).all()):
            found["error_over_std"] = (square / float(std[where].double().square().mean())) ** 0.5
        return found


def measured(task: str, path: Path, model: BrainModel, options: TaskOptions, generator: torch.Generator) -> Case:
    """Return the measurement of a task.

    Args:
        task: name.
        path: the measured image, or the volume of a simulated measurement.
        model: on whose grid and device.
        options: of the command.
        generator: of simulated noise and masks.

    Raises:
        InputError: a file or options that do not fit the task or the model.
    """
    if not options.simulate and task in ("kspace", "kspace-magnitude"):
        raise InputError(
            task, found="a measured image", expected="--simulate: the k-space of a volume is computed",
            fix="For raw data use fewstep mri, or medical.brain.forward from Python.",
        )  # fmt: skip
    if task == "slices" and not options.simulate:
        return _stack(path, model, options)
    x, volume = read_prepared(path)
    if task == "blocks" and not options.simulate:
        return _coarse(path, x, volume, model, options)
    size = x.shape[0], x.shape[1], x.shape[2]
    check_size(model.config, size)
    data = x[None, None].to(model.device)
    case = _on_the_grid(task, data, volume, options, generator)
    case.warnings += off_training(model, size, max(volume.spacing_mm))
    if options.simulate:
        case.truth = x
    return case


def _on_the_grid(task: str, x: Tensor, volume: Volume, options: TaskOptions, generator: torch.Generator) -> Case:
    size, noise, facts = (x.shape[2], x.shape[3], x.shape[4]), options.noise, {"noise": options.noise}

    def case(measurement: Measurement, **more: Any) -> Case:
        return Case(measurement, size, volume.affine, facts | more)

    if task == "inpaint":
        if options.mask is None:
            raise InputError("--mask", found="none", expected="a mask of what to fill in", fix="Give it.")
        gap = read_mask(options.mask, volume)
        keep = (~gap).to(x.device)
        found = (
            simulated(Mask(keep), x, noise, generator, keep) if options.simulate
            else linear_measurement(Mask(keep), x * keep, noise, keep)
        )  # fmt: skip
        made = case(found, filled_voxels=int(gap.sum()))
        made.unmeasured = gap
        return made
    if task == "denoise":
        if options.simulate:
            return case(rician(x, noise, generator))
        made = case(RicianMeasurement((x + 1) / 2, noise))
        made.warnings.append(RICIAN_NOTICE)
        return made
    if task == "slices":
        spacing = volume.spacing_mm[SLICE_AXIS]
        thickness = options.thickness_mm or SIMULATED_SLICE_MM
        rows = slice_profile(
            size[SLICE_AXIS], spacing, thickness_mm=thickness, separation_mm=options.separation_mm
        )  # fmt: skip
        facts |= {"slices": len(rows), "thickness_mm": thickness, "separation_mm": options.separation_mm}
        return case(simulated(AxisMatrix(rows, SLICE_AXIS - 3), x, noise, generator))
    if task == "blocks":
        return case(simulated(block_operator(size, _factors(options)), x, noise, generator), blocks=options.blocks)
    lines = phase_encode_mask((size[0], size[1]), options.acceleration, generator=generator)
    facts["acceleration"] = lines.numel() / int(lines.sum())
    lines = lines.to(x.device)
    if task == "kspace":
        return case(simulated(kspace_operator(lines), x, noise, generator, lines.expand(size)))
    del facts["noise"]  # as in MedForj, there is none
    return case(MagnitudeMeasurement(lines, zero_filled_magnitude(x, lines)))


def _stack(path: Path, model: BrainModel, options: TaskOptions) -> Case:
    size, spacing = model.config.size, model.config.spacing_mm
    x, axis, separation, affine, warnings = read_stack(path, size, spacing)
    thickness = options.thickness_mm or separation
    rows = slice_profile(size[axis], spacing, thickness_mm=thickness, separation_mm=separation, slices=x.shape[axis])
    data = x[None, None].to(model.device)
    found = linear_measurement(AxisMatrix(rows, axis - 3), data, options.noise)
    facts = {"noise": options.noise, "slices": len(rows), "thickness_mm": thickness, "separation_mm": separation}
    return Case(found, size, affine, facts, warnings=warnings)


def _coarse(path: Path, x: Tensor, volume: Volume, model: BrainModel, options: TaskOptions) -> Case:
    factors = _factors(options)
    size = x.shape[0] * factors[0], x.shape[1] * factors[1], x.shape[2] * factors[2]
    check_size(model.config, size)
    affine = volume.affine @ np.diag([*(1 / np.array(factors)), 1.0])
    affine[:3, 3] = volume.affine[:3, 3] + affine[:3, :3] @ ((1 - np.array(factors)) / 2)
    found = linear_measurement(block_operator(size, factors), x[None, None].to(model.device), options.noise)
    warnings = off_training(model, size, max(Volume(volume.voxels, affine).spacing_mm))
    return Case(found, size, affine, {"noise": options.noise, "blocks": options.blocks}, warnings=warnings)


def _factors(options: TaskOptions) -> tuple[int, int, int]:
    from medical.brain.cli_inverse import three

    return three(options.blocks, "--blocks")
