"""Partial Fourier is found from the mask, and filled exactly where the assumption of a known phase holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medical.reconstruction.fourier import fft_centred, ifft_centred
from medical.reconstruction.partial_fourier import (
    PartialFourier,
    detect_partial_fourier,
    homodyne,
    pocs,
)
from medical.reconstruction.raw import RawScan
from shared.errors import InputError
from tests.medical.reconstruction.adjoint import complex_noise
from tests.medical.reconstruction.bart import bart, needs_bart
from tests.medical.reconstruction.scans import scan_of


def ranges(size: int, fraction: float, side: int) -> tuple[int, int]:
    acquired = round(fraction * size)
    return (size - acquired, size) if side > 0 else (0, acquired)


def boxes(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Real float64 image of random boxes: sharp edges, full of high frequencies."""
    rng = np.random.default_rng(seed)
    image = torch.zeros(shape, dtype=torch.float64)
    for _ in range(12):
        corners = [sorted(rng.integers(n // 8, 7 * n // 8, 2)) for n in shape]
        image[tuple(slice(int(a), int(b) + 1) for a, b in corners)] += rng.uniform(0.2, 1)
    return image


def smooth_phase(shape: tuple[int, ...]) -> torch.Tensor:
    """Phase factor of less than one turn over the field of view."""
    axes = [torch.linspace(-1, 1, n, dtype=torch.float64) for n in shape]
    grids = torch.meshgrid(*axes, indexing="ij")
    phase = sum((1.2 * torch.cos(1.5 * g + i) + 0.8 * g for i, g in enumerate(grids)), torch.tensor(0.7))
    return torch.exp(1j * phase)


def zero_filled(image: torch.Tensor, partial: PartialFourier) -> torch.Tensor:
    kspace = fft_centred(image, (partial.axis,))
    index = torch.arange(partial.size)
    acquired = (index >= partial.start) & (index < partial.stop)
    return ifft_centred(kspace * acquired.reshape(-1, *[1] * (-1 - partial.axis)), (partial.axis,))


def relative_error(image: torch.Tensor, truth: torch.Tensor) -> float:
    return float((image - truth).norm() / truth.norm())


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("size", [64, 63])
def test_homodyne_recovers_a_real_image_exactly(size, side):
    image = boxes((5, size)).to(torch.complex128) * (-1j)
    partial = PartialFourier(-1, *ranges(size, 0.625, side), size)
    truth = image
    if size % 2 == 0 and side > 0:
        # The sample at -N/2 has no mirror image to be known from.
        kspace = fft_centred(image, (-1,))
        kspace[:, 0] = 0
        truth = ifft_centred(kspace, (-1,))
    torch.testing.assert_close(homodyne(zero_filled(image, partial), partial), truth)
    assert relative_error(zero_filled(image, partial), truth) > 0.05
    wrong = PartialFourier(-1, *ranges(size, 0.625, -side), size)
    assert relative_error(homodyne(zero_filled(image, partial), wrong), truth) > 0.05


@pytest.mark.parametrize("axis", [-1, -2, -3])
@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("fraction", [0.625, 0.75])
def test_image_of_smooth_phase_is_far_better_than_zero_filled(fraction, side, axis):
    shape = (64, 20, 21) if axis == -3 else (64, 63)
    truth = boxes(shape) * smooth_phase(shape)
    partial = PartialFourier(axis, *ranges(shape[axis], fraction, side), shape[axis])
    coil_images = torch.stack([truth, 0.5j * truth])
    image = zero_filled(coil_images, partial)
    blurred = relative_error(image, coil_images)
    filled = homodyne(image, partial)
    assert relative_error(filled, coil_images) < 0.5 * blurred
    assert relative_error(pocs(image, partial), coil_images) < 0.3 * blurred
    torch.testing.assert_close(filled[1], 0.5j * filled[0])


def test_pocs_keeps_the_acquired_samples():
    truth = boxes((32, 16)) * smooth_phase((32, 16))
    partial = PartialFourier(-2, 12, 32, 32)
    image = zero_filled(truth, partial)
    torch.testing.assert_close(zero_filled(pocs(image, partial, 5), partial), image)


def masked_scan(encodes: tuple[int, ...], **ranges_of: tuple[int, int]) -> RawScan:
    mask = torch.zeros(1, *encodes, dtype=torch.bool)
    names = ("kz", "ky", "kx")[-len(encodes) :]
    index = [slice(*ranges_of.get(name, (0, n))) for name, n in zip(names, encodes, strict=True)]
    mask[(slice(None), *index)] = True
    return scan_of(complex_noise((1, 2, *encodes)), mask)


def test_partial_axes_are_found_with_side_and_fraction():
    assert detect_partial_fourier(masked_scan((64, 63))) == ()
    assert detect_partial_fourier(masked_scan((64, 48), ky=(16, 64))) == (PartialFourier(-2, 16, 64, 64),)
    assert detect_partial_fourier(masked_scan((63, 48), kx=(0, 30))) == (PartialFourier(-1, 0, 30, 48),)
    both = detect_partial_fourier(masked_scan((16, 64, 48), kz=(0, 12), kx=(12, 48)))
    assert both == (PartialFourier(-1, 12, 48, 48), PartialFourier(-3, 0, 12, 16))
    assert [partial.side for partial in both] == [1, -1]
    assert both[0].fraction == 0.75
    assert both[0].symmetric == 12


def test_undersampling_and_zero_padding_are_not_taken_for_partial_fourier():
    mask = torch.zeros(1, 64, 48, dtype=torch.bool)
    mask[:, 3::8] = True
    assert detect_partial_fourier(scan_of(complex_noise((1, 1, 64, 48)), mask)) == ()
    mask = torch.zeros(1, 64, 48, dtype=torch.bool)
    mask[:, 8:56:4] = True
    mask[:, 28:36] = True
    assert detect_partial_fourier(scan_of(complex_noise((1, 1, 64, 48)), mask)) == ()
    mask[:, 8:24] = False
    assert detect_partial_fourier(scan_of(complex_noise((1, 1, 64, 48)), mask)) == (PartialFourier(-2, 24, 53, 64),)


def test_partial_axis_is_described_in_words():
    (partial,) = detect_partial_fourier(masked_scan((64, 48), ky=(16, 64)))
    assert str(partial) == "0.750 of ky acquired, the rest missing at negative k"


def test_range_without_symmetric_part_is_refused():
    with pytest.raises(InputError, match="beyond the centre"):
        homodyne(complex_noise((8, 16)), PartialFourier(-1, 0, 9, 16))
    with pytest.raises(InputError, match="17 pixels"):
        pocs(complex_noise((8, 17)), PartialFourier(-1, 0, 12, 16))


@pytest.mark.peer
@needs_bart
def test_homodyne_agrees_with_bart_on_the_same_phase_and_nearly_with_the_phase_that_bart_finds():
    size, axis = 96, -2
    phase = smooth_phase((size, 64))
    partial = PartialFourier(axis, 0, 60, size)
    kspace = fft_centred(zero_filled(boxes((size, 64)) * phase, partial))
    # BART doubles the sample at -N/2, which is its own mirror image; without it the filters are the same.
    kspace[0] = 0
    image = ifft_centred(kspace)
    ours = homodyne(image, partial)
    own_phase = torch.from_numpy(bart("homodyne -C 1 0.625", kspace.numpy().T).T.copy())
    assert relative_error(own_phase.abs(), ours.abs()) < 0.03
    # x exp(-i phi) is real, so the phase that we found is that of x, up to a sign.
    turn = ours / ours.abs().clamp_min(1e-12)
    same_phase = torch.from_numpy(bart("homodyne -C -P @in0 1 0.625", turn.numpy().T, kspace.numpy().T).T.copy())
    assert relative_error(same_phase * turn, ours) < 1e-4
