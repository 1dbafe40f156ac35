"""Six sampling patterns: true acceleration, calibration, and what sets each pattern apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medical.simulation.patterns import GOLDEN_ANGLE, LINE_PATTERNS, PATTERNS, calibration_width, draw_sampling
from shared.errors import InputError

SHAPES = ((128, 128), (97, 120), (160, 112))


def draw(pattern, matrix=(128, 128), acceleration=4.0, seed=0, **options):
    return draw_sampling(pattern, matrix, acceleration, np.random.default_rng(seed), **options)


@pytest.mark.parametrize("matrix", SHAPES)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_nominal_acceleration_is_reached_and_the_true_one_is_counted(pattern, matrix):
    for nominal in (2.0, 4.0, 6.0, 8.0, 16.0):
        sampling = draw(pattern, matrix, nominal)
        samples = matrix[0] * matrix[1]
        assert sampling.acceleration == samples / int(sampling.mask.sum())
        if pattern in LINE_PATTERNS:  # nothing is finer than a line
            assert abs(matrix[0] / sampling.acceleration - matrix[0] / nominal) <= 0.5
        elif pattern == "radial":  # nor than a spoke
            assert sampling.acceleration == pytest.approx(nominal, rel=0.04)
        else:
            assert abs(samples / sampling.acceleration - samples / nominal) <= 0.5


@pytest.mark.parametrize("matrix", SHAPES)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_calibration_box_is_centred_and_fully_sampled(pattern, matrix):
    for nominal in (2.0, 8.0, 16.0):
        sampling = draw(pattern, matrix, nominal, seed=1)
        box = sampling.calibration
        assert bool((sampling.mask | ~box).all())
        rows, columns = torch.nonzero(box.any(1)).flatten(), torch.nonzero(box.any(0)).flatten()
        assert int(box.sum()) == len(rows) * len(columns)
        for axis, where in zip(matrix, (rows, columns), strict=True):
            if len(where) < axis:
                assert (int(where[0]) + int(where[-1]) + 1) // 2 == axis // 2
        least = 4 if pattern in LINE_PATTERNS else 8
        assert min(len(rows), len(columns)) >= least


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_seed_gives_one_mask_and_seeds_differ(pattern):
    assert torch.equal(draw(pattern, seed=5).mask, draw(pattern, seed=5).mask)
    assert not torch.equal(draw(pattern, seed=5).mask, draw(pattern, seed=6).mask)


def test_lines_are_whole_rows():
    for pattern in LINE_PATTERNS:
        mask = draw(pattern).mask
        assert torch.equal(mask.any(1), mask.all(1))


def test_equispaced_lines_have_one_spacing():
    lines = torch.nonzero(draw("equispaced", (256, 4), 4.0, calibration=16).mask[:, 0]).flatten().numpy()
    outside = lines[(lines < 256 // 2 - 10) | (lines > 256 // 2 + 10)]
    gaps = np.diff(outside)
    gaps = np.sort(gaps[gaps < 20])
    assert gaps[-2] - gaps[0] <= 1 or np.median(gaps) in (4, 5)
    # 64 lines, 16 of them central: the comb has 48 lines over the other 240, so every fifth.
    assert np.bincount(gaps).argmax() == 5


def test_magic_lines_fall_between_the_mirror_images_of_the_other_half():
    distances = {}
    for pattern in ("magic", "equispaced"):
        found = []
        for seed in range(20):
            mask = draw(pattern, (256, 1), 8.0, seed=seed, calibration=4).mask[:, 0].numpy()
            above = np.nonzero(mask[128:])[0]
            below = np.nonzero(mask[128:0:-1])[0]
            above, below = above[above > 6], below[below > 6]
            found += [np.abs(below - k).min() for k in above if k < below.max()]
        distances[pattern] = np.mean(found)
    # Half the spacing of the comb (about 9) for magic; a quarter of it on average for a comb at any offset.
    assert distances["magic"] == pytest.approx(4.5, abs=0.7)
    assert distances["equispaced"] < 3.3


def test_gaussian_points_have_the_variance_of_their_density():
    mask = sum(draw("gaussian", (201, 201), 40.0, seed=s, calibration=4).mask.double() for s in range(20))
    y = torch.arange(201) - 100
    marginal = mask.sum(1)
    std = float(((y**2 * marginal).sum() / marginal.sum()).sqrt())
    # A Gaussian of 0.2 x 201 cut at 100.5 = 2.5 sigma has variance sigma^2 (1 - 2 a phi(a) / (2 Phi(a) - 1)).
    sigma, a = 40.2, 2.5
    phi = np.exp(-(a**2) / 2) / np.sqrt(2 * np.pi)
    expected = sigma * np.sqrt(1 - 2 * a * phi / 0.987581)
    assert std == pytest.approx(expected, rel=0.06)


def test_poisson_points_keep_their_distance_and_random_points_do_not():
    def nearest(mask, box):
        points = torch.nonzero(mask & ~box).double()
        gaps = torch.cdist(points, points)
        gaps.fill_diagonal_(torch.inf)
        return points, gaps.amin(1)

    sampling = draw("poisson", (96, 96), 8.0)
    points, gaps = nearest(sampling.mask, sampling.calibration)
    radius = (points - 48).norm(dim=1) / 48
    edge = gaps[radius > 0.8]
    assert float(edge.min()) > 2.0
    assert float(gaps[radius < 0.5].mean()) < float(edge.mean())
    random = torch.zeros(96 * 96, dtype=torch.bool)
    random[torch.randperm(96 * 96, generator=torch.Generator().manual_seed(0))[: int(sampling.mask.sum())]] = True
    _, gaps = nearest(random.reshape(96, 96), torch.zeros(96, 96, dtype=torch.bool))
    assert float(gaps.min()) == 1.0


def test_radial_spokes_pass_through_the_centre_at_the_golden_angle():
    mask = draw("radial", (129, 129), 60.0, seed=3).mask.numpy()
    y, x = np.nonzero(mask)
    y, x = y - 64, x - 64
    far = np.hypot(y, x) > 40
    angles = np.sort(np.mod(np.arctan2(y[far], x[far]), np.pi))
    groups = np.split(angles, np.nonzero(np.diff(angles) > 0.1)[0] + 1)
    measured = np.array([group.mean() for group in groups])
    assert len(measured) in (2, 3, 4)
    # Any two spokes differ by a multiple of the golden angle, modulo half a turn.
    multiples = np.mod(np.arange(1, 5)[:, None] * GOLDEN_ANGLE * np.array([1, -1]), np.pi)
    for difference in np.mod(measured[1:] - measured[0], np.pi):
        assert np.abs(multiples - difference).min() < 0.03


def test_the_calibration_takes_a_third_of_the_samples_within_bounds():
    assert calibration_width((320,), 4) == 26 - 2  # 8 % of 320 lines is 26, the most is 24
    assert calibration_width((320,), 8) == 12
    assert calibration_width((128, 128), 16) == 18
    assert calibration_width((64,), 16) == 4


def test_impossible_masks_are_refused():
    with pytest.raises(InputError, match="spiral"):
        draw("spiral")
    with pytest.raises(InputError, match="acceleration"):
        draw("random", acceleration=0.5)
    with pytest.raises(InputError, match="calibration"):
        draw("random", (32, 32), 16.0, calibration=4)
