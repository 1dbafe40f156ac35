"""A pair: two rasters of one place on one grid, however their CRS, resolution, extent, type and nodata differ.

```python
pair = open_pair(Path("2000.tif"), Path("2003.tif"))
patch = pair.read(Window(0, 0, 512, 512))      # float32 (bands, rows, columns) twice, and what is valid in both
sample = pair.sample()                         # pixels of the whole pair, for statistics
```

The grid is that of the first raster unless another is given: both are read on it, so no resampled copy is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from remote_sensing.grid import MapGrid, crs_name
from remote_sensing.settings import Resampling
from remote_sensing.sources import GridReader, Source, classes_on, open_raster, read_source
from remote_sensing.thumbnails import CellMeans, CellSums, cell_of, cell_sums
from shared.errors import InputError

Result = TypeVar("Result")
Dates = tuple[tuple[NDArray[np.float32], NDArray[np.bool_]], ...]  # values and validity of each

CACHE_MB = 128
"""Of GDAL's blocks in a process; its default is a share of the machine's memory."""

DAMAGE = 128
"""Rows and columns that are given up together where a file is damaged."""

SAMPLE_PIXELS = 2_000_000
"""Pixels from which statistics of a whole pair are taken; a smaller pair is taken whole."""


@dataclass(frozen=True)
class Patch:
    """A window of a pair.

    Attributes:
        before: float32 (bands, rows, columns), NaN where not valid.
        after: the same for the second date.
        valid: bool (rows, columns), where both dates have data in all bands.
        row: of the first pixel on the grid.
        col: of the first pixel on the grid.
        damaged: bool (rows, columns), where a file cannot be read; None where all can.
    """

    before: NDArray[np.float32]
    after: NDArray[np.float32]
    valid: NDArray[np.bool_]
    row: int
    col: int
    damaged: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Sample:
    """Valid pixels of a regular lattice over the whole pair.

    Attributes:
        before: float32 (bands, pixels).
        after: float32 (bands, pixels).
        step: rows and columns between two pixels of the lattice.
        shares: parts of the lattice with data "before", "after" and in "both".
        pictures: both dates small, float32 (2, bands, rows, columns), NaN where the date has no data.
    """

    before: NDArray[np.float32]
    after: NDArray[np.float32]
    step: int
    shares: dict[str, float]
    pictures: NDArray[np.float32]


@dataclass(frozen=True)
class Pair:
    """Two sources on one grid.

    Attributes:
        before: the first date.
        after: the second date.
        grid: on which both are read.
        shift: (rows, columns) by which the second date is moved down and to the right; see `coregistration`.
        resampling: of values whose pixels do not coincide with the grid's.
        excluded: raster that is not 0 where pixels are left out at both dates, such as a cloud mask.
        keep_going: pixels that a damaged file cannot give are without data, instead of an error.
    """

    before: Source
    after: Source
    grid: MapGrid
    shift: tuple[float, float] = (0.0, 0.0)
    resampling: Resampling = "bilinear"
    excluded: Path | None = None
    keep_going: bool = False

    @property
    def bands(self) -> int:
        """Number of bands that are compared."""
        return len(self.before.bands)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about the sources that a user must read."""
        notes = self.before.notes + self.after.notes
        if self.before.scaled == self.after.scaled:
            return notes
        with_, without = (self.before, self.after) if self.before.scaled else (self.after, self.before)
        return *notes, (
            f"{with_.path.name} says how its numbers become values of the sensor, {without.path.name} does not: they "
            "may be in different units."
        )

    def moved(self, shift: tuple[float, float]) -> Pair:
        """Return the pair with the second date moved by (rows, columns) relative to the file's georeference."""
        return replace(self, shift=shift)

    @cached_property
    def _readers(self) -> tuple[GridReader, GridReader]:
        return (
            GridReader(self.before, self.grid, resampling=self.resampling),
            GridReader(self.after, self.grid, shift=self.shift, resampling=self.resampling),
        )

    @cached_property
    def _mask_reader(self) -> GridReader | None:
        return None if self.excluded is None else classes_on(self.excluded, self.grid)

    def _dates(self, window: Window) -> Dates:
        """Return values and validity of each date, without what is excluded."""
        dates = tuple(reader.read(window) for reader in self._readers)
        kept = self._kept(window)
        return dates if kept is None else tuple((values, valid & kept) for values, valid in dates)

    def _kept(self, window: Window) -> NDArray[np.bool_] | None:
        """Return what is not excluded; None where nothing ever is."""
        if self._mask_reader is None:
            return None
        mask, _ = self._mask_reader.read(window)
        return np.asarray(np.nan_to_num(mask[0]) == 0)

    def read(self, window: Window) -> Patch:
        """Read a window that lies on the grid; may be called from several threads.

        Raises:
            InputError: a file is damaged there.
        """
        ((before, valid_before), (after, valid_after)), damaged = self._readable(window)
        valid = valid_before & valid_after
        before[:, ~valid] = np.nan
        after[:, ~valid] = np.nan
        return Patch(before, after, valid, window.row_off, window.col_off, damaged if damaged.any() else None)

    def _readable(self, window: Window) -> tuple[Dates, NDArray[np.bool_]]:
        """Return the dates, and where a file is damaged: what cannot be read is halved until little is lost with it."""
        shape = window.height, window.width
        try:
            return self._dates(window), np.zeros(shape, bool)
        except InputError:
            if not self.keep_going:
                raise
        if max(shape) <= DAMAGE:
            lost = [(np.full((self.bands, *shape), np.nan, np.float32), np.zeros(shape, bool)) for _ in range(2)]
            return tuple(lost), np.ones(shape, bool)
        axis = 0 if window.height >= window.width else 1
        (first, bad), (second, worse) = (self._readable(half) for half in _halves(window, axis))
        dates = tuple(
            (np.concatenate([x, y], axis + 1), np.concatenate([known, too], axis))
            for (x, known), (y, too) in zip(first, second, strict=True)
        )
        return dates, np.concatenate([bad, worse], axis)

    def valid(self, window: Window) -> NDArray[np.bool_]:
        """Return where both dates have data, bool (rows, columns), without an interpolation; False where damaged."""
        try:
            known = [reader.valid(window) for reader in self._readers]
            kept = self._kept(window)
        except InputError:
            if not self.keep_going:
                raise
            return np.zeros((window.height, window.width), bool)
        return np.logical_and.reduce(known if kept is None else [*known, kept])

    def patches(self, windows: list[Window], *, workers: int = 2) -> Iterator[Patch]:
        """Yield the windows in order while the next ones are read by `workers` threads."""
        yield from read_ahead(self.read, windows, workers=workers)

    def sample(self, *, pixels: int = SAMPLE_PIXELS, workers: int = 2) -> Sample:
        """Read the pixels of the finest square lattice that has at most so many, in blocks.

        The sample does not depend on how the pair is cut into tiles. Every pixel is in it when there are few enough.

        Raises:
            InputError: a date has no data, the dates share none, or a band is empty.
        """
        step = max(1, int(np.ceil(np.sqrt(self.grid.width * self.grid.height / pixels))))
        kept: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
        counts = np.zeros(3)
        total = 0
        cell = cell_of(self.grid.shape)
        pictures = [CellMeans(self.grid.shape, self.bands, cell) for _ in range(2)]

        def look(window: Window) -> list[tuple[NDArray[np.float32], NDArray[np.bool_], CellSums]]:
            rows = slice(-window.row_off % step, None, step)
            cols = slice(-window.col_off % step, None, step)
            # Copies, so that a strided view does not keep the whole block in memory.
            return [
                (values[:, rows, cols].copy(), valid[rows, cols].copy(), cell_sums(window, values, valid, cell))
                for values, valid in self._readable(window)[0]
            ]

        for dates in read_ahead(look, self.grid.windows(), workers=workers):
            (x, valid_before, _), (y, valid_after, _) = dates
            for picture, (_, _, sums) in zip(pictures, dates, strict=True):
                picture.add(sums)
            valid = valid_before & valid_after
            kept.append((x[:, valid], y[:, valid]))
            counts += valid_before.sum(), valid_after.sum(), valid.sum()
            total += valid.size
        shares = dict(zip(("before", "after", "both"), (counts / max(total, 1)).tolist(), strict=True))
        self._require_data(shares)
        before, after = (np.concatenate(date, axis=1) for date in zip(*kept, strict=True))
        found = Sample(before, after, step, shares, np.stack([picture.image() for picture in pictures]))
        self._require_contrast(found)
        return found

    def _require_data(self, shares: dict[str, float]) -> None:
        for source, date in ((self.before, "before"), (self.after, "after")):
            if shares[date] == 0:
                raise InputError(
                    source.path,
                    found="no valid pixel on the grid of the comparison: all is nodata",
                    expected="data",
                    fix="Check the nodata value (--nodata) and where the data lie.",
                )
        if shares["both"] == 0:
            raise InputError(
                self.after.path,
                found=f"no pixel with data at both dates, although the extents of {self.before.path.name} and this "
                "raster overlap",
                expected="common data",
                fix="Check the nodata value (--nodata) and where the data lie.",
            )

    def _require_contrast(self, sample: Sample) -> None:
        for source, values in ((self.before, sample.before), (self.after, sample.after)):
            for name, band in zip(source.names, values, strict=True):
                if band.min() == band.max():
                    raise InputError(
                        source.path,
                        found=f"{name} with the one value {band[0]:g} wherever both dates have data: it is empty",
                        expected="bands with content",
                        fix="Choose other bands with --bands.",
                    )


