"""The cosine transform against SciPy's, and bands against a count by hand."""

from __future__ import annotations

import math

import pytest
import scipy.fft
import torch

from shared.cosine import Bands, along_axes, cosines, from_waves, waves


@pytest.mark.parametrize("space", [(7,), (6, 5), (4, 6, 5)])
def test_the_transform_is_scipys_and_comes_back(space):
    x = torch.randn(2, 3, *space, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = scipy.fft.dctn(x.numpy(), axes=tuple(range(2, x.ndim)), norm="ortho")
    torch.testing.assert_close(waves(x), torch.from_numpy(expected))
    torch.testing.assert_close(from_waves(waves(x)), x)
    assert waves(x.float()).dtype == torch.float32
    torch.testing.assert_close(along_axes(x, [cosines(n) for n in space]), waves(x))


def test_a_wave_is_in_the_band_of_its_frequency():
    bands = Bands((0.05, 0.2, 0.45))
    index = bands.index((10, 6))
    assert index.shape == (10, 6)
    for i in range(10):
        for j in range(6):
            frequency = math.hypot(i / 20, j / 12)
            assert int(index[i, j]) == sum(frequency >= edge for edge in bands.edges)


def test_geometric_bands_have_the_mean_alone_and_reach_the_highest_frequency():
    bands = Bands.geometric((16, 8, 12), 9)
    index = bands.index((16, 8, 12))
    assert bands.count == 9
    assert int((index == 0).sum()) == 1
    assert int(index[0, 0, 0]) == 0
    assert int(index[1, 0, 0]) == 1  # the lowest frequency there is
    assert int(index[-1, -1, -1]) == 8
    ratios = [b / a for a, b in zip(bands.edges, bands.edges[1:], strict=False)]
    assert max(ratios) == pytest.approx(min(ratios))
    assert bands.edges[0] == pytest.approx(1 / 32)
