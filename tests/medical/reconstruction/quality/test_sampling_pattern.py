"""Patterns recognised from masks that others drew, and masks that are none of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medical.reconstruction.quality.sampling_pattern import calibration_extent, sampling_pattern
from medical.reconstruction.sampling_masks import equispaced_lines
from medical.simulation.patterns import draw_sampling


def names(pattern, matrix, acceleration, count=6):
    drawn = (draw_sampling(pattern, matrix, acceleration, np.random.default_rng(seed)) for seed in range(count))
    return [sampling_pattern(sampling.mask) for sampling in drawn]


@pytest.mark.parametrize("acceleration", [2, 4, 8, 16])
@pytest.mark.parametrize("pattern", ["gaussian", "poisson", "radial"])
def test_patterns_of_points_are_told_apart_at_every_rate(pattern, acceleration):
    assert names(pattern, (96, 112), acceleration, 3) == [pattern] * 3
    assert names(pattern, (161, 128), acceleration, 2) == [pattern] * 2


@pytest.mark.parametrize("acceleration", [2, 4, 6])
def test_patterns_of_lines_are_told_apart_where_there_are_lines_enough(acceleration):
    assert set(names("random", (256, 24), acceleration, 12)) == {"random"}
    for comb in ("equispaced", "magic"):
        assert set(names(comb, (256, 24), acceleration, 12)) == {"comb"}


def test_few_lines_are_called_lines():
    assert set(names("random", (96, 24), 12)) == {"lines"}


def test_lines_along_either_axis_and_scanners_combs_are_lines():
    lines = equispaced_lines(192, 4, 24)
    mask = lines[:, None].expand(192, 100)
    assert sampling_pattern(mask) == "comb"
    assert sampling_pattern(mask.T) == "comb"
    echo = mask.clone()
    echo[:, :20] = False
    assert sampling_pattern(echo) == "comb", "an asymmetric echo leaves the pattern"


def test_full_scans_partial_fourier_and_cut_corners_have_no_gaps():
    full = torch.ones(40, 60, dtype=torch.bool)
    assert sampling_pattern(full) == "full"
    partial = full.clone()
    partial[:12] = False
    assert sampling_pattern(partial) == "full"
    y, x = torch.meshgrid(torch.linspace(-1, 1, 40), torch.linspace(-1, 1, 60), indexing="ij")
    assert sampling_pattern(y**2 + x**2 <= 1) == "full"


def test_a_lattice_in_both_axes_is_a_grid():
    mask = torch.zeros(96, 96, dtype=torch.bool)
    mask[::2, ::2] = True
    mask[40:56, 40:56] = True
    assert sampling_pattern(mask) == "grid"


def test_calibration_extent_is_that_of_the_centre_block():
    lines = equispaced_lines(128, 4, 24)
    assert calibration_extent(lines[:, None].expand(128, 50)) == (24, 50)
    assert calibration_extent(torch.zeros(8, 8, dtype=torch.bool)) == (0, 0)
