"""What `fewstep bench core` does: run every method and peer on every case, print tables, write numbers and a page.

A method family is a module with `rows(case, *, quick) -> list[Row]`; it returns no rows for a case to which it does not
apply. Fewer plain steps are the rival on every case.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from shared.bench.case import CASES, EXACT, Case, Row, load_case, plain_row
from shared.devices import resolve_device
from shared.errors import InputError
from shared.files import refuse_existing
from shared.numbers import write_numbers
from shared.progress import tracked

if TYPE_CHECKING:
    from rich.console import Console

FAMILIES = (
    "shared.bench.calibrated_rows",
    "shared.bench.reuse_rows",
    "shared.bench.search_rows",
    "shared.bench.feedback_rows",
    "shared.bench.pruning_rows",
    "shared.bench.bottleneck_rows",
    "shared.bench.peer_rows",
)
QUICK_CASES = (*EXACT, "shared/digits_denoiser", "shared/action_unet")
PLAIN_CALLS = (5, 6, 8, 10, 12, 14, 20)
QUICK_PLAIN_CALLS = (5, 8, 10, 14, 20)
SHORT = {"shared/digits_denoiser": "digits", "exact/mixture": "gmm", "exact/digits_kde": "digits_kde"}


def run(
    *, cases: Sequence[str], quick: bool, device: str, output: Path | None, json: Path | None, quiet: bool,
    overwrite: bool,
) -> None:  # fmt: skip
    """Measure, print and write.

    Args:
        cases: names; none takes all, or with `quick` those of QUICK_CASES.
        quick: fewer noises, numbers of calls and iterations of searches: minutes on a CPU.
        device: where the networks run.
        output: page to write (HTML), with a plot for each case.
        json: flat numbers to write.
        quiet: no tables.
        overwrite: replace an existing page.

    Raises:
        InputError: an unknown case, or an existing page.
    """
    from shared.bench.orders import order_numbers
    from shared.bench.overhead import overhead_numbers

    where = resolve_device(device)
    chosen = tuple(cases) or (QUICK_CASES if quick else (*EXACT, *CASES))
    for name in chosen:
        if name not in (*EXACT, *CASES):
            known = ", ".join((*EXACT, *CASES))
            raise InputError("--case", found=name, expected=f"one of {known}", fix="Check the name.")
    if output is not None:
        refuse_existing(output, overwrite=overwrite)
    numbers = {**order_numbers(quick=quick), **overhead_numbers(quick=quick)}
    if not quiet:
        _print_numbers(numbers)
    found: list[Row] = []
    for name in chosen:
        rows = case_rows(load_case(name, quick=quick, device=where), quick=quick, progress=None if quiet else name)
        found += rows
        if not quiet:
            _print_rows(name, rows)
    numbers |= row_numbers(found)
    if json is not None:
        write_numbers(json, numbers)
    if output is not None:
        from shared.bench.page import write_page

        write_page(output, found, numbers, quick=quick, device=str(where), overwrite=overwrite)


def case_rows(case: Case, *, quick: bool, progress: str | None = None) -> list[Row]:
    """Return the rows of every family and of fewer plain steps, sorted by price."""
    found = [plain_row(case, calls) for calls in (QUICK_PLAIN_CALLS if quick else PLAIN_CALLS)]
    for module in tracked(FAMILIES, progress):
        found += import_module(module).rows(case, quick=quick)
        if case.device.type == "cuda":
            torch.cuda.empty_cache()
    return sorted(found, key=lambda row: row.price)


def row_numbers(rows: Iterable[Row]) -> dict[str, float]:
    """Return the numbers of the rows under names such as digits.calibrated.5.rmse."""
    numbers: dict[str, float] = {}
    for row in rows:
        key = f"{SHORT.get(row.case, row.case.rpartition('/')[2])}.{slug(row.method)}"
        numbers |= {f"{key}.rmse": row.rmse, f"{key}.rmse_spread": row.spread, f"{key}.price": row.price}
        numbers |= {f"{key}.{name}": value for name, value in row.extra.items()}
    return numbers


def slug(method: str) -> str:
    """Return a method's name as part of a key: "calibrated, 5 calls" gives calibrated.5."""
    text = re.sub(r"[^a-z0-9.]+", "_", re.sub(r",? (\d+) calls$", r".\1", method.lower()))
    return text.strip("_")


def undominated(rows: Iterable[Row]) -> list[Row]:
    """Return the rows that no other row beats in both price and error."""
    listed = list(rows)
    return [
        row
        for row in listed
        if not any(
            other.price <= row.price and other.rmse <= row.rmse and (other.price, other.rmse) != (row.price, row.rmse)
            for other in listed
        )
    ]


def _console() -> Console:
    """Return a console of the terminal's width; wide where a file or a pipe has none, so that no cell is folded."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=220)


def _print_numbers(numbers: dict[str, float]) -> None:
    from rich.table import Table

    table = Table("number", "value", box=None, pad_edge=False)
    for name, value in numbers.items():
        table.add_row(name, f"{value:.4g}")
    _console().print(table)


def _print_rows(name: str, rows: Sequence[Row]) -> None:
    from rich.table import Table

    title = f"{name}: difference from the exact ODE (* nothing is both cheaper and better)"
    table = Table("method", "price in calls", "RMSE", "spread", "others", title=title, title_justify="left", box=None)
    best = {id(row) for row in undominated(rows)}
    for row in rows:
        others = ", ".join(f"{key} {value:.4g}" for key, value in row.extra.items())
        star = " *" if id(row) in best else ""
        table.add_row(row.method + star, f"{row.price:.2f}", f"{row.rmse:.4g}", f"{row.spread:.2g}", others)
    _console().print(table)
