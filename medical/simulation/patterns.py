"""Six ways to undersample k-space at an acceleration that is true: R = samples of a full scan / samples acquired.

| pattern    | what is acquired                                                                                    |
| ---------- | --------------------------------------------------------------------------------------------------- |
| equispaced | lines at one spacing, from a random offset, and a central block                                       |
| random     | lines drawn uniformly, and a central block                                                            |
| magic      | equispaced lines whose mirror images fall half-way between the lines of the other half of k-space     |
| gaussian   | single points with Gaussian density, and a central box                                                |
| poisson    | single points no closer than a distance that grows from the centre, and a central box                 |
| radial     | spokes at the golden angle, rounded to the grid, and a small central box where they are sparse        |

Calibration samples count: the spacing, the number of points or spokes are chosen so that the whole mask has N / R
samples. Lines run along x, the readout, so line patterns select rows.

Points and rounded spokes of a 2-D slice are retrospective undersampling of a Cartesian scan, or of two phase-encode
axes of a 3-D one; a radial scanner measures between the grid points.

References:
    Zbontar et al., fastMRI, 2018 (equispaced and random lines).
    Defazio, Offset sampling improves deep learning based accelerated MRI reconstructions by exploiting symmetry, 2019.
    Lustig et al., MRM 58:1182, 2007 (variable density); Bridson, SIGGRAPH sketches, 2007 (Poisson discs).
    Winkelmann et al., IEEE TMI 26:68, 2007 (golden angle).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from medical.reconstruction.coil_maps import central_box
from shared.errors import InputError

Pattern = Literal["equispaced", "random", "magic", "gaussian", "poisson", "radial"]
PATTERNS: tuple[Pattern, ...] = get_args(Pattern)
LINE_PATTERNS: tuple[Pattern, ...] = ("equispaced", "random", "magic")

CALIBRATION_SHARE = 0.32  # of the samples, as fastMRI's fractions (8 % of the lines at R = 4, 4 % at R = 8)
CALIBRATION_RANGE = (4, 24)
RADIAL_BOX = 8  # holds a kernel of 6 with room to move, for coil maps at accelerations where the spokes do not
GOLDEN_ANGLE = np.pi * (np.sqrt(5) - 1) / 2  # 111.25 degrees
_GAUSSIAN_WIDTH = 0.2  # standard deviation of the density relative to the matrix
_POISSON_SLOPE = 2.0  # the distance at the edge of k-space is 1 + this many times that at the centre


@dataclass(frozen=True)
class Sampling:
    """Which samples a scan acquires.

    Attributes:
        mask: bool (y, x).
        calibration: bool (y, x), a fully sampled box centred on the zero frequency, all of x for line patterns.
        pattern: its name.
        nominal_acceleration: as asked.
        acceleration: true, number of samples in the matrix over number acquired.
    """

    mask: Tensor
    calibration: Tensor
    pattern: Pattern
    nominal_acceleration: float
    acceleration: float


def draw_sampling(
    pattern: Pattern,
    matrix: tuple[int, int],
    acceleration: float,
    generator: np.random.Generator,
    *,
    calibration: int | None = None,
) -> Sampling:
    """Draw a mask of a pattern.

    Args:
        pattern: one of `PATTERNS`.
        matrix: (y, x) samples of a full scan.
        acceleration: wanted R; reached up to half a line, a sample or a spoke.
        generator: of the mask.
        calibration: width of the central block of lines or of the central box; None takes about a third of the
            samples, within 4 to 24. A radial mask has the box of its dense centre, at least 8 wide.

    Raises:
        InputError: unknown pattern, R below 1, or an R that leaves fewer samples than the calibration needs.
    """
    if pattern not in PATTERNS:
        raise InputError("pattern", found=f"{pattern!r}", expected=f"one of {', '.join(PATTERNS)}", fix="Choose one.")
    if not acceleration >= 1:
        raise InputError("acceleration", found=f"{acceleration}", expected="1 or more", fix="Give 1 for a full scan.")
    ny, nx = matrix
    if pattern == "radial":
        mask = _radial(matrix, acceleration, generator)
        box = np.zeros(matrix, dtype=bool)
        box[central_box(torch.from_numpy(mask)[None], CALIBRATION_RANGE[1])] = True
    elif pattern in LINE_PATTERNS:
        width = calibration_width((ny,), acceleration) if calibration is None else calibration
        _require(round(ny / acceleration), width, f"{ny} lines", acceleration)
        block = _centred(ny, width)
        lines = _LINES[pattern](block, round(ny / acceleration), generator)
        mask, box = (np.repeat(which[:, None], nx, axis=1) for which in (lines, block))
    else:
        width = calibration_width(matrix, acceleration) if calibration is None else calibration
        total = round(ny * nx / acceleration)
        box = _centred(ny, min(width, ny))[:, None] & _centred(nx, min(width, nx))
        _require(total, int(box.sum()), f"{ny} x {nx} points", acceleration)
        mask = _POINTS[pattern](box, total, generator)
    return Sampling(
        torch.from_numpy(mask), torch.from_numpy(box), pattern, float(acceleration), mask.size / int(mask.sum())
    )


def calibration_width(matrix: tuple[int, ...], acceleration: float) -> int:
    """Return the even width of the central block with 32 % of the samples, within 4 to 24 and within the matrix."""
    share = CALIBRATION_SHARE * np.prod(matrix) / acceleration
    width = int(np.clip(2 * round(share ** (1 / len(matrix)) / 2), *CALIBRATION_RANGE))
    return min(width, *matrix)


def _centred(length: int, width: int) -> np.ndarray:
    """Return bool (length,), true on `width` samples centred on length//2."""
    block = np.zeros(length, dtype=bool)
    start = length // 2 - width // 2
    block[start : start + width] = True
    return block


