"""The core's part of `fewstep demo`: digits from a small trained network, in few calls against the exact ODE."""

from __future__ import annotations

from pathlib import Path

import torch

from shared.digits import EXACT_STEPS, draw_digits, load_digits_denoiser
from shared.pictures import Window, montage, render
from shared.report import Picture, Section, Table

CALLS = (5, 10, 20)
COUNT = 8
SIDE = 72
NAMES = {"ddim": "DDIM", "multistep": "DPM-Solver++(2M)", "calibrated": "Calibrated"}


def demo(folder: Path, *, seed: int, device: torch.device) -> list[Section]:
    """Draw digits with three solvers in 5, 10 and 20 network calls; `folder` is not used, everything is on the page."""
    drawn = draw_digits(load_digits_denoiser(device=device), count=COUNT, calls=CALLS, seed=seed)

    def strip(images: torch.Tensor, caption: str) -> Picture:
        tiles = [render(image.cpu().numpy(), Window(-1.0, 1.0), size=(SIDE, SIDE)) for image in images]
        return Picture(montage(tiles, columns=COUNT), caption, alt=f"eight digits, {caption}")

    pictures = [strip(drawn.exact, f"Exact ODE: Heun, {2 * EXACT_STEPS - 1} calls")]
    pictures += [
        strip(images, f"{NAMES[solver]}, {calls} calls")
        for (solver, calls), images in sorted(drawn.images.items(), key=lambda item: item[0][1])
    ]
    rows = [(NAMES[name], *(drawn.rmse.get((name, calls), "-") for calls in CALLS)) for name in NAMES]
    return [
        Section(
            "Core: digits in few calls",
            (
                "A small network trained on the 8 x 8 digits of scikit-learn (1500 images). Every row starts from the "
                "same noise. DDIM and DPM-Solver++(2M) use the grid of Karras et al.; the calibrated solver brings its "
                "own grid and coefficients, fitted to 64 exact trajectories of this network from other noises.",
                *pictures,
                Table(
                    ("solver", *(f"{calls} calls" for calls in CALLS)),
                    rows,
                    "Root mean square difference from the exact ODE; pixels are in [-1, 1].",
                ),
            ),
        )
    ]
