"""Reconstruct one slice (or one 3-D slab): coil maps, encoding operator, method, partial Fourier.

Cartesian and non-Cartesian scans differ only in their encoding A; every method then minimises

    ||A x - y||^2 (/ 2) + regulariser(x),       A = M F S   or   A = sqrt(W) NUFFT S.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from medical.reconstruction import least_squares, sparse
from medical.reconstruction.coil_maps import calibration_region, espirit, espirit_hybrid, fitting_kernel
from medical.reconstruction.coil_maps_reference import maps_from_reference
from medical.reconstruction.fourier import fft_centred, ifft_centred
from medical.reconstruction.noncartesian import Nufft, gridding, image_shape, sample_weights
from medical.reconstruction.operators import CartesianSense, LinearOperator, Sense
from medical.reconstruction.partial_fourier import detect_partial_fourier, homodyne, pocs
from medical.reconstruction.preprocess import crop_to_recon, is_white, resize_centred
from medical.reconstruction.raw import RawScan
from medical.reconstruction.settings import Method, PartialFourier, Settings
from medical.reconstruction.solvers import largest_eigenvalue

CALIBRATION_SIZE = 24


@dataclass(frozen=True)
class SliceResult:
    """One reconstructed slice and what is worth telling about it.

    Attributes:
        image: complex64 (1, y, x), or (z, y, x) for a 3-D scan, on the CPU.
        parameters: what the method was run with.
        residual_energy: ||A x - y||^2.
        data_energy: ||y||^2.
        noise_energy: E||A x - y||^2 when only noise of variance 1 is left.
        support: part of the pixels for which there is a coil map.
        history: sentences for the provenance.
        warnings: sentences that a user must read.
        companions: images and maps of the same pixels, each complex64 or float32 like `image`; see `trusted`.
        trust: numbers about the image beside the residual; see `trusted`.
    """

    image: Tensor
    parameters: dict[str, Any]
    residual_energy: float = 0.0
    data_energy: float = 0.0
    noise_energy: float = 0.0
    support: float = 1.0
    history: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    companions: dict[str, Tensor] = field(default_factory=dict)
    trust: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Encoding:
    """The linear problem of one slice.

    Attributes:
        operator: A, from images (1, set, ...) to data.
        data: y.
        scale: (1,) size of image values, to which regularisation weights are relative.
        bound: computes `lipschitz`.
        noise_energy: E||n||^2 of the noise in y when its variance is 1 in each sample.
    """

    operator: LinearOperator
    data: Tensor
    scale: Tensor
    bound: Callable[[], float]
    noise_energy: float

    @cached_property
    def lipschitz(self) -> float:
        """Bound on the largest eigenvalue of A^H A; not every method needs it, and power iteration takes time."""
        return self.bound()


def _sense(encoding: Encoding, lamda: float, iterations: int, generator: torch.Generator) -> Tensor:
    return least_squares.tikhonov(encoding.operator, encoding.data, lamda=lamda, iterations=iterations)


def _wavelet(encoding: Encoding, lamda: float, iterations: int, generator: torch.Generator) -> Tensor:
    return sparse.minimise_wavelet(
        encoding.operator,
        encoding.data,
        weight=lamda * encoding.scale,
        lipschitz=encoding.lipschitz,
        iterations=iterations,
        generator=generator,
    )


def _tv(encoding: Encoding, lamda: float, iterations: int, generator: torch.Generator) -> Tensor:
    return sparse.minimise_tv(
        encoding.operator,
        encoding.data,
        weight=lamda * encoding.scale,
        lipschitz=encoding.lipschitz,
        iterations=iterations,
    )


@dataclass(frozen=True)
class Recipe:
    """A method and what it is run with unless the user says otherwise.

    Attributes:
        minimise: (encoding, lamda, iterations, generator) -> image (1, set, ...).
        lamda: regularisation weight when the noise level is not known.
        iterations: number of iterations.
        map_crop: ESPIRiT eigenvalue below which a pixel has no signal.
        noise_weight: regularisation weight in noise standard deviations, for prewhitened data; None uses `lamda`.
    """

    minimise: Callable[[Encoding, float, int, torch.Generator], Tensor]
    lamda: float
    iterations: int
    map_crop: float
    noise_weight: float | None = None

    def weight(self, encoding: Encoding, *, white: bool) -> float:
        """Return lamda for this encoding; `white` says that its noise has variance 1."""
        if self.noise_weight is None or not white or not float(encoding.scale) > 0:
            return self.lamda
        return self.noise_weight / float(encoding.scale)


# CG-SENSE needs to be told where there is no signal. With a sparse prior the support adds nothing inside the object
# (docs/mri.md) and a wide one keeps faint tissue at its rim, so maps are cropped less. A threshold of 0.3 noise
# standard deviations was the best or next to it of six from 0.03 to 1.5, at SNR 8, 30 and 100 and R 2.2 and 3.1 there.
METHODS: dict[Method, Recipe] = {
    "sense": Recipe(_sense, least_squares.SENSE_LAMDA, least_squares.SENSE_ITERATIONS, map_crop=0.8),
    "wavelet": Recipe(_wavelet, sparse.LAMDA, sparse.ITERATIONS, map_crop=0.3, noise_weight=0.3),
    "tv": Recipe(_tv, sparse.LAMDA, sparse.ITERATIONS, map_crop=0.3, noise_weight=0.3),
}
"""All classical methods but "rss", which needs no encoding."""

FILL: dict[PartialFourier, Callable[..., Tensor]] = {"homodyne": homodyne, "pocs": pocs}


def reconstruct_slice(
    scan: RawScan,
    settings: Settings,
    *,
    reference: RawScan | None = None,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> SliceResult:
    """Reconstruct a scan of one slice onto the protocol's matrix and field of view.

    Args:
        scan: prepared, with one slice (or one 3-D slab).
        settings: a classical method and its parameters.
        reference: body-coil scan of the slice for the coil maps; None for ESPIRiT.
        generator: for the random shifts of the wavelet grid.
        device: where to compute.

    Raises:
        InputError: no calibration region, or a reference that does not fit.
    """
    warnings = []
    if settings.method == "rss":
        if _has_gaps(scan):
            warnings.append("Undersampled data were reconstructed by zero-filled RSS: the image is aliased.")
        coil_images = coil_images_of(scan).to(device)
        coil_images, history, notes = fill_partial_fourier(coil_images, scan, settings)
        # The magnitude is not band-limited: it is taken after interpolation.
        image = least_squares.rss(crop_to_recon(coil_images, scan)[0])
        return SliceResult(volume_of(image), {}, history=history, warnings=(*warnings, *notes))
    recipe = METHODS[settings.method]
    iterations = settings.iterations or recipe.iterations
    crop = recipe.map_crop if settings.map_crop is None else settings.map_crop
    maps, told = coil_maps_of(scan, sets=settings.map_sets, crop=crop, reference=reference)
    support = float((maps.abs().amax((0, 1, 2)) > 0).float().mean())
    encoding = encode(scan, maps.to(device))
    lamda = settings.lamda or recipe.weight(encoding, white=is_white(scan))
    if support > 0:
        x = recipe.minimise(encoding, lamda, iterations, generator)
    else:
        x = torch.zeros_like(encoding.operator.adjoint(encoding.data))
        warnings.append("The calibration data hold no signal above noise: there are no coil maps, the image is empty.")
    residual = float((encoding.operator(x) - encoding.data).norm()) ** 2
    x, history, notes = fill_partial_fourier(x, scan, settings)
    return SliceResult(
        volume_of(least_squares.merge_sets(crop_to_recon(x, scan)[0])),
        {"lamda": lamda, "iterations": iterations, "map_sets": maps.shape[1], "map_crop": crop},
        residual_energy=residual,
        data_energy=float(encoding.data.norm()) ** 2,
        noise_energy=encoding.noise_energy,
        support=support,
        history=(told, *history),
        warnings=(*warnings, *notes),
    )


def coil_images_of(scan: RawScan) -> Tensor:
    r"""Return coil images (slice, coil, \*encodes): inverse FFT of zero-filled k-space, or gridding."""
    if scan.is_cartesian:
        return ifft_centred(scan.kspace, tuple(range(-len(scan.encoded_matrix), 0)))
    return gridding(scan, image_shape(scan))


def coil_maps_of(
    scan: RawScan, *, sets: int = 1, crop: float = 0.8, reference: RawScan | None = None
) -> tuple[Tensor, str]:
    r"""Estimate coil maps (1, set, coil, \*encodes) and say how.

    From the body-coil `reference` if there is one; else by ESPIRiT from separate calibration lines, from the fully
    sampled centre of Cartesian k-space, or from the centre of gridded non-Cartesian k-space.

    Raises:
        InputError: no calibration region, or a reference that does not fit.
    """
    if reference is not None:
        return _measured_maps(scan, reference)
    matrix = scan.encoded_matrix if scan.is_cartesian else image_shape(scan)
    if scan.calibration is not None:
        block = scan.calibration
    elif scan.is_cartesian:
        box = calibration_region(scan.mask, size=CALIBRATION_SIZE)
        block = scan.kspace[(slice(None), slice(None), *box)]
    else:
        block = fft_centred(coil_images_of(scan), tuple(range(-len(matrix), 0)))
        for axis in range(-len(matrix), 0):
            block = resize_centred(block, min(CALIBRATION_SIZE, matrix[axis]), axis)
    kernel = fitting_kernel((block.shape[2], block.shape[3]))
    if len(matrix) == 3:
        maps, _ = espirit_hybrid(block, (matrix[0], matrix[1], matrix[2]), kernel_size=kernel, crop=crop, maps=sets)
    else:
        maps, _ = espirit(block, matrix, kernel_size=kernel, crop=crop, maps=sets)
    extent = " x ".join(str(n) for n in block.shape[2:])
    return maps, f"Coil maps by ESPIRiT from {extent} calibration samples ({sets} set{'s' if sets > 1 else ''})."


def _measured_maps(scan: RawScan, reference: RawScan) -> tuple[Tensor, str]:
    """Return maps against the body coil, from equal parts of both k-spaces.

    Both scans as a whole if none has gaps. Else the calibration region, under a cosine window against ringing, since
    aliases in the coil images would be taken for sensitivity.
    """
    told = "Coil maps measured against the body coil"
    elsewhere = not scan.is_cartesian or reference.encoded_matrix != scan.encoded_matrix
    if elsewhere or not (_has_gaps(scan) or _has_gaps(reference)):
        return maps_from_reference(coil_images_of(scan), coil_images_of(reference)), f"{told}."
    matrix = scan.encoded_matrix
    if scan.calibration is not None:
        block = scan.calibration
    else:
        block = scan.kspace[(slice(None), slice(None), *calibration_region(scan.mask, size=CALIBRATION_SIZE))]
    box = calibration_region(reference.mask, size=max(block.shape[2:]))
    body = reference.kspace[(slice(None), slice(None), *box)]
    extent = tuple(min(pair) for pair in zip(block.shape[2:], body.shape[2:], strict=True))
    for axis in range(-len(matrix), 0):
        k = torch.arange(extent[axis]) - extent[axis] // 2
        window = torch.cos(torch.pi * k / (extent[axis] + 1)).reshape(-1, *[1] * (-1 - axis))
        block, body = (
            resize_centred(resize_centred(x, extent[axis], axis) * window, matrix[axis], axis) for x in (block, body)
        )
    axes = tuple(range(-len(matrix), 0))
    maps = maps_from_reference(ifft_centred(block, axes), ifft_centred(body, axes))
    return maps, f"{told} in the central {' x '.join(map(str, extent))} samples."


def encode(scan: RawScan, maps: Tensor) -> Encoding:
    """Return the linear problem of one slice with the given maps, on the device of the maps."""
    if scan.is_cartesian:
        operator = CartesianSense(maps, scan.mask.to(maps.device))
        kspace = scan.kspace.to(maps.device)
        scale = sparse.data_scale(kspace, operator.mask)
        samples = float(scan.mask.sum()) * scan.coils
        return Encoding(operator, kspace, scale, operator.squared_norm_bound, samples)
    assert scan.trajectory is not None
    shape = image_shape(scan)
    weights = sample_weights(scan, 0, shape)
    chain = Nufft(scan.trajectory[0], shape, weights) @ Sense(maps)
    data = scan.kspace.to(maps.device) * weights.sqrt().to(maps.device)
    data_like = maps[:, :, 0]
    scale = sparse.image_scale(least_squares.rss(coil_images_of(scan)))

    def bound() -> float:
        return 1.05 * largest_eigenvalue(chain, data_like)  # power iteration approaches from below

    return Encoding(chain, data, scale.to(maps.device), bound, float(weights.sum()) * scan.coils)


def fill_partial_fourier(
    image: Tensor, scan: RawScan, settings: Settings
) -> tuple[Tensor, tuple[str, ...], tuple[str, ...]]:
    """Return the image with partial Fourier filled as the settings say, and sentences for history and warnings."""
    history, warnings = [], []
    for partial in detect_partial_fourier(scan):
        if settings.partial_fourier == "zero":
            warnings.append(f"Partial Fourier ({partial}) was filled with zeros: the image is blurred along this axis.")
        else:
            image = FILL[settings.partial_fourier](image, partial)
            history.append(f"Partial Fourier ({partial}) filled by {settings.partial_fourier}.")
    return image, tuple(history), tuple(warnings)


def _has_gaps(scan: RawScan) -> bool:
    """Whether samples are missing between acquired ones along an axis.

    Partial Fourier, asymmetric echoes and k-space without corners have none missing there.
    """
    if not scan.is_cartesian:
        return False
    mask = scan.mask.to(torch.uint8)
    for axis in range(1, mask.ndim):
        before, after = mask.cummax(axis).values, mask.flip(axis).cummax(axis).values.flip(axis)
        if bool((before * after > mask).any()):
            return True
    return False


def volume_of(image: Tensor) -> Tensor:
    """(1, y, x) stays; (1, z, y, x) becomes (z, y, x)."""
    image = image if image.ndim == 3 else image[0]
    return image.to(torch.complex64).cpu()
