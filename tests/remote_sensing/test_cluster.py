"""Two Dask workers write what one process writes, and tell what went wrong."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from remote_sensing import cluster
from remote_sensing.pipeline import detect
from remote_sensing.settings import Settings
from shared.errors import InputError
from tests.remote_sensing.scenes import assert_one_clear_line, fewstep, pair_on_disk, scene, write

pytest.importorskip("distributed")


def test_two_workers_write_what_one_process_writes_to_the_last_bit(tmp_path):
    before, after, _ = pair_on_disk(tmp_path, shape=(150, 200))
    detect(before, after, tmp_path / "one", Settings(tile=64, method="pca-kmeans", coregister=True))
    words = ("--tile", 64, "--method", "pca-kmeans", "--coregister", "--cluster", 2)
    done = fewstep("change", "detect", before, after, "-o", tmp_path / "two", *words)
    assert done.returncode == 0, done.stderr
    for name in ("probability.tif", "change.tif"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_an_error_of_a_worker_arrives_whole(tmp_path, monkeypatch):
    error = pickle.loads(pickle.dumps(InputError("a.tif", found="x", expected="y", fix="Do z.")))
    assert str(error) == str(InputError("a.tif", found="x", expected="y", fix="Do z."))
    assert error.fix == "Do z."
    before = write(tmp_path / "a.tif", scene((200, 200))[0])
    whole = write(
        tmp_path / "b.tif", scene((200, 200))[1], compress="deflate", tiled=True, blockxsize=64, blockysize=64
    )
    (tmp_path / "c.tif").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    done = fewstep("change", "detect", before, tmp_path / "c.tif", "-o", tmp_path / "out", "--cluster", 2)
    assert_one_clear_line(done, "c.tif", "cannot be read")
    assert np.array_equal(list(tmp_path.glob("out/*")), [])


def test_the_address_of_a_scheduler_is_a_cluster_too(tmp_path, monkeypatch):
    from distributed import LocalCluster

    before, after, _ = pair_on_disk(tmp_path, shape=(150, 200))
    detect(before, after, tmp_path / "one", Settings(tile=64))
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as running:
        words = ("--tile", 64, "--cluster", running.scheduler_address)
        done = fewstep("change", "detect", before, after, "-o", tmp_path / "two", *words)
        assert done.returncode == 0, done.stderr
        gone = running.scheduler_address
    assert (tmp_path / "one" / "probability.tif").read_bytes() == (tmp_path / "two" / "probability.tif").read_bytes()
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 2)
    for address in (gone, "nowhere"):
        done = fewstep("change", "detect", before, after, "-o", tmp_path / "three", "--cluster", address)
        assert_one_clear_line(done, "--cluster", "no scheduler at")
