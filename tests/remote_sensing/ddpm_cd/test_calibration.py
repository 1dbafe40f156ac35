"""Calibration of the probability: scikit-learn's logistic regression, and a detector that oversampled change."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from remote_sensing.ddpm_cd.calibration import LogitCounts
from remote_sensing.ddpm_cd.change_training import ChangeTrainer
from remote_sensing.ddpm_cd.files import load_detector
from tests.remote_sensing.ddpm_cd.test_training import pair, training


def test_the_fit_is_that_of_logistic_regression():
    generator = np.random.default_rng(0)
    changed = generator.random(20_000) < 0.1
    logit = np.where(changed, 3.0, -1.0) + 2 * generator.standard_normal(changed.size)
    counts = LogitCounts()
    for part in np.array_split(np.arange(changed.size), 3):
        counts.add(logit[part], changed[part])
    temperature, shift = counts.fit()
    regression = LogisticRegression(C=np.inf).fit(logit[:, None], changed)
    factor, constant = float(regression.coef_[0, 0]), float(regression.intercept_[0])
    assert (1 / temperature, -shift / temperature) == pytest.approx((factor, constant), rel=5e-3)
    p = 1 / (1 + np.exp(-(logit - shift) / temperature))
    assert p.mean() == pytest.approx(changed.mean(), abs=1e-4)


def test_labels_of_one_kind_or_a_useless_logit_calibrate_nothing():
    counts = LogitCounts()
    counts.add(np.linspace(-2, 2, 50), np.zeros(50, bool))
    assert counts.fit() is None
    counts.add(np.linspace(-9, -3, 50), np.ones(50, bool))
    assert counts.fit() is None


def test_a_detector_is_exported_calibrated_on_its_held_out_pairs(tmp_path):
    """Nine of ten crops of the training were on change: its probability is too high where little changed."""
    held_out = [pair(50), pair(51), pair(52)]
    settings = training(steps=25, rate=2e-2, change_weight=9.0, unet_share=0.3)
    trainer = ChangeTrainer(settings, [pair(seed) for seed in range(4)], tmp_path, held_out=held_out)
    detector, facts = load_detector(trainer.run())
    assert facts["calibrated_on"] == 3
    assert (detector.config.temperature, detector.config.logit_shift) == (facts["temperature"], facts["logit_shift"])
    before, after = (
        torch.from_numpy(np.stack([getattr(one, date) for one in held_out])) for date in ("before", "after")
    )
    label = np.stack([one.label for one in held_out]) == 1
    origins = torch.zeros(len(held_out), 2, dtype=torch.int64)
    raw = trainer.averaged().probability(before.float(), after.float(), origins).numpy()
    p = detector.probability(before.float(), after.float(), origins).numpy()
    assert abs(p.mean() - label.mean()) < 0.4 * abs(raw.mean() - label.mean())
    assert np.mean((p - label) ** 2) < np.mean((raw - label) ** 2)
    order = np.argsort(raw.ravel())
    assert (np.diff(p.ravel()[order]) > -0.02).all()
    plain = ChangeTrainer(settings, [pair(0)], tmp_path / "plain")
    plain.export()
    detector, facts = load_detector(plain.folder / plain.output)
    assert "calibrated_on" not in facts
    assert (detector.config.temperature, detector.config.logit_shift) == (1, 0)
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])["f1"] >= 0
