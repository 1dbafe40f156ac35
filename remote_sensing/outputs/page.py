"""The quicklook and the HTML page of a comparison."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from remote_sensing.outputs.quicklook import panels, sheet, shown_bands
from remote_sensing.rasters import Pair
from shared.pictures import png_bytes
from shared.report import Code, Picture, Report, Table

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from PIL.Image import Image as Bitmap

LARGEST = 20  # polygons in the table
METHODS = {
    "ir-mad": "IR-MAD",
    "cva": "change vector analysis",
    "pca-kmeans": "PCA-k-means",
}


def write_pictures(
    folder: Path, pair: Pair, dates: NDArray[np.float32], frame: GeoDataFrame, facts: dict[str, Any]
) -> None:
    """Write quicklook.png and report.html into a folder that holds change.tif and probability.tif.

    Args:
        folder: of the results.
        pair: what was compared.
        dates: both dates small, of `Sample.pictures`.
        frame: the polygons.
        facts: what result.json will say.
    """
    pictures, stretch = panels(pair, dates, folder / "change.tif", folder / "probability.tif")
    names = {
        "before": f"before: {facts['date_before'] or pair.before.path.name}",
        "after": f"after: {facts['date_after'] or pair.after.path.name}",
        "change": "change, red on the second date",
        "probability": "probability of change, 0 to 1",
    }
    (folder / "quicklook.png").write_bytes(png_bytes(sheet(pictures, names)))
    method = METHODS.get(str(facts.get("method")), str(facts.get("method")))
    report = Report(
        f"Change from {pair.before.path.name} to {pair.after.path.name}",
        f"{method}, {facts['polygons']} changed areas, {area_text(facts['changed_area_m2'], facts['changed_pixels'])}",
    )
    report.warnings += facts["warnings"]
    report.facts |= {
        "dates": f"{facts['date_before'] or 'unknown'} to {facts['date_after'] or 'unknown'}",
        "grid": facts["grid"],
        "data at both dates": f"{100 * facts['data_share_both']:.1f} % of the grid",
        "changed": f"{100 * facts['changed_share']:.2f} % of the pixels with data",
        "method": method,
        "score": facts.get("score"),
        "threshold": facts.get("threshold"),
        "threshold rule": facts.get("threshold_rule"),
        "shift of the second date": _shift(facts),
        "time": f"{facts['seconds']:.1f} s",
    }
    report.section("Map", list(_pictures(pictures, names, pair, stretch)))
    report.section(
        "Probability",
        "Share of the pixels with data by probability of change. "
        + (
            "It was calibrated on labels."
            if facts.get("threshold_rule") == "calibrated"
            else "It orders the pixels and is 1/2 at the threshold; it was not calibrated on labels."
        ),
        _histogram(facts),
    )
    report.section(f"Largest of {len(frame)} changed areas", _areas(frame))
    report.section("Again", Code(facts["command"]))
    (folder / "report.html").write_text(report.html(), encoding="utf-8")


def area_text(area: float | None, pixels: int) -> str:
    """Return an area as people read it; pixels where it has none."""
    if area is None or area != area:
        return f"{pixels} pixels"
    return f"{area / 1e6:.4g} km2" if area >= 1e6 else f"{area / 1e4:.4g} ha" if area >= 1e4 else f"{area:.4g} m2"


def _pictures(pictures: dict[str, Bitmap], names: dict[str, str], pair: Pair, stretch: str) -> Iterator[Picture]:
    red, green, blue = (pair.before.names[band] for band in shown_bands(pair.before.names))
    colours = red if red == green else f"{red}, {green}, {blue} as red, green, blue"
    told = f"{colours}; {stretch}; gray: no data"
    for name, bitmap in pictures.items():
        caption = names[name] if name in ("change", "probability") else f"{names[name]} ({told})"
        yield Picture(png_bytes(bitmap), caption, alt=f"map of the pair: {names[name]}")


def _shift(facts: dict[str, Any]) -> str:
    if not facts["shift_confident"]:
        return "could not be estimated"
    done = "applied" if facts["shift_applied"] else "not applied"
    return f"{facts['shift_rows']:+.2f} rows, {facts['shift_cols']:+.2f} columns, {done}"


def _histogram(facts: dict[str, Any]) -> Table:
    counts = facts["probability_histogram"]
    total = max(1, sum(counts))
    rows = []
    for start in range(0, len(counts), 4):
        part = counts[start : start + 4]
        low, high = start / len(counts), (start + len(part)) / len(counts)
        rows.append((f"{low:.1f} to {high:.1f}", f"{100 * sum(part) / total:.2f} %"))
    return Table(("probability", "pixels"), rows)


def _areas(frame: GeoDataFrame) -> Table:
    shown = frame.head(LARGEST)
    return Table(
        ("id", "area", "pixels", "mean probability"),
        [
            (int(row.id), area_text(row.area_m2, row.pixels), int(row.pixels), float(row.mean_probability))
            for row in shown.itertuples()
        ],
        "Areas on the ellipsoid.",
    )
