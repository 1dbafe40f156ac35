"""Steps from a scanner's raw data to data that a reconstruction can use: `RawScan` to `RawScan`.

Noise prewhitening (Pruessmann et al., MRM 46:638, 2001; Kellman & McVeigh, MRM 54:1439, 2005), removal of readout
oversampling, and the final crop of an image to the matrix that the protocol asks for. Transforms are orthonormal
throughout, so noise of unit variance in k-space is noise of unit variance in the image, before and after each step.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from medical.images import Geometry
from medical.reconstruction.axis_matrix import AxisMatrix
from medical.reconstruction.fourier import fft_centred, ifft_centred
from medical.reconstruction.operators import LinearOperator
from medical.reconstruction.raw import RawScan
from shared.errors import InputError


def noise_covariance(noise: Tensor, bandwidth_ratio: float = 1.0) -> Tensor:
    """Return the covariance of the receiver noise, Psi = r / n * sum_t eta(t) eta(t)^H.

    Args:
        noise: complex (coil, n) noise-only samples; receiver noise has zero mean.
        bandwidth_ratio: r, receiver bandwidth of the imaging scan relative to that of the noise scan.

    Returns:
        complex128 (coil, coil).
    """
    noise = noise.to(torch.complex128)
    return bandwidth_ratio / noise.shape[1] * (noise @ noise.mH)


def whitening_matrix(covariance: Tensor) -> Tensor:
    """Return W = L^-1 with Psi = L L^H (Cholesky), so that W eta has covariance W Psi W^H = I.

    The variance of a complex sample is then 1, that of its real and of its imaginary part 1/2.

    Args:
        covariance: complex (coil, coil), Hermitian.

    Returns:
        complex128 (coil, coil), lower triangular.

    Raises:
        InputError: when the covariance is not positive definite (a dead or doubled channel, or too few samples).
    """
    covariance = covariance.to(torch.complex128)
    power = covariance.diagonal().real
    dead = torch.nonzero(~(power > 1e-12 * power.max())).flatten().tolist()
    if dead:
        raise InputError(
            "noise scan",
            found=f"no noise in channel(s) {dead}",
            expected="noise in every channel",
            fix="Leave these channels out of the scan.",
        )
    # Channels differ in gain by orders of magnitude; with unit diagonal the Cholesky factor judges correlation only.
    scale = power.rsqrt().to(covariance)
    factor, failed = torch.linalg.cholesky_ex(scale[:, None] * covariance * scale)
    if failed or factor.diagonal().real.min() < 1e-5:
        raise InputError(
            "noise scan",
            found="noise of some channels that is a combination of the others",
            expected="a covariance of full rank",
            fix="Use a longer noise scan, or leave out doubled channels.",
        )
    return torch.linalg.solve_triangular(factor, torch.diag(scale), upper=False)


def prewhiten(scan: RawScan) -> RawScan:
    """Make the noise of all channels uncorrelated with unit variance: y <- W y with W of `whitening_matrix`.

    Applies to imaging, calibration, navigator and noise samples alike. Without a noise scan the data stay as they
    are and the scan carries a warning; `estimate_noise` makes a noise scan from the data if that is wanted.

    Args:
        scan: any scan, Cartesian or not.

    Raises:
        InputError: when the noise scan has fewer samples than channels, or is singular.
    """
    if scan.noise is None:
        return scan.after(
            "Noise prewhitening skipped.",
            "No noise scan: channels are combined without prewhitening, so noise and residuals are in arbitrary units.",
        )
    coils, samples = scan.noise.shape
    if coils != scan.coils or samples < coils:
        raise InputError(
            scan.source,
            found=f"a noise scan of {samples} samples in {coils} channels",
            expected=f"{scan.coils} channels and at least as many samples",
            fix="Use the noise scan of this acquisition.",
        )
    matrix = whitening_matrix(noise_covariance(scan.noise, scan.noise_bandwidth_ratio))
    noise = AxisMatrix(matrix, 0)(scan.noise) * math.sqrt(scan.noise_bandwidth_ratio)
    return scan.after(
        f"Noise prewhitened with {samples} noise samples (bandwidth ratio {scan.noise_bandwidth_ratio:.4g}).",
        kspace=AxisMatrix(matrix, 1)(scan.kspace),
        calibration=None if scan.calibration is None else AxisMatrix(matrix, 1)(scan.calibration),
        navigators=None if scan.navigators is None else AxisMatrix(matrix, 2)(scan.navigators),
        noise=noise,
        noise_bandwidth_ratio=1.0,
    )


def is_white(scan: RawScan) -> bool:
    """Whether the scan's noise is known to have unit variance in every channel and no correlation between them."""
    if scan.noise is None:
        return False
    covariance = noise_covariance(scan.noise[:, :20000], scan.noise_bandwidth_ratio)
    return bool((covariance - torch.eye(len(covariance))).abs().max() < 0.2)


