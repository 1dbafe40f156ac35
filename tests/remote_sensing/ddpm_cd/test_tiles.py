"""The detector in the pipeline: patches with a place, blended."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from remote_sensing.ddpm_cd.cache import ReferenceCache
from remote_sensing.ddpm_cd.config import detector_from_data
from remote_sensing.ddpm_cd.detector import ChangeDetector
from remote_sensing.ddpm_cd.tiles import PatchDetector
from remote_sensing.rasters import Patch

UNET = {"channels": 8, "multipliers": [1, 2], "groups": 4, "fold": 2}


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    config = {"preset": "light", "diffusion": {"unet": UNET}, "head": {"timesteps": [50], "hidden": 8}}
    return PatchDetector(ChangeDetector(detector_from_data(config)).eval(), {"crop": 64})


def patch(row: int = 0, col: int = 0, hole: int = 0) -> Patch:
    rng = np.random.default_rng(0)
    before, after = rng.uniform(0, 255, (2, 3, 48, 40)).astype(np.float32)
    valid = np.ones((48, 40), bool)
    valid[:hole] = False
    before[:, ~valid] = after[:, ~valid] = np.nan
    return Patch(before, after, valid, row, col)


def test_a_patch_gives_a_probability_that_is_nan_exactly_where_not_valid(detector):
    found = detector(patch(hole=7))
    assert found.dtype == np.float32
    assert np.array_equal(np.isnan(found), ~patch(hole=7).valid)
    assert np.nanmin(found) > 0
    assert np.nanmax(found) < 1


def test_the_noise_is_that_of_the_place_of_the_patch(detector):
    assert np.array_equal(detector(patch()), detector(patch()))
    assert not np.array_equal(detector(patch(col=64)), detector(patch()))


def test_a_patch_without_data_never_reaches_the_network(detector):
    class Unasked:
        def probability(self, *args):
            raise AssertionError

    assert np.isnan(PatchDetector(Unasked())(patch(hole=48))).all()


def test_a_cached_date_changes_nothing(detector, tmp_path):
    cached = PatchDetector(detector.detector, cache=ReferenceCache(detector.detector, tmp_path))
    for _ in range(2):
        np.testing.assert_allclose(cached(patch()), detector(patch()), rtol=0, atol=1e-6)
    assert (cached.cache.hits, cached.cache.misses) == (1, 1)


def test_the_facts_are_json_and_name_the_weights(detector):
    facts = json.loads(json.dumps(detector.facts()))
    assert (facts["method"], facts["timesteps"], detector.size, detector.halo) == ("ddpm-cd", [50], 64, 0)
    assert len(facts["weights_sha256"]) == 64
