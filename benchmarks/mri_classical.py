"""Classical MRI reconstruction: fewstep against BART and SigPy on one input, in one run, with the same threads.

    python -m benchmarks.mri_classical --json mri_classical.json

Input: 320 x 320, 15 coils, every 4th line and 26 calibration lines, simulated with noise. What is timed:

- fewstep and SigPy: the Python call, from arrays in memory to arrays in memory.
- BART: the wall time of its process with its files in memory (/dev/shm), and for `pics` also the time that BART itself
  prints ("Total Time"), which leaves out starting the process.

Repeats are interleaved, so that all see the same machine; the median and the least are reported. Objectives are
computed by the same code for every program, on the same data.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medical.reconstruction.coil_maps import calibration_region, espirit
from medical.reconstruction.least_squares import sense
from medical.reconstruction.operators import CartesianSense, FiniteDifference
from medical.reconstruction.sparse import data_scale, l1_wavelet, total_variation
from medical.reconstruction.wavelets import Wavelet
from tests.medical.reconstruction.golden import collinearity, difference_up_to_phase
from tests.medical.reconstruction.phantom import coil_maps, every_nth_line, head, scan

SENSE_LAMDA, LAMDA = 0.005, 0.002
COMMANDS = {
    "espirit": "ecalib -m1 -r24 -k6 kspace",
    "sense": f"pics -S -l2 -r{SENSE_LAMDA} -i30 kspace maps",
    "wavelet": f"pics -S -R W:3:0:{LAMDA} -i60 -n kspace maps",
    "wavelet_shifts": f"pics -S -R W:3:0:{LAMDA} -i60 kspace maps",
    "tv": f"pics -S -R T:3:0:{LAMDA} -u1 -i60 kspace maps",
}


def simulate(size: int, coils: int, seed: int = 0) -> dict[str, Tensor]:
    """The scan: head-like ellipses with phase, smooth maps of unit norm, noise of 0.5 % of the largest magnitude."""
    shape = (size, size)
    maps, image, mask = coil_maps(shape, coils), head(shape), every_nth_line(shape, 4, 26)
    kspace = scan(image, maps, mask, 0.005, seed).to(torch.complex64)
    return {"kspace": kspace, "mask": mask, "maps": maps.to(torch.complex64)[None, None], "image": image[None, None]}


def ours(task: str, data: dict[str, Tensor], iterations: int | None = None) -> Tensor:
    """Run our part of a task."""
    kspace, mask, maps = data["kspace"], data["mask"], data["maps"]
    if task == "espirit":
        box = calibration_region(mask)
        return espirit(kspace[(slice(None), slice(None), *box)], tuple(mask.shape[1:]))[0]
    if task == "sense":
        return sense(kspace, mask, maps, lamda=SENSE_LAMDA, iterations=iterations or 30, tolerance=0.0)
    if task == "tv":
        return total_variation(kspace, mask, maps, lamda=LAMDA, iterations=iterations or 60)
    generator = torch.Generator().manual_seed(0) if task == "wavelet_shifts" else None
    return l1_wavelet(kspace, mask, maps, lamda=LAMDA, iterations=iterations or 60, generator=generator)


def sigpys(task: str, data: dict[str, Tensor]) -> Tensor | None:
    """Run SigPy's part of a task; None where its counterpart has another meaning."""
    import sigpy.mri as mri

    kspace, maps = data["kspace"][0].numpy(), data["maps"][0, 0].numpy()
    weights = data["mask"][0].numpy().astype(np.float32)
    if task == "espirit":
        app = mri.app.EspiritCalib(kspace, calib_width=24, thresh=0.001**0.5, kernel_width=6, crop=0.8, show_pbar=False)
        return torch.from_numpy(app.run())[None, None]
    scale = float(data_scale(data["kspace"], data["mask"]))
    common = {"weights": weights, "show_pbar": False}
    if task == "sense":
        app = mri.app.SenseRecon(kspace, maps, lamda=SENSE_LAMDA, max_iter=30, **common)
    elif task == "wavelet":
        app = mri.app.L1WaveletRecon(kspace, maps, LAMDA * scale, max_iter=60, **common)
    elif task == "tv":
        app = mri.app.TotalVariationRecon(kspace, maps, LAMDA * scale, max_iter=60, **common)
    else:
        return None
    return torch.from_numpy(np.asarray(app.run()))[None, None]


