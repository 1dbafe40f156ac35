r"""ESPIRiT coil sensitivity maps (Uecker et al., MRM 71:990, 2014).

Every k-space patch of kernel size, all coils together, lies in the row space of the calibration data. With P the
projector onto that space, averaging P over the patches that hold a sample reproduces fully sampled k-space, and in
image space this average is one small Hermitian matrix a pixel,

    A_cc'(r) = sum_d K_cc'(d) exp(-2 pi i d.r / N),      K_cc'(d) = 1/k^n sum_j P[(c, j), (c', j + d)].

The sensitivities are its eigenvectors of eigenvalue one: A(r) S(r) = S(r).

How it is computed: the projector comes from the eigenvectors of the smaller Gram matrix of the patches, K from the
autocorrelations of the eigenvectors by a short FFT, A by thin matrix products with DFT columns for a few thousand
pixels at a time, and its eigenvectors by orthogonal iteration over those pixels at once, started at the
low-resolution coil images, which are almost the answer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from medical.reconstruction.fourier import ifft_centred
from shared.errors import InputError

_PIXELS_AT_ONCE = 4096
_APPLICATIONS_A_ROUND = 4
_MOST_ROUNDS = 15
_TOLERANCE = 1e-6  # on 1 - |<v, v'>| of unit vectors before and after a round
_NOISE_SPREAD = 6.0
_NOISE_CONCENTRATION = 2.0
"""Calibration data are taken for white noise, and every map is empty, where both hold: no eigenvalue of the Gram matrix
is more than 6 times their mean (noise: 1.6 to 4.3 with 1 to 32 coils and boxes of 16 and 24; objects: above 20 with 8
coils, but 3 with one), and the central third of k-space has less than twice the mean energy (noise: 1)."""


LEAST_BOX = 4
"""Samples along each axis of a calibration box below which maps are not tried."""


def calibration_region(mask: Tensor, *, size: int = 24) -> tuple[slice, ...]:
    r"""Find the largest fully sampled box centred on DC, at most `size` samples along each axis.

    Args:
        mask: bool (slice, \*encodes), true where sampled; the box is sampled in every slice.
        size: cap along each axis (BART's -r).

    Returns:
        One slice for each encoded axis, [c - h, c + h) around DC at c = N//2.

    Raises:
        InputError: no such box has `LEAST_BOX` samples along every axis.
    """
    best = central_box(mask, size)
    extent = _extent(best)
    if not best or any(e < min(LEAST_BOX, n) for e, n in zip(extent, mask.shape[1:], strict=True)):
        raise InputError(
            "calibration",
            found=f"a fully sampled k-space centre of {' x '.join(map(str, extent)) or 'no'} samples",
            expected=f"at least {LEAST_BOX} samples along every encoded axis (24 are better)",
            fix="Give calibration lines or coil maps that were measured separately, or reconstruct with method rss.",
        )
    return best


def central_box(mask: Tensor, size: int) -> tuple[slice, ...]:
    """Return the box of `calibration_region` without judging it; () if not even the samples at DC are there."""
    sampled = mask.all(0)
    lengths = sampled.shape

    def box(half_widths: tuple[int, ...]) -> tuple[slice, ...]:
        return tuple(slice(max(n // 2 - h, 0), min(n // 2 + h, n)) for n, h in zip(lengths, half_widths, strict=True))

    candidates = itertools.product(*(range(1, min((n + 1) // 2, size // 2) + 1) for n in lengths))
    complete = (box(c) for c in candidates if bool(sampled[box(c)].all()))
    return max(complete, key=lambda b: math.prod(_extent(b)), default=())


def fitting_kernel(box: tuple[int, ...]) -> int:
    """Return the kernel width for a calibration box: 6, or half of a narrow box's side and one, but 3 at least.

    A kernel as wide as the box has one position in it and sees the noise of that one patch as signal. On the in-vivo
    16-coil brain with 6 central lines, a kernel of 4 instead of 6 brings CG-SENSE from 19.8 to 22.4 dB, and with 10
    lines changes nothing.
    """
    narrowest = min(n for n in box if n > 1) if max(box) > 1 else 1
    return min(max(narrowest // 2 + 1, 3), 6, narrowest)


def espirit(
    calibration: Tensor,
    matrix: tuple[int, ...],
    *,
    kernel_size: int = 6,
    threshold: float = 1e-3,
    crop: float = 0.8,
    maps: int = 1,
) -> tuple[Tensor, Tensor]:
    r"""Estimate coil maps from fully sampled central k-space.

    Args:
        calibration: complex (..., coil, \*box), a fully sampled box of k-space around DC; 2-D or 3-D like `matrix`.
        matrix: shape of the maps, (y, x) or (z, y, x).
        kernel_size: k-space kernel width along every axis (less where `matrix` has length 1).
        threshold: eigenvalues of the Gram matrix, that is squared singular values of the calibration matrix, count
            as signal above `threshold` times the largest. This is BART's -t; SigPy's thresh is its square root.
        crop: maps are zero where the eigenvalue of A(r) is below.
        maps: number of map sets; 2 for soft SENSE where the object is larger than the field of view.

    Returns:
        Maps (..., set, coil, \*matrix), sum_c |S_c|^2 = 1 in their support, zero outside; and the eigenvalues
        (..., set, \*matrix) of A(r), one where the calibration data explain the pixel. The phase of every map is such
        that sum_c conj(u_c) S_c > 0 with u the principal coil combination of the calibration data (as BART does).

    Raises:
        InputError: the box is smaller than the kernel, or there are fewer coils than maps.
    """
    ndim = len(matrix)
    kernel = tuple(min(kernel_size, n) for n in matrix)
    coils, box = calibration.shape[-ndim - 1], tuple(calibration.shape[-ndim:])
    if any(b < k for b, k in zip(box, kernel, strict=True)):
        raise InputError(
            "calibration",
            found=f"a box of {' x '.join(map(str, box))} samples",
            expected=f"at least the kernel, {' x '.join(map(str, kernel))}",
            fix="Acquire more central lines, choose a smaller kernel_size, or reconstruct with method rss.",
        )
    if coils < maps:
        raise InputError(
            "maps", found=f"{maps} map sets from {coils} coil", expected="at most one set a coil", fix="Use maps=1."
        )
    lead = calibration.shape[: -ndim - 1]
    slices = [
        _espirit_slice(block, tuple(matrix), kernel, threshold, crop, maps)
        for block in calibration.reshape(-1, coils, *box)
    ]
    found, eigenvalues = (torch.stack(parts) for parts in zip(*slices, strict=True))
    return found.reshape(*lead, *found.shape[1:]), eigenvalues.reshape(*lead, *eigenvalues.shape[1:])


def espirit_hybrid(
    calibration: Tensor,
    matrix: tuple[int, int, int],
    *,
    kernel_size: int = 6,
    threshold: float = 1e-3,
    crop: float = 0.8,
    maps: int = 1,
) -> tuple[Tensor, Tensor]:
    """Estimate maps of a 3-D scan as 2-D problems in (z, y), one a readout position x, after a transform along kx.

    Far cheaper than the 3-D kernel with many coils (Gram matrix k^2 instead of k^3 times the coils), at the price of
    ignoring that neighbours in x are alike. Arguments, results and errors are those of `espirit` with
    `calibration` (..., coil, kz, ky, kx).
    """
    padded = _centred_pad(calibration, (*calibration.shape[-3:-1], matrix[-1]))
    hybrid = ifft_centred(padded, (-1,)).movedim(-1, 0)
    # One reference for all positions keeps the phase continuous along x.
    reference = principal_coil(calibration, 3)
    found, eigenvalues = espirit(hybrid, matrix[:2], kernel_size=kernel_size, threshold=threshold, crop=crop, maps=maps)
    found, eigenvalues = found.movedim(0, -1), eigenvalues.movedim(0, -1)
    return _rotate(found, reference, 3), eigenvalues


def _espirit_slice(
    calibration: Tensor, matrix: tuple[int, ...], kernel: tuple[int, ...], threshold: float, crop: float, maps: int
) -> tuple[Tensor, Tensor]:
    coils = len(calibration)
    found = calibration.new_zeros((maps, coils, math.prod(matrix)))
    eigenvalues = calibration.real.new_zeros((maps, math.prod(matrix)))
    space = _signal_space(calibration, kernel, threshold)
    if space.shape[1] == 0:
        return found.reshape(maps, coils, *matrix), eigenvalues.reshape(maps, *matrix)
    operator = _kernel_operator(space, coils, kernel)
    start = ifft_centred(_centred_pad(calibration, matrix), tuple(range(-len(matrix), 0)))
    first = 0
    for pixels in _pixel_blocks(operator, matrix):
        block = slice(first, first + pixels.shape[-1])
        found[..., block], eigenvalues[..., block] = _leading_eigenvectors(
            pixels, start.reshape(coils, -1)[:, block], maps, 0.75 * crop
        )
        first = block.stop
    found = _rotate(found.reshape(maps, coils, *matrix), principal_coil(calibration, len(matrix)), len(matrix))
    eigenvalues = eigenvalues.reshape(maps, *matrix)
    return found * (eigenvalues >= crop)[:, None], eigenvalues


def _extent(box: tuple[slice, ...]) -> tuple[int, ...]:
    return tuple(s.stop - s.start for s in box)


def _centred_pad(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Zero-pad or crop the last axes so that index N//2 stays the centre."""
    for axis, target in zip(range(-len(shape), 0), shape, strict=True):
        n = x.shape[axis]
        before = target // 2 - n // 2
        if n > target:
            x = x.narrow(axis, -before, target)
        else:
            ends = [0, 0] * (-axis - 1) + [before, target - n - before]
            x = torch.nn.functional.pad(x, ends)
    return x


def _signal_space(calibration: Tensor, kernel: tuple[int, ...], threshold: float) -> Tensor:
    """Orthonormal columns (coil * kernel, rank) that span the patches p: eigenvectors of sum_p p p^H."""
    patches = calibration
    for axis, width in enumerate(kernel, start=1):
        patches = patches.unfold(axis, width, 1)
    ndim = len(kernel)
    order = [*range(1, ndim + 1), 0, *range(ndim + 1, 2 * ndim + 1)]
    rows = patches.permute(order).reshape(-1, len(calibration) * math.prod(kernel))
    wide = len(rows) < rows.shape[1]
    energies, vectors = torch.linalg.eigh(rows.conj() @ rows.T if wide else rows.T @ rows.conj())
    keep = energies > threshold * energies[-1]
    if energies[-1] <= _NOISE_SPREAD * energies.mean() and _concentration(calibration) < _NOISE_CONCENTRATION:
        keep = torch.zeros_like(keep)
    vectors = vectors[:, keep]
    return rows.T @ (vectors / energies[keep].sqrt()) if wide else vectors


def _concentration(calibration: Tensor) -> float:
    """Mean energy in the central third of the box along every axis, relative to that of the whole box."""
    energy = calibration.abs().square()
    thirds = tuple(slice(n // 2 - n // 6, n // 2 + n // 6 + 1) for n in calibration.shape[1:])
    mean = float(energy.mean())
    return float(energy[(slice(None), *thirds)].mean()) / mean if mean > 0 else 0.0


def _kernel_operator(space: Tensor, coils: int, kernel: tuple[int, ...]) -> Tensor:
    r"""K_cc'(d) of the module docstring, d from -(k - 1) to k - 1 along each axis: (coil, coil, \*(2 k - 1))."""
    dim = tuple(range(-len(kernel), 0))
    full = tuple(2 * k - 1 for k in kernel)
    rank = space.shape[1]
    kernels = space.T.reshape(rank, coils, *kernel)
    spectra = torch.fft.fftn(kernels, s=full, dim=dim).reshape(rank, coils, math.prod(full))
    # P = sum_q v v^H, so K_cc'(d) = sum_q sum_j v_c(j) conj(v_c'(j + d)): a correlation, a product after the FFT.
    products = torch.einsum("qcf,qdf->cdf", spectra, spectra.conj()).reshape(coils, coils, *full)
    correlation = torch.fft.fftn(products, dim=dim) / math.prod(full) / math.prod(kernel)
    return torch.fft.fftshift(correlation, dim)


def _pixel_blocks(operator: Tensor, matrix: tuple[int, ...]) -> Iterator[Tensor]:
    """Yield A(r) as (coil, coil, pixel) for blocks of consecutive pixels."""
    coils = len(operator)
    phases = []
    for n, width in zip(matrix, operator.shape[2:], strict=True):
        d = torch.arange(width, device=operator.device) - width // 2
        r = torch.arange(n, device=operator.device) - n // 2
        angle = -2 * math.pi * (d[:, None] * r) / n
        phases.append(torch.polar(torch.ones_like(angle), angle).to(operator.dtype))
    last = phases[-1]
    rows = max(1, _PIXELS_AT_ONCE // matrix[-1])
    if len(matrix) == 3:
        for z in range(matrix[0]):
            plane = torch.einsum("cdzyx,z->cdyx", operator, phases[0][:, z])
            yield from _plane_blocks(plane, phases[1], last, rows, coils)
    else:
        yield from _plane_blocks(operator, phases[0], last, rows, coils)


def _plane_blocks(plane: Tensor, phase_y: Tensor, phase_x: Tensor, rows: int, coils: int) -> Iterator[Tensor]:
    for first in range(0, phase_y.shape[1], rows):
        along_y = torch.einsum("cdyx,yr->cdrx", plane, phase_y[:, first : first + rows])
        yield (along_y @ phase_x).reshape(coils, coils, -1)


def _leading_eigenvectors(A: Tensor, start: Tensor, count: int, relevant: float) -> tuple[Tensor, Tensor]:
    """Return unit eigenvectors (count, coil, pixel) of the largest eigenvalues (count, pixel) of A (coil, coil, pixel).

    Orthogonal iteration V <- orth(A^n V). The first vector starts at `start` (coil, pixel), the others at noise.
    It ends when the vectors of all pixels with an eigenvalue above `relevant` have settled.
    """
    coils, pixels = start.shape
    noise = torch.randn((count, coils, 1), dtype=A.dtype, generator=torch.Generator().manual_seed(0)).to(A.device)
    vectors = noise.expand(count, coils, pixels).clone()
    vectors[0] = start + 0.1 * _norm(start) * noise[0] / noise[0].norm()
    _orthonormalise(vectors)
    for _ in range(_MOST_ROUNDS):
        previous = vectors
        for _ in range(_APPLICATIONS_A_ROUND):
            vectors = _apply(A, vectors)
        growth = _orthonormalise(vectors)
        # Where A has no large eigenvalue the vectors are noise and never settle; they are cropped anyway.
        alike = (previous.conj() * vectors).sum(1).abs()
        if not bool(((alike < 1 - _TOLERANCE) & (growth > relevant**_APPLICATIONS_A_ROUND)).any()):
            break
    return vectors, (vectors.conj() * _apply(A, vectors)).sum(1).real


def _apply(A: Tensor, vectors: Tensor) -> Tensor:
    out = torch.empty_like(vectors)
    for v, target in zip(vectors, out, strict=True):
        torch.mul(A[:, 0], v[0], out=target)
        for c in range(1, len(v)):
            target.addcmul_(A[:, c], v[c])
    return out


def _norm(vectors: Tensor) -> Tensor:
    """Norm over the coil axis (..., coil, pixel); much faster than vector_norm over a leading axis."""
    return torch.view_as_real(vectors).square().sum((-3, -1)).sqrt()


def _orthonormalise(vectors: Tensor) -> Tensor:
    """Gram-Schmidt over the first axis, in place, at every pixel; returns the norms (count, pixel) before division."""
    norms = []
    for j, v in enumerate(vectors):
        for u in vectors[:j]:
            v -= (u.conj() * v).sum(0) * u
        norm = _norm(v)
        v /= norm.clamp_min(torch.finfo(norm.dtype).tiny)
        norms.append(norm)
    return torch.stack(norms)


def principal_coil(calibration: Tensor, ndim: int) -> Tensor:
    r"""Return the combination u (..., coil) that holds most calibration energy: u^H (sum y y^H) u is largest.

    Args:
        calibration: complex (..., coil, \*box).
        ndim: number of axes of the box.
    """
    samples = calibration.flatten(-ndim)
    combination = torch.linalg.eigh(samples @ samples.mH)[1][..., -1]
    largest = combination.gather(-1, combination.abs().argmax(-1, keepdim=True))
    return combination * (largest.conj() / largest.abs())


def _rotate(maps: Tensor, reference: Tensor, ndim: int) -> Tensor:
    r"""Make sum_c conj(u_c) S_c real and positive: maps (..., set, coil, \*matrix), reference u (..., coil)."""
    weights = reference.conj().unsqueeze(-2)[(..., *[None] * ndim)]
    inner = (weights * maps).sum(-ndim - 1, keepdim=True)
    return maps * torch.polar(torch.ones_like(inner.real), -inner.angle())