def estimate_noise(scan: RawScan, fraction: float = 0.03) -> RawScan:
    """Take the outermost acquired k-space samples for a noise scan, when none was recorded.

    Signal falls with distance from the k-space centre and noise does not, so the samples with the largest
    |k|^2 = sum_a (2 k_a / N_a)^2 are nearly noise. The estimate is slightly too large where signal remains.

    Args:
        scan: Cartesian or non-Cartesian; its noise scan is replaced.
        fraction: part of the acquired samples to take, those farthest out.
    """
    if scan.trajectory is not None:
        radius = (scan.trajectory / scan.trajectory.abs().amax(dim=(0, 1, 2)).clamp_min(1e-6)).square().sum(-1)
    else:
        axes = [(torch.arange(n) - n // 2) / max(n / 2, 1) for n in scan.encoded_matrix]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        radius = grid.square().sum(0).expand(scan.mask.shape)
    acquired = radius[scan.mask]
    count = min(max(round(fraction * acquired.numel()), 10 * scan.coils), acquired.numel())
    outermost = acquired.topk(count).indices
    noise = scan.kspace.movedim(1, 0)[:, scan.mask][:, outermost]
    return scan.after(
        f"Noise taken from the {count} outermost k-space samples.",
        "The noise level is estimated from the image data, not measured.",
        noise=noise,
        noise_bandwidth_ratio=1.0,
    )


class ReadoutCrop(LinearOperator):
    """Crop of the field of view along the last k-space axis: F' C F^H, with the crop C about index N//2.

    Its rows are orthonormal: white noise stays white with the same variance.

    Args:
        samples: N, readout samples before.
        kept: N' <= N, readout samples after.
    """

    def __init__(self, samples: int, kept: int) -> None:
        self.samples, self.kept = samples, kept

    def __call__(self, x: Tensor) -> Tensor:
        """Return A x."""
        return fft_centred(resize_centred(ifft_centred(x, (-1,)), self.kept, -1), (-1,))

    def adjoint(self, y: Tensor) -> Tensor:
        """Return A^H y."""
        return fft_centred(resize_centred(ifft_centred(y, (-1,)), self.samples, -1), (-1,))


def remove_readout_oversampling(scan: RawScan) -> RawScan:
    """Crop the field of view along the readout to `scan.recon_fov_mm[0]`.

    Pixels keep their size and place, and the isocentre stays at index N//2. A sample of the shorter readout is a
    weighted sum of the recorded samples, y'_j = sum_k D_jk y_k with sum_k |D_jk|^2 = 1. It counts as acquired when
    samples that carry more than half of these squared weights were acquired; the others are set to zero. So an
    asymmetric echo keeps its missing side.

    Args:
        scan: Cartesian, with uniform readout sampling; unchanged when there is no oversampling.

    Raises:
        InputError: for non-Cartesian scans and for readouts that are not regridded yet.
    """
    require_uniform_readout(scan, "Oversampling is removed")
    encoded = scan.encoded_matrix[-1]
    fov = scan.geometry.fov_mm
    kept = round(encoded * scan.recon_fov_mm[0] / fov[0])
    if kept >= encoded:
        return scan
    if kept < 1:
        raise InputError(
            scan.source,
            found=f"a readout field of view of {scan.recon_fov_mm[0]} mm within {fov[0]} mm",
            expected="at least one pixel",
            fix="Check the header of the scan.",
        )
    crop = ReadoutCrop(encoded, kept)
    weights = crop(torch.eye(encoded, dtype=torch.complex128)).abs().square()
    mask = scan.mask.to(weights) @ weights > 0.5

    def shorten(x: Tensor | None) -> Tensor | None:
        if x is None:
            return None
        return ReadoutCrop(x.shape[-1], round(x.shape[-1] * kept / encoded))(x)

    return scan.after(
        f"Readout oversampling removed: {encoded} to {kept} samples.",
        kspace=crop(scan.kspace) * mask.unsqueeze(1),
        mask=mask,
        geometry=replace(scan.geometry, fov_mm=(fov[0] * kept / encoded, fov[1], fov[2])),
        calibration=shorten(scan.calibration),
        navigators=shorten(scan.navigators),
    )


def require_uniform_readout(scan: RawScan, step: str) -> None:
    """Raise an InputError unless the readouts lie on a uniform Cartesian grid.

    Args:
        scan: the scan to check.
        step: what is about to be done, for the message.
    """
    if scan.trajectory is not None or scan.readout_positions is not None:
        ramp = scan.trajectory is None
        raise InputError(
            scan.source,
            found="a readout sampled on a gradient ramp" if ramp else "a non-Cartesian trajectory",
            expected="a uniformly sampled Cartesian readout",
            fix=f"{step} after regridding: call regrid_readout first."
            if ramp
            else "Leave this step out for non-Cartesian scans.",
        )


def resize_centred(x: Tensor, size: int, axis: int) -> Tensor:
    """Crop or zero-pad one axis so that the entry at index N//2 moves to index size//2.

    Args:
        x: any tensor.
        size: new length of the axis.
        axis: the axis.
    """
    length = x.shape[axis]
    if size <= length:
        return x.narrow(axis, length // 2 - size // 2, size)
    before = size // 2 - length // 2
    shape = list(x.shape)
    shape[axis] = size
    out = x.new_zeros(shape)
    out.narrow(axis, before, length).copy_(x)
    return out


def crop_to_recon(image: Tensor, scan: RawScan) -> tuple[Tensor, Geometry]:
    """Bring an image of the encoded space to the matrix and field of view that the protocol asks for.

    On each axis with N pixels over the encoded FOV and M pixels wanted over the reconstruction FOV', the image is
    sinc-interpolated (k-space zero-padded or cropped) to K = round(M FOV / FOV') pixels, which keeps pixel values,
    and then cropped or zero-padded to M pixels about index N//2. This removes phase oversampling and makes the
    pixels of `scan.recon_matrix`; interpolated pixels are not acquired resolution.

    Args:
        image: (..., y, x), or (..., z, y, x) for 3-D scans: complex, or real (then its real interpolation).
        scan: the preprocessed scan that the image was made from.

    Returns:
        The image and the geometry of its field of view; the positions of pixel N//2 are unchanged.

    Raises:
        InputError: when a field of view is not positive.
    """
    steps, geometry = _crops(scan)
    for axis, interpolated, wanted in steps:
        image = resize_centred(_sinc_interpolate(image, interpolated, axis), wanted, axis)
    return image.contiguous(), geometry


def recon_geometry(scan: RawScan) -> Geometry:
    """Return the geometry of what `crop_to_recon` makes of an image of this scan."""
    return _crops(scan)[1]


def noise_gain(scan: RawScan) -> float:
    """Return the noise standard deviation of a pixel after `crop_to_recon` relative to the one before.

    One, unless the protocol asks for larger pixels than were acquired: then sqrt(K / N) on each such axis.
    """
    sizes = scan.encoded_matrix if scan.is_cartesian else ()
    ratios = [min(interpolated / sizes[axis], 1.0) for axis, interpolated, _ in _crops(scan)[0] if sizes]
    return math.sqrt(math.prod(ratios))


def _crops(scan: RawScan) -> tuple[list[tuple[int, int, int]], Geometry]:
    """Return (axis, K, M) of `crop_to_recon` for every encoded axis, and the geometry afterwards."""
    dimensions = len(scan.encoded_matrix) if scan.trajectory is None else scan.trajectory.shape[-1]
    fov = list(scan.geometry.fov_mm)
    steps = []
    for index in range(dimensions):
        axis, wanted, wanted_fov = -1 - index, scan.recon_matrix[2 - index], scan.recon_fov_mm[index]
        if not (fov[index] > 0 and wanted_fov > 0):
            raise InputError(
                scan.source,
                found=f"a field of view of {fov[index]} mm to be cropped to {wanted_fov} mm",
                expected="positive extents",
                fix="Give the field of view explicitly.",
            )
        interpolated = max(round(wanted * fov[index] / wanted_fov), 1)
        steps.append((axis, interpolated, wanted))
        fov[index] *= wanted / interpolated
    return steps, replace(scan.geometry, fov_mm=(fov[0], fov[1], fov[2]))


def _sinc_interpolate(image: Tensor, size: int, axis: int) -> Tensor:
    length = image.shape[axis]
    if size == length:
        return image
    out = ifft_centred(resize_centred(fft_centred(image, (axis,)), size, axis), (axis,)) * math.sqrt(size / length)
    return out if image.is_complex() else out.real
