"""What the stereo node makes of a camera over loopback: frames in and out, drops, and how late the maps are.

    python benchmarks/stereo_ros.py [--weights FILE] [--rate 10] [--seconds 20] [--json FILE]

Two processes, images of 320 x 240 (rgb8), all outputs subscribed to, the packaged Fast DDS profile for images, one
thread for the network. Without --weights a fresh network of `configs/robotics/stereo_small.yaml`, which takes as long
as a trained one. The scene is a plane, and nothing is said about accuracy. Latency is from the arrival of a frame at
the node to its maps, age from the stamp of the left image, both by the node's own statistics; on a busy machine both
say more about the machine. CPU is the processor's time of the node's whole process for each map. `arrived` are point
clouds.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console
from rich.table import Table

from robotics.stereo.camera import StereoCamera
from robotics.stereo.training import StereoTraining
from shared.config import load_config
from shared.numbers import write_numbers
from tests.robotics.ros2.cameras import Cameras, small_stereo
from tests.robotics.ros2.process import ACTIVATE, CLEANUP, CONFIGURE, DEACTIVATE, told_numbers, until

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {
    "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    "ROS_DOMAIN_ID": str(101 + os.getpid() % 100),
    "FASTDDS_DEFAULT_PROFILES_FILE": str(ROOT / "robotics" / "ros2" / "ament" / "config" / "fastdds_images.xml"),
    "OMP_NUM_THREADS": "1",
}
CAMERA = StereoCamera(320, 240, fx=250.0, fy=250.0, cx_l=159.5, cx_r=159.5, cy=119.5, baseline=0.06)
BASE = {
    "max_disparity": 80.0,
    "calls": 4,
    "samples": 4,
    "first": "sgbm",
    "video": False,
    "scale": 1.0,
    "silence_s": 3600.0,
}
WAYS: dict[str, dict[str, Any]] = {
    "4 samples of 4 calls (default)": {},
    "1 sample of 4 calls": {"samples": 1},
    "1 sample of 1 call": {"samples": 1, "calls": 1},
    "1 sample of 4 calls, warm": {"samples": 1, "video": True},
    "4 samples of 4 calls, scale 0.5": {"scale": 0.5},
    "1 sample of 1 call, scale 0.5": {"samples": 1, "calls": 1, "scale": 0.5},
}
COLUMNS = {
    "sent": ("sent", ".0f"), "frames_in": ("in", ".0f"), "frames_out": ("out", ".0f"),
    "frames_dropped": ("dropped", ".0f"), "arrived": ("arrived", ".0f"), "warm_share": ("warm", ".2f"),
    "cpu_ms": ("CPU ms", ".0f"), "latency_ms_p50": ("latency ms p50", ".0f"), "latency_ms_p99": ("p99", ".0f"),
    "age_ms_p50": ("age ms p50", ".0f"), "age_ms_p99": ("p99", ".0f"),
}  # fmt: skip


def processor_seconds(process: int) -> float:
    """Return the time of all threads of a process so far, user and system."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measured(cameras: Cameras, settings: dict[str, Any], rate: float, seconds: float) -> dict[str, float]:
    """Return the node's statistics after `seconds` of frames at `rate`."""

    def idle() -> bool:
        numbers = told_numbers(cameras.told(""))
        return numbers["frames_in"] == sum(numbers[f"frames_{name}"] for name in ("out", "dropped", "refused"))

    refused = [result.reason for result in cameras.set(**settings) if not result.successful]
    if refused or not cameras.transition(CONFIGURE) or not cameras.transition(ACTIVATE):
        raise SystemExit("; ".join(refused) or cameras.log())
    count = len(cameras.maps["points"])
    while len(cameras.maps["points"]) == count:  # until the topics' ends have found each other
        cameras.send()
        time.sleep(1 / rate)
    until(idle)
    count, before = len(cameras.maps["points"]), told_numbers(cameras.told(""))
    begin, sent, used = time.monotonic(), 0, processor_seconds(cameras.process.pid)
    while sent < rate * seconds:
        cameras.send()
        sent += 1
        time.sleep(max(0.0, begin + sent / rate - time.monotonic()))

    until(idle)
    after = told_numbers(cameras.told(""))
    found = after | {name: after[name] - before[name] for name in after if name.startswith("frames_")}
    found |= {"sent": sent, "arrived": len(cameras.maps["points"]) - count}
    found["cpu_ms"] = 1000 * (processor_seconds(cameras.process.pid) - used) / max(1, found["frames_out"])
    cameras.transition(DEACTIVATE)
    cameras.transition(CLEANUP)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="file or packaged name")
    parser.add_argument("--rate", type=float, default=10, help="frames a second")
    parser.add_argument("--seconds", type=float, default=20, help="of each row")
    parser.add_argument("--json", type=Path, help="also write all numbers")
    options = parser.parse_args()
    numbers: dict[str, float] = {}
    table = Table("settings", *(title for title, _ in COLUMNS.values()), title=f"{options.rate:g} Hz, 320 x 240")
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(ENVIRONMENT, ROS_LOG_DIR=folder)
        config = load_config("robotics/stereo_small", StereoTraining).model
        weights = options.weights or str(small_stereo(Path(folder) / "fresh.safetensors", config))
        cameras = Cameras(Path(folder), CAMERA)
        try:
            for way, change in WAYS.items():
                found = measured(cameras, {**BASE, **change, "weights": weights}, options.rate, options.seconds)
                table.add_row(way, *(f"{found[name]:{form}}" for name, (_, form) in COLUMNS.items()))
                numbers |= {f"{way}.{name}": value for name, value in found.items()}
        finally:
            cameras.close()
    Console(width=140).print(table)
    if options.json is not None:
        write_numbers(options.json, numbers)


if __name__ == "__main__":
    main()