def _require(total: int, calibration: int, of: str, acceleration: float) -> None:
    if not 0 < calibration <= total:
        raise InputError(
            "acceleration",
            found=f"{acceleration:g} of {of}, {total} to acquire",
            expected=f"at least the {calibration} of the calibration, and that at least 1",
            fix="Lower the acceleration, use a larger matrix, or a narrower calibration.",
        )


# Lines: (calibration block, number of lines, generator) -> bool (lines,)


def _random_lines(block: np.ndarray, total: int, generator: np.random.Generator) -> np.ndarray:
    lines = block.copy()
    lines[generator.choice(np.nonzero(~block)[0], total - int(block.sum()), replace=False)] = True
    return lines


def _equispaced_lines(block: np.ndarray, total: int, generator: np.random.Generator) -> np.ndarray:
    """One spacing a over all lines with a random offset; a is such that block and comb have `total` lines together."""
    offset = generator.uniform()

    def comb(spacing: float) -> np.ndarray:
        lines = np.zeros_like(block)
        lines[np.floor(np.arange(offset * spacing, len(block), spacing)).astype(int)] = True
        return lines

    return _completed(block, comb, total, generator)


def _magic_lines(block: np.ndarray, total: int, generator: np.random.Generator) -> np.ndarray:
    """Frequencies o + m a above zero and -(o + a/2 + m a) below: conjugate symmetry halves the effective spacing."""
    offset, centre = generator.uniform(), len(block) // 2

    def comb(spacing: float) -> np.ndarray:
        lines = np.zeros_like(block)
        above = np.floor(np.arange(offset * spacing, len(block) - centre, spacing)).astype(int)
        below = np.floor(np.arange((offset + 0.5) % 1.0 * spacing, centre + 1, spacing)).astype(int)
        lines[centre + above] = True
        lines[centre - below] = True
        return lines

    return _completed(block, comb, total, generator)


def _completed(
    block: np.ndarray, comb: Callable[[float], np.ndarray], total: int, generator: np.random.Generator
) -> np.ndarray:
    """Return block and comb with `total` lines: the widest spacing that gives them all, less a random line or two."""
    widest, narrowest = float(2 * len(block)), 1.0
    if int((block | comb(widest)).sum()) >= total:  # no room for a comb beside the block
        return block if int(block.sum()) == total else _random_lines(block, total, generator)
    for _ in range(40):
        middle = (widest + narrowest) / 2
        if int((block | comb(middle)).sum()) >= total:
            narrowest = middle
        else:
            widest = middle
    lines = block | comb(narrowest)
    removable = np.nonzero(lines & ~block)[0]
    lines[generator.choice(removable, int(lines.sum()) - total, replace=False)] = False
    return lines


# Points: (calibration box, number of points, generator) -> bool (y, x)


def _gaussian_points(box: np.ndarray, total: int, generator: np.random.Generator) -> np.ndarray:
    """Points without replacement, with probability proportional to a Gaussian of a fifth of the matrix."""
    weight = np.where(box, 0.0, np.exp(-0.5 * (_radius(box.shape) / (2 * _GAUSSIAN_WIDTH)) ** 2))
    # The largest of log(weight) + Gumbel noise are a draw without replacement (Efraimidis & Spirakis, 2006).
    with np.errstate(divide="ignore"):
        keys = np.log(weight) + generator.gumbel(size=box.shape)
    mask = box.copy()
    mask.flat[np.argsort(keys, axis=None)[::-1][: total - int(box.sum())]] = True
    return mask


