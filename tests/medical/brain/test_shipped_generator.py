"""The generator that ships: what it draws are heads by measure."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("monai")
pytest.importorskip("einops")

from medical.brain.files import load_brain
from medical.brain.model import Sampling
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


def test_twelve_calls_draw_heads_of_plausible_volumes(model):
    sampling, segmenter = Sampling("multistep", 12), load_segmenter()
    drawn = [model.draw(sampling=sampling, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    assert float((drawn[0] - drawn[1]).square().mean().sqrt()) > 0.2
    for x in drawn:
        assert float(x[:4, :4, -4:].mean()) < -0.85  # a corner of air
        volumes = {name: float(value) for name, value in segmenter.soft_volumes(x, model.config.spacing_mm).items()}
        for name, low, high in (("brain", 700, 1700), ("lateral_ventricles", 5, 110), ("thalamus", 7, 28)):
            assert low < volumes[name] < high, name


def test_what_it_is_told_is_drawn(model):
    sampling, segmenter = Sampling("multistep", 8), load_segmenter()

    def drawn(**told):
        x = model.draw(sampling=sampling, conditions=told, generator=torch.Generator().manual_seed(0))
        return {name: float(value) for name, value in segmenter.soft_volumes(x, model.config.spacing_mm).items()}

    small, large = drawn(brain_cm3=800.0), drawn(brain_cm3=1500.0)
    assert large["brain"] - small["brain"] > 250  # of 700
    narrow, wide = drawn(ventricles_cm3=15.0), drawn(ventricles_cm3=70.0)
    assert wide["lateral_ventricles"] - narrow["lateral_ventricles"] > 12  # of 55
