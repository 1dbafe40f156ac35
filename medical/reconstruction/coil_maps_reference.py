"""Coil sensitivity maps measured against the body coil (Pruessmann et al., MRM 42:952, 1999, section on sensitivities).

The body coil is nearly uniform, so the ratio of a coil image to the body-coil image of the same slice is the coil's
sensitivity, whatever the object. Unlike ESPIRiT this needs a second scan and no calibration lines.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medical.reconstruction.fourier import fft_centred, ifft_centred
from shared.errors import InputError

# In pixels: a narrower Gaussian is cut off by the band of the grid and would ring.
NARROWEST = 1.5


def maps_from_reference(
    coil_images: Tensor, body_images: Tensor, *, smoothing: float = 0.015, coherence: float = 0.4
) -> Tensor:
    r"""Fit smooth sensitivities S_c with I_c = S_c B.

    Around every pixel r the constant that fits best is

        S_c(r) = sum_r' g(r - r') conj(B(r')) I_c(r') / sum_r' g(r - r') |B(r')|^2,

    with a Gaussian g, so pixels without signal have no say. Several body-coil channels are combined with the weights
    of their principal component, B = sum_j conj(u_j) B_j. The part of the coil signal around r that the fit explains,

        gamma^2 = sum_c |g * (conj(B) I_c)|^2 / ( (g * |B|^2) sum_c (g * |I_c|^2) )  in [0, 1],

    is near one in the object and near zero in air, whatever the noise level; it decides on the support. Maps have unit
    sum of squares over the coils there and are zero elsewhere.

    Args:
        coil_images: complex (slice, coil, \*encodes).
        body_images: complex (slice, body channel, \*encodes), same slices and grid.
        smoothing: standard deviation of g, as a part of the field of view along each axis; at least 1.5 pixels.
        coherence: smallest gamma^2 of the support.

    Returns:
        Complex maps (slice, 1, coil, \*encodes), one set.

    Raises:
        InputError: when the images are not of the same slices and grid, or the body image is empty.
    """
    if coil_images.shape[:1] + coil_images.shape[2:] != body_images.shape[:1] + body_images.shape[2:]:
        raise InputError(
            "body-coil images",
            found=f"slices and matrix {tuple(body_images.shape[:1] + body_images.shape[2:])}",
            expected=f"{tuple(coil_images.shape[:1] + coil_images.shape[2:])} as in the coil images",
            fix="Give the body-coil scan of the same slices, on the same grid.",
        )
    body = _principal_channel(body_images).unsqueeze(1)
    if not bool(body.abs().flatten(1).amax(1).gt(0).all()):
        raise InputError(
            "body-coil images", found="an empty slice", expected="signal in every slice", fix="Check the scan."
        )
    maps = _smooth(body.conj() * coil_images, smoothing)
    energy = maps.abs().square().sum(1, keepdim=True)
    coil_power = coil_images.abs().square().sum(1, keepdim=True)
    total = _smooth_power(body.abs().square(), smoothing) * _smooth_power(coil_power, smoothing)
    # Below rounding errors of the transforms, gamma^2 has no meaning.
    floor = torch.finfo(total.dtype).eps * total.flatten(1).amax(1).reshape(-1, *[1] * (total.ndim - 1))
    support = (energy > coherence * total) & (total > floor)
    tiny = torch.finfo(energy.dtype).tiny
    return torch.where(support, maps * energy.clamp_min(tiny).rsqrt(), 0).unsqueeze(1)


def _principal_channel(images: Tensor) -> Tensor:
    """Combine channels (slice, channel, ...) with the weights of their largest principal component in each slice."""
    samples = images.flatten(2).to(torch.complex128)
    vectors = torch.linalg.eigh(samples @ samples.mH)[1][..., -1:]
    return (vectors.mH.to(images.dtype) @ images.flatten(2)).reshape(images.shape[0], *images.shape[2:])


def _smooth_power(power: Tensor, deviation: float) -> Tensor:
    return _smooth(torch.complex(power, torch.zeros_like(power)), deviation).real.clamp_min(0)


def _smooth(x: Tensor, deviation: float) -> Tensor:
    """Convolve the axes after the second with a Gaussian of this standard deviation in fields of view."""
    axes = tuple(range(2, x.ndim))
    spectrum = fft_centred(x, axes)
    for axis in axes:
        k = torch.arange(x.shape[axis], device=x.device) - x.shape[axis] // 2
        width = max(deviation, NARROWEST / x.shape[axis])
        gain = torch.exp(-2 * (torch.pi * width * k) ** 2).to(x.real.dtype)
        spectrum = spectrum * gain.reshape([-1 if a == axis else 1 for a in range(x.ndim)])
    return ifft_centred(spectrum, axes)
