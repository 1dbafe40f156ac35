"""Why the default threshold is 0.3 noise standard deviations, and why maps are cropped at 0.3 for sparse methods.

    python -m benchmarks.mri_defaults [--data FOLDER] [--json FILE]

Two tables. Threshold: simulated scans of the MNI152 brain, 128 x 128, 8 coils, prewhitened, NRMSE after the best scalar
against the whitened truth, over pixels above 10 % of its maximum. Crop: the in-vivo brain of tests/DATA.md at R = 2.56
against RSS of the full scan, over all pixels and over those where maps of the full scan are not zero; left out when
the data folder is absent.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import torch

from medical import reconstruction as mri
from medical.anatomy import load_anatomy
from medical.metrics import nrmse_best_scalar
from medical.reconstruction.methods import METHODS, coil_maps_of, encode
from medical.reconstruction.simulate import simulate_scan
from shared.numbers import write_numbers

WEIGHTS = (0.03, 0.1, 0.3, 0.6, 1.0, 1.5)
CROPS = (0.0, 0.3, 0.6, 0.8)


def thresholds() -> dict[str, float]:
    """Print and return the error of every method, SNR, acceleration and threshold."""
    anatomy, found = load_anatomy(), {}
    for snr in (8, 30, 100):
        for factor in (3, 6):
            generator = torch.Generator().manual_seed(0)
            raw, truth = simulate_scan(
                anatomy, matrix=(128, 128), coils=8, acceleration=factor, snr=snr, generator=generator
            )
            scan = mri.prepare(raw)
            reference = truth.whitened().data
            head = reference.abs() > 0.1 * reference.abs().max()
            encoding = encode(scan, coil_maps_of(scan, crop=0.3)[0])
            for method in ("wavelet", "tv"):
                errors = []
                for weight in WEIGHTS:
                    generator = torch.Generator().manual_seed(0)
                    x = METHODS[method].minimise(encoding, weight / float(encoding.scale), 60, generator)[:, 0]
                    errors.append(nrmse_best_scalar(reference * head, x * head))
                    found[f"{method}_snr{snr}_R{scan.acceleration:.1f}_weight{weight}"] = errors[-1]
                print(
                    f"| {method}, SNR {snr}, R {scan.acceleration:.1f} |", " | ".join(f"{e:.4f}" for e in errors), "|"
                )
    return found


def crops(folder: Path) -> dict[str, float]:
    """Print and return the error of wavelet and SENSE for every crop."""
    golden = np.load(folder / "mri" / "bart080_golden_cimaX_brain_R4.npz", allow_pickle=False)
    reference = torch.from_numpy(golden["rss"])[None]
    head = torch.from_numpy(np.abs(golden["sens_full"]).sum(0) > 0)[None]
    scan, found = mri.read(folder / "mri" / "cimaX_brain_16ch_128_R4.mrd.h5"), {}
    for crop in CROPS:
        encoding = encode(scan, coil_maps_of(scan, crop=crop)[0])
        for method in ("wavelet", "tv", "sense"):
            recipe = METHODS[method]
            x = recipe.minimise(encoding, recipe.lamda, recipe.iterations, torch.Generator().manual_seed(0))[:, 0]
            everywhere, inside = nrmse_best_scalar(reference, x), nrmse_best_scalar(reference * head, x * head)
            found |= {f"{method}_crop{crop}_all": everywhere, f"{method}_crop{crop}_head": inside}
            print(f"| crop {crop} | {method} | {everywhere:.4f} | {inside:.4f} |")
    return found


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("FEWSTEP_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=default, help="folder of tests/DATA.md")
    parser.add_argument("--json", type=Path, help="also write the numbers as a flat JSON object")
    arguments = parser.parse_args()
    found = thresholds()
    if (arguments.data / "mri").is_dir():
        found |= crops(arguments.data)
    if arguments.json is not None:
        write_numbers(arguments.json, found)


if __name__ == "__main__":
    main()
