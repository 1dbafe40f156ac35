"""Partial Fourier: fill the side of k-space that was not acquired, from the smoothness of the image phase.

An image x = m exp(i phi) with real m has the symmetry of a real image once its phase is removed. The phase is taken
from the part of k-space that was acquired on both sides of the centre, so both methods assume that it is smooth. Where
it is not (gradient echoes of long echo time, vessels, air-tissue borders, implants) their errors can exceed the blur
of zero-filling, which is the default for that reason.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medical.reconstruction.fourier import fft_centred, ifft_centred
from medical.reconstruction.raw import RawScan
from shared.errors import InputError

AXIS_NAMES = {-1: "kx (asymmetric echo)", -2: "ky", -3: "kz"}
# A side that lacks less than this part of its samples is taken for complete: patterns end a few lines early.
COMPLETE = 0.9


@dataclass(frozen=True)
class PartialFourier:
    """The acquired range [start, stop) of k-space along one axis of `size` samples, the centre being size//2.

    Attributes:
        axis: -1 for kx, -2 for ky, -3 for kz.
        start: first acquired index.
        stop: one beyond the last acquired index.
        size: samples of the encoded axis.
    """

    axis: int
    start: int
    stop: int
    size: int

    @property
    def fraction(self) -> float:
        """Acquired part of the axis."""
        return (self.stop - self.start) / self.size

    @property
    def symmetric(self) -> int:
        """Largest k acquired on both sides of the centre, in samples."""
        return min(self.size // 2 - self.start, self.stop - 1 - self.size // 2)

    @property
    def side(self) -> int:
        """+1 when the acquired range reaches farther to positive k, -1 when to negative k."""
        return 1 if self.stop - 1 - self.size // 2 >= self.size // 2 - self.start else -1

    def __str__(self) -> str:
        missing = "negative" if self.side > 0 else "positive"
        return f"{self.fraction:.3f} of {AXIS_NAMES[self.axis]} acquired, the rest missing at {missing} k"


def detect_partial_fourier(scan: RawScan) -> tuple[PartialFourier, ...]:
    """Find the axes of a Cartesian scan that were acquired farther on one side of the centre than on the other.

    An axis counts as partial when its shorter side reaches less than 90 % as far as its longer side, and the
    difference is larger than the widest gap between acquired lines (so undersampling is not taken for it). Zero-padding
    of both sides is no partial Fourier; the range on the longer side is then assumed to be the resolution.

    Args:
        scan: any scan; non-Cartesian scans have no partial axis.
    """
    if scan.trajectory is not None:
        return ()
    found = []
    for axis in range(-1, -scan.mask.ndim, -1):
        other = [a for a in range(scan.mask.ndim) if a != scan.mask.ndim + axis]
        acquired = scan.mask.sum(other).nonzero().flatten()
        if len(acquired) == 0:
            continue
        size = scan.mask.shape[axis]
        start, stop = int(acquired[0]), int(acquired[-1]) + 1
        # The even grid has one more sample on the negative side, which is no asymmetry.
        low, high = size // 2 - start, stop - 1 - (size - 1) // 2
        gap = int(acquired.diff().max()) if len(acquired) > 1 else 1
        if min(low, high) < COMPLETE * max(low, high) and abs(low - high) > gap:
            found.append(PartialFourier(axis, start, stop, size))
    return tuple(found)


def homodyne(image: Tensor, partial: PartialFourier) -> Tensor:
    """Homodyne reconstruction (Noll, Nishimura & Macovski, IEEE TMI 10:154, 1991).

    With K the k-space of the image along the partial axis, s = +-1 its side and m the largest symmetric k,

        phi = arg F^H (L K),    x = exp(i phi) Re( exp(-i phi) F^H (W K) ),

    L(k) = cos(pi k / 2 (m + 1)) over |k| <= m, W(k) = 1 + s k / (m + 1) within it, 2 beyond it on the acquired side
    and 0 on the other, so that W(k) + W(-k) = 2. A real image is recovered exactly. `pocs` is slower and, on images of
    smooth phase, two to eight times nearer to the truth.

    Args:
        image: zero-filled complex image of coils or of their combination, (..., y, x) or (..., z, y, x).
        partial: the acquired range.

    Returns:
        The image with full k-space and the phase of its low frequencies; the shape of `image`.

    Raises:
        InputError: when fewer than two samples were acquired beyond the centre, or the sizes differ.
    """
    kspace, k = _kspace(image, partial)
    m, side = partial.symmetric, partial.side
    weights = (1 + side * k / (m + 1)).clamp(0, 2)
    if partial.size % 2 == 0:
        # The sample at -N/2 is its own mirror image.
        weights[0] = weights[0].clamp(max=1)
    turn = _phase(kspace, k, partial)
    filled = ifft_centred(kspace * _along(weights, partial.axis), (partial.axis,))
    return (filled * turn.conj()).real * turn


def pocs(image: Tensor, partial: PartialFourier, iterations: int = 20) -> Tensor:
    """Projection onto convex sets (Haacke, Lindskog & Lin, J. Magn. Reson. 92:126, 1991).

    Alternates between images with the phase of the low frequencies, x <- exp(i phi) Re(exp(-i phi) x), and images with
    the acquired k-space, and ends with the acquired one: unlike homodyne, measured samples are kept.

    Args:
        image: zero-filled complex image of coils or of their combination, (..., y, x) or (..., z, y, x).
        partial: the acquired range.
        iterations: number of alternations.

    Returns:
        The image with full k-space; the shape of `image`.

    Raises:
        InputError: when fewer than two samples were acquired beyond the centre, or the sizes differ.
    """
    measured, k = _kspace(image, partial)
    turn = _phase(measured, k, partial)
    for _ in range(iterations):
        kspace = fft_centred((image * turn.conj()).real * turn, (partial.axis,))
        kspace.narrow(partial.axis, partial.start, partial.stop - partial.start).copy_(
            measured.narrow(partial.axis, partial.start, partial.stop - partial.start)
        )
        image = ifft_centred(kspace, (partial.axis,))
    return image


def _kspace(image: Tensor, partial: PartialFourier) -> tuple[Tensor, Tensor]:
    """Return the k-space along the partial axis, zero where not acquired, and k in samples."""
    if image.shape[partial.axis] != partial.size or partial.symmetric < 2:
        raise InputError(
            "partial Fourier",
            found=f"{partial} ({partial.symmetric} samples beyond the centre, {image.shape[partial.axis]} pixels)",
            expected=f"at least 2 samples beyond the centre and {partial.size} pixels",
            fix="Leave the missing side filled with zeros.",
        )
    k = torch.arange(partial.size, device=image.device) - partial.size // 2
    acquired = (k >= partial.start - partial.size // 2) & (k < partial.stop - partial.size // 2)
    return fft_centred(image, (partial.axis,)) * _along(acquired, partial.axis), k.to(image.real.dtype)


def _phase(kspace: Tensor, k: Tensor, partial: PartialFourier) -> Tensor:
    """Return exp(i phi) of the low frequencies."""
    m = partial.symmetric
    window = torch.where(k.abs() <= m, torch.cos(torch.pi / 2 * k / (m + 1)), 0.0)
    return torch.sgn(ifft_centred(kspace * _along(window, partial.axis), (partial.axis,)))


def _along(values: Tensor, axis: int) -> Tensor:
    return values.reshape(-1, *[1] * (-1 - axis))
