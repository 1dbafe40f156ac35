"""Change vectors, PCA-k-means, radiometry, thresholds and calibration."""

from __future__ import annotations

import numpy as np
import pytest
from rasterio.windows import Window
from scipy.special import expit

from remote_sensing.classical import fit_classical, fit_radiometry
from remote_sensing.classical.thresholds import calibrate, decide, otsu
from remote_sensing.labels import open_labels
from remote_sensing.rasters import open_pair
from shared.errors import InputError
from tests.remote_sensing.classical.test_ir_mad import sample_of
from tests.remote_sensing.scenes import f1, pair_on_disk, scene, write


def found_by(method, folder, before, after, **options):
    pair = open_pair(write(folder / "a.tif", before), write(folder / "b.tif", after))
    detector = fit_classical(method, pair, pair.sample(), **options)
    return detector(pair.read(Window(0, 0, pair.grid.width, pair.grid.height)))


@pytest.mark.parametrize("method", ["ir-mad", "cva", "pca-kmeans"])
def test_known_changes_are_found(tmp_path, method):
    before, after, changed = scene()
    assert f1(found_by(method, tmp_path, before, after) >= 0.5, changed) > 0.9


@pytest.mark.parametrize("method", ["ir-mad", "cva", "pca-kmeans"])
def test_the_order_of_the_dates_does_not_matter(tmp_path, method):
    before, after, _ = scene()
    forth, back = (found_by(method, tmp_path, *dates) >= 0.5 for dates in ((before, after), (after, before)))
    assert (forth != back).mean() < 1e-3


@pytest.mark.parametrize("method", ["ir-mad", "cva", "pca-kmeans"])
def test_identical_dates_have_no_change(tmp_path, method):
    before, _, _ = scene()
    assert found_by(method, tmp_path, before, before).max() < 0.5


@pytest.mark.parametrize("method", ["ir-mad", "cva"])
def test_noise_alone_is_hardly_called_change(tmp_path, method):
    generator = np.random.default_rng(5)
    before, _, _ = scene(noise=0.0)
    first, second = (before + 4 * generator.standard_normal(before.shape).astype(np.float32) for _ in range(2))
    assert (found_by(method, tmp_path, first, second) >= 0.5).mean() < 0.01


@pytest.mark.parametrize("normalisation", ["zscore", "invariant"])
def test_a_gain_and_an_offset_of_the_second_date_change_nothing(tmp_path, normalisation):
    before, after, _ = scene()
    gain = np.array([0.5, 2.0, 7.0, 0.1], np.float32)[:, None, None]
    plain = found_by("cva", tmp_path, before, after, normalisation=normalisation)
    moved = found_by("cva", tmp_path, before, after * gain - 55, normalisation=normalisation)
    np.testing.assert_allclose(moved, plain, atol=5e-3)


def test_invariant_normalisation_finds_the_gain_that_the_change_hides():
    before, after, changed = scene(noise=1.0)
    after[:, changed] += 2000
    facts = fit_radiometry(sample_of(before, after), "invariant").facts()
    assert facts["gain"] == pytest.approx([1 / 1.3] * 4, rel=0.02)
    naive = np.std(before.reshape(4, -1), axis=1) / np.std(after.reshape(4, -1), axis=1)
    assert (np.abs(naive * 1.3 - 1) > 0.5).all()


def test_otsu_is_the_split_of_largest_variance_between_classes():
    generator = np.random.default_rng(0)
    scores = np.concatenate([generator.normal(2, 0.5, 9000), generator.normal(8, 1, 1000)]).clip(0).astype(np.float32)
    kept = scores[scores <= np.quantile(scores, 0.999)].astype(np.float64)
    grid = np.linspace(0.5, 9, 400)
    between = [
        (kept < t).mean() * (kept >= t).mean() * (kept[kept >= t].mean() - kept[kept < t].mean()) ** 2 for t in grid
    ]
    best = np.max(between)
    at = otsu(scores)
    below = kept < at
    reached = below.mean() * (~below).mean() * (kept[~below].mean() - kept[below].mean()) ** 2
    assert reached >= 0.999 * best


def test_the_probability_is_one_half_at_the_threshold_and_rises():
    scores = np.concatenate([np.full(90, 1.0), np.linspace(6, 9, 10)]).astype(np.float32)
    for rule in ("otsu", "chi2", 4.5):
        decision = decide(scores, rule, dof=4, noise="unit")
        at = np.array([decision.threshold - 1, decision.threshold, decision.threshold + 1], np.float32)
        low, middle, high = decision.probability(at)
        assert low < 0.5 < high
        assert middle == pytest.approx(0.5, abs=1e-4)
        assert np.isnan(decision.probability(np.array([np.nan], np.float32)))


def test_calibration_recovers_the_logistic_law_of_the_labels():
    generator = np.random.default_rng(1)
    scores = generator.uniform(0, 10, 40_000).astype(np.float32)
    changed = generator.uniform(size=scores.size) < expit(1.7 * (scores - 6.2))
    decision = calibrate(scores, changed)
    assert decision.threshold == pytest.approx(6.2, abs=0.05)
    assert decision.slope == pytest.approx(1.7, rel=0.05)


def test_labels_calibrate_and_one_class_alone_is_refused(tmp_path):
    before, after, changed = pair_on_disk(tmp_path)
    pair = open_pair(before, after)
    sample = pair.sample()
    label = write(tmp_path / "label.tif", changed[None].astype(np.uint8))
    detector = fit_classical("cva", pair, sample, labels=open_labels(label, None, pair.grid))
    assert detector.decision.rule == "calibrated"
    p = detector(pair.read(Window(0, 0, pair.grid.width, pair.grid.height)))
    assert float(np.mean(p)) == pytest.approx(changed.mean(), abs=0.01)
    nothing = write(tmp_path / "nothing.tif", np.zeros((1, *changed.shape), np.uint8))
    with pytest.raises(InputError, match="0 changed"):
        fit_classical("cva", pair, sample, labels=open_labels(nothing, None, pair.grid))


def test_a_chi_square_threshold_belongs_to_ir_mad(tmp_path):
    before, after, _ = pair_on_disk(tmp_path)
    pair = open_pair(before, after)
    with pytest.raises(InputError, match="ir-mad"):
        fit_classical("cva", pair, pair.sample(), threshold="chi2")


def test_one_band_is_enough(tmp_path):
    before, after, changed = scene(bands=1)
    for method in ("ir-mad", "cva", "pca-kmeans"):
        assert f1(found_by(method, tmp_path, before, after) >= 0.5, changed) > 0.5
