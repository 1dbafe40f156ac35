"""Every operator is linear, has the right adjoint, and means what the formula says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medical.reconstruction.fourier import fft_centred
from medical.reconstruction.operators import CartesianSense, FiniteDifference, Fourier, Mask, Sense
from medical.reconstruction.wavelets import SCALING_FILTERS, Wavelet
from tests.medical.reconstruction.adjoint import assert_adjoint, complex_noise

DTYPES = [torch.complex128, torch.complex64]
CASES = [  # slices, sets, coils, encodes
    (1, 1, 1, (8, 8)),
    (2, 1, 5, (9, 12)),
    (3, 2, 4, (7, 5)),
    (1, 2, 3, (6, 5, 8)),
]


def random_mask(slices: int, encodes: tuple[int, ...], varying: tuple[int, ...]) -> torch.Tensor:
    """A random mask that varies along the axes named in `varying` (negative) and is constant along the others."""
    shape = [n if axis in varying else 1 for axis, n in zip(range(-len(encodes), 0), encodes, strict=True)]
    mask = torch.rand((slices, *shape), generator=torch.Generator().manual_seed(4)) < 0.5
    return mask.expand(slices, *encodes)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("slices", "sets", "coils", "encodes"), CASES)
def test_every_operator_passes_the_dot_product_test(slices, sets, coils, encodes, dtype):
    ndim, image, data = len(encodes), (slices, sets, *encodes), (slices, coils, *encodes)
    maps = complex_noise((slices, sets, coils, *encodes), dtype, 7)
    mask = random_mask(slices, encodes, tuple(range(-ndim, 0)))
    assert_adjoint(Fourier(ndim), data, data, dtype)
    assert_adjoint(Mask(mask[:, None]), data, data, dtype)
    assert_adjoint(Sense(maps), image, data, dtype)
    assert_adjoint(Mask(mask[:, None]) @ Fourier(ndim) @ Sense(maps), image, data, dtype)
    assert_adjoint(FiniteDifference(ndim), image, (ndim, *image), dtype)
    wavelet = Wavelet(encodes, levels=1)
    assert_adjoint(wavelet, image, (slices, sets, *wavelet.padded), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("slices", "sets", "coils", "encodes"), CASES)
def test_cartesian_sense_equals_the_composition_for_masks_varying_along_any_axes(slices, sets, coils, encodes, dtype):
    ndim = len(encodes)
    maps = complex_noise((slices, sets, coils, *encodes), dtype, 7)
    x = complex_noise((slices, sets, *encodes), dtype, 8)
    for varying in [(), *[(axis,) for axis in range(-ndim, 0)], (-ndim, -1), tuple(range(-ndim, 0))]:
        mask = random_mask(slices, encodes, varying)
        fast, plain = CartesianSense(maps, mask), Mask(mask[:, None]) @ Fourier(ndim) @ Sense(maps)
        assert_adjoint(fast, x.shape, (slices, coils, *encodes), dtype)
        reference = plain.adjoint(plain(x))
        for normal in (fast.normal(x), fast._permute_back(fast._all_coils(fast._permute(x)))):  # of GPUs
            assert (normal - reference).norm() <= (1e-12 if dtype == torch.complex128 else 1e-5) * reference.norm()


def test_one_mask_serves_all_slices():
    maps, x = complex_noise((3, 1, 2, 6, 8)), complex_noise((3, 1, 6, 8), seed=1)
    mask = random_mask(1, (6, 8), (-2,))
    torch.testing.assert_close(
        CartesianSense(maps, mask).normal(x), CartesianSense(maps, mask.expand(3, 6, 8)).normal(x)
    )


def test_a_point_off_centre_makes_a_phase_ramp_in_every_coil():
    """One pixel at offset (dy, dx) from N//2 has k-space S_c exp(-2 pi i (ky dy / Ny + kx dx / Nx)) / sqrt(Ny Nx)."""
    ny, nx, dy, dx = 7, 10, 2, -3
    maps = complex_noise((1, 1, 3, ny, nx))
    x = torch.zeros(1, 1, ny, nx, dtype=torch.complex128)
    x[0, 0, ny // 2 + dy, nx // 2 + dx] = 1
    ky, kx = torch.arange(ny) - ny // 2, torch.arange(nx) - nx // 2
    ramp = torch.exp(-2j * torch.pi * (ky[:, None] * dy / ny + kx * dx / nx).to(torch.complex128)) / (ny * nx) ** 0.5
    expected = maps[0, 0, :, ny // 2 + dy, nx // 2 + dx, None, None] * ramp
    torch.testing.assert_close((Fourier() @ Sense(maps))(x)[0], expected)


def test_sense_with_unit_sum_of_squares_maps_never_amplifies():
    maps = complex_noise((1, 1, 6, 12, 10))
    maps = maps / maps.norm(dim=2, keepdim=True)
    operator = CartesianSense(maps, random_mask(1, (12, 10), (-2, -1)))
    x = complex_noise((1, 1, 12, 10), seed=3)
    for _ in range(100):
        x = operator.normal(x / x.norm())
    assert x.norm() <= 1 + 1e-12


def test_adjoint_of_composition_reverses_the_order():
    maps, y = complex_noise((1, 1, 2, 4, 6)), complex_noise((1, 2, 4, 6), seed=5)
    composed = (Fourier() @ Sense(maps)).H
    torch.testing.assert_close(composed(y), Sense(maps).adjoint(Fourier().adjoint(y)))


def test_finite_difference_is_a_forward_difference_and_kills_constants():
    x = torch.tensor([[[[0.0, 1.0, 3.0], [10.0, 10.0, 10.0]]]], dtype=torch.complex128)
    dy, dx = FiniteDifference()(x)
    np.testing.assert_array_equal(dx[0, 0].real, [[1, 2, -3], [0, 0, 0]])
    np.testing.assert_array_equal(dy[0, 0].real, [[10, 9, 7], [-10, -9, -7]])
    assert FiniteDifference(3)(torch.ones(1, 1, 3, 4, 5, dtype=torch.complex128)).abs().max() == 0


@pytest.mark.parametrize("name", SCALING_FILTERS)
@pytest.mark.parametrize("shape", [(32, 48), (33, 20), (16, 8, 24), (64,)])
def test_wavelet_is_an_isometry_inverted_by_its_adjoint(shape, name):
    for levels in (0, 1, 3):
        wavelet = Wavelet(shape, name, levels)
        x = complex_noise((2, 1, *shape))
        assert abs(wavelet(x).norm() / x.norm() - 1) <= 1e-12
        assert (wavelet.adjoint(wavelet(x)) - x).norm() <= 1e-12 * x.norm()


@pytest.mark.parametrize("name", SCALING_FILTERS)
def test_wavelet_equals_pywavelets_periodization_up_to_circular_shifts(name):
    pywt = pytest.importorskip("pywt")
    x = complex_noise((32,)).numpy()
    ours = Wavelet((32,), name, levels=1)(torch.from_numpy(x)).numpy()
    for band, theirs in zip(
        (ours[:16], ours[16:]),
        pywt.dwt(np.roll(x, len(SCALING_FILTERS[name]) // 2 - 1), name, "periodization"),
        strict=True,
    ):
        errors = [np.abs(np.roll(theirs, n) - sign * band).max() for n in range(16) for sign in (1, -1)]
        assert min(errors) < 1e-12


def test_db2_details_of_a_linear_ramp_vanish_inside():
    ramp = torch.arange(64.0, dtype=torch.float64) + 0j
    detail = Wavelet((64,), "db2", levels=1)(ramp)[32:]
    assert detail[:-1].abs().max() < 1e-12
    assert detail[-1].abs() > 1


def test_multilevel_wavelet_repeats_one_level_on_the_coarse_corner():
    x = complex_noise((32, 16))
    one = Wavelet((32, 16), levels=1)(x)
    expected = one.clone()
    expected[:16, :8] = Wavelet((16, 8), levels=1)(one[:16, :8])
    torch.testing.assert_close(Wavelet((32, 16), levels=2)(x), expected)


def test_cartesian_sense_agrees_with_direct_sampling_of_coil_spectra():
    maps, x = complex_noise((1, 2, 3, 6, 5)), complex_noise((1, 2, 6, 5), seed=2)
    mask = random_mask(1, (6, 5), (-2, -1))
    coil_images = torch.einsum("sjcyx,sjyx->scyx", maps, x)
    expected = torch.where(mask[:, None], fft_centred(coil_images), torch.zeros((), dtype=x.dtype))
    torch.testing.assert_close(CartesianSense(maps, mask)(x), expected)
