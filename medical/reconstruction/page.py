"""The HTML report of one reconstruction: the image, what was sampled, how it was made and what to beware of."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medical.images import Image
from medical.preview import preview
from medical.reconstruction.raw import RawScan
from medical.sidecar import NOT_FOR_DIAGNOSIS, base_name, sidecar
from shared.pictures import Window, png_bytes, render
from shared.report import Picture, Report, Table

SIDE = 384


def write_page(path: Path, scan: RawScan, image: Image, *, overwrite: bool = False) -> list[Path]:
    """Write the report of `image`, which was reconstructed from the prepared `scan`; return the paths written."""
    facts = sidecar(image)
    report = Report(
        f"Reconstruction of {base_name(scan.source)}",
        f"{facts['method']}, acceleration {facts['acceleration']:.2f}"
        + (", simulated k-space" if scan.simulated else ""),
        notice=NOT_FOR_DIAGNOSIS,
    )
    size = image.voxel_size_mm()
    report.facts |= {
        "image matrix (x, y, z)": tuple(reversed(image.data.shape)),
        "voxel size in mm": tuple(round(float(value), 3) for value in size),
        "encoded matrix": scan.encoded_matrix,
        "coils": scan.coils,
        "acquired samples": f"{100 / scan.acceleration:.1f} % (R = {scan.acceleration:.2f})",
        "data-consistency residual": _residual(facts),
        "units": facts["units"],
    }
    report.warnings.extend(facts["warnings"])
    bitmap, window, _ = preview(image)
    report.section("Image", Picture(png_bytes(bitmap), f"Magnitude [{window}]", alt="reconstructed slices"))
    if scan.is_cartesian:
        report.section("Acquisition", _sampling_pictures(scan))
    report.section("Parameters", Table(("parameter", "value"), [(k, v) for k, v in facts["parameters"].items()]))
    report.section("Steps", "\n\n".join(facts["history"]))
    protocol = [(name, value) for name, value in facts["header"].items() if value not in (None, "", [])]
    if protocol:
        report.section("Protocol", Table(("name", "value"), protocol))
    return report.write(path, overwrite=overwrite)


def _residual(facts: dict) -> str:
    if facts.get("residual") is None:
        return "not defined for this method"
    expected = facts.get("residual_expected")
    noise = f"noise alone would leave {expected:.4f}" if expected else "noise level unknown (no noise scan)"
    return f"{facts['residual']:.4f} of the data; {noise}"


def _sampling_pictures(scan: RawScan) -> list[Picture]:
    """Mask and k-space of the middle slice, in the plane of the two undersampled axes."""
    middle = scan.slices // 2
    mask = scan.mask[middle].numpy().astype(np.float32)
    power = scan.kspace[middle].abs().square().sum(0).sqrt().numpy()
    if mask.ndim == 3:
        mask, power = mask[..., mask.shape[-1] // 2], power[..., power.shape[-1] // 2]
    level = np.log10(power / max(float(power.max()), 1e-30) + 1e-5)
    axes = "rows kz, columns ky" if scan.mask.ndim == 4 else "rows ky, columns kx"
    return [
        Picture(
            png_bytes(render(mask, Window(0, 1), size=(SIDE, SIDE))), f"Sampling mask ({axes})", alt="sampling mask"
        ),
        Picture(
            png_bytes(render(level, Window(-5, 0), colours="heat", size=(SIDE, SIDE))),
            f"log10 of the k-space magnitude, all coils, relative to its maximum, -5 to 0 ({axes})",
            alt="k-space magnitude",
        ),
    ]
