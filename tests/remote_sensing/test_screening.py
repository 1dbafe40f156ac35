"""Skipped tiles: the detector is spared, what it would have found there is estimated, and nothing changes when off."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np
import pytest
import rasterio
from scipy.ndimage import gaussian_filter

from remote_sensing import pipeline
from remote_sensing.coregistration import Shift
from remote_sensing.pipeline import detect
from remote_sensing.settings import Settings
from remote_sensing.tiling import TileStore
from tests.remote_sensing.scenes import fewstep, write

SIDE, TILE = 512, 64
TILES = (SIDE // TILE) ** 2


@dataclass
class Marked:
    """A detector that sees a mark of the second date which IR-MAD cannot: an odd number in the first band."""

    calls: list[tuple[int, int]] = field(default_factory=list)
    halo: int = 0
    blend: int = 0

    def __call__(self, patch):
        self.calls.append((patch.row, patch.col))
        return np.where(patch.after[0] % 2 == 1, np.float32(0.9), np.float32(0.1))

    def facts(self):
        return {"method": "marked"}


@pytest.fixture(autouse=True)
def no_shift(monkeypatch):
    """Estimating the shift of every run would take most of the time."""
    monkeypatch.setattr(pipeline, "estimate_shift", lambda pair: Shift(0.0, 0.0, 0, 0, 0.0))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A landscape with strong, marked changes in every sixth tile, and faint marked ones in every other fourth."""
    folder = tmp_path_factory.mktemp("pair")
    generator = np.random.default_rng(0)
    ground = gaussian_filter(generator.standard_normal((3, SIDE, SIDE)), (0, 3, 3)) * 4000 + 3000
    dates = [2 * np.rint((gain * ground + 20 * generator.standard_normal(ground.shape)) / 2) for gain in (1.0, 1.2)]
    faint = np.zeros((SIDE, SIDE), bool)
    strong = np.zeros((SIDE, SIDE), bool)
    for index in range(TILES):
        row, col = divmod(index, SIDE // TILE)
        place = np.s_[row * TILE + 10 : row * TILE + 30, col * TILE + 10 : col * TILE + 30]
        if index % 6 == 0:
            strong[place] = True
        elif index % 4 == 1:
            faint[place] = True
    dates[1][:, strong] += 2000
    dates[1][0, strong | faint] += 1
    paths = [write(folder / f"{k}.tif", date.clip(0).astype(np.uint16)) for k, date in enumerate(dates)]
    return *paths, strong, faint


def read(folder):
    with rasterio.open(folder / "probability.tif") as dataset:
        return dataset.read(1)


def settings(**options):
    return Settings(tile=TILE, **options)


def test_only_tiles_with_change_and_the_audited_ones_reach_the_detector(tmp_path, pair):
    before, after, strong, faint = pair
    plain, spared = Marked(), Marked()
    detect(before, after, tmp_path / "plain", settings(), detector=plain)
    facts = detect(before, after, tmp_path / "s", settings(skip_unchanged=0.03, audit=0.3), detector=spared).facts
    assert len(plain.calls) == TILES
    assert facts["tiles_computed"] == len({(r // TILE, c // TILE) for r, c in zip(*np.nonzero(strong), strict=True)})
    assert len(spared.calls) == facts["tiles_computed"] + facts["tiles_audited"] == TILES - facts["tiles_skipped"]
    expected, found = read(tmp_path / "plain"), read(tmp_path / "s")
    ran = np.zeros(strong.shape, bool)
    for row, col in spared.calls:
        ran[row : row + TILE, col : col + TILE] = True
    np.testing.assert_array_equal(found[ran], expected[ran])
    assert (found[~ran] == 0).all()
    # The estimate against what was really lost.
    lost = (faint & ~ran).sum() / (strong | faint).sum()
    assert lost > 0.2
    assert facts["recall_lost"] == pytest.approx(lost, abs=2.5 * facts["recall_lost_error"])
    assert facts["recall_lost_error"] < 0.15
    assert any("of the change is lost" in warning for warning in facts["warnings"])
    assert "of the change is lost" in (tmp_path / "s" / "report.html").read_text()


def test_running_every_skipped_tile_is_the_run_without_skipping_to_the_last_bit(tmp_path, pair):
    before, after, _, _ = pair
    detect(before, after, tmp_path / "plain", settings(), detector=Marked())
    facts = detect(before, after, tmp_path / "all", settings(skip_unchanged=0.03, audit=1.0), detector=Marked()).facts
    assert (facts["tiles_skipped"], facts["recall_lost"]) == (0, 0)
    assert facts["tiles_audited"] > 0
    for name in ("probability.tif", "change.tif"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "all" / name).read_bytes()


def test_a_resumed_run_skips_and_reports_the_same(tmp_path, pair, monkeypatch):
    before, after, _, _ = pair
    options = settings(skip_unchanged=0.03, audit=0.2, seed=5)
    whole = detect(before, after, tmp_path / "whole", options, detector=Marked()).facts
    save, saved = TileStore.save, []

    def failing(self, index, *rest):
        save(self, index, *rest)
        saved.append(index)
        if len(saved) == 40:
            raise KeyboardInterrupt

    monkeypatch.setattr(TileStore, "save", failing)
    with pytest.raises(KeyboardInterrupt):
        detect(before, after, tmp_path / "again", options, detector=Marked())
    monkeypatch.setattr(TileStore, "save", save)
    again = detect(before, after, tmp_path / "again", options, detector=Marked()).facts
    assert again["tiles_resumed"] == 40
    for name in ("tiles_skipped", "tiles_audited", "tiles_computed", "changed_pixels_audited", "recall_lost"):
        assert again[name] == whole[name]
    assert (tmp_path / "whole" / "probability.tif").read_bytes() == (
        tmp_path / "again" / "probability.tif"
    ).read_bytes()
    other = detect(before, after, tmp_path / "other", options.model_copy(update={"seed": 6}), detector=Marked()).facts
    assert other["changed_pixels_audited"] != whole["changed_pixels_audited"]


def test_the_command_skips_on_workers_too_and_says_when_nothing_is_known(tmp_path, pair):
    pytest.importorskip("distributed")
    before, after, _, _ = pair
    words = ("--skip-unchanged", 0.03, "--audit", 0, "--tile", TILE)
    for name, more in (("one", ()), ("two", ("--cluster", 2))):
        done = fewstep("change", "detect", before, after, "-o", tmp_path / name, *words, *more)
        assert done.returncode == 0, done.stderr
    one, two = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("one", "two"))
    assert one["tiles_skipped"] == two["tiles_skipped"] > TILES / 2
    assert one["recall_lost"] is two["recall_lost"] is None
    assert "the recall lost is unknown" in " ".join(one["warnings"])
    assert "--skip-unchanged 0.03" in one["command"]
    assert (tmp_path / "one" / "probability.tif").read_bytes() == (tmp_path / "two" / "probability.tif").read_bytes()
