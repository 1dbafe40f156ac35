"""Tiles on a Dask cluster: local worker processes, or a scheduler's address.

Workers read the rasters and write finished tiles into the store themselves, so both must lie where all workers see
them. A tile depends on the pair, the detector and its place only: the results are those of one process, bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import rasterio

from remote_sensing.rasters import CACHE_MB, Pair
from remote_sensing.tiling import Detector, Screen, Tile, TileStore, Timing, screened
from shared.errors import InputError, MissingExtra
from shared.progress import tracked

if TYPE_CHECKING:
    from distributed import Client

CONNECT_SECONDS = 15
BATCHES = 8  # for each worker: few enough to open files seldom, many enough to keep all workers busy to the end


def run_on_cluster(
    pair: Pair,
    detector: Detector,
    tiles: Sequence[Tile],
    store: TileStore,
    *,
    cluster: str,
    label: str | None = None,
    screen: Screen | None = None,
) -> Timing:
    """Compute the tiles that the store lacks.

    Args:
        pair: what is compared; its files are opened by the workers.
        detector: what finds the change; it is sent to the workers.
        tiles: from `tiling.plan`.
        store: where the cores go.
        cluster: number of local worker processes, or the address of a scheduler.
        label: of the progress bar; None is silent.
        screen: decides which tiles need no detector.

    Returns:
        Seconds summed over the workers.

    Raises:
        MissingExtra: distributed is absent.
        InputError: a file is damaged.
    """
    waiting = [tile for tile in tiles if not store.has(tile.index)]
    total = Timing()
    with _client(cluster) as client:
        from distributed import as_completed

        count = max(1, BATCHES * len(client.ncores()))
        size = max(1, -(-len(waiting) // count))
        batches = [waiting[start : start + size] for start in range(0, len(waiting), size)]
        # A copy without open files, since GDAL handles cannot be sent.
        futures = [client.submit(_work, replace(pair), detector, batch, store, screen, pure=False) for batch in batches]
        finished = as_completed(futures)
        for _ in tracked(batches, label):
            part = next(finished).result()
            total.pixels += part.pixels
            total.read += part.read
            total.model += part.model
            total.write += part.write
    return total


@contextmanager
def _client(cluster: str) -> Iterator[Client]:
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise MissingExtra("distributed", extra="cluster", purpose="to run on a cluster") from error
    if not cluster.isdecimal():
        try:
            client = Client(cluster, timeout=CONNECT_SECONDS)
        except (OSError, ValueError) as error:
            raise InputError(
                "--cluster",
                found=f"no scheduler at {cluster} ({error})",
                expected="a number of workers, or the address of a running Dask scheduler",
                fix="Start one with: dask scheduler. It prints its address.",
            ) from error
        with client:
            yield client
        return
    with (
        LocalCluster(n_workers=int(cluster), threads_per_worker=1, dashboard_address=None) as local,
        Client(local) as client,
    ):
        yield client


def _work(pair: Pair, detector: Detector, batch: Sequence[Tile], store: TileStore, screen: Screen | None) -> Timing:
    """Compute a batch of tiles in a worker."""
    # GDAL's own choice is a share of the machine's memory, for each worker.
    with rasterio.Env(GDAL_CACHEMAX=CACHE_MB):
        return _compute(pair, detector, batch, store, screen)


def _compute(pair: Pair, detector: Detector, batch: Sequence[Tile], store: TileStore, screen: Screen | None) -> Timing:
    timing = Timing()
    for tile in batch:
        begin = time.perf_counter()
        patch = pair.read(tile.window)
        read = time.perf_counter()
        core, outcome = screened(detector, tile, patch, screen)
        done = time.perf_counter()
        store.save(tile.index, core, outcome)
        timing.pixels += core.size
        timing.read += read - begin
        timing.model += done - read
        timing.write += time.perf_counter() - done
    return timing
