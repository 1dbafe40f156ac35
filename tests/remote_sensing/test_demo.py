"""The demo's dates are what its text says, and the methods find what changed."""

from __future__ import annotations

import rasterio
import torch

from remote_sensing import demo as module
from remote_sensing.demo import DISPLACEMENT, demo, write_dates
from shared.report import Report, Table


def test_the_demo_finds_the_known_changes_and_the_displacement(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "METHODS", ("ir-mad", "cva"))  # the third takes longest, and has its own tests
    (section,) = demo(tmp_path, seed=0, device=torch.device("cpu"))
    table = next(part for part in section.parts if isinstance(part, Table))
    scores = {row[0]: row[1] for row in table.rows}
    assert set(scores) == {"ir-mad", "cva"}
    assert min(scores.values()) > 0.7
    moved = f"moved it by {-DISPLACEMENT[0]:+.1f}"
    assert moved[:-1] in section.parts[0]
    report = Report("x")
    report.sections.append(section)
    assert "<img" in report.html()


def test_the_dates_differ_in_extent_and_the_truth_is_a_small_part(tmp_path):
    before, after, truth = write_dates(tmp_path, 0)
    with rasterio.open(before) as a, rasterio.open(after) as b, rasterio.open(truth) as t:
        assert a.crs == b.crs == t.crs
        assert a.shape == t.shape != b.shape
        assert 0.01 < t.read(1).mean() < 0.2
        assert 0.01 < (b.read(1) == 0).mean() < 0.1
