"""Echo-planar imaging: readouts sampled on gradient ramps, and the ghost at N/2 from alternating readout direction.

Order: `regrid_readout`, then `correct_epi_ghost`, then removal of oversampling. Prewhiten after regridding, which
changes the noise level a little.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medical.reconstruction.axis_matrix import AxisMatrix
from medical.reconstruction.fourier import fft_centred, ifft_centred
from medical.reconstruction.preprocess import require_uniform_readout
from medical.reconstruction.raw import RawScan
from shared.errors import InputError

# Pixels outside the wanted field of view may hold signal, but a priori 100 times less energy than those inside. Signal
# that the samples cannot tell apart is then put inside, and uniform sampling is still inverted exactly.
OUTSIDE_AMPLITUDE = 0.1
# Smallest singular value, relative to the largest, that is inverted; uniform sampling has none below the amplitude.
SMALLEST_SINGULAR_VALUE = 0.01


def regridding_matrix(positions: Tensor, matrix: int, inside: float = 1.0) -> Tensor:
    """Return G with k = G y: uniform readout k from samples y at any positions, by band-limited least squares.

    With N pixels over the encoded field of view the samples are

        y_j = 1/sqrt(N) sum_n x_n exp(-2 pi i p_j (n - N//2) / N) = (E x)_j,

    a sinc (Dirichlet) interpolation of the uniform samples k = F x. The estimate is k = F D (E D)^+ y, where the
    pseudo-inverse leaves out singular values below 1 % and D is 1 inside the wanted field of view and 0.1 outside.
    On the flat top samples lie farther apart than the oversampled field of view allows; D resolves that ambiguity.

    Args:
        positions: real (samples,), p_j in cycles per encoded field of view.
        matrix: N, length of the uniform readout.
        inside: part of the encoded field of view, about its centre, that the object occupies.

    Returns:
        complex128 (N, samples).
    """
    pixels = torch.arange(matrix, dtype=torch.float64, device=positions.device) - matrix // 2
    phase = -2 * math.pi / matrix * positions.to(torch.float64)[:, None] * pixels
    encoding = torch.polar(torch.full_like(phase, 1 / math.sqrt(matrix)), phase)
    amplitude = torch.where(pixels.abs() <= inside * matrix / 2, 1.0, OUTSIDE_AMPLITUDE)
    inverse = torch.linalg.pinv(encoding * amplitude, rtol=SMALLEST_SINGULAR_VALUE)
    return fft_centred(amplitude[:, None] * inverse, (0,))


def regrid_readout(scan: RawScan) -> RawScan:
    """Move readouts that were sampled on a gradient ramp to the uniform grid of the encoded field of view.

    Uses `regridding_matrix` on imaging and navigator lines. Grid points outside the range of the samples count as not
    acquired. The mean noise gain within the wanted field of view goes into `noise_bandwidth_ratio`, so that
    prewhitening afterwards gives unit noise.

    Args:
        scan: Cartesian with `readout_positions`; unchanged when they are None.

    Raises:
        InputError: for positions that do not match the samples, and for incomplete readouts.
    """
    positions = scan.readout_positions
    if positions is None:
        return scan
    samples = scan.encoded_matrix[-1]
    complete = scan.mask.all(-1) | ~scan.mask.any(-1)
    if positions.shape != (samples,) or not bool((positions.diff() > 0).all()) or not bool(complete.all()):
        raise InputError(
            scan.source,
            found=f"{len(positions)} readout positions for {samples} samples, or incomplete lines",
            expected="one ascending position for each sample of complete lines",
            fix="Check the regridding parameters of the header.",
        )
    steps = positions.diff()
    low, high = float(positions[0] - steps[0] / 2), float(positions[-1] + steps[-1] / 2)
    size = max(samples, round(high - low))
    inside = min(scan.recon_fov_mm[0] / scan.geometry.fov_mm[0], 1.0)
    matrix = regridding_matrix(positions, size, inside)
    operator = AxisMatrix(matrix, -1)
    grid = torch.arange(size, device=scan.mask.device) - size // 2
    mask = scan.mask.any(-1, keepdim=True) & (grid >= low) & (grid <= high)
    pixels = ifft_centred(matrix, (0,)).abs().square().sum(1)
    gain = pixels[(grid.abs() <= inside * size / 2)].mean()
    return scan.after(
        f"Readout regridded from {samples} ramp samples to {size} uniform samples (noise gain {gain.sqrt():.3f}).",
        kspace=operator(scan.kspace) * mask.unsqueeze(1),
        mask=mask,
        navigators=None if scan.navigators is None else operator(scan.navigators),
        readout_positions=None,
        noise_bandwidth_ratio=scan.noise_bandwidth_ratio * float(gain),
    )


def correct_epi_ghost(scan: RawScan, per_coil: bool = True) -> RawScan:
    """Remove the N/2 ghost of EPI with navigator lines recorded without phase encoding.

    Gradient delays and eddy currents give lines recorded backwards the phase a + b x along the readout, relative to
    those recorded forwards. `odd_even_phase` measures a and b from the navigators of each slice; forward lines get
    half of it and backward lines minus half, exp(+-i (a + b x) / 2), so the object stays in place.

    Args:
        scan: Cartesian, uniform readout, with navigators and the directions of all lines.
        per_coil: one a and b for each coil, which also holds what the receivers add; otherwise common ones.

    Raises:
        InputError: when navigators or directions are absent, or all navigators run in one direction.
    """
    require_uniform_readout(scan, "Ghosts are corrected")
    if scan.navigators is None or scan.navigator_reversed is None or scan.line_reversed is None:
        raise InputError(
            scan.source,
            found="no navigator lines or no readout directions",
            expected="phase-correction lines, and which lines ran backwards",
            fix="Skip the ghost correction, or read a file that has them.",
        )
    readout = scan.encoded_matrix[-1]
    pixels = torch.arange(readout, dtype=torch.float64, device=scan.kspace.device) - readout // 2

    def corrected(lines: Tensor, backwards: Tensor, constant: Tensor, slope: Tensor) -> Tensor:
        half = torch.where(backwards, -0.5, 0.5) * (constant[..., None] + slope[..., None] * pixels)
        factor = torch.polar(torch.ones_like(half), half).to(lines.dtype)
        return fft_centred(ifft_centred(lines, (-1,)) * factor, (-1,))

    kspace, navigators = scan.kspace.clone(), scan.navigators.clone()
    fits = []
    for index in range(scan.slices):
        directions = scan.navigator_reversed[index]
        constant, slope = odd_even_phase(scan.navigators[index], directions, per_coil, scan.source)
        fits.append((constant, slope))
        coils = (-1, *[1] * (kspace.ndim - 3))
        backwards = scan.line_reversed[index][:, None]
        kspace[index] = corrected(kspace[index], backwards, constant.reshape(coils), slope.reshape(coils))
        navigators[index] = corrected(navigators[index], directions[:, None, None], constant, slope)
    shift = torch.stack([slope.mean() for _, slope in fits]).mean() * readout / (2 * math.pi)
    return scan.after(
        f"EPI ghost corrected with {scan.navigators.shape[1]} navigator lines a slice"
        f"{' and coil' if per_coil else ''}; backward lines lay {shift:+.3f} samples off on average.",
        kspace=kspace * scan.mask.unsqueeze(1),
        navigators=navigators,
    )


def odd_even_phase(
    navigators: Tensor, backwards: Tensor, per_coil: bool = False, source: str = "navigators"
) -> tuple[Tensor, Tensor]:
    """Fit the phase a + b x of backward against forward lines along the readout.

    Off-resonance adds phase from echo to echo. The mean of the two neighbours of a line has the phase that a line of
    their direction would have at its time, so each line with two neighbours of the other direction gives a product
    p(x) = sum_c conj(forward_c(x)) backward_c(x) with phase a + b x alone (three-line navigators have one such line).
    Then b is the phase of sum_x p(x+1) conj(p(x)) (Ahn & Cho, IEEE TMI 6:32, 1987) and a that of
    sum_x p(x) exp(-i b x), both refined by a fit of the remaining phase with weights |p|.

    Args:
        navigators: complex (navigator, coil, kx) in the order of recording, backward lines already reversed.
        backwards: bool (navigator,).
        per_coil: fit every coil alone instead of the sum over coils.
        source: the file, for the error.

    Returns:
        a in radians and b in radians per pixel, float64, each (1,) or (coil,).

    Raises:
        InputError: when no two neighbouring lines have opposite directions.
    """
    lines = ifft_centred(navigators.to(torch.complex128), (-1,))
    triples = [n for n in range(1, len(lines) - 1) if backwards[n - 1] == backwards[n + 1] != backwards[n]]
    pairs = [n for n in range(1, len(lines)) if backwards[n - 1] != backwards[n]]
    if not pairs:
        raise InputError(
            source,
            found="navigator lines of one readout direction",
            expected="forward and backward lines",
            fix="Skip the ghost correction.",
        )
    # Neighbours of equal norm: otherwise decay from echo to echo would turn the phase of their mean.
    norms = lines.flatten(1).norm(dim=1).clamp_min(torch.finfo(torch.float64).tiny)
    product = torch.zeros_like(lines[0])
    for n in triples or pairs:
        other = (lines[n - 1] / norms[n - 1] + lines[n + 1] / norms[n + 1]) * norms[n] if triples else lines[n - 1]
        product += other.conj() * lines[n] if backwards[n] else lines[n].conj() * other
    if not per_coil:
        product = product.sum(0, keepdim=True)
    pixels = torch.arange(lines.shape[-1], dtype=torch.float64, device=lines.device) - lines.shape[-1] // 2
    slope = (product[:, 1:] * product[:, :-1].conj()).sum(-1).angle()
    constant = _turned(product, -slope[:, None] * pixels).sum(-1).angle()
    remaining = _turned(product, -(constant[:, None] + slope[:, None] * pixels)).angle()
    weights = product.abs() / product.abs().sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    centre = (weights * pixels).sum(-1, keepdim=True)
    mean = (weights * remaining).sum(-1)
    spread = (weights * (pixels - centre) ** 2).sum(-1).clamp_min(1e-12)
    tilt = (weights * (pixels - centre) * remaining).sum(-1) / spread
    return constant + mean - tilt * centre[:, 0], slope + tilt


def _turned(x: Tensor, phase: Tensor) -> Tensor:
    return x * torch.polar(torch.ones_like(phase), phase)
