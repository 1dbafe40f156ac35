"""The part of `fewstep demo` on MRI: simulate a scan of a real anatomy, write it as ISMRMRD, reconstruct it."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt

from medical import metrics
from medical.images import Image, display_oriented, write_image
from medical.preview import mark_orientation
from medical.reconstruction import pipeline
from medical.reconstruction.formats import read_scan
from medical.reconstruction.settings import Method, Settings
from shared.config import load_config
from shared.files import atomic_path
from shared.pictures import Window, montage, png_bytes, render, titled
from shared.report import Code, Picture, Section, Table

if TYPE_CHECKING:
    from PIL.Image import Image as Bitmap

SIDE = 320
ERROR_SHARE = 0.1  # error maps show up to this part of the image window
TITLES = {
    "rss": "Zero-filled RSS",
    "sense": "CG-SENSE",
    "wavelet": "L1-wavelet",
    "tv": "Total variation",
    "no-varnet": "NO-VarNet",
}


class DemoScan(BaseModel):
    """The simulated acquisition, see `simulate_scan`; `matrix` is the number of pixels along both axes."""

    model_config = ConfigDict(extra="forbid")

    coils: PositiveInt
    acceleration: PositiveInt
    calibration_lines: PositiveInt
    matrix: PositiveInt
    snr: PositiveFloat
    methods: list[Method]


def demo(folder: Path, *, seed: int, device: torch.device) -> list[Section]:
    """Simulate, write and reconstruct; the raw file and the images lie in `folder`."""
    from medical.anatomy import load_anatomy
    from medical.reconstruction.formats.ismrmrd_writer import write_ismrmrd
    from medical.reconstruction.simulate import simulate_scan

    plan = load_config("medical/demo", DemoScan)
    anatomy = load_anatomy()
    simulated, truth = simulate_scan(
        anatomy,
        matrix=(plan.matrix, plan.matrix),
        coils=plan.coils,
        acceleration=plan.acceleration,
        calibration_lines=plan.calibration_lines,
        snr=plan.snr,
        generator=torch.Generator().manual_seed(seed),
    )
    raw = folder / "simulated.mrd.h5"
    write_ismrmrd(raw, simulated, overwrite=True)
    reference = truth.whitened()
    rows, images, errors = [], [_picture(reference, reference)], []
    for method in plan.methods:
        settings = Settings(method=method)
        begin = time.perf_counter()
        scan = pipeline.prepare(read_scan(raw), settings)
        image = pipeline.reconstruct(scan, settings, seed=seed, device=device)
        seconds = time.perf_counter() - begin
        write_image(image, folder / f"{method}.nii.gz", overwrite=True)
        images.append(_picture(image, reference))
        errors.append(_error_picture(image, reference))
        residual, expected = (image.provenance.get(key) for key in ("residual", "residual_expected"))
        rows.append(
            (
                TITLES[method],
                metrics.nrmse_best_scalar(reference.data, image.data),
                metrics.ssim(reference.data, _scaled(image, reference)),
                metrics.psnr(reference.data, _scaled(image, reference)),
                residual / expected if residual and expected else None,
                seconds,
            )
        )
    write_image(reference, folder / "truth.nii.gz", overwrite=True)
    with atomic_path(folder / "comparison.png", overwrite=True) as scratch:
        scratch.write_bytes(png_bytes(_comparison(images, errors, rows)))
    titles = [TITLES[method] for method in plan.methods]
    source = anatomy.provenance.get("source", "a phantom")
    return [
        Section(
            "MRI: a simulated scan, reconstructed from its raw file",
            (
                f"Simulated, not measured: {source} seen by {plan.coils} coils with correlated noise, every "
                f"{plan.acceleration}th line and {plan.calibration_lines} calibration lines, true acceleration "
                f"R = {simulated.acceleration:.2f}. Each method starts from the ISMRMRD file and never sees the truth.",
                [
                    Picture(bitmap, title, alt=f"axial brain slice, {title}")
                    for bitmap, title in zip(images, ["Truth: a perfect reconstruction", *titles], strict=True)
                ],
                [
                    Picture(bitmap, f"Error of {title}, 0 to {100 * ERROR_SHARE:.0f} % of the window", alt="error map")
                    for bitmap, title in zip(errors, titles, strict=True)
                ],
                Table(
                    ("method", "NRMSE", "SSIM", "PSNR in dB", "residual / noise", "seconds"),
                    rows,
                    "Magnitude against the truth, after the best scalar, all pixels. residual / noise: "
                    "data-consistency residual over what noise alone would leave; 1 is consistent.",
                ),
                Code(f"fewstep mri reconstruct {raw} -o brain.nii.gz --method wavelet --report brain.html"),
            ),
        )
    ]


def _comparison(images: list[Bitmap], errors: list[Bitmap], rows: list[tuple]) -> Bitmap:
    """One sheet: each method with its error map below it, and the truth."""
    titles = ["Truth (simulated scan)", *(f"{name}, NRMSE {nrmse:.3f}" for name, nrmse, *_ in rows)]
    above = [titled(bitmap, [title]) for bitmap, title in zip(images, titles, strict=True)]
    blank = render(np.zeros((SIDE, SIDE)), Window(0.0, 1.0))
    below = [titled(bitmap, [f"error, 0 to {100 * ERROR_SHARE:.0f} % of the window"]) for bitmap in errors]
    return montage([*above, titled(blank, [""]), *below], columns=len(above))


def _scaled(image: Image, reference: Image) -> torch.Tensor:
    """|image| times the one scalar that brings it nearest to |reference|."""
    x, r = image.magnitude(), reference.magnitude()
    return x * (x * r).sum() / (x * x).sum()


def _window(reference: Image) -> Window:
    return Window.at_percentile(reference.magnitude().numpy())


def _picture(image: Image, reference: Image) -> Bitmap:
    shown = display_oriented(replace(image, data=_scaled(image, reference)))
    bitmap = render(shown.data[len(shown.data) // 2].numpy(), _window(reference), size=(SIDE, SIDE))
    mark_orientation(bitmap, shown)
    return bitmap


def _error_picture(image: Image, reference: Image) -> Bitmap:
    difference = (_scaled(image, reference) - reference.magnitude()).abs()
    shown = display_oriented(replace(image, data=difference))
    high = ERROR_SHARE * _window(reference).high
    return render(shown.data[len(shown.data) // 2].numpy(), Window(0.0, high), colours="heat", size=(SIDE, SIDE))
