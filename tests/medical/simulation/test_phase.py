"""Fat under the skin: a layer of one phase at the surface, nothing inside."""

from __future__ import annotations

import numpy as np

from medical.simulation.phase import FAT_MM, fat_phase

CELL_MM = 1.0


def disc(radius: float, hole: float) -> np.ndarray:
    y, x = np.mgrid[-60:61, -60:61]
    square = y**2 + x**2
    return (square <= radius**2) & (square >= hole**2)


def test_fat_lies_under_the_skin_and_nowhere_else():
    head, seen = disc(50, 10), 0
    y, x = np.mgrid[-60:61, -60:61]
    depth = 50 - np.hypot(y, x)
    for seed in range(30):
        phase = fat_phase(head, CELL_MM, np.random.default_rng(seed))
        values = np.unique(phase)
        assert not phase[depth > 3 * FAT_MM[1]].any(), "the hole in the middle is no surface"
        if len(values) == 1:
            assert values[0] == 0
            continue
        seen += 1
        assert len(values) == 2
        rim = phase[(depth >= 0) & (depth <= 0.9)]
        assert (rim == rim[0]).all()
        assert abs(rim[0]) <= np.pi
    assert 12 <= seen <= 29, "seven of ten heads have it"


def test_layers_are_as_thick_as_said_on_average():
    y, x = np.mgrid[-60:61, -60:61]
    outline = 2 * np.pi * 50
    areas = [
        (fat_phase(disc(50, 0), CELL_MM, np.random.default_rng(seed)) * (np.hypot(y, x) <= 50) != 0).sum() / outline
        for seed in range(60)
    ]
    thick = [area for area in areas if area > 0]
    assert abs(np.mean(thick) - np.mean(FAT_MM)) < 1.5
