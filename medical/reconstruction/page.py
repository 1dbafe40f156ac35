"""The HTML report of one reconstruction: the image, what was sampled, how it was made and what to beware of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from medical.images import Image
from medical.preview import preview
from medical.reconstruction.raw import RawScan
from medical.reconstruction.trained_page import trained_section
from medical.sidecar import NOT_FOR_DIAGNOSIS, base_name, sidecar
from shared.files import refuse_existing, require_writable
from shared.pictures import Window, png_bytes, render
from shared.report import Picture, Report, Table

SIDE = 384


def write_page(
    path: Path,
    scan: RawScan,
    image: Image,
    *,
    companions: Mapping[str, Image] | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write the report of `image`, which was reconstructed from the prepared `scan`; return the paths written.

    Args:
        path: the HTML file.
        scan: the prepared scan.
        image: the image.
        companions: of a trained method; its report always shows the classical image beside the trained one.
        overwrite: replace an existing report.
    """
    facts = sidecar(image)
    report = Report(
        f"Reconstruction of {base_name(scan.source)}",
        f"{facts['method']}, {_sampled(facts)}" + (", simulated k-space" if scan.simulated else ""),
        notice=NOT_FOR_DIAGNOSIS,
    )
    size = image.voxel_size_mm()
    report.facts |= {
        "image matrix (x, y, z)": tuple(reversed(image.data.shape)),
        "voxel size in mm": tuple(round(float(value), 3) for value in size),
        "acquired matrix (x, y, z)": tuple(reversed(facts["acquired_matrix"])),
        "coils": scan.coils,
        "sampling": _sampled(facts),
        "data-consistency residual": _residual(facts),
        "units": facts["units"],
    }
    if facts.get("body_coil"):
        report.facts["coil maps measured against"] = facts["body_coil"]
    report.warnings.extend(facts["warnings"])
    bitmap, window, _ = preview(image)
    report.section("Image", Picture(png_bytes(bitmap), f"Magnitude [{window}]", alt="reconstructed slices"))
    if companions:
        heading, parts = trained_section(facts, companions)
        report.section(heading, *parts)
    if facts.get("residual") is not None:
        report.section("Agreement with the data", RESIDUAL_TEXT, *_residual_by_slice(facts))
    report.section("Acquisition", _sampling_pictures(scan) if scan.is_cartesian else [_trajectory_picture(scan)])
    report.section("Parameters", Table(("parameter", "value"), [(k, v) for k, v in facts["parameters"].items()]))
    report.section("Steps", "\n\n".join(facts["history"]))
    protocol = [(name, value) for name, value in facts["header"].items() if value not in (None, "", [])]
    if protocol:
        report.section("Protocol", Table(("name", "value"), protocol))
    return report.write(path, overwrite=overwrite)


RESIDUAL_TEXT = (
    "The residual is the part of the measured k-space, as a fraction of its norm, that the image seen through the coil "
    "maps does not explain. Noise leaves a residual even of a perfect image; the ratio of the two is near 1, or a "
    "little below since an image also fits some noise, when nothing else is left. A ratio well above 1 means that "
    "something is not explained: wrong coil maps, motion, an object larger than the field of view, too strong "
    "regularisation; in data of very high signal, small errors of the maps are enough. A ratio near 1 does not prove "
    "the image: what was not sampled leaves no residual."
)


def _sampled(facts: dict) -> str:
    if facts.get("acceleration") is None:
        return f"{facts['shots']} shots of {facts['samples_per_shot']} samples"
    return f"acceleration {facts['acceleration']:.2f} ({100 / facts['acceleration']:.1f} % of k-space acquired)"


def _residual(facts: dict) -> str:
    if facts.get("residual") is None:
        return "not defined for this method"
    return f"{100 * facts['residual']:.2f} % of the data; {_verdict(facts['residual'], facts.get('residual_expected'))}"


def _verdict(residual: float, expected: float | None) -> str:
    if not expected:
        return "noise level unknown (no noise scan)"
    return f"noise alone would leave {100 * expected:.2f} %, ratio {residual / expected:.2f}"


def _residual_by_slice(facts: dict) -> list[Table]:
    found = facts.get("residual_by_slice")
    if not found:
        return []
    expected = facts.get("residual_expected_by_slice") or [None] * len(found)
    rows = [(z, r, e, r / e if e else None) for z, (r, e) in enumerate(zip(found, expected, strict=True))]
    return [Table(("slice", "residual", "expected of noise", "ratio"), rows)]


def _trajectory_picture(scan: RawScan) -> Picture:
    """Where the samples of the middle slice lie in the (kx, ky) plane."""
    assert scan.trajectory is not None
    middle = scan.slices // 2
    points = scan.trajectory[middle][scan.mask[middle]].numpy()[:, :2]
    reach = float(np.abs(points).max())
    counts, _, _ = np.histogram2d(points[:, 1], points[:, 0], bins=SIDE, range=[[-reach, reach]] * 2)
    return Picture(
        png_bytes(render(np.minimum(counts, 1).astype(np.float32), Window(0, 1), size=(SIDE, SIDE))),
        f"Sampled points, kx to the right, ky downwards, up to {reach:.0f} cycles per field of view",
        alt="k-space trajectory",
    )


def check_page(path: Path, *, overwrite: bool = False) -> None:
    """Raise `InputError` if `write_page` would refuse `path`: call it before long work."""
    for output in (path, path.with_name(f"{path.stem}.report.json")):
        refuse_existing(output, overwrite=overwrite)
        require_writable(output)


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
