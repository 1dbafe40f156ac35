"""Acquisition dates from what a raster says of itself."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

from remote_sensing.products import open_product
from remote_sensing.sources import open_raster
from shared.errors import InputError

ACQUIRED = ("ACQUISITIONDATETIME", "ACQUISITION_DATE", "DATE_ACQUIRED", "SENSING_TIME")
WRITTEN = "TIFFTAG_DATETIME"  # often the time of processing, so it comes last
# Four digits of a year that a satellite saw, then month and day, not inside a longer number.
PATTERN = re.compile(r"(?<!\d)((?:19[6-9]|20\d)\d)[-_:]?(0[1-9]|1[0-2])[-_:]?(0[1-9]|[12]\d|3[01])(?!\d{2}\d*\d)")


def date_of(path: Path, given: str | None) -> tuple[str | None, str]:
    """Return the ISO date of a raster and where it comes from: the option, a STAC item, a tag or the file's name.

    Raises:
        InputError: the given date is none.
    """
    if given is not None:
        try:
            return date.fromisoformat(given).isoformat(), "given"
        except ValueError as error:
            raise InputError(
                given, found="no date", expected="a date such as 2000-03-17", fix="Write it so."
            ) from error
    product = open_product(path)
    if product is not None:
        return product.date, product.origin if product.date else "unknown"
    with open_raster(path) as dataset:
        tags = dataset.tags()
        tags |= dataset.tags(ns="IMAGERY")
    candidates = [(f"tag {name}", tags.get(name, "")) for name in ACQUIRED]
    candidates += [("file name", path.name), (f"tag {WRITTEN}", tags.get(WRITTEN, ""))]
    for origin, text in candidates:
        if found := _first_date(text):
            return found, origin
    return None, "unknown"


def _first_date(text: str) -> str | None:
    for year, month, day in PATTERN.findall(text):
        try:
            return date(int(year), int(month), int(day)).isoformat()
        except ValueError:
            continue
    return None
