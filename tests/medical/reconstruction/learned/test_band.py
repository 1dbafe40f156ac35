"""A network on finer pixels than it knows: its own answer within its band, compressed sensing beyond."""

from __future__ import annotations

import pytest
import torch

from medical.reconstruction.learned.band import band_of, in_band
from medical.reconstruction.learned.output import combine, expand, normalised, root_sum_of_squares
from medical.reconstruction.learned.proximal import espirit_maps, log_variance, sparse_start
from medical.reconstruction.operators import CartesianSense
from tests.medical.reconstruction.learned.slices import batch
from tests.medical.reconstruction.learned.test_proximal import BACKBONES, trained

NOISE = 0.01


@pytest.mark.parametrize(
    ("matrix", "spacing", "band"),
    [
        ((224, 224), (1.0, 1.0), (140, 140)),
        ((224, 224), (1.6, 2.4), (224, 224)),
        ((100, 101), (0.8, 1.9), (50, 101)),
        ((3, 160), (0.1, 1.6), (1, 160)),
    ],
)
def test_the_band_has_pixels_of_the_finest_size_or_larger(matrix, spacing, band):
    assert band_of(matrix, spacing, 1.6) == band


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize(("shape", "inner"), [((33, 48), (16, 48)), ((40, 31), (20, 31))])
def test_it_is_the_network_within_the_band_and_the_wavelet_solution_beyond(backbone, shape, inner):
    network = trained(backbone)
    fov = (5.0 * inner[0], 5.0 * inner[1])  # the rows are finer than 5 mm, the columns are not
    kspace, mask, calibration, spacing = batch(4, shape, fov)
    kspace = kspace + NOISE * torch.randn(kspace.shape, dtype=kspace.dtype, generator=torch.Generator().manual_seed(0))
    kspace = kspace * mask[:, None]
    found = in_band(network, kspace, mask, calibration, spacing, finest_mm=5.0, noise_std=NOISE)

    first = shape[0] // 2 - inner[0] // 2
    band = slice(first, first + inner[0])
    coarse = (spacing[0] * shape[0] / inner[0], spacing[1])
    own = network(kspace[:, :, band], mask[:, band], calibration[:, band], coarse, NOISE).kspace
    torch.testing.assert_close(found.kspace[:, :, band], own)

    measured, scale = normalised(kspace)
    maps = espirit_maps(measured, calibration)
    sparse = sparse_start(CartesianSense(maps[:, None], mask), measured, log_variance(scale, NOISE))
    beyond = expand(sparse, maps) * scale
    outside = torch.ones(shape[0], dtype=torch.bool)
    outside[band] = False
    torch.testing.assert_close(found.kspace[:, :, outside], beyond[:, :, outside])
    torch.testing.assert_close(found.image, combine(found.kspace, found.coil_maps))
    torch.testing.assert_close(root_sum_of_squares(found.coil_maps), torch.ones(1, *shape), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_on_pixels_that_it_knows_it_is_the_network(backbone):
    network, (kspace, mask, calibration, spacing) = trained(backbone), batch()
    found = in_band(network, kspace, mask, calibration, spacing, finest_mm=min(spacing), noise_std=NOISE)
    torch.testing.assert_close(found.image, network(kspace, mask, calibration, spacing, NOISE).image, rtol=0, atol=0)