def open_pair(
    before: Path,
    after: Path,
    *,
    bands: tuple[str | None, str | None] = (None, None),
    nodata: float | Literal["auto", "none"] = "auto",
    grid: Path | None = None,
    resampling: Resampling = "bilinear",
    pixel_grid: bool = False,
    excluded: Path | None = None,
    keep_going: bool = False,
) -> Pair:
    """Look at two rasters and put them on one grid. No pixel is read but for a decimated look for fill.

    Args:
        before: raster of the first date.
        after: raster of the second date.
        bands: which bands of each, by number or name; see `read_source`.
        nodata: of both; see `read_source`.
        grid: a raster whose grid is used; None takes that of `before`.
        resampling: of the values whose pixels do not coincide with the grid's; masks always take the nearest.
        pixel_grid: the images have no georeference and are compared pixel by pixel.
        excluded: raster that is not 0 where pixels are left out, such as a cloud mask.
        keep_going: pixels that a damaged file cannot give are without data, instead of an error.

    Raises:
        InputError: what cannot be compared: no raster, no CRS, no overlap, other numbers of bands, other sizes.
    """
    first, second = (
        read_source(path, bands=chosen, nodata=nodata, georeferenced=not pixel_grid)
        for path, chosen in zip((before, after), bands, strict=True)
    )
    if len(first.bands) != len(second.bands):
        raise InputError(
            after,
            found=f"{len(second.bands)} bands, where {before.name} has {len(first.bands)}",
            expected="as many bands at both dates, in the same order",
            fix="Name the bands that correspond with --bands, or with --bands-before and --bands-after.",
        )
    if pixel_grid and first.grid.shape != second.grid.shape:
        raise InputError(
            after,
            found=f"{second.grid.width} x {second.grid.height} pixels, where {before.name} has "
            f"{first.grid.width} x {first.grid.height}",
            expected="images of equal size, since there is no georeference to place them by",
            fix="Georeference both, or cut them to the same size.",
        )
    reference = first.grid
    if grid is not None:
        with open_raster(grid) as dataset:
            reference = MapGrid.of(dataset)
        if reference.crs is None or pixel_grid:
            raise InputError(grid, found="no map grid", expected="a georeferenced raster", fix="Leave --grid out.")
    for source in (first, second):
        if source.grid != reference:
            _require_overlap(source, reference)
    if excluded is not None:
        classes_on(excluded, reference)
    return Pair(first, second, reference, resampling=resampling, excluded=excluded, keep_going=keep_going)


