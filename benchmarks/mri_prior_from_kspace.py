"""A slice prior trained from undersampled k-space alone, beside one trained on the clean slices of the same subjects.

    python benchmarks/mri_prior_from_kspace.py --data ../shared/data/brain --work /tmp/kspace_prior --json scores.json

Both have the same network and number of steps. `--scans` undersampled scans of training subjects are all that the first
sees; the second sees their clean images. Both then reconstruct scans of test subjects with DDS. Simulated data.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from medical.reconstruction.least_squares import sense
from medical.reconstruction.posterior.config import PriorTraining
from medical.reconstruction.posterior.from_measurements import Scan, first_image, train_from_measurements
from medical.reconstruction.posterior.operator import to_channels
from medical.reconstruction.posterior.prior import load_prior
from medical.reconstruction.posterior.report import calibration_report
from medical.reconstruction.posterior.sampling import PosteriorSettings, estimate_scale, sample_posterior
from medical.reconstruction.posterior.slices import magnitude_scale, varied
from medical.reconstruction.posterior.training import PriorTrainer
from medical.simulation.acquisition import SimulatedSlice, simulate
from medical.simulation.protocol import Ranges
from medical.simulation.volumes import AnatomyCache, subjects


def scan_of(found: SimulatedSlice) -> Scan:
    """Return what a reconstruction may see."""
    return Scan(found.kspace, found.mask, found.coil_maps)


def main() -> None:
    """Train both priors, reconstruct with both, print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--matrix", type=int, default=64)
    parser.add_argument("--scans", type=int, default=128)
    parser.add_argument("--tests", type=int, default=12)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch", type=int, default=PriorTraining.model_fields["batch"].default)
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    side = arguments.matrix
    pixel = 256.0 / side
    ranges = Ranges(
        matrix=(side, side), pixel_mm=(0.8 * pixel, 1.1 * pixel), coils=(6, 8), snr=(20, 60), contrasts=("T1w",),
        patterns=("equispaced", "random", "gaussian"), accelerations=(2.0, 3.0, 4.0),
    )  # fmt: skip
    config = PriorTraining(
        ranges=ranges, steps=arguments.steps, batch=arguments.batch, warm_up=50, average=0.99, checkpoint_seconds=1e6
    )
    cache = arguments.work / "anatomies"
    train = AnatomyCache(subjects("train", arguments.data), arguments.data, cache)
    test = AnatomyCache(subjects("test", arguments.data), arguments.data, cache)
    draws = np.random.default_rng(0)
    seen = [simulate(train.draw(draws, 3.0), ranges, seed) for seed in range(arguments.scans)]
    scans = [scan_of(found) for found in seen]
    clean = torch.stack([found.image / float(magnitude_scale(found.image[None])) for found in seen])

    def distance(number: int, images: torch.Tensor) -> None:
        units = torch.tensor([estimate_scale(scan.kspace, scan.mask, scan.coil_maps) for scan in scans])
        truths = torch.stack([found.image for found in seen]) / units[:, None, None]
        error = float((images - truths).norm() / truths.norm())
        print(f"round {number}: images differ from the unseen truths by {error:.4f}", flush=True)

    from_kspace = train_from_measurements(
        scans, config, arguments.work / "kspace", rounds=arguments.rounds, after_round=distance
    )

    def draw(count: int, generator: torch.Generator) -> torch.Tensor:
        chosen = torch.randint(len(clean), (count,), generator=generator).tolist()
        return to_channels(torch.stack([varied(clean[index], generator) for index in chosen]))

    from_clean = PriorTrainer(config, draw, arguments.work / "clean").run()
    draws = np.random.default_rng(1)
    four = ranges.model_copy(update={"accelerations": (4.0,), "patterns": ("random",)})
    held_out = [simulate(test.draw(draws, 3.0), four, 10_000 + seed) for seed in range(arguments.tests)]
    truths = [found.image for found in held_out]
    numbers: dict[str, float] = {}
    for name, path in (("kspace", from_kspace), ("clean", from_clean)):
        prior = load_prior(path)
        drawn = [
            sample_posterior(
                found.kspace, found.mask, found.coil_maps, prior, PosteriorSettings(samples=8),
                generator=torch.Generator().manual_seed(seed),
            ).images
            for seed, found in enumerate(held_out)
        ]  # fmt: skip
        report = calibration_report(drawn, truths).numbers()
        numbers |= {f"{name}.{key}": value for key, value in report.items()}
    classical = {
        "sense": lambda found: sense(found.kspace[None], found.mask[None], found.coil_maps[None, None])[0, 0],
        "wavelet": lambda found: (
            first_image(scan_of(found)) * estimate_scale(found.kspace, found.mask, found.coil_maps)
        ),
    }
    for name, reconstruct in classical.items():
        values = [
            20 * torch.log10(truth.abs().max() / (reconstruct(found) - truth).abs().square().mean().sqrt())
            for found, truth in zip(held_out, truths, strict=True)
        ]
        numbers[f"{name}.psnr"] = float(torch.stack(values).mean())
    for key, value in numbers.items():
        print(f"{key:28s} {value:.4g}")
    if arguments.json:
        arguments.json.write_text(json.dumps(numbers, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
