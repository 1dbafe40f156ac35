"""The report of a quality control: one HTML page with pictures and tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from medical.brain.output import LATERALITY
from medical.brain.qc.measure import EDGES, Measured
from medical.brain.qc.permutation import StructureTest
from medical.brain.qc.quality import PICTURED, Quality
from medical.sidecar import NOT_FOR_DIAGNOSIS
from shared.pictures import COLOURS, INK, Window, label, montage, render, titled
from shared.report import Picture, Report, Table

if TYPE_CHECKING:
    from PIL.Image import Image as Bitmap

TILE = 176  # longer side of a slice, pixels
PLOT = (640, 240)
SYNTHETIC_INK, REAL_INK = COLOURS["heat"][6], (120, 180, 230)
UNIT_WINDOW = Window(0.0, 1.0, "fixed")


def report_of(quality: Quality, command: str = "") -> Report:
    """Return the page of a result; `command` is what made it."""
    from shared.report import Code

    numbers, cut = quality.numbers, quality.cut
    page = Report(
        "Quality of synthetic brain volumes",
        f"{numbers['n']:.0f} volumes of {quality.facts['synthetic']['folder']} beside {numbers['n_real']:.0f} of "
        f"{quality.facts['reference']['folder']}, {quality.grid}",
        notice=NOT_FOR_DIAGNOSIS,
        facts=_facts(quality),
        warnings=quality.warnings,
    )
    page.section(
        "At a glance",
        Table(("number", "synthetic", "real", "what real is"), _summary(numbers)),
        "A number means something beside that of the real heads only: Frechet distances fall with more volumes and "
        "depend on the features, similarities on the grid.",
    )
    page.section("Volumes and their nearest training heads", slices_picture(quality), LATERALITY.capitalize() + ".")
    page.section(
        "Copies",
        f"NCC of aligned brains, as they are and mirrored. Cut {cut.value:.4f}: {cut.source}.",
        Table(
            ("synthetic", "nearest training head", "NCC", "mirrored", "copy"),
            [
                (row.volume, row.nearest, row.ncc, row.mirrored, row.copied)
                for row in sorted(quality.neighbours, key=lambda row: -row.ncc)[:20]
            ],
            caption="The twenty nearest; the JSON file has all.",
        ),
    )
    page.section(
        "Volumes of structures",
        "Permutation tests between real and synthetic heads; p by Holm's correction over the structures of a table. "
        "|mean| sees a shift, energy any difference of the distributions.",
        *[_tests_table(quality.tests, unit) for unit in ("cm3", "share of the brain")],
    )
    page.section("Intensities", histogram_picture(quality.synthetic, quality.real))
    if command:
        page.section("Command", Code(command))
    return page


def slices_picture(quality: Quality) -> Picture:
    """Return middle slices of the first synthetic heads, and right of each its nearest training head."""
    tiles: list[Bitmap] = []
    rows = list(zip(quality.synthetic.small[:PICTURED], quality.nearest_small, quality.neighbours, strict=False))
    for made, near, row in rows:
        both = [*_views(made), *_views(near)]
        label(both[0], "synthetic", size=11)
        label(both[3], f"nearest, NCC {row.ncc:.3f}" + (" COPY" if row.copied else ""), size=11)
        tiles += both
    sheet = titled(
        montage(tiles, columns=6),
        ["Not for diagnosis. Left of the picture is the patient's right.", f"{UNIT_WINDOW}"],
        size=12,
    )
    return Picture(
        sheet, "Axial, coronal and sagittal slices through the middle: a synthetic head, and the training head nearest "
        "to it.", alt="slices of synthetic heads beside those of their nearest training heads",
    )  # fmt: skip


def _views(volume: Tensor) -> list[Bitmap]:
    """Return axial, coronal and sagittal middle slices of a volume in voxel order LPS, as radiologists hang them."""
    values = volume.float().numpy()
    x, y, z = (n // 2 for n in values.shape)
    planes = [values[:, :, z].T, values[:, y, ::-1].T, values[x, :, ::-1].T]
    scale = TILE / max(values.shape)
    return [
        render(plane, UNIT_WINDOW, size=(max(1, round(plane.shape[1] * scale)), max(1, round(plane.shape[0] * scale))))
        for plane in planes
    ]


def histogram_picture(synthetic: Measured, real: Measured) -> Picture:
    """Return the histograms of both sets: means as lines, the 5 and 95 % quantiles of the real heads as a band."""
    from PIL import Image, ImageDraw

    a, b = (np.stack(side.histograms) for side in (synthetic, real))
    low, high = np.quantile(b, [0.05, 0.95], axis=0)
    top = float(max(a.mean(0)[1:].max(), high[1:].max(), 1e-6)) * 1.05
    width, height = PLOT
    sheet = Image.new("RGB", PLOT, (12, 13, 15))
    draw = ImageDraw.Draw(sheet)
    middles = (EDGES[:-1] + EDGES[1:]) / 2

    def line(values: np.ndarray) -> list[tuple[float, float]]:
        return [
            (m * (width - 1), height - 1 - min(v / top, 1) * (height - 24))
            for m, v in zip(middles, values, strict=True)
        ]

    draw.polygon([*line(high), *reversed(line(low))], fill=(35, 55, 72))
    draw.line(line(b.mean(0)), fill=REAL_INK, width=2)
    draw.line(line(a.mean(0)), fill=SYNTHETIC_INK, width=2)
    label(sheet, "0", at="bottom left", size=11)
    label(sheet, "intensity 1", at="bottom right", size=11)
    for text, ink, x in (("real", REAL_INK, 250), ("synthetic", SYNTHETIC_INK, 320)):
        draw.line([(x, 12), (x + 18, 12)], fill=ink, width=2)
        draw.text((x + 24, 6), text, fill=INK)
    return Picture(
        sheet, "Intensities of the head without air, at 4 mm: mean share of voxels in 64 bins; the band holds nine in "
        "ten real heads.", alt="histograms of intensities of synthetic and real heads",
    )  # fmt: skip


def _summary(numbers: dict[str, float]) -> list[tuple[Any, ...]]:
    """Return rows (number, synthetic, real, what real is)."""
    rows: list[tuple[Any, ...]] = []
    for end in sorted({key.removeprefix("fd_real_floor") for key in numbers if _is_floor(key)}):
        name = end.removeprefix("_") or "brain features"
        rows += [
            (
                f"Frechet distance, {name}, n = {numbers[f'fd_n{end}']:.0f}",
                numbers[f"fd{end}"], numbers[f"fd_real_floor{end}"], "as many real heads against the other half",
            ),
            (
                f"MMD (KID's kernel), {name}; p = {numbers[f'mmd_p{end}']:.3g}",
                numbers[f"mmd{end}"], numbers[f"mmd_real_floor{end}"], "half of the real heads against the other",
            ),
        ]  # fmt: skip
    return [
        *rows,
        ("MS-SSIM of pairs (low: diverse)", numbers["ms_ssim"], numbers["ms_ssim_real"], "pairs of real heads"),
        ("mean NCC to the nearest training head", numbers["nearest_ncc"], numbers["nearest_ncc_real"],
         "real heads among each other"),
        ("largest NCC to a training head", numbers["nearest_ncc_max"], numbers["nearest_ncc_cut"], "cut of copies"),
        ("share of copies", numbers["copied"], None, ""),
        ("share repeated within the set", numbers["repeated"], None, ""),
        ("sharpness in the brain, 1/mm", numbers["sharpness"], numbers["sharpness_real"], "mean of real heads"),
        ("intensity of air", numbers["air"], numbers["air_real"], "mean of real heads"),
        ("distance of mean histograms", numbers["histogram_distance"], numbers["histogram_distance_real_floor"],
         "halves of the real heads"),
    ]  # fmt: skip


def _is_floor(key: str) -> bool:
    return key.startswith("fd_real_floor") and not key.endswith(("_low", "_high"))


def _tests_table(tests: Sequence[StructureTest], unit: str) -> Table:
    """Return the table of a unit: a row a structure, both statistics side by side."""
    of = {(test.structure, test.statistic): test for test in tests if test.unit == unit}
    rows = []
    for name in dict.fromkeys(structure for structure, _ in of):
        mean, energy = of[name, "mean"], of[name, "energy"]
        rows.append(
            (
                name.replace("_", " "),
                f"{mean.mean_real:.3g} ({mean.sd_real:.2g})",
                f"{mean.mean_synthetic:.3g} ({mean.sd_synthetic:.2g})",
                mean.p,
                mean.p_holm,
                energy.p,
                energy.p_holm,
            )
        )
    columns = (
        "structure", "real: mean (sd)", "synthetic: mean (sd)", "p, |mean|", "Holm", "p, energy", "Holm",
    )  # fmt: skip
    return Table(columns, rows, caption=unit)


def _facts(quality: Quality) -> dict[str, Any]:
    facts = quality.facts
    models = facts["synthetic"]["models"]
    return {
        "synthetic volumes": f"{facts['synthetic']['volumes']}, sha256 {facts['synthetic']['sha256'][:16]}",
        "made by": ", ".join(models) or "no sidecars",
        "reference": f"{facts['reference']['volumes']}, sha256 {facts['reference']['sha256'][:16]}",
        "searched for copies": facts["training"],
        "grid": facts["grid"],
        "intensities": facts["intensities"],
        "segmenter": f"{facts['segmenter']['name']}, sha256 {facts['segmenter']['sha256'][:16]}",
        "volumes by": facts["volumes"] if isinstance(facts["volumes"], str) else "MeshNet (brainchop)",
        "seed": facts["seed"],
    }
