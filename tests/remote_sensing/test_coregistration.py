"""The shift between two dates: recovered to a fraction of a pixel, refused where nothing can be known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import fourier_shift, gaussian_filter

from remote_sensing.coregistration import estimate_shift
from remote_sensing.rasters import open_pair
from tests.remote_sensing.scenes import write


def shifted_pair(folder, shift, *, seed=0, shape=(300, 320)):
    """A landscape and the same moved by -shift, so that the estimate is +shift; each with its own noise."""
    generator = np.random.default_rng(seed)
    ground = gaussian_filter(generator.standard_normal(shape), 1.5, mode="wrap") * 100
    moved = np.fft.ifft2(fourier_shift(np.fft.fft2(ground), (-shift[0], -shift[1]))).real
    dates = [image + generator.standard_normal(shape) for image in (ground, 1.4 * moved + 30)]
    return open_pair(*(write(folder / f"{k}.tif", date[None].astype(np.float32)) for k, date in enumerate(dates)))


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.25, -0.5), (1.82, -0.62), (-3.3, 2.7), (5.0, -5.0)])
def test_a_synthetic_shift_is_recovered(tmp_path, shift):
    found = estimate_shift(shifted_pair(tmp_path, shift))
    assert found.confident
    assert (found.rows, found.cols) == pytest.approx(shift, abs=0.05)


def test_applying_the_estimate_leaves_no_shift(tmp_path):
    pair = shifted_pair(tmp_path, (1.82, -0.62))
    found = estimate_shift(pair)
    patch = pair.moved((found.rows, found.cols)).patches(pair.grid.windows(512))
    patch = next(iter(patch))
    x, y = patch.before[0][patch.valid], patch.after[0][patch.valid]
    assert np.corrcoef(x, y)[0, 1] > 0.99


def test_unrelated_images_are_not_trusted(tmp_path):
    generator = np.random.default_rng(1)
    dates = [generator.standard_normal((1, 260, 260)).astype(np.float32) for _ in range(2)]
    pair = open_pair(*(write(tmp_path / f"{k}.tif", date) for k, date in enumerate(dates)))
    assert not estimate_shift(pair).confident


def test_a_wedge_without_data_does_not_pull_the_estimate(tmp_path):
    pair = shifted_pair(tmp_path, (1.5, 0.75))
    before, after = (next(iter(pair.patches(pair.grid.windows(512)))).before, None)
    wedge = np.arange(300)[:, None] + np.arange(320)[None] < 240
    after = next(iter(pair.patches(pair.grid.windows(512)))).after
    before[:, wedge], after[:, wedge] = np.nan, np.nan
    found = estimate_shift(open_pair(write(tmp_path / "a.tif", before), write(tmp_path / "b.tif", after)))
    assert found.confident
    assert (found.rows, found.cols) == pytest.approx((1.5, 0.75), abs=0.1)
