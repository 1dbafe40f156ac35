"""The shipped stereo model against the matcher it begins from, on a real pair that it never saw."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.stereo_depth import FAR, Case, matched, middlebury, ours, pooled
from robotics.stereo.files import load_stereo, read_stereo
from robotics.stereo.metrics import evaluate, standard_masks
from robotics.stereo.scenes.config import ScenesConfig
from robotics.stereo.scenes.samples import make_sample
from shared import weights
from shared.config import load_config

NAME = "robotics/stereo_small"


def test_the_file_is_the_recorded_one_small_and_judged():
    file = read_stereo(NAME)
    assert file.sha256 in (file.path.parent / "SHA256SUMS").read_text()
    assert sum(value.numel() for value in file.tensors.values()) <= 3_000_000
    assert file.path.stat().st_size < 5e6
    assert file.fitted is not None
    assert 0.85 <= file.fitted.measured["interval_coverage"] <= 0.95
    assert file.path.with_suffix(".md").is_file()
    assert weights.find(NAME) == file.path


def test_it_finds_more_of_glass_where_glass_is_expected_at_some_price_elsewhere():
    """Eight held-out scenes with much glass, simulated, where the price is highest."""
    config, model = load_config("robotics/stereo_scenes", ScenesConfig), load_stereo(NAME)
    parts: dict[float, list[tuple[Case, np.ndarray]]] = {0.0: [], 0.05: []}
    for index in (8, 11, 13, 74, 92, 112, 121, 168):
        one = make_sample(config, 320, 240, 20261128, index)
        case = Case(str(index), one.pair, one.disparity_left, standard_masks(one.occluded, one.material), FAR)
        for glass, found in parts.items():
            found.append((case, ours(model, case, samples=1, glass=glass).dense))
    without, asked = (pooled(found) for found in parts.values())
    assert asked["glass.bad1"] < without["glass.bad1"] - 8
    assert asked["glass.epe"] < 0.8 * without["glass.epe"]
    assert asked["mirror.epe"] < 0.9 * without["mirror.epe"]
    assert asked["opaque.bad1"] < without["opaque.bad1"] + 4


@pytest.mark.data
def test_it_is_nearer_to_the_truth_than_filled_matching_on_a_real_pair(data_file):
    folder = data_file("stereo/middlebury/teddy").parent.parent
    case = next(case for case in middlebury(folder) if case.name == "teddy")
    before = evaluate(matched(case), case.truth)
    after = evaluate(ours(load_stereo(NAME), case, samples=1, enlarge=2.0).dense, case.truth)
    assert after["epe"] < 0.85 * before["epe"]
    assert after["bad1"] < before["bad1"]