def _poisson_points(box: np.ndarray, total: int, generator: np.random.Generator) -> np.ndarray:
    """Dart throwing: points in random order, each kept if none is nearer than d (1 + 2 |k| / k_max); d fits `total`."""
    distance = _poisson_distance(box.shape, total, int(box.sum()))
    for _ in range(20):
        mask = _darts(box, distance, total, generator)
        if int(mask.sum()) == total:
            return mask
        distance *= 0.97
    raise AssertionError("darts did not fill k-space at vanishing distance")


@functools.lru_cache(maxsize=256)
def _poisson_distance(shape: tuple[int, int], total: int, box: int) -> float:
    """Return the largest distance d at which dart throwing yields `total` points, found by bisection."""
    width = round(box**0.5)
    centre = _centred(shape[0], min(width, shape[0]))[:, None] & _centred(shape[1], min(width, shape[1]))
    low, high = 0.0, float(max(shape))
    for attempt in range(12):
        middle = (low + high) / 2 if attempt else 0.4 * (shape[0] * shape[1] / total) ** 0.5
        enough = int(_darts(centre, middle, total, np.random.default_rng(attempt)).sum()) == total
        low, high = (middle, min(high, 3 * middle)) if enough else (low, middle)
    return low


def _darts(box: np.ndarray, distance: float, total: int, generator: np.random.Generator) -> np.ndarray:
    nx = box.shape[1]
    least = distance * (1 + _POISSON_SLOPE * _radius(box.shape))
    mask, free = box.copy(), ~box
    left = total - int(box.sum())
    rounded = np.round(least * 16) / 16  # so that discs repeat and are made once
    reach = np.ceil(least).astype(int)
    for index in generator.permutation(np.nonzero(free.ravel())[0]).tolist():
        if left <= 0:
            break
        y, x = divmod(index, nx)
        if not free[y, x]:
            continue
        mask[y, x] = True
        left -= 1
        r = reach[y, x]
        y0, x0 = max(y - r, 0), max(x - r, 0)
        disc = _disc(float(rounded[y, x]))
        top, side = y0 - (y - len(disc) // 2), x0 - (x - len(disc) // 2)
        part = free[y0 : y + r + 1, x0 : x + r + 1]
        part &= disc[top : top + part.shape[0], side : side + part.shape[1]]
    return mask


@functools.lru_cache(maxsize=1024)
def _disc(distance: float) -> np.ndarray:
    """Return bool, false nearer than `distance` to the centre; wide enough for the reach of distances rounded to it."""
    r = int(np.ceil(distance + 1 / 16)) + 1
    y, x = np.ogrid[-r : r + 1, -r : r + 1]
    keep: np.ndarray = np.asarray(y**2 + x**2 >= distance**2)
    keep[r, r] = False
    return keep


def _radius(shape: tuple[int, ...]) -> np.ndarray:
    """Return |k| / k_max (y, x), each axis relative to its own half width, at most 1 inside the ellipse."""
    y, x = ((np.arange(n) - n // 2) / (n / 2) for n in shape)
    return np.hypot(y[:, None], x[None, :])


def _radial(matrix: tuple[int, int], acceleration: float, generator: np.random.Generator) -> np.ndarray:
    """Spokes through the centre, one after another at the golden angle, until the mask is nearest to N / R samples."""
    ny, nx = matrix
    wanted = ny * nx / acceleration
    start = generator.uniform(0, np.pi)
    # Half a sample apart along the longer axis, a spoke skips no grid point that it crosses.
    t = np.arange(-max(matrix), max(matrix) + 1) / (2 * max(matrix))
    mask = _centred(ny, min(RADIAL_BOX, ny))[:, None] & _centred(nx, min(RADIAL_BOX, nx))
    for spoke in range(8 * max(matrix)):
        before = mask.copy()
        angle = start + spoke * GOLDEN_ANGLE
        y = np.floor(ny // 2 + t * ny * np.sin(angle) + 0.5).astype(int)
        x = np.floor(nx // 2 + t * nx * np.cos(angle) + 0.5).astype(int)
        inside = (y >= 0) & (y < ny) & (x >= 0) & (x < nx)
        mask[y[inside], x[inside]] = True
        if mask.sum() >= wanted:
            return before if wanted - before.sum() < mask.sum() - wanted and spoke else mask
    # The corners of k-space lie beyond every spoke; a scan this full takes them at random.
    missing = np.nonzero(~mask.ravel())[0]
    mask.flat[generator.choice(missing, max(round(wanted) - int(mask.sum()), 0), replace=False)] = True
    return mask


_LINES: dict[str, Callable[[np.ndarray, int, np.random.Generator], np.ndarray]] = {
    "equispaced": _equispaced_lines,
    "random": _random_lines,
    "magic": _magic_lines,
}
_POINTS: dict[str, Callable[[np.ndarray, int, np.random.Generator], np.ndarray]] = {
    "gaussian": _gaussian_points,
    "poisson": _poisson_points,
}
