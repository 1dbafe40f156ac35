"""How much memory and time `fewstep change detect` takes, and that a killed run ends like one that was not.

    python -m benchmarks.change_detection [--side 2000 --side 10000] [--bands 3] [--method ir-mad] [--kill]

For every side a pair of side x side uint16 pixels is generated on disk, block by block: textured ground that both dates
share, a gain, noise, and one changed rectangle in every third block of 1,024. `detect` runs in a process of its own,
whose peak of resident memory is measured; F1 is against the true rectangles. With --kill a second run is killed
when half of its tiles are done and started again: its rasters must be those of the first, byte for byte.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
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


def detect(pair: tuple[Path, Path], folder: Path, method: str, *, kill_at: int | None = None) -> tuple[float, float]:
    """Run the command in a process of its own; return its seconds and its peak memory in MB."""
    words = ["detect", *map(str, pair), "-o", str(folder), "--method", method, "--quiet"]
    begin = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-c", RUN, *words], stdout=subprocess.DEVNULL)
    if kill_at is not None:
        while child.poll() is None and len(list((folder / ".tiles").glob("tile_*.npy"))) < kill_at:
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
        child.wait()
        return time.perf_counter() - begin, 0.0
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"detect ended with status {status}")
    return time.perf_counter() - begin, usage.ru_maxrss / 1024


def measure(side: int, bands: int, method: str, *, kill: bool) -> dict[str, float]:
    """Return the numbers of one side."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        before, after, truth = write_pair(folder, side, bands)
        seconds, memory = detect((before, after), folder / "out", method)
        facts = json.loads((folder / "out" / "result.json").read_text(encoding="utf-8"))
        found = {
            "seconds": seconds,
            "peak_mb": memory,
            "mpix_per_second": side * side / 1e6 / seconds,
            **{name: facts[name] for name in facts if name.startswith("mpix_per_second_")},
            "polygons": facts["polygons"],
            "f1": evaluate(folder / "out" / "change.tif", truth).scores()["f1"],
        }
        if kill:
            detect((before, after), folder / "killed", method, kill_at=max(1, facts["tiles"] // 2))
            detect((before, after), folder / "killed", method)
            again = json.loads((folder / "killed" / "result.json").read_text(encoding="utf-8"))
            found["tiles_resumed"] = again["tiles_resumed"]
            found["resumed_is_identical"] = float(
                all(
                    (folder / "out" / raster).read_bytes() == (folder / "killed" / raster).read_bytes()
                    for raster in ("probability.tif", "change.tif")
                )
            )
    return found


def main() -> None:
    """Print a row for every side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, action="append", help="rows and columns; may be repeated")
    parser.add_argument("--bands", type=int, default=3)
    parser.add_argument("--method", default="ir-mad")
    parser.add_argument("--kill", action="store_true", help="also kill a run half-way and resume it")
    parser.add_argument("--json", type=Path, help="also write the numbers as a flat JSON object")
    arguments = parser.parse_args()
    numbers = {}
    for side in arguments.side or (2000, 10_000):
        found = measure(side, arguments.bands, arguments.method, kill=arguments.kill)
        print(f"| {side} |", " | ".join(f"{name} {value:.4g}" for name, value in found.items()), "|")
        numbers |= {f"{name}_{side}": value for name, value in found.items()}
    if arguments.json is not None:
        write_numbers(arguments.json, numbers)


if __name__ == "__main__":
    main()
