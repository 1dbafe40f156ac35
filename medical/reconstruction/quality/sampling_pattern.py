r"""Name the sampling pattern of a Cartesian mask, by what the patterns are defined by.

Lines: a comb of spacing a has a sharp Fourier component. With S_+-(f) = sum_j exp(-2 pi i f k_j) over the lines above
and below the zero frequency, outside the calibration block,

    max_f (|S_+|^2 / n_+ + |S_-|^2 / n_-) / (n_+ + n_-)

is near sinc^2(1/a) for a comb rounded to the grid, and small for random lines. Each side has a phase of its own, so the
offset ("magic") comb of Defazio (2019), whose halves interleave under mirroring, is a comb like the equispaced one; for
offsets of a quarter of the spacing the two are one mask, and nothing here tries to tell them apart.

Points: spokes pass through the centre, so where k is sampled -k is, too. Of the others Poisson discs keep neighbours
away: they have fewer pairs of neighbouring samples than independent draws of the same density, Gaussian points as many.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from medical.reconstruction.coil_maps import central_box
from medical.reconstruction.learned.calibration import calibration_box
from shared.errors import InputError

Pattern = Literal["full", "comb", "random", "lines", "gaussian", "poisson", "radial", "grid"]

_CALIBRATION = 32  # larger boxes than a scan acquires for calibration count as part of the pattern
_FEWEST_LINES = 12  # outside the calibration block: fewer random lines can be as regular as a comb
_COMB = 0.9  # part of a rounded comb's coherence that a comb must have
_SYMMETRY = 0.4  # correlation of the mask with its mirror image: spokes 0.6 and more, others 0.1 and less
_DEFICIT = 4.0  # standard deviations by which Poisson discs have fewer neighbouring pairs than independent points


def sampling_pattern(mask: Tensor) -> Pattern:
    """Return the pattern of one 2-D mask.

    Args:
        mask: bool (y, x), true where sampled, zero frequency at N//2.

    Returns:
        "full" also for partial Fourier and cut corners, where no sample is missing between others; "comb" for lines at
        one spacing; "lines" where too few lie outside the calibration to tell; "grid" for a lattice in both axes
        (parallel imaging in 3-D).
    """
    rows, columns = mask.any(1), mask.any(0)
    if _contiguous(mask) and _contiguous(mask.T):
        return "full"
    if bool((mask == rows[:, None] & columns).all()) and (_contiguous(rows) or _contiguous(columns)):
        return _line_pattern(columns if _contiguous(rows) else rows)
    box = torch.zeros_like(mask)
    found = central_box(mask[None], _CALIBRATION)
    if found:
        box[found] = True
    outside = mask & ~box
    if _is_grid(outside, box):
        return "grid"
    density = _radial_density(mask, box)
    open_ = ~box & (density < 0.95)
    if not bool(open_.any()):
        return "full"
    if _mirror_correlation(mask, density, open_) > _SYMMETRY:
        return "radial"
    found_pairs, expected = _neighbouring_pairs(mask, density, open_)
    return "poisson" if expected - found_pairs > _DEFICIT * math.sqrt(max(expected, 1.0)) else "gaussian"


def calibration_extent(mask: Tensor) -> tuple[int, int]:
    """Return the (y, x) extent of the largest fully sampled box centred on the zero frequency; (0, 0) without one."""
    try:
        box = calibration_box(mask[None], smallest=1)[0]
    except InputError:
        return 0, 0
    return int(box.any(1).sum()), int(box.any(0).sum())


def _radial_density(mask: Tensor, box: Tensor) -> Tensor:
    """Return the part of the samples acquired at the same |k|, box aside, float64 (y, x)."""
    ny, nx = mask.shape
    y, x = ((torch.arange(n) - n // 2) / (n / 2) for n in (ny, nx))
    ring = ((y[:, None] ** 2 + x**2).sqrt() * min(ny, nx) / 6).long()
    outside = (~box).to(torch.float64)
    zeros = torch.zeros(int(ring.max()) + 1, dtype=torch.float64)
    total = zeros.index_add(0, ring.flatten(), outside.flatten())
    hit = zeros.index_add(0, ring.flatten(), (mask * outside).flatten())
    return (hit / total.clamp_min(1))[ring]


def _mirror_correlation(mask: Tensor, density: Tensor, counted: Tensor) -> float:
    """Return the correlation of mask(k) and mask(-k), both less the density."""

    def mirrored(values: Tensor) -> Tensor:
        shifts = tuple(1 if n % 2 == 0 else 0 for n in values.shape)
        return values.flip((0, 1)).roll(shifts, (0, 1))

    both = counted & mirrored(counted)
    excess = (mask.to(torch.float64) - density) * both
    energy = float(excess.square().sum())
    return float((excess * mirrored(excess)).sum()) / energy if energy > 0 else 0.0


def _neighbouring_pairs(mask: Tensor, density: Tensor, counted: Tensor) -> tuple[float, float]:
    """Return how many of the eight neighbours of samples are samples, each pair once, and independent draws' number."""
    ny, nx = mask.shape
    pairs = expected = 0.0
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        a = (slice(0, ny - dy), slice(max(-dx, 0), nx - max(dx, 0)))
        b = (slice(dy, ny), slice(max(dx, 0), nx + min(dx, 0)))
        both = counted[a] & counted[b]
        pairs += float((mask[a] & mask[b] & both).sum())
        expected += float((density[a] * density[b])[both].sum())
    return pairs, expected


def _line_pattern(lines: Tensor) -> Pattern:
    """Return the pattern of bool (lines,)."""
    centre = len(lines) // 2
    block = central_box(lines[None], len(lines))
    outside = lines.clone()
    if block:
        outside[block[0]] = False
        for step in (1, -1):  # central_box is symmetric; the block may be one line longer on a side
            edge = block[0].stop if step > 0 else block[0].start - 1
            if 0 <= edge < len(lines):
                outside[edge] = False
    k = torch.nonzero(outside).flatten().to(torch.float64) - centre
    if len(k) < _FEWEST_LINES:
        return "lines"
    frequencies = torch.arange(1, 8 * len(lines), dtype=torch.float64) / (16 * len(lines))
    frequencies = frequencies[frequencies >= 3 / len(lines)]
    energy = torch.zeros_like(frequencies)
    for side in (k[k > 0], k[k < 0]):
        total = torch.exp(-2j * torch.pi * frequencies[:, None] * side).sum(1)
        energy += total.abs().square() / max(len(side), 1)
    coherence = energy / len(k) / torch.sinc(frequencies).square()
    return "comb" if float(coherence.max()) >= _COMB else "random"


def _contiguous(sampled: Tensor) -> bool:
    """Whether no sample is missing between two others along the first axis."""
    seen = sampled.to(torch.uint8)
    before, after = seen.cummax(0).values, seen.flip(0).cummax(0).values.flip(0)
    return bool((before * after == seen).all())


def _is_grid(outside: Tensor, box: Tensor) -> bool:
    """Whether the samples outside the calibration are all points of some rows and columns, with gaps between both."""
    rows, columns = outside.any(1), outside.any(0)
    product = rows[:, None] & columns & ~box
    return not _contiguous(rows) and not _contiguous(columns) and bool((product == outside).all())
