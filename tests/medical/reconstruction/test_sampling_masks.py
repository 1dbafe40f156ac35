"""Masks sample what they promise."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medical.reconstruction.sampling_masks import calibration_block, equispaced_lines, variable_density_lines
from shared.errors import InputError


@pytest.mark.parametrize("lines", [128, 127])
def test_calibration_block_is_consecutive_and_centred_on_the_zero_frequency(lines):
    k = torch.nonzero(calibration_block(lines, 24)).flatten() - lines // 2
    assert k.tolist() == list(range(-12, 12))


def test_equispaced_lines_equal_the_golden_pattern_of_a_real_protocol():
    """Every fourth line and 24 central ones of 128: 50 lines, acceleration 2.56."""
    mask = equispaced_lines(128, 4, 24)
    assert int(mask.sum()) == 50
    outside = torch.nonzero(mask & ~calibration_block(128, 24)).flatten() - 64
    assert set((outside % 4).tolist()) == {0}
    assert mask[64]


@given(lines=st.integers(2, 300), acceleration=st.integers(1, 12))
def test_equispaced_without_calibration_has_acceleration_r_within_one_line(lines, acceleration):
    mask = equispaced_lines(lines, acceleration, 0)
    assert abs(int(mask.sum()) - lines / acceleration) < 1
    assert mask[lines // 2]
    assert acceleration > 1 or bool(mask.all())


@given(lines=st.integers(40, 300), acceleration=st.floats(1, 5), seed=st.integers(0, 99))
def test_variable_density_has_exactly_the_promised_number_of_lines(lines, acceleration, seed):
    calibration = min(8, round(lines / acceleration))
    mask = variable_density_lines(lines, acceleration, calibration, generator=torch.Generator().manual_seed(seed))
    assert int(mask.sum()) == round(lines / acceleration)
    assert bool(mask[calibration_block(lines, calibration)].all())


def test_variable_density_falls_from_the_centre_and_is_symmetric():
    generator = torch.Generator().manual_seed(0)
    counts = sum(variable_density_lines(256, 6, 10, generator=generator).double() for _ in range(400)) / 400
    # Distances 20..49 and 90..119 on both sides of the zero frequency at 128.
    near, far = (float(counts[128 + a : 128 + b].mean()) for a, b in ((20, 50), (90, 120)))
    near_left, far_left = (float(counts[129 - b : 129 - a].mean()) for a, b in ((20, 50), (90, 120)))
    assert near > 2.5 * far
    assert near == pytest.approx(near_left, rel=0.1)
    assert far == pytest.approx(far_left, rel=0.2)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: equispaced_lines(128, 0, 24), "acceleration"),
        (lambda: equispaced_lines(128, 2.5, 24), "whole number"),
        (lambda: equispaced_lines(128, 4, 129), "calibration"),
        (lambda: equispaced_lines(128, 4, -1), "calibration"),
        (lambda: variable_density_lines(128, 8, 24), "24 of 16 lines"),
        (lambda: variable_density_lines(128, float("nan"), 24), "acceleration"),
    ],
)
def test_impossible_masks_are_refused(call, named):
    with pytest.raises(InputError, match=named):
        call()
