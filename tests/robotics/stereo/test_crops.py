"""Crops of scenes keep what belongs together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from robotics.stereo.crops import Crops
from robotics.stereo.networks.upsample import warped
from robotics.stereo.pair import Surface
from tests.robotics.stereo.test_model import SHIFT, sample


def test_crops_hold_truth_that_explains_their_images_upside_down_too():
    crops = Crops([sample(0), sample(1)])
    left, right, truth, first, known, seen, hard = crops.draw(12, (32, 64), 1.0, 0.0, np.random.default_rng(0))
    assert left.shape == (12, 3, 32, 64)
    assert truth.shape == first.shape == known.shape == seen.shape == hard.shape == (12, 1, 32, 64)
    columns = np.arange(64) - truth[:, 0].astype(int)
    for index in range(12):
        rows = np.arange(32)[:, None]
        partner = right[index][:, rows, np.clip(columns[index], 0, 63)]
        far = (truth[index, 0] == SHIFT) & (columns[index] >= 2 * SHIFT)  # not hidden behind the box's shift
        near = (truth[index, 0] == 2 * SHIFT) & (columns[index] >= 0)
        error = np.abs(left[index] - partner).max(0)
        assert np.median(error[near]) < 1e-6 if near.any() else True
        assert np.median(error[far]) < 1e-6
    assert (seen[:, 0] == (columns >= 0)).all()
    assert np.isfinite(first).all()


def test_some_crops_begin_from_nothing_and_some_raw_maps_lose_rectangles():
    crops = Crops([sample(0)])
    source = np.random.default_rng(1)
    *_, first, known, _, _ = crops.draw(40, (32, 64), 0.0, 0.0, source)
    assert np.isnan(first).all()
    assert (known == 0).all()
    *_, _, whole, _, _ = crops.draw(40, (32, 64), 1.0, 0.0, source)
    shares = whole.mean((1, 2, 3))
    assert shares.min() < 0.75 < shares.max()


def test_enlarged_crops_have_larger_disparities_that_still_explain_their_images_and_glass_is_hard():
    one = sample(0)
    material = np.zeros(one.material.shape, np.uint8)
    material[one.disparity_left == 2 * SHIFT] = Surface.GLASS
    crops = Crops([replace(one, material=material)])
    left, right, truth, _, _, _, hard = crops.draw(12, (32, 64), 0.0, 1.0, np.random.default_rng(2))
    smallest = truth.min((1, 2, 3))
    assert ((smallest >= SHIFT) & (smallest <= 2 * SHIFT)).all()
    assert np.ptp(smallest) > 2
    for index in range(12):
        near = truth[index, 0] > 1.5 * smallest[index]
        assert (hard[index, 0] == near).all()
        columns = np.arange(64) - truth[index, 0]
        far = ~near & (columns >= 2 * truth[index].max())
        partner = warped(torch.from_numpy(right[None, index]), torch.from_numpy(truth[None, index]))[0].numpy()
        apart = np.abs(left[index] - partner).mean(0)
        moved = np.abs(left[index] - right[index]).mean(0)
        if far.sum() > 100:
            assert np.median(apart[far]) < 0.35 * np.median(moved[far])
