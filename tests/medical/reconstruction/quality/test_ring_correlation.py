"""Ring correlation: values known in closed form, and a lesion that one image has and the other has not."""

from __future__ import annotations

import pytest
import torch

from medical.reconstruction.quality.ring_correlation import agreement_map, ring_correlation
from tests.medical.reconstruction.phantom import head


def noise(*shape, seed):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_equal_patches_correlate_fully_whatever_their_units_and_independent_ones_not():
    a, b = noise(200, 24, 24, seed=0), noise(200, 24, 24, seed=1)
    torch.testing.assert_close(ring_correlation(a, 3 * a + 2), torch.ones(200, 12, dtype=torch.float64))
    assert float(ring_correlation(a, -a).max()) < -0.999
    assert float(ring_correlation(a, b).mean(0).abs().max()) < 0.1


def test_equal_noise_on_equal_signal_gives_the_signal_to_noise_ratio_in_each_ring():
    """For a = s + n, b = s + n' of white spectra with variances 1 and v the expected correlation is 1 / (1 + v)."""
    s, n, m = (noise(1000, 24, 24, seed=k) for k in (3, 4, 5))
    found = ring_correlation(s + 0.7 * n, s + 0.7 * m)[:, 2:].mean(0)
    torch.testing.assert_close(found, torch.full_like(found, 1 / 1.49), atol=0.03, rtol=0)


def test_a_lesion_in_one_image_only_lowers_the_agreement_there():
    image = head((96, 96)).abs()
    y, x = torch.meshgrid(torch.arange(96), torch.arange(96), indexing="ij")
    other = image + 0.3 * (((y - 60) ** 2 + (x - 30) ** 2) <= 9)
    found = agreement_map(image + 0.005 * noise(96, 96, seed=0), other + 0.005 * noise(96, 96, seed=1))
    lowest = divmod(int(found.argmin()), 96)
    assert abs(lowest[0] - 60) <= 12
    assert abs(lowest[1] - 30) <= 12
    assert float(found.min()) < 0.9
    assert float(found[:40].min()) > 0.98


@pytest.mark.parametrize("shape", [(17, 40), (24, 24), (33, 25)])
def test_every_pixel_has_a_value_for_odd_and_small_images(shape):
    image = 2 + noise(*shape, seed=2)
    torch.testing.assert_close(agreement_map(image, 5 * image), torch.ones(shape))
