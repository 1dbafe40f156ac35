"""The page of the bench: for each case a plot of quality against compute and its table."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from shared.bench.case import Row
from shared.errors import MissingExtra
from shared.report import Picture, Report, Table


def write_page(
    path: Path, rows: Sequence[Row], numbers: Mapping[str, float], *, quick: bool, device: str, overwrite: bool
) -> None:
    """Write an HTML page (and its facts as JSON beside it).

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    report = Report("fewstep bench core", "Difference from the exact ODE of the same network, against counted compute")
    report.facts |= {"quick": quick, "device": device}
    for name in dict.fromkeys(row.case for row in rows):
        mine = [row for row in rows if row.case == name]
        picture = Picture(plot(mine), f"{name}: every method, log scales", alt=f"error against price on {name}")
        table = Table(
            ("method", "price in calls", "RMSE", "spread over seeds"),
            [(row.method, row.price, row.rmse, row.spread) for row in mine],
        )
        report.section(name, picture, table)
    others = [(key, value) for key, value in numbers.items() if key.startswith(("gmm.", "overhead."))]
    report.section("Orders and overhead", Table(("number", "value"), others))
    report.write(path, overwrite=overwrite)


def plot(rows: Sequence[Row]) -> bytes:
    """Return a PNG of error against price; one colour a family, fewer plain steps joined by a line."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", extra="bench", purpose="for the plots of the bench") from error
    figure = Figure(figsize=(9, 6), dpi=110, layout="constrained")
    axes = figure.subplots()
    for index, family in enumerate(dict.fromkeys(row.family for row in rows)):
        mine = sorted((row for row in rows if row.family == family), key=lambda row: row.price)
        x, y, bars = ([getattr(row, name) for row in mine] for name in ("price", "rmse", "spread"))
        joined = "-" if family == "plain" else ""
        axes.errorbar(x, y, bars, fmt=f"o{joined}", color=f"C{index % 10}", label=family, markersize=4, linewidth=1)
    axes.set(
        xscale="log", yscale="log", xlabel="price in network calls (counted operations)", ylabel="RMSE to exact ODE"
    )
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3, which="both")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
