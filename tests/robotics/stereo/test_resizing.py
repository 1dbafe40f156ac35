"""Resampling keeps geometry: a disparity belongs to the same points before and after."""

from __future__ import annotations

import numpy as np
import pytest

from robotics.stereo.resizing import resized_disparity, resized_image, resized_mask, shrunk_disparity


@pytest.mark.parametrize("size", [(48, 72), (24, 36), (30, 100)])
def test_a_map_keeps_its_places_and_scales_with_the_width(size):
    wide, tall = size[1] / 36, size[0] / 24
    rows, columns = np.mgrid[:24, :36].astype(np.float32)
    found = resized_disparity(columns, size)
    centres = (np.arange(size[1]) + 0.5) / wide - 0.5
    assert np.abs(found / wide - centres).max() <= 0.5  # from the nearest pixel
    assert resized_disparity(rows, size)[-1, 0] == pytest.approx(23 * wide)
    assert resized_mask(rows >= 12, size).sum(0) == pytest.approx(12 * tall, abs=1)
    holes = np.where(columns < 18, np.float32(np.nan), columns)
    assert np.isnan(resized_disparity(holes, size)).mean() == pytest.approx(0.5, abs=0.02)


def test_an_enlarged_map_comes_back_exactly_and_a_finer_one_as_its_mean():
    values = np.random.default_rng(0).uniform(0, 50, (20, 30)).astype(np.float32)
    np.testing.assert_allclose(shrunk_disparity(resized_disparity(values, (40, 60)), (20, 30)), values, rtol=1e-5)
    fine = np.random.default_rng(1).uniform(0, 50, (40, 60)).astype(np.float32)
    mean = fine.reshape(20, 2, 30, 2).mean((1, 3)) / 2
    np.testing.assert_allclose(shrunk_disparity(fine, (20, 30)), mean, rtol=1e-5)
    assert shrunk_disparity(fine, (40, 60)) is fine


def test_an_image_moved_by_a_disparity_is_moved_by_the_scaled_one():
    source = np.random.default_rng(2)
    smooth = np.kron(source.integers(0, 256, (8, 20, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    left, right = smooth[:, :64], smooth[:, 6:70]
    a, b = (resized_image(np.ascontiguousarray(image), (64, 128)).astype(int) for image in (left, right))
    assert np.abs(a[:, 20:] - b[:, 8:-12]).mean() < 1
    assert np.abs(a - b).mean() > 20
