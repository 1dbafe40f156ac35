"""MR encoding on the prior's images: adjoint, scale, padding, noise."""

from __future__ import annotations

import pytest
import torch

from medical.reconstruction.operators import CartesianSense
from medical.reconstruction.posterior.operator import NOISE_STD, ChannelsOperator, to_channels, to_complex
from shared.guidance.likelihood import GaussianLikelihood, inner


def operator_of(shape=(20, 27), coils=3, scale=30.0, multiple=8, dtype=torch.complex128):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(1, 1, coils, *shape, dtype=dtype, generator=generator)
    maps = maps / maps.norm(dim=2, keepdim=True)
    mask = torch.rand(1, *shape, generator=generator) < 0.4
    return ChannelsOperator(CartesianSense(maps, mask), shape, scale=scale, multiple=multiple)


def test_channels_are_real_and_imaginary_part_and_come_back():
    image = torch.randn(2, 5, 6, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    channels = to_channels(image)
    assert channels.shape == (2, 2, 5, 6)
    torch.testing.assert_close(channels[:, 1], image.imag)
    torch.testing.assert_close(to_complex(channels), image)


@pytest.mark.parametrize("shape", [(20, 27), (16, 24), (9, 8)])
def test_the_adjoint_is_the_transpose_over_the_reals(shape):
    operator = operator_of(shape)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, 2, *operator.padded, dtype=torch.float64, generator=generator)
    y = torch.randn(4, 3, *shape, dtype=torch.complex128, generator=generator)
    left, right = inner(operator(x), y), inner(x, operator.adjoint(y))
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(operator.normal(x), operator.adjoint(operator(x)), rtol=1e-10, atol=1e-8)


def test_a_scan_keeps_its_centre_on_the_padded_grid_and_its_units():
    operator = operator_of((9, 12), scale=5.0)
    assert operator.padded == (16, 16)
    image = torch.zeros(1, 9, 12, dtype=torch.complex128)
    image[0, 9 // 2, 12 // 2] = 10.0
    channels = operator.channels(image)
    assert float(channels[0, 0, 8, 8]) == 2.0
    torch.testing.assert_close(operator.image(channels), image)


def test_white_noise_of_variance_one_a_complex_sample_has_chi_squared_one_a_real_component():
    operator = operator_of((64, 64), coils=4, dtype=torch.complex64)
    noise = torch.randn(1, 4, 64, 64, dtype=torch.complex64, generator=torch.Generator().manual_seed(2))
    noise = noise * operator.encoding.mask
    likelihood = GaussianLikelihood(operator, noise, NOISE_STD)
    zero = torch.zeros(1, 2, *operator.padded)
    components = 2 * 4 * int(operator.encoding.mask.sum())
    assert float(likelihood.chi_squared(zero)) / components == pytest.approx(1.0, abs=0.02)
