"""Which phase-encode lines an accelerated Cartesian scan acquires."""

from __future__ import annotations

import torch
from torch import Tensor

from shared.errors import InputError


def calibration_block(lines: int, calibration: int) -> Tensor:
    """Return bool (lines,), true on `calibration` consecutive lines centred on the zero frequency at lines//2."""
    _check(lines, 1.0, calibration)
    start = lines // 2 - calibration // 2
    mask = torch.zeros(lines, dtype=torch.bool)
    mask[start : start + calibration] = True
    return mask


def equispaced_lines(lines: int, acceleration: int, calibration: int) -> Tensor:
    """Return bool (lines,): every R-th line, the zero frequency among them, and the calibration block.

    The calibration lines come on top, as scanners do it, so the true acceleration is below R.

    Raises:
        InputError: R below 1 or not whole, or more calibration lines than lines.
    """
    _check(lines, acceleration, calibration)
    if int(acceleration) != acceleration:
        raise InputError(
            "acceleration",
            found=f"{acceleration}",
            expected="a whole number for equispaced lines",
            fix="Round it, or use variable-density lines.",
        )
    every = (torch.arange(lines) - lines // 2) % int(acceleration) == 0
    return every | calibration_block(lines, calibration)


def variable_density_lines(
    lines: int, acceleration: float, calibration: int, *, generator: torch.Generator | None = None
) -> Tensor:
    """Return bool (lines,) with exactly round(lines / R) lines: the calibration block and random lines around it.

    A line at distance d from the centre is drawn with probability proportional to (1 - d / d_max)^2 + 1/16, without
    replacement (density of Lustig et al., MRM 58:1182, 2007).

    Raises:
        InputError: R below 1, or so few lines that the calibration block does not fit.
    """
    _check(lines, acceleration, calibration)
    total = round(lines / acceleration)
    mask = calibration_block(lines, calibration)
    if total < calibration:
        raise InputError(
            "calibration lines",
            found=f"{calibration} of {total} lines that acceleration {acceleration:g} allows",
            expected=f"{total} or fewer",
            fix="Lower the acceleration or the number of calibration lines.",
        )
    if total > calibration:
        distance = (torch.arange(lines) - lines // 2).abs() / (lines / 2)
        density = torch.where(mask, 0.0, (1 - distance).clamp(min=0) ** 2 + 1 / 16)
        mask[torch.multinomial(density, total - calibration, generator=generator)] = True
    return mask


def _check(lines: int, acceleration: float, calibration: int) -> None:
    if not acceleration >= 1:
        raise InputError("acceleration", found=f"{acceleration}", expected="1 or more", fix="Give 1 for a full scan.")
    if not 0 <= calibration <= lines:
        raise InputError(
            "calibration lines", found=f"{calibration}", expected=f"0 to {lines}, the number of lines", fix="Lower it."
        )
