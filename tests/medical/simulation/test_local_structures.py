"""Small sources of phase and small structures: where and as large as said, and not everywhere."""

from __future__ import annotations

import numpy as np

from medical.simulation.objects import SMALL_MM, small_structures
from medical.simulation.phase import LOCAL_MM, local_phase

AXIS = np.arange(-80, 80.5, 0.5)


def test_local_phase_is_none_in_a_quarter_of_heads_and_falls_within_a_few_scales_elsewhere():
    fields = [local_phase(AXIS, AXIS, np.random.default_rng(seed)) for seed in range(80)]
    empty = sum(not field.any() for field in fields)
    assert 10 <= empty <= 32, "no source, of 0 to 3"
    steepest = max(np.abs(np.diff(field, axis=0)).max() / 0.5 for field in fields)
    assert steepest < 5 * 2 / LOCAL_MM[0], "a Gaussian's slope is at most 0.61 of height over scale"
    assert steepest > 0.1, "steeper than the background"


def test_small_structures_are_small_discs_of_one_value():
    seen, real = 0, 0
    for seed in range(20):
        factors = small_structures(AXIS, AXIS, np.random.default_rng(seed))
        changed = factors != 1
        assert changed.sum() * 0.25 <= 12 * np.pi * (SMALL_MM[1] + 0.5) ** 2
        for value in np.unique(factors[changed]):
            assert 0.2 <= abs(value) <= 2
            rows, columns = np.nonzero(factors == value)
            height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
            assert max(height, width) * 0.5 <= 2 * SMALL_MM[1] + 0.5
            if min(height, width) >= 8:  # enough cells to tell a disc from a square
                assert len(rows) < 0.9 * height * width
            seen, real = seen + 1, real + (value.imag == 0)
    assert seen > 60
    assert 0.3 < real / seen < 0.7, "every other one keeps the phase around it"
