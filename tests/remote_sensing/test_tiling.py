"""Tiles: equal to the whole for local detectors, seamless for others, and resumed after a kill."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.windows import Window

from remote_sensing.classical import fit_classical
from remote_sensing.rasters import open_pair
from remote_sensing.tiling import TileStore, assemble, compute, plan, run, weights
from shared.errors import InputError
from tests.remote_sensing.scenes import pair_on_disk, scene, write


@dataclass(frozen=True)
class Centred:
    """A detector with a statistic of its whole tile: it subtracts the mean, so tiles differ at their borders."""

    blend: int = 16
    halo: int = 0

    def __call__(self, patch):
        x = patch.before[0] - np.nanmean(patch.before[0])
        return (0.5 + 0.4 * np.tanh(x / 200)).astype(np.float32)

    def facts(self):
        return {"method": "centred"}


def tiled(pair, detector, folder, *, size, workers=2, order=1):
    tiles = plan(pair.grid.shape, size=size, halo=detector.halo, blend=detector.blend)
    store = TileStore(folder, "x")
    run(pair, detector, tiles[::order], store, workers=workers)
    rows = [values for _, values in assemble(store, tiles, pair.grid.shape, detector.blend)]
    return np.concatenate(rows)


@given(
    shape=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    size=st.integers(8, 40),
    halo=st.integers(0, 9),
    blend=st.integers(0, 7),
)
@settings(deadline=None)
def test_cores_cover_the_grid_and_weights_are_positive(shape, size, halo, blend):
    tiles = plan(shape, size=size, halo=halo, blend=blend)
    total, count = np.zeros(shape), np.zeros(shape, int)
    for tile in tiles:
        core, window = tile.core, tile.window
        part = np.s_[core.row_off : core.row_off + core.height, core.col_off : core.col_off + core.width]
        w = weights(tile, shape, blend)
        assert w.shape == (core.height, core.width)
        assert w.min() > 0
        total[part] += w
        count[part] += 1
        assert 0 <= window.row_off <= core.row_off
        assert window.row_off + window.height <= shape[0]
        assert core.row_off - window.row_off == min(halo, core.row_off)
        assert (core.height, core.width) == (min(size, shape[0]), min(size, shape[1])) or not blend
    assert count.min() >= 1
    assert total.min() > 0
    if not blend:
        assert count.max() == 1
    assert len({(tile.core.row_off, tile.core.col_off) for tile in tiles}) == len(tiles)


def test_ramps_of_evenly_spaced_cores_add_to_one():
    shape = (64 + 48 * 2, 64)
    total = np.zeros(shape)
    for tile in plan(shape, size=64, blend=16):
        total[tile.core.row_off : tile.core.row_off + 64] += weights(tile, shape, 16)
    np.testing.assert_allclose(total, 1, atol=1e-6)


@pytest.mark.parametrize("method", ["ir-mad", "cva", "pca-kmeans"])
@pytest.mark.parametrize(("size", "workers", "order"), [(64, 1, 1), (64, 4, -1), (77, 2, 1), (1000, 0, 1)])
def test_tiled_is_whole_to_the_last_bit_for_local_detectors(tmp_path, method, size, workers, order):
    before, after, _ = pair_on_disk(tmp_path)
    pair = open_pair(before, after)
    detector = fit_classical(method, pair, pair.sample())
    whole = detector(pair.read(Window(0, 0, pair.grid.width, pair.grid.height)))
    np.testing.assert_array_equal(tiled(pair, detector, tmp_path / "t", size=size, workers=workers, order=order), whole)


def test_tiled_is_whole_to_the_last_bit_on_a_moved_date_with_holes(tmp_path):
    before, after, _ = scene()
    after[:, 30:50, 60:90] = -9999
    pair = open_pair(write(tmp_path / "a.tif", before), write(tmp_path / "b.tif", after, nodata=-9999))
    pair = pair.moved((1.8, -0.6))
    detector = fit_classical("pca-kmeans", pair, pair.sample())
    whole = detector(pair.read(Window(0, 0, pair.grid.width, pair.grid.height)))
    assert np.isnan(whole).sum() > 600
    np.testing.assert_array_equal(tiled(pair, detector, tmp_path / "t", size=64), whole)


@pytest.mark.parametrize("shape", [(1, 40), (40, 1), (1, 1), (7, 130)])
def test_thin_rasters_are_tiled_too(tmp_path, shape):
    generator = np.random.default_rng(0)
    first, second = (generator.standard_normal((1, *shape)).astype(np.float32) for _ in range(2))
    pair = open_pair(write(tmp_path / "a.tif", first), write(tmp_path / "b.tif", second))
    found = tiled(pair, Centred(), tmp_path / "t", size=64)
    assert found.shape == shape
    assert np.isfinite(found).all()


def test_blending_leaves_no_seam_where_hard_cuts_do(tmp_path):
    slope = np.tile(np.arange(210, dtype=np.float32), (1, 150, 1))
    pair = open_pair(write(tmp_path / "a.tif", slope), write(tmp_path / "b.tif", slope))
    hard = tiled(pair, Centred(blend=0), tmp_path / "h", size=64)
    soft = tiled(pair, Centred(blend=24), tmp_path / "s", size=64)

    def seam(image, columns):
        steps = np.abs(np.diff(image, axis=1)).mean(0)
        return steps[columns].mean() / np.delete(steps, columns).mean()

    starts = sorted({tile.core.col_off for tile in plan(pair.grid.shape, size=64, blend=24)} - {0})
    assert seam(hard, [63, 127, 191]) > 10
    assert seam(soft, [start - 1 for start in starts]) < 1.3  # where the second of two tiles begins
    np.testing.assert_array_equal(tiled(pair, Centred(blend=24), tmp_path / "r", size=64, order=-1), soft)


def test_a_tile_without_data_does_not_reach_the_detector(tmp_path):
    before, after, _ = pair_on_disk(tmp_path, shape=(40, 50))
    pair = open_pair(before, after)
    patch = pair.read(Window(0, 0, 50, 40))
    patch = replace(patch, valid=np.zeros_like(patch.valid))

    def never(patch):
        raise AssertionError("called")

    assert np.isnan(compute(never, plan((40, 50))[0], patch)).all()


def test_finished_tiles_are_kept_only_under_the_same_fingerprint(tmp_path):
    store = TileStore(tmp_path / "t", "one")
    store.save(3, np.ones((2, 2), np.float32))
    assert TileStore(tmp_path / "t", "one").resumed == 1
    assert TileStore(tmp_path / "t", "two").resumed == 0
    (tmp_path / "t" / "manifest.json").write_text("{ broken")
    assert not TileStore(tmp_path / "t", "two").has(3)


def test_a_tile_smaller_than_its_blend_is_refused():
    with pytest.raises(InputError, match="larger"):
        plan((100, 100), size=16, blend=16)


SLOW = """
import sys, time
from pathlib import Path
from remote_sensing import tiling
from remote_sensing.pipeline import detect
from remote_sensing.settings import Settings
save = tiling.TileStore.save
def slow(self, *arguments):
    save(self, *arguments)
    time.sleep(0.4)
tiling.TileStore.save = slow
before, after, out = map(Path, sys.argv[1:])
detect(before, after, out, Settings(tile=64))
"""


def test_a_killed_run_resumes_with_identical_rasters(tmp_path):
    from remote_sensing.pipeline import detect
    from remote_sensing.settings import Settings

    before, after, _ = pair_on_disk(tmp_path, shape=(200, 260))
    out, straight = tmp_path / "out", tmp_path / "straight"
    run = subprocess.Popen([sys.executable, "-c", SLOW, before, after, out], cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(list((out / ".tiles").glob("tile_*.npy"))) < 4:
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    kept = len(list((out / ".tiles").glob("tile_*.npy")))
    assert 4 <= kept < 20
    assert [path.name for path in out.iterdir()] == [".tiles"]
    resumed = detect(before, after, out, Settings(tile=64))
    assert resumed.facts["tiles_resumed"] == kept
    assert detect(before, after, straight, Settings(tile=64)).facts["tiles_resumed"] == 0
    for name in ("probability.tif", "change.tif"):
        assert (out / name).read_bytes() == (straight / name).read_bytes()
    assert not (out / ".tiles").exists()