def _halves(window: Window, axis: int) -> tuple[Window, Window]:
    row, col, rows, cols = window.row_off, window.col_off, window.height, window.width
    if axis == 0:
        half = rows // 2
        return Window(col, row, cols, half), Window(col, row + half, cols, rows - half)
    half = cols // 2
    return Window(col, row, half, rows), Window(col + half, row, cols - half, rows)


def footprint_overlap(pair: Pair) -> float:
    """Return which part of the smaller of the two extents lies in the other, by their outlines on the grid."""
    first, second = (source.grid.footprint_in(pair.grid.crs) for source in (pair.before, pair.after))
    return float(first.intersection(second).area / min(first.area, second.area))


def read_ahead(read: Callable[[Window], Result], windows: Sequence[Window], *, workers: int) -> Iterator[Result]:
    """Yield `read(window)` in order; at most 2 * `workers` windows are in memory ahead of the caller."""
    if workers < 1:
        yield from map(read, windows)
        return
    waiting = iter(windows)
    with ThreadPoolExecutor(workers) as pool:
        pending = [pool.submit(read, window) for window in islice(waiting, 2 * workers)]
        try:
            while pending:
                result = pending.pop(0).result()
                pending.extend(pool.submit(read, window) for window in islice(waiting, 1))
                yield result
        finally:
            for future in pending:
                future.cancel()


def _require_overlap(source: Source, reference: MapGrid) -> None:
    if source.grid.footprint_in(reference.crs).intersects(reference.footprint()):
        return
    raise InputError(
        source.path,
        found=f"a raster that does not overlap the grid of the comparison: {_place(source.grid)} against "
        f"{_place(reference)}",
        expected="two rasters of one place",
        fix="Check the files and their CRS.",
    )


def _place(grid: MapGrid) -> str:
    west, south, east, north = grid.footprint().bounds
    return f"x {west:.6g} to {east:.6g}, y {south:.6g} to {north:.6g} in {crs_name(grid.crs)}"
