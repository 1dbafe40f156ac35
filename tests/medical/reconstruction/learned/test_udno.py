"""The U of DISCO layers is an operator: finer grids refine its answer. The U-Net's answer changes with the pixel."""

from __future__ import annotations

import pytest
import torch

from medical.reconstruction.learned.disco import PolarBasis
from medical.reconstruction.learned.normalise import ComplexNetwork, halving_padding, magnitude
from medical.reconstruction.learned.udno import udno
from medical.reconstruction.learned.unet import unet
from tests.medical.reconstruction.learned.slices import blobs

FOV = (192.0, 192.0)


def answers(network: ComplexNetwork, sizes: tuple[int, ...], fov: tuple[float, float] = FOV) -> list[torch.Tensor]:
    with torch.no_grad():
        return [network(blobs((n, n), fov)[None].to(torch.complex64), (fov[0] / n, fov[1] / n))[0] for n in sizes]


def distance(fine: torch.Tensor, coarse: torch.Tensor) -> float:
    """Relative difference at the pixels of the coarse grid, away from the border."""
    step, cut = fine.shape[0] // coarse.shape[0], coarse.shape[0] // 8
    inside = slice(cut, -cut)
    difference = (fine[::step, ::step] - coarse)[inside, inside]
    return float(difference.norm() / coarse[inside, inside].norm())


def operator(radius: float = 8.0) -> ComplexNetwork:
    torch.manual_seed(1)
    return ComplexNetwork(udno(2, 2, channels=4, pools=2, basis=lambda level: PolarBasis(radius * 2**level, 2, 8)))


def test_super_resolution_refines_the_answer_of_the_operator_and_changes_that_of_the_unet():
    coarse, fine, finest = answers(operator(), (48, 96, 192))
    changes = distance(fine, coarse), distance(finest, fine)
    assert changes[0] < 0.15
    assert changes[1] < 0.65 * changes[0]
    torch.manual_seed(1)
    pixels = ComplexNetwork(unet(2, 2, channels=4, pools=2))
    coarse, fine, finest = answers(pixels, (48, 96, 192))
    assert distance(fine, coarse) > 3 * changes[0]
    assert distance(finest, fine) > 3 * changes[1]


def test_a_shift_by_whole_coarsest_pixels_shifts_the_answer():
    network = operator()
    image = torch.zeros(1, 96, 96, dtype=torch.complex64)
    image[0, 30:60, 24:64] = blobs((30, 40), (60.0, 80.0)).to(torch.complex64)
    with torch.no_grad():
        here, there = network(image, (2.0, 2.0)), network(image.roll((4, -8), (1, 2)), (2.0, 2.0))
    inside = slice(24, -24)
    moved = here.roll((4, -8), (1, 2))
    assert (there - moved)[0, inside, inside].norm() < 0.02 * moved[0, inside, inside].norm()


@pytest.mark.parametrize("pools", [0, 1, 3, 4])
@pytest.mark.parametrize("size", [1, 2, 3, 16, 17, 33, 320])
def test_padding_makes_sizes_that_can_be_halved_and_is_centred(size, pools):
    left, right, top, bottom = halving_padding(size, size, pools)
    assert (left, right) == (top, bottom)
    total = size + left + right
    assert total % 2**pools == 0
    assert total // 2**pools >= 2
    assert 0 <= right - left <= 1
    assert total < max(size + 2**pools, 2 * 2**pools + 1)


def test_a_last_layer_of_zero_gives_zero_and_a_scale_passes_through():
    torch.manual_seed(0)
    silent = ComplexNetwork(unet(2, 2, channels=3, pools=1), magnitude, start_at_zero=True)
    x = blobs((9, 11), (90.0, 110.0))[None].to(torch.complex64)
    assert not silent(x, (10.0, 10.0)).any()
    network = operator(24.0)
    torch.testing.assert_close(network(1e6 * x, (10.0, 10.0)), 1e6 * network(x, (10.0, 10.0)), rtol=1e-4, atol=1.0)
