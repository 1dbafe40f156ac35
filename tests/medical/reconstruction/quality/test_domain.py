"""The gate that holds a scan against a model card."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from medical.reconstruction.fourier import fft_centred
from medical.reconstruction.quality.card import Domain, ModelCard, read_card
from medical.reconstruction.quality.domain import ScanFacts, admit, contrast_of, departures, facts_of, signal_to_noise
from shared.errors import InputError
from tests.medical.reconstruction.phantom import coil_maps, every_nth_line, head, scan

CARD = ModelCard(
    name="medical/test",
    method="varnet",
    trained_on=Domain(
        patterns=("equispaced", "poisson"),
        acceleration=(2, 8),
        coils=(4, 16),
        matrix=(96, 256),
        spacing_mm=(0.8, 2),
        fov_mm=(160, 260),
        snr=(10, 60),
        calibration=(12, 32),
        contrasts=("T1",),
    ),
)
INSIDE = ScanFacts(
    pattern="comb",
    acceleration=4,
    coils=8,
    matrix=(192, 180),
    spacing_mm=(1.2, 1.2),
    snr=30,
    calibration=24,
    contrast="T1",
)


def test_a_scan_inside_the_card_passes_without_a_word():
    assert departures(CARD, INSIDE) == []
    assert admit(CARD, INSIDE) == ()


@pytest.mark.parametrize(
    ("change", "word", "far"),
    [
        ({"acceleration": 10.0}, "acceleration is 10", False),
        ({"acceleration": 12.5}, "acceleration is 12.5", True),
        ({"acceleration": 1.7}, "acceleration", False),
        ({"coils": 3}, "coils is 3", False),
        ({"coils": 1}, "coils is 1", True),
        ({"snr": 5.0}, "signal-to-noise", True),
        ({"calibration": 4}, "centre is 4", True),
        ({"pattern": "radial"}, "pattern is radial", True),
        ({"pattern": "grid"}, "pattern is grid", True),
        ({"matrix": (512, 512), "spacing_mm": (0.45, 0.45)}, "matrix is 512", False),
        ({"spacing_mm": (0.4, 0.4)}, "pixel size", False),
        ({"spacing_mm": (2.0, 1.2)}, "field of view in mm is 384", False),
        ({"contrast": "T2"}, "T2", False),
    ],
)
def test_each_fact_outside_is_told_and_a_far_one_refuses_unless_forced(change, word, far):
    facts = replace(INSIDE, **change)
    found = departures(CARD, facts)
    assert any(word in departure.text and departure.far == far for departure in found)
    if any(departure.far for departure in found):
        with pytest.raises(InputError, match=r"--force"):
            admit(CARD, facts)
    told = admit(CARD, facts, force=True)
    assert any(word in text for text in told)
    assert any("FORCED" in text for text in told) == far


def test_what_a_card_or_a_scan_does_not_tell_is_not_held_against_it():
    assert departures(CARD, replace(INSIDE, acceleration=8.5)) == [], "cards are measured on a sample"
    assert departures(CARD, replace(INSIDE, snr=None, contrast=None)) == []
    assert departures(CARD, replace(INSIDE, pattern="lines")) == []
    silent = ModelCard(name="x", method="varnet")
    assert departures(silent, replace(INSIDE, acceleration=50, pattern="grid")) == []


def test_facts_are_measured_from_the_scan():
    shape, coils, level = (96, 80), 6, 40.0
    maps, mask = coil_maps(shape, coils), every_nth_line(shape, 4, 24)
    kspace = scan(level * head(shape), maps, mask, noise_sd=1.0)[0]
    facts = facts_of(kspace, mask[0], (2.0, 1.5), white=True, header={"protocol": "t2_tse_tra"})
    assert facts.pattern == "comb"
    assert facts.acceleration == pytest.approx(mask.numel() / int(mask.sum()))
    assert (facts.coils, facts.matrix, facts.calibration, facts.contrast) == (6, shape, 24, "T2")
    assert facts_of(kspace, mask[0], (2.0, 1.5), white=False).snr is None


def test_signal_to_noise_is_the_known_level_of_a_uniform_object_at_every_calibration_size():
    shape, coils, level = (96, 96), 8, 25.0
    maps = coil_maps(shape, coils)
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n, dtype=torch.float64) for n in shape), indexing="ij")
    disc = (level * (x**2 + y**2 < 0.6)).to(torch.complex128)
    for calibration in (16, 24, 96):
        kspace = scan(disc, maps, every_nth_line(shape, 4, calibration), noise_sd=1.0, seed=calibration)[0]
        found = signal_to_noise(kspace, every_nth_line(shape, 4, calibration)[0])
        assert found == pytest.approx(level, rel=0.15)
    noise = torch.randn(4, 64, 64, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    assert signal_to_noise(fft_centred(noise), torch.ones(64, 64, dtype=torch.bool)) < 3


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({"acquisition": "AXT2"}, "T2"),
        ({"acquisition": "AXFLAIR"}, "FLAIR"),
        ({"acquisition": "CORPD_FBK"}, "PD"),
        ({"protocol": "MPRAGE_sag"}, "T1"),
        ({"sequence": "gre"}, None),
        ({}, None),
    ],
)
def test_the_weighting_is_read_from_the_names_of_a_protocol(header, expected):
    assert contrast_of(header) == expected


def test_a_card_is_read_back_and_a_bad_one_is_a_clear_error(tmp_path):
    weights = tmp_path / "model.safetensors"
    with pytest.raises(InputError, match="no model card"):
        read_card(weights)
    path = tmp_path / "model.json"
    path.write_text(CARD.model_dump_json())
    assert read_card(weights) == CARD
    for text, word in [
        ("{", "JSON"),
        (json.dumps({"name": "x"}), "method"),
        (json.dumps({"name": "x", "method": "varnet", "trained_on": {"coils": [8, 2]}}), "range"),
    ]:
        path.write_text(text)
        with pytest.raises(InputError, match=word):
            read_card(weights)