class Bart:
    """BART on one input, with its files in memory."""

    def __init__(self, data: dict[str, Tensor], folder: Path, threads: int) -> None:
        self.folder = folder
        self.environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        for name, array in (("kspace", data["kspace"][0]), ("maps", data["maps"][0, 0])):
            ordered = array.permute(1, 2, 0)[:, :, None].numpy()
            (folder / f"{name}.hdr").write_text("# Dimensions\n" + " ".join(map(str, ordered.shape)) + "\n")
            ordered.ravel(order="F").tofile(folder / f"{name}.cfl")

    def run(self, task: str) -> tuple[float, float | None]:
        """Return wall seconds and the seconds that BART itself reports."""
        start = time.perf_counter()
        done = subprocess.run(self._call(task), env=self.environment, capture_output=True, text=True, check=True)
        wall = time.perf_counter() - start
        reported = re.search(r"Total Time: ([\d.]+)", done.stdout + done.stderr)
        return wall, float(reported[1]) if reported else None

    def peak_memory(self, task: str) -> float:
        """MiB that the process holds at most, polled every 2 ms in a run of its own."""
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process, peak = subprocess.Popen(self._call(task), env=self.environment, **silent), 0.0
        while process.poll() is None:
            found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
            peak = max(peak, int(found[1]) / 1024) if found else peak
            time.sleep(0.002)
        return peak

    def _call(self, task: str) -> list[str]:
        words = [str(self.folder / w) if w in ("kspace", "maps") else w for w in COMMANDS[task].split()]
        return ["bart", *words, str(self.folder / "out")]

    def result(self, task: str) -> Tensor:
        """The output of the last run, in our order of axes."""
        dims = [int(n) for n in (self.folder / "out.hdr").read_text().splitlines()[1].split()]
        array = np.fromfile(self.folder / "out.cfl", np.complex64).reshape(dims, order="F").squeeze()
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor.permute(2, 0, 1)[None, None] if task == "espirit" else tensor[None, None]


def objective(task: str, x: Tensor, data: dict[str, Tensor], *, own_grid: bool) -> float:
    """The function that the task minimises, for data divided by their scale (as BART does), in double precision.

    With a fixed grid the wavelet term of a peer (`own_grid` false) is taken at the shift, of 16 x 16 even ones, where
    it is least, because its grid lies elsewhere than ours; with random shifts it is the mean over 32 of them.
    """
    kspace, maps = data["kspace"].to(torch.complex128), data["maps"].to(torch.complex128)
    x = x.to(torch.complex128)
    scale = float(data_scale(kspace, data["mask"]))
    misfit = (CartesianSense(maps, data["mask"])(x) - kspace).abs().square().sum() / 2 / scale**2
    x = x / scale
    if task == "sense":
        return float(misfit + SENSE_LAMDA / 2 * x.abs().square().sum())
    if task == "tv":
        return float(misfit + LAMDA * FiniteDifference()(x).abs().square().sum(0).sqrt().sum())
    wavelet = Wavelet(tuple(x.shape[2:]))
    if task == "wavelet":
        shifts = [(a, b) for a in range(0, 32, 2) for b in range(0, 32, 2)]
        shifts = [(0, 0)] if own_grid else shifts
        penalty = min(float(wavelet(x.roll(s, (-2, -1))).abs().sum()) for s in shifts)
    else:
        shifts = torch.randint(32, (32, 2), generator=torch.Generator().manual_seed(1)).tolist()
        penalty = statistics.mean(float(wavelet(x.roll(s, (-2, -1))).abs().sum()) for s in shifts)
    return float(misfit + LAMDA * penalty)


