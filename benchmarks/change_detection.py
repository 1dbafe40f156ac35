"""How much memory and time `fewstep change detect` takes, and that a killed run ends like one that was not.

    python -m benchmarks.change_detection [--side 2000 --side 10000] [--bands 3] [--method ir-mad] [--method cva]
        [--kill] [--workers 2] [--folder DIR]

For every side a pair of side x side uint16 pixels is generated on disk, block by block: textured ground that both dates
share, a gain, noise, and one changed rectangle in every third block of 1,024. `detect` runs in a process of its own;
its peak is that of the resident memory of it and all its children together, looked at ten times a second, and its CPU
seconds tell on a busy machine what its seconds do not. F1 is against the true rectangles. With --kill a second run is
killed when half of its tiles are done and started again, and with --workers a third one computes its tiles on so many
Dask workers: the rasters of both must be those of the first, byte for byte. The folder needs about 40 bytes for a
pixel, and is empty afterwards.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import rasterio
from rasterio.crs import CRS
from rasterio.windows import Window
from scipy.ndimage import gaussian_filter

from remote_sensing.evaluate import evaluate
from remote_sensing.grid import MapGrid
from shared.numbers import write_numbers

TRANSFORM = rasterio.Affine(10.0, 0.0, 300000.0, 0.0, -10.0, 5900000.0)
RUN = "from remote_sensing.cli import app; app()"


def write_pair(folder: Path, side: int, bands: int) -> tuple[Path, Path, Path]:
    """Write before.tif, after.tif and truth.tif; memory is that of a block."""
    grid = MapGrid(CRS.from_epsg(32633), TRANSFORM, side, side)
    paths = folder / "before.tif", folder / "after.tif", folder / "truth.tif"
    profile = {
        "driver": "GTiff", "width": side, "height": side, "crs": grid.crs, "transform": grid.transform,
        "tiled": True, "blockxsize": 512, "blockysize": 512, "BIGTIFF": "IF_SAFER",
    }  # fmt: skip
    with (
        rasterio.open(paths[0], "w", count=bands, dtype="uint16", **profile) as before,
        rasterio.open(paths[1], "w", count=bands, dtype="uint16", **profile) as after,
        rasterio.open(paths[2], "w", count=1, dtype="uint8", **profile) as truth,
    ):
        for index, window in enumerate(grid.windows()):
            first, second, changed = _block(index, window, bands)
            before.write(first, window=window)
            after.write(second, window=window)
            truth.write(changed, 1, window=window)
    return paths


def _block(index: int, window: Window, bands: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(index)
    shape = (window.height, window.width)
    texture = gaussian_filter(generator.standard_normal((bands, *shape)).astype(np.float32), (0, 3, 3)) * 4000
    ground = 3000 + texture
    later = ground.copy()
    changed = np.zeros(shape, np.uint8)
    if index % 3 == 0:
        changed[100:160, 80:180] = 1
        later[:, changed > 0] = 3000 + 1200 * generator.standard_normal((bands, 1))
    dates = (ground, 1.2 * later + 150)
    first, second = (
        (date + 60 * generator.standard_normal(date.shape)).clip(1, 65535).astype(np.uint16) for date in dates
    )
    return first, second, changed


def detect(
    pair: tuple[Path, Path], folder: Path, method: str, *words: str, kill_at: int | None = None
) -> tuple[float, float, float]:
    """Run the command in a process of its own; return its seconds, CPU seconds and peak MB, children included."""
    command = ["detect", *map(str, pair), "-o", str(folder), "--method", method, "--quiet", *words]
    begin = time.perf_counter()
    child = psutil.Popen([sys.executable, "-c", RUN, *command], stdout=subprocess.DEVNULL)
    peak = cpu = 0.0
    while child.poll() is None:
        if kill_at is not None and len(list((folder / ".tiles").glob("tile_*.npy"))) >= kill_at:
            child.send_signal(signal.SIGKILL)
            child.wait()
            return time.perf_counter() - begin, cpu, peak
        peak, cpu = max(peak, resident(child)), max(cpu, computing(child))
        time.sleep(0.1 if kill_at is None else 0.02)
    if child.returncode:
        raise SystemExit(f"detect ended with status {child.returncode}")
    return time.perf_counter() - begin, cpu, peak


def resident(process: psutil.Process) -> float:
    """Return the resident memory in MB of a process and all its children; shared pages count for each."""
    total = 0.0
    try:
        for part in (process, *process.children(recursive=True)):
            total += part.memory_info().rss / 1e6
    except psutil.NoSuchProcess:
        pass  # it ended meanwhile
    return total


def computing(process: psutil.Process) -> float:
    """Return the CPU seconds of a process and of its children, those that ended included."""
    total = 0.0
    try:
        for part in (process, *process.children(recursive=True)):
            times = part.cpu_times()
            total += times.user + times.system
        total += process.cpu_times().children_user + process.cpu_times().children_system
    except psutil.NoSuchProcess:
        pass
    return total


def measure(
    folder: Path, data: tuple[Path, Path, Path], side: int, method: str, *, kill: bool, workers: int
) -> dict[str, float]:
    """Return the numbers of one side and method."""
    pair, truth = data[:2], data[2]
    seconds, cpu, memory = detect(pair, folder / "out", method)
    facts = json.loads((folder / "out" / "result.json").read_text(encoding="utf-8"))
    found = {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak_mb": memory,
        "mpix_per_second": side * side / 1e6 / seconds,
        **{name: facts[name] for name in facts if name.startswith(("mpix_per_second_", "seconds_"))},
        "polygons": facts["polygons"],
        "f1": evaluate(folder / "out" / "change.tif", truth).scores()["f1"],
    }
    if kill:
        detect(pair, folder / "again", method, kill_at=max(1, facts["tiles"] // 2))
        resumed_seconds, _, resumed_memory = detect(pair, folder / "again", method)
        again = json.loads((folder / "again" / "result.json").read_text(encoding="utf-8"))
        found |= {
            "tiles": facts["tiles"],
            "tiles_resumed": again["tiles_resumed"],
            "resumed_seconds": resumed_seconds,
            "resumed_peak_mb": resumed_memory,
            "resumed_is_identical": same_rasters(folder / "out", folder / "again"),
        }
        shutil.rmtree(folder / "again")
    if workers:
        cluster_seconds, _, cluster_memory = detect(pair, folder / "again", method, "--cluster", str(workers))
        found |= {
            "cluster_seconds": cluster_seconds,
            "cluster_peak_mb": cluster_memory,
            "cluster_is_identical": same_rasters(folder / "out", folder / "again"),
        }
        shutil.rmtree(folder / "again")
    shutil.rmtree(folder / "out")
    return found


def same_rasters(first: Path, second: Path) -> float:
    """Return 1 if the rasters of two runs are equal byte for byte, else 0."""
    return float(
        all(filecmp.cmp(first / name, second / name, shallow=False) for name in ("probability.tif", "change.tif"))
    )


def main() -> None:
    """Print the numbers of every side and method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, action="append", help="rows and columns; may be repeated")
    parser.add_argument("--bands", type=int, default=3)
    parser.add_argument("--method", action="append", help="may be repeated; default: ir-mad")
    parser.add_argument("--kill", action="store_true", help="also kill a run half-way and resume it")
    parser.add_argument("--workers", type=int, default=0, help="also compute on so many Dask workers")
    parser.add_argument("--folder", type=Path, help="where to work; default: the system's temporary folder")
    parser.add_argument("--json", type=Path, help="also write the numbers as a flat JSON object")
    arguments = parser.parse_args()
    numbers = {}
    for side in arguments.side or (2000, 10_000):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            folder = Path(name)
            data = write_pair(folder, side, arguments.bands)
            for method in arguments.method or ("ir-mad",):
                found = measure(folder, data, side, method, kill=arguments.kill, workers=arguments.workers)
                print(f"{side} x {side}, {method}", flush=True)
                print("\n".join(f"  {name:28s} {value:.5g}" for name, value in found.items()), flush=True)
                numbers |= {f"{name}_{method}_{side}": value for name, value in found.items()}
    if arguments.json is not None:
        write_numbers(arguments.json, numbers)


if __name__ == "__main__":
    main()
