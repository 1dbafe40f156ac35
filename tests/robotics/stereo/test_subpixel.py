"""The last fraction of a pixel on textures moved by the phase of their spectrum, whose disparity is exact."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.stereo_depth import moved_texture
from robotics.stereo.subpixel import refined

INNER = np.s_[16:-16, 48:-16]


@pytest.mark.parametrize("begun", [-0.3, 0.25])
@pytest.mark.parametrize("shift", [7.125, 7.5, 7.875])
def test_a_map_that_is_off_by_a_fraction_comes_to_the_truth_whatever_the_exposure(shift, begun):
    pair = moved_texture(shift)
    dark = (0.7 * pair.right + 12).astype(np.uint8)
    found = refined(np.full((240, 320), shift + begun, np.float32), pair.left, dark)[INNER] - shift
    assert abs(np.median(found)) < 0.035
    assert np.quantile(np.abs(found), 0.9) < 0.1


def test_edges_flat_places_and_what_is_out_of_view_stay():
    pair = moved_texture(7.0)
    flat = pair.right.copy()
    flat[100:160] = 128
    disparity = np.full((240, 320), 7.3, np.float32)
    disparity[:, 200:] = 12.0
    found = refined(disparity, pair.left, flat)
    same = found == disparity
    assert same[110:150].all()
    assert same[:, :7].all()
    assert same[:, 198:202].all()
    assert not same[20:80, 60:180].any()
    assert np.abs(found - disparity).max() <= 0.5