def peak_memory(run: Callable[..., object], task: str, stored: Path, threads: int) -> float:
    """MiB of input and working memory: the peak of a fresh process less what it holds with the libraries loaded."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_in_child, (run, task, stored, threads))


def _peak_in_child(run: Callable[..., object], task: str, stored: Path, threads: int) -> float:
    torch.set_num_threads(threads)
    run(task, simulate(32, 4))
    libraries = _memory("VmRSS")
    with np.load(stored) as arrays:
        run(task, {name: torch.from_numpy(arrays[name]) for name in ("kspace", "mask", "maps")})
    return _memory("VmHWM") - libraries


def _memory(field: str) -> float:
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+)", status)[1]) / 1024


def iterations_to_reach(task: str, target: float, data: dict[str, Tensor]) -> int:
    """Least number of our iterations, in steps of 5 up to 60, whose objective is not above the target; else 0."""
    return next((n for n in range(5, 65, 5) if objective(task, ours(task, data, n), data, own_grid=True) <= target), 0)


def compare(size: int, coils: int, repeats: int, threads: int, memory: bool) -> dict[str, float]:
    """Run every task with every program and return flat numbers."""
    data = simulate(size, coils)
    numbers: dict[str, float] = {"threads": threads, "size": size, "coils": coils, "repeats": repeats}
    have_bart = shutil.which("bart") is not None
    shared_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared_memory if shared_memory.is_dir() else None) as folder:
        peer = Bart(data, Path(folder), threads) if have_bart else None
        stored = Path(folder) / "input.npz"
        np.savez(stored, **{name: tensor.numpy() for name, tensor in data.items()})
        for task in COMMANDS:
            results: dict[str, Tensor] = {}
            times: dict[str, list[float]] = {}
            for repeat in range(repeats + 1):
                start = time.perf_counter()
                results["ours"] = ours(task, data)
                measured = {"ours_s": time.perf_counter() - start}
                if peer is not None:
                    wall, reported = peer.run(task)
                    measured["bart_s"] = wall
                    if reported is not None:
                        measured["bart_own_s"] = reported
                    results["bart"] = peer.result(task)
                if repeat <= 3:  # SigPy is slow; three repeats after the first are enough
                    start = time.perf_counter()
                    found = sigpys(task, data)
                    if found is not None:
                        measured["sigpy_s"] = time.perf_counter() - start
                        results["sigpy"] = found
                if repeat:  # the first run of all warms up
                    for name, seconds in measured.items():
                        times.setdefault(name, []).append(seconds)
            for name, values in times.items():
                numbers[f"{task}_{name}"] = statistics.median(values)
                numbers[f"{task}_{name}_least"] = min(values)
            numbers |= {f"{task}_{key}": value for key, value in judge(task, results, data).items()}
            if "bart" in results:
                numbers[f"{task}_ratio"] = numbers[f"{task}_ours_s"] / numbers[f"{task}_bart_s"]
                numbers[f"{task}_ratio_least"] = numbers[f"{task}_ours_s_least"] / numbers[f"{task}_bart_s_least"]
                if task in ("sense", "wavelet", "tv"):
                    enough = iterations_to_reach(task, numbers[f"{task}_bart_objective"], data)
                    numbers[f"{task}_ours_iterations_to_barts_objective"] = enough
            if memory and peer is not None:
                numbers[f"{task}_bart_peak_mib"] = peer.peak_memory(task)
            if memory:
                numbers[f"{task}_ours_peak_mib"] = peak_memory(ours, task, stored, threads)
                if "sigpy" in results:
                    numbers[f"{task}_sigpy_peak_mib"] = peak_memory(sigpys, task, stored, threads)
            print(f"{task} done", flush=True)
    return numbers


def judge(task: str, results: dict[str, Tensor], data: dict[str, Tensor]) -> dict[str, float]:
    """Objectives, errors against the truth, and agreement with the peers."""
    numbers: dict[str, float] = {}
    for name, x in results.items():
        if task == "espirit":
            inside = data["image"][0, 0].abs() > 0
            alike = (x[0, 0].conj() * data["maps"][0, 0]).sum(0).abs()[inside]
            numbers[f"{name}_collinearity_with_truth"] = float(alike.mean())
        else:
            numbers[f"{name}_objective"] = objective(task, x, data, own_grid=name == "ours")
            error = x.to(torch.complex128) - data["image"]
            numbers[f"{name}_nrmse"] = float(error.norm() / data["image"].norm())
    if "bart" in results:
        if task == "espirit":
            alike, first, second = collinearity(results["ours"], results["bart"])
            numbers["collinearity_with_bart"] = float(alike.mean())
            numbers["support_differs"] = float((first ^ second).float().mean())
        else:
            numbers["difference_from_bart"] = difference_up_to_phase(results["ours"], results["bart"])
    return numbers


def show(numbers: dict[str, float]) -> None:
    """Print the table."""
    columns = ("ours_s", "bart_s", "bart_own_s", "sigpy_s", "ratio", "ratio_least")
    more = ("ours_objective", "bart_objective", "sigpy_objective", "ours_nrmse", "bart_nrmse")
    memory = ("ours_peak_mib", "bart_peak_mib", "sigpy_peak_mib")
    for group in (columns, more, memory):
        print(f"{'':16}" + "".join(f"{name:>18}" for name in group))
        for task in COMMANDS:
            cells = [numbers.get(f"{task}_{name}") for name in group]
            print(f"{task:16}" + "".join(f"{'-' if cell is None else f'{cell:.4g}':>18}" for cell in cells))
        print()
    rest = ("difference_from_bart", "collinearity", "support", "iterations_to")
    for key, value in numbers.items():
        if any(word in key for word in rest):
            print(f"{key:50} {value:.6g}")


def main() -> None:
    """Parse the command line, compare, show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--coils", type=int, default=15)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-memory", action="store_true", help="skip the measurement of peak memory")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    numbers = compare(arguments.size, arguments.coils, arguments.repeats, arguments.threads, not arguments.no_memory)
    show(numbers)
    if arguments.json:
        arguments.json.write_text(json.dumps(numbers, indent=1))
        print(f"wrote {arguments.json}")


if __name__ == "__main__":
    main()
