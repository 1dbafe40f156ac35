"""The generator that ships: what it draws are heads by measure, with the ventricles that it is told."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("monai")
pytest.importorskip("einops")

from medical.brain.calibrated import calibrated_sampling
from medical.brain.files import load_brain
from medical.brain.segmenter import load_segmenter
from shared import weights

NAME = "medical/brain_small"


@pytest.fixture(scope="module")
def model():
    return load_brain(NAME)


def test_it_has_its_recorded_hash_a_card_and_its_facts(model):
    path = weights.find(NAME)
    assert weights.sha256(path) in (path.parent / "SHA256SUMS").read_text()
    card = path.with_suffix(".md").read_text()
    for fact in ("Apache-2.0", "simulated", "Not for diagnosis", "sub-synthseg09"):
        assert fact in card, fact
    facts = json.loads(weights.load(path).metadata["training"])
    assert set(facts["held_out"]).isdisjoint(facts["subjects"])
    assert model.config.skip == "stationary"


def test_ten_calls_draw_heads_with_the_ventricles_that_are_asked_for(model):
    sampling, segmenter = calibrated_sampling(model, weights.find(NAME), 10), load_segmenter()
    found = {}
    for asked in (15.0, 60.0):
        x = model.draw(
            sampling=sampling, conditions={"ventricles_cm3": asked, "brain_cm3": 1200.0},
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        assert float(x[:4, :4, -4:].mean()) < -0.85  # a corner of air
        volumes = segmenter.soft_volumes(x, model.config.spacing_mm)
        found[asked] = {name: float(value) for name, value in volumes.items()}
        assert found[asked]["brain"] == pytest.approx(1200, rel=0.2)
        assert 5 < found[asked]["thalamus"] < 30
    assert found[15.0]["lateral_ventricles"] < 25
    assert found[60.0]["lateral_ventricles"] > found[15.0]["lateral_ventricles"] + 15
