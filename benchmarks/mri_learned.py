"""Learned MRI reconstruction beside everything else that a user could take, on held-out simulation and on a real scan.

    python -m benchmarks.mri_learned [--quick] [--data FOLDER] [--json FILE]

References, stated because numbers against different ones are not comparable:

- simulated: the noise-free image that the whitened array receives, |x| (`medical.simulation.acquisition`), of subjects
  that no training saw;
- real: root sum of squares of the full scan of the 16-coil brain, whitened (`real.*`), over all pixels. It holds the
  scan's own noise: an error of zero is not reachable, methods that keep the measured noise gain, and methods that leave
  the air empty lose. And the full scan combined with maps measured against the body coil (`body.*`), over the pixels
  that have such maps: no noise floor, no air, but still the noise of the samples that a method was given;
- withheld: the samples that the mask left out (`withheld.*`), against F S x, the image seen through the method's own
  maps: 10 log10 of (their energy - noise) / (error - noise). Their noise is none that the method could keep or remove,
  so this, alone of the three, does not reward keeping it.

Every image is scaled by the best scalar before it is judged, for the sake of methods with another shading or unit.
Masks are retrospective, at their true acceleration. Learned methods run outside their cards too (forced).
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.mri_learned_methods import ALL, Run, peak_memory, runners, scan_of_slice
from medical import metrics
from medical.reconstruction.coil_maps_reference import maps_from_reference
from medical.reconstruction.fourier import ifft_centred
from medical.reconstruction.least_squares import rss
from medical.reconstruction.preprocess import prewhiten
from medical.reconstruction.raw import RawScan
from medical.simulation.acquisition import SimulatedSlice, acquire
from medical.simulation.contrast import Contrast
from medical.simulation.objects import draw_object
from medical.simulation.patterns import PATTERNS, draw_sampling
from medical.simulation.protocol import Protocol
from medical.simulation.volumes import AnatomyCache, subjects
from shared.errors import InputError
from shared.numbers import write_numbers

COLUMNS = ("psnr", "ssim", "nmse", "hfen", "body.psnr", "body.ssim", "withheld.snr", "residual", "seconds")
PIXEL_MM = (1.6, 2.4)
"""Of held-out slices, drawn for each."""

THICKNESS_MM = 3.0
AIR, AIR_END = slice(0, 4), slice(-4, None)
"""Lines of the real images that are air. They span the readout, since the receiver's filter halves the noise at its
ends: the corners alone say half of the noise that the head has."""


def judge(reference: Tensor, image: Tensor) -> dict[str, float]:
    """Return PSNR, SSIM, NMSE and HFEN of a magnitude (y, x) after the best scalar."""
    r, x = reference.abs()[None].double(), image.abs()[None].double()
    energy = x.square().sum()
    x = x * ((x * r).sum() / energy if energy > 0 else 0)
    return {name: getattr(metrics, name)(r, x) for name in ("psnr", "ssim", "nmse", "hfen")}


def measure(
    scan: RawScan, references: dict[str, Tensor], methods: dict[str, Run], full: Tensor | None = None
) -> dict[str, dict[str, float]]:
    """Run every method on a scan; return its numbers, those against references beyond the first under `name.metric`.

    Args:
        scan: of one slice.
        references: magnitudes (y, x).
        methods: what to run.
        full: whitened k-space (coil, y, x) with the samples that the scan lacks.
    """
    rows = {}
    for method, run in methods.items():
        found = run(scan)
        row = {"seconds": found.seconds} | ({} if found.residual is None else {"residual": found.residual})
        for index, (name, reference) in enumerate(references.items()):
            support = reference.abs() > 0 if index else torch.ones_like(reference, dtype=torch.bool)
            scores = judge(reference, found.image * support)
            row |= scores if index == 0 else {f"{name}.{metric}": value for metric, value in scores.items()}
        if full is not None and found.kspace is not None:
            row["withheld.snr"] = withheld(full, found.kspace(), scan.mask[0])
        rows[method] = row
    return rows


def withheld(full: Tensor, told: Tensor, mask: Tensor) -> float:
    """Return the signal-to-error ratio in dB over the samples outside the mask (y, x), their unit noise subtracted."""
    truth = full[:, ~mask]
    error, signal = ((part.abs().square().mean() - 1).clamp_min(1e-9) for part in (told[:, ~mask] - truth, truth))
    return float(10 * torch.log10(signal / error))


def real_brain(folder: Path) -> tuple[RawScan, dict[str, Tensor]]:
    """Return the full 16-coil brain and its two references.

    It has no noise scan: the air above and below the head in its full coil images stands for one. With it the residual
    of a good image is that of noise, and the outermost samples, which hold some signal, say 1.16 times its level.
    """
    kspace = torch.from_numpy(np.load(folder / "mri" / "pulseq_cimaX_brain_16ch_128.npy"))
    body = torch.from_numpy(np.load(folder / "mri" / "pulseq_cimaX_brain_bodycoil_2ch_128.npy"))
    full = scan_of_slice(kspace, torch.ones(kspace.shape[1:], dtype=torch.bool), (2.0, 2.0))
    images = ifft_centred(full.kspace)[0]
    air = torch.cat([images[:, AIR], images[:, AIR_END]], 1)
    full = prewhiten(replace(full, noise=air.flatten(1)))
    coil_images = ifft_centred(full.kspace)
    maps = maps_from_reference(coil_images, ifft_centred(body[None]))
    combined = (maps[:, 0].conj() * coil_images).sum(1)
    return full, {"rss": rss(coil_images)[0], "body": combined[0].abs()}


def masked(full: RawScan, pattern: str, rate: float, seed: int = 0) -> RawScan:
    """Return a full scan with a mask."""
    sampling = draw_sampling(pattern, full.encoded_matrix, rate, np.random.default_rng(seed))
    mask = sampling.mask[None]
    return replace(full, kspace=full.kspace * mask[:, None], mask=mask)


def real_table(
    folder: Path, patterns: tuple[str, ...], rates: tuple[int, ...], methods: dict[str, Run]
) -> dict[str, float]:
    """Measure the real brain: `real.R4.poisson.varnet.psnr`, and `body.R4...` against the body-coil reference."""
    full, references = real_brain(folder)
    numbers: dict[str, float] = {}
    for rate in rates:
        for pattern in patterns:
            scan = masked(full, pattern, rate)
            rows = measure(scan, references, methods, full.kspace[0])
            show(f"real brain, {pattern}, R = {scan.acceleration:.2f}, against RSS", rows)
            numbers[f"real.R{rate}.{pattern}.acceleration"] = scan.acceleration
            for method, row in rows.items():
                for name, value in row.items():
                    base, metric = ("real", name) if "." not in name else name.split(".", 1)
                    numbers[f"{base}.R{rate}.{pattern}.{method}.{metric}"] = value
    return numbers


def held_out(
    cache: AnatomyCache, count: int, protocol: Protocol, contrasts: tuple[Contrast, ...] = ("T1w", "T2w", "PD")
) -> Iterator[SimulatedSlice]:
    """Scan `count` slices of subjects that no training saw; slice n is the same object for every protocol.

    Where the protocol leaves the matrix open, every slice has square pixels of a size of its own.
    """
    for number in range(count):
        draws = np.random.default_rng([7, number])
        if protocol.matrix is None:
            side = float(draws.uniform(*PIXEL_MM))
            protocol = replace(protocol, pixel_mm=(side, side))
        anatomy = cache.draw(draws, THICKNESS_MM)
        scanned = draw_object(anatomy, contrasts[number % len(contrasts)], draws, cell_mm=protocol.cell_mm)
        yield acquire(scanned, protocol, draws)


def simulated_scores(
    cache: AnatomyCache, count: int, protocol: Protocol, methods: dict[str, Run]
) -> dict[str, dict[str, float]]:
    """Return the mean numbers of every method over held-out slices."""
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in methods}
    for item in held_out(cache, count, protocol):
        scan = scan_of_slice(item.kspace, item.mask, item.spacing)
        for name, row in measure(scan, {"truth": item.image}, methods).items():
            rows[name].append(row | {"acceleration": item.acceleration})
    return {name: {key: statistics.mean(row[key] for row in found) for key in found[0]} for name, found in rows.items()}


def simulated_table(
    cache: AnatomyCache, patterns: tuple[str, ...], rates: tuple[int, ...], count: int, methods: dict[str, Run]
) -> dict[str, float]:
    """Measure held-out subjects: `simulated.R4.poisson.varnet.psnr`, and means over patterns."""
    numbers: dict[str, float] = {}
    for rate in rates:
        for pattern in patterns:
            protocol = Protocol(pattern=pattern, acceleration=rate, snr=25.0)
            rows = simulated_scores(cache, count, protocol, methods)
            show(f"{count} held-out simulated slices, {pattern}, nominal R = {rate}", rows)
            numbers |= _flat(f"simulated.R{rate}.{pattern}", rows)
        for method in methods:
            for metric in ("psnr", "ssim"):
                values = [numbers[f"simulated.R{rate}.{pattern}.{method}.{metric}"] for pattern in patterns]
                numbers[f"simulated.R{rate}.mean.{method}.{metric}"] = statistics.mean(values)
    return numbers


def resolution_table(cache: AnatomyCache, count: int, methods: dict[str, Run]) -> dict[str, float]:
    """Zero-shot: the same objects on twice as many pixels, and in a field of view 1.6 times as wide; R = 4 combs."""
    common = {"pattern": "equispaced", "acceleration": 4.0, "snr": 25.0, "cell_mm": 0.5}
    protocols = {
        "as_trained": Protocol(matrix=(112, 112), fov_mm=(224.0, 224.0), **common),
        "super_resolution_2x": Protocol(matrix=(224, 224), fov_mm=(224.0, 224.0), **common),
        "extended_fov": Protocol(matrix=(180, 180), fov_mm=(360.0, 360.0), **common),
    }
    numbers: dict[str, float] = {}
    for name, protocol in protocols.items():
        rows = simulated_scores(cache, count, protocol, methods)
        show(f"zero-shot {name}: {protocol.matrix} over {protocol.fov_mm} mm", rows)
        numbers |= _flat(f"zero_shot.{name}", rows)
    return numbers


def speed(full: RawScan, weights: dict[str, str], device: str, quick: bool) -> dict[str, float]:
    """Return seconds of a NO-VarNet image and of a posterior sample of 1000 calls, their ratio, and PSNRs.

    `_ratio` is that of one sample, `_ratio_8_samples` that of the eight which the command draws; `-own` is the network
    alone, without the soft data consistency that follows it. The quick form times 20 calls and multiplies by 50; it
    says so by the name of its number.
    """
    few = runners(("no-varnet-own", "no-varnet", "dds"), weights, samples=2, calls=20, device=device)
    if len(few) < 3:
        return {}
    scan, reference = masked(full, "equispaced", 4), rss(ifft_centred(full.kspace))[0]
    numbers: dict[str, float] = {}
    for name in ("no-varnet-own", "no-varnet"):
        few[name](scan)
        numbers[f"speed.{name}_seconds"] = min(few[name](scan).seconds for _ in range(3))
    twenty = few["dds"](scan)
    numbers["speed.dds_psnr_20_calls"] = judge(reference, twenty.image)["psnr"]
    if quick:
        total = twenty.seconds / 40 * 1000  # two samples of twenty calls
        numbers["speed.posterior_1000_seconds_extrapolated"] = total
    else:
        many = runners(("dds",), weights, samples=2, calls=1000, device=device)["dds"](scan)
        numbers["speed.posterior_1000_seconds"] = total = many.seconds / 2
        numbers["speed.dds_psnr_1000_calls"] = judge(reference, many.image)["psnr"]
    for name in ("no-varnet-own", "no-varnet"):
        numbers[f"speed.{name}_ratio"] = total / numbers[f"speed.{name}_seconds"]
        numbers[f"speed.{name}_ratio_8_samples"] = 8 * numbers[f"speed.{name}_ratio"]
    return numbers


def show(title: str, rows: dict[str, dict[str, float]]) -> None:
    """Print a table of methods."""
    columns = [name for name in COLUMNS if any(name in row for row in rows.values())]
    print(f"\n{title}\n{'':14}" + "".join(f"{name:>10}" for name in columns))
    for method, row in rows.items():
        cells = ("-" if name not in row else f"{row[name]:.4g}" for name in columns)
        print(f"{method:14}" + "".join(f"{cell:>10}" for cell in cells), flush=True)


def _flat(prefix: str, rows: dict[str, dict[str, float]]) -> dict[str, float]:
    return {f"{prefix}.{method}.{name}": value for method, row in rows.items() for name, value in row.items()}


def main() -> None:
    """Parse the command line, measure, show."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="R = 4, one simulated slice a pattern, few samples")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("FEWSTEP_TEST_DATA", default)))
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "fewstep" / "anatomy")
    parser.add_argument("--methods", default=",".join(ALL), help="comma-separated, of --weights or " + ", ".join(ALL))
    parser.add_argument("--patterns", default=",".join(PATTERNS))
    parser.add_argument("--only", choices=("real", "simulated", "zero-shot", "speed", "memory"), help="one part")
    parser.add_argument("--weights", nargs="*", default=[], metavar="NAME=PATH", help="weights of a method")
    parser.add_argument("--slices", type=int, default=6, help="held-out slices for each pattern and rate")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    quick, patterns = arguments.quick, tuple(arguments.patterns.split(","))
    weights = dict(item.split("=", 1) for item in arguments.weights)
    names = tuple(arguments.methods.split(","))
    methods = runners(names, weights, samples=2 if quick else 8, calls=20, device=arguments.device)
    count = 1 if quick else arguments.slices
    parts = (arguments.only,) if arguments.only else ("real", "simulated", "zero-shot", "speed", "memory")
    numbers: dict[str, float] = {"threads": arguments.threads}
    if "real" in parts:
        numbers |= real_table(arguments.data, patterns, (4,) if quick else (4, 6), methods)
    if "simulated" in parts or "zero-shot" in parts:
        try:
            cache = AnatomyCache(subjects("test", arguments.data / "brain"), arguments.data / "brain", arguments.cache)
        except InputError as error:
            print(f"held-out subjects are left out: {error}")
        else:
            if "simulated" in parts:
                numbers |= simulated_table(cache, patterns, (4,) if quick else (2, 4, 6, 8), count, methods)
            if "zero-shot" in parts:
                fast = {name: run for name, run in methods.items() if name not in ("dds", "bart-nlinv")}
                numbers |= resolution_table(cache, count, fast)
    if "speed" in parts:
        numbers |= speed(real_brain(arguments.data)[0], weights, arguments.device, quick)
        print("\n" + "\n".join(f"{name:44} {value:.4g}" for name, value in numbers.items() if "speed" in name))
    if "memory" in parts:  # BART is a process of its own
        ours = [name for name in methods if not name.startswith("bart")]
        numbers |= {f"memory.{name}_mib": peak_memory(name, weights) for name in ours}
        print("\n" + "\n".join(f"{name:44} {value:.4g}" for name, value in numbers.items() if "memory" in name))
    if arguments.json:
        write_numbers(arguments.json, numbers)
        print(f"wrote {arguments.json}")


if __name__ == "__main__":
    main()
