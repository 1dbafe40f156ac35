"""The shipped stereo model against the matcher it begins from, on a real pair that it never saw."""

from __future__ import annotations

import pytest

from benchmarks.stereo_depth import matched, middlebury, ours
from robotics.stereo.files import load_stereo, read_stereo
from robotics.stereo.metrics import evaluate
from shared import weights

NAME = "robotics/stereo_small"


def test_the_file_is_the_recorded_one_small_and_judged():
    file = read_stereo(NAME)
    assert file.sha256 in (file.path.parent / "SHA256SUMS").read_text()
    assert sum(value.numel() for value in file.tensors.values()) <= 3_000_000
    assert file.path.stat().st_size < 4e6
    assert file.fitted is not None
    assert 0.85 <= file.fitted.measured["interval_coverage"] <= 0.95
    assert file.path.with_suffix(".md").is_file()
    assert weights.find(NAME) == file.path


@pytest.mark.data
def test_it_is_nearer_to_the_truth_than_filled_matching_on_a_real_pair(data_file):
    folder = data_file("stereo/middlebury/teddy").parent.parent
    case = next(case for case in middlebury(folder) if case.name == "teddy")
    before = evaluate(matched(case), case.truth)
    after = evaluate(ours(load_stereo(NAME), case, samples=1, enlarge=2.0).dense, case.truth)
    assert after["epe"] < 0.85 * before["epe"]
    assert after["bad1"] < before["bad1"]
