"""Scores: those of scikit-learn on the same pixels, with sparse labels and honest edge cases."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
from sklearn import metrics

from remote_sensing.evaluate import Confusion, evaluate, evaluate_many
from shared.errors import InputError
from tests.remote_sensing.scenes import TRANSFORM, assert_one_clear_line, fewstep, write

SHAPE = (60, 70)


@pytest.fixture
def rasters():
    generator = np.random.default_rng(0)
    truth = generator.random(SHAPE) < 0.2
    found = truth ^ (generator.random(SHAPE) < 0.1)
    return truth, found


def save(path, values, **options):
    return write(path, np.asarray(values)[None].astype(options.pop("dtype", np.uint8)), **options)


def test_numbers_are_scikit_learns(tmp_path, rasters):
    truth, found = rasters
    out = tmp_path / "numbers.json"
    mask, label = save(tmp_path / "m.tif", found, nodata=255), save(tmp_path / "l.tif", truth * 255)
    done = fewstep("change", "evaluate", mask, label, "--json", out)
    assert done.returncode == 0, done.stderr
    numbers, y, p = json.loads(out.read_text()), truth.ravel(), found.ravel()
    assert numbers["f1"] == pytest.approx(metrics.f1_score(y, p))
    assert numbers["iou"] == pytest.approx(metrics.jaccard_score(y, p))
    assert numbers["oa"] == pytest.approx(metrics.accuracy_score(y, p))
    assert numbers["kappa"] == pytest.approx(metrics.cohen_kappa_score(y, p))
    assert numbers["precision"] == pytest.approx(metrics.precision_score(y, p))
    assert numbers["recall"] == pytest.approx(metrics.recall_score(y, p))


def test_unlabelled_and_missing_pixels_count_nowhere(tmp_path, rasters):
    truth, found = rasters
    generator = np.random.default_rng(1)
    labelled, missing = generator.random(SHAPE) < 0.3, generator.random(SHAPE) < 0.1
    mask = save(tmp_path / "m.tif", np.where(missing, 255, found), nodata=255)
    changed, unchanged = save(tmp_path / "c.tif", truth & labelled), save(tmp_path / "u.tif", ~truth & labelled)
    scores = evaluate(mask, changed, unchanged).scores()
    used = labelled & ~missing
    assert scores["f1"] == pytest.approx(metrics.f1_score(truth[used], found[used]))
    assert scores["kappa"] == pytest.approx(metrics.cohen_kappa_score(truth[used], found[used]))
    assert scores["labelled_without_data"] == (labelled & missing).sum()
    dense = save(tmp_path / "d.tif", np.where(labelled, truth, 9), nodata=9)
    assert evaluate(mask, dense).scores() == scores


def test_probabilities_are_cut_and_their_calibration_told(tmp_path):
    generator = np.random.default_rng(2)
    p = generator.random((200, 210))
    truth = generator.random(p.shape) < p**2
    mask = save(tmp_path / "p.tif", p, dtype=np.float32, nodata=float("nan"))
    scores = evaluate(mask, save(tmp_path / "l.tif", truth), threshold=0.6).scores()
    y = truth.ravel()
    assert scores["f1"] == pytest.approx(metrics.f1_score(y, p.ravel() >= 0.6), abs=1e-6)
    assert scores["brier"] == pytest.approx(metrics.brier_score_loss(y, p.ravel()), abs=1e-6)
    assert scores["average_precision"] == pytest.approx(metrics.average_precision_score(y, p.ravel()), abs=2e-3)
    assert scores["ece"] == pytest.approx(1 / 6, abs=0.01)  # the mean of p - p^2 over p


def test_labels_are_placed_by_their_map_or_by_their_size(tmp_path, rasters):
    truth, found = rasters
    mask = save(tmp_path / "m.tif", found)
    wide = np.zeros((80, 100), bool)
    wide[5:65, 10:80] = truth
    moved = save(tmp_path / "w.tif", wide, transform=TRANSFORM @ rasterio.Affine.translation(-10, -5))
    plain = save(tmp_path / "p.png", truth * 255, driver="PNG", crs=None, transform=rasterio.Affine.identity())
    expected = metrics.f1_score(truth.ravel(), found.ravel())
    for label in (moved, plain):
        assert evaluate(mask, label).scores()["f1"] == pytest.approx(expected)


def test_nothing_to_find_and_nothing_found_is_perfect_but_a_miss_is_not():
    assert Confusion(tn=9).scores()["f1"] == Confusion(tn=9).scores()["kappa"] == 1
    missed = Confusion(fn=3, tn=9).scores()
    assert missed["f1"] == missed["precision"] == missed["recall"] == missed["kappa"] == 0


def test_scenes_are_pooled_by_pixels_and_averaged_by_scene(tmp_path):
    for scene, (found, truth) in {"a": (1, 1), "b": (0, 1)}.items():
        (tmp_path / "m").mkdir(exist_ok=True)
        (tmp_path / "l").mkdir(exist_ok=True)
        rows = 10 if scene == "a" else 30
        for folder, value in (("m", found), ("l", truth)):
            image = np.zeros((40, 40))
            image[:rows] = value
            save(tmp_path / folder / f"{scene}.tif", image)
    pooled, scenes = evaluate_many(
        [tmp_path / "m" / f"{s}.tif" for s in "ab"], [tmp_path / "l" / f"{s}.tif" for s in "ab"], [None, None]
    )
    assert pooled["f1"] == pytest.approx(2 * 10 / (2 * 10 + 30))
    assert pooled["mean_f1"] == pytest.approx(0.5)
    assert [scene["f1"] for scene in scenes] == [1, 0]
    done = fewstep("change", "evaluate", tmp_path / "m", tmp_path / "l", "--json", tmp_path / "n.json")
    assert json.loads((tmp_path / "n.json").read_text())["mean_f1"] == pytest.approx(0.5)
    assert "a: f1 1.0000" in done.stdout


def test_bad_labels_are_refused(tmp_path, rasters):
    truth, found = rasters
    mask = save(tmp_path / "m.tif", found)
    grey = save(tmp_path / "grey.tif", truth * 200 + np.eye(*SHAPE) * 50)
    small = save(tmp_path / "small.tif", truth[1:], crs=None, transform=rasterio.Affine.identity())
    far = save(tmp_path / "far.tif", truth, transform=TRANSFORM @ rasterio.Affine.translation(900, 0))
    for label, words in ((grey, "values"), (small, "70 x 59"), (far, "another place")):
        assert_one_clear_line(fewstep("change", "evaluate", mask, label), label.name, words)
    both = fewstep("change", "evaluate", mask, save(tmp_path / "l.tif", truth), "--unchanged", tmp_path / "l.tif")
    assert_one_clear_line(both, "calls changed")
    scores = save(tmp_path / "scores.tif", found * 7.5, dtype=np.float32)
    assert_one_clear_line(fewstep("change", "evaluate", scores, tmp_path / "l.tif"), "0 to 7.5")
    with pytest.raises(InputError, match="no labelled pixel"):
        evaluate(mask, save(tmp_path / "none.tif", np.full(SHAPE, 5), nodata=5))


def test_bias_of_the_area_and_bounds_over_scenes(tmp_path, rasters):
    truth, found = rasters
    generator = np.random.default_rng(3)
    masks = [save(tmp_path / f"m{k}.tif", found ^ (generator.random(SHAPE) < 0.1 * k)) for k in range(5)]
    label = save(tmp_path / "l.tif", truth)
    pooled, scenes = evaluate_many(masks, [label] * 5, [None] * 5)
    with rasterio.open(masks[0]) as dataset:
        assert scenes[0]["area_bias"] == pytest.approx(dataset.read(1).sum() / truth.sum() - 1)
    counts = np.array([[scene[name] for name in ("tp", "fp", "fn")] for scene in scenes])
    drawn = np.array([counts[generator.integers(5, size=5)].sum(0) for _ in range(20_000)])
    f1 = 2 * drawn[:, 0] / (2 * drawn[:, 0] + drawn[:, 1] + drawn[:, 2])
    assert [pooled["f1_low"], pooled["f1_high"]] == pytest.approx(np.percentile(f1, [2.5, 97.5]), abs=0.01)
    assert pooled["f1_low"] < pooled["f1"] < pooled["f1_high"]
    assert "f1_low" not in evaluate_many(masks[:1], [label], [None])[0]
    nothing = save(tmp_path / "n.tif", np.zeros(SHAPE))
    assert "area_bias" not in evaluate(nothing, nothing).scores()


def test_objects_are_right_from_half_an_iou_on(tmp_path):
    truth, found = np.zeros((2, 40, 60), bool)
    truth[2:12, 2:12] = found[2:12, 2:7] = True  # IoU of exactly 1/2
    truth[2:12, 20:30], found[3:12, 20:30] = True, True  # 0.9
    truth[2:12, 40:50], found[2:12, 46:56] = True, True  # 40 of 160: wrong
    found[30:34, 30:34] = True  # nothing there
    truth[30:36, 2:8] = True  # missed
    truth[36, 8] = True  # touches it by a corner: another object
    mask, label = save(tmp_path / "m.tif", found), save(tmp_path / "l.tif", truth)
    out = tmp_path / "numbers.json"
    done = fewstep("change", "evaluate", mask, label, "--objects", "--json", out)
    assert done.returncode == 0, done.stderr
    numbers = json.loads(out.read_text())
    assert (numbers["objects_found"], numbers["objects_true"]) == (4, 5)
    assert (numbers["object_precision"], numbers["object_recall"]) == (2 / 4, 2 / 5)
    pooled, _ = evaluate_many([mask, label], [label, label], [None, None], objects=True)
    assert (pooled["object_precision"], pooled["object_recall"]) == (7 / 9, 7 / 10)
    empty = save(tmp_path / "e.tif", np.zeros((40, 60)))
    assert evaluate(empty, empty, objects=True).scores()["object_recall"] == 1
    assert evaluate(empty, label, objects=True).scores()["object_recall"] == 0
