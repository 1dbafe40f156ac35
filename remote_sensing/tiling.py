"""Tiles: run a detector over a pair of any size in constant memory, and go on after a kill.

A tile owns a core; it is read with a halo of pixels around, clipped at the border of the grid. The cores of a local
detector (its result at a pixel depends on the pixels within its halo) partition the grid, so tiled and whole results
are equal to the last bit. A detector with statistics of the whole tile cannot be: its cores overlap by `blend` pixels
and are added with weights that fall like the square of a cosine towards the inner edges, divided by their sum, so that
no seam is left:

    p(r, c) = sum_t w_t(r, c) p_t(r, c) / sum_t w_t(r, c),     w_t > 0 on the whole core of t.

Each finished tile is a file, renamed into place, so a run that was killed finds what it has done. The files are used
only under the fingerprint of inputs and settings that made them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from remote_sensing.rasters import Pair, Patch, read_ahead
from shared.errors import InputError
from shared.jsontext import json_text
from shared.progress import tracked

TILE = 1024


class Detector(Protocol):
    """What turns a patch into the probability of change."""

    @property
    def halo(self) -> int:
        """Pixels around a pixel on which its result depends."""

    @property
    def blend(self) -> int:
        """Pixels by which tiles overlap and are blended; 0 for a local detector."""

    def __call__(self, patch: Patch) -> NDArray[np.float32]:
        """Return p, float32 (rows, columns) of the patch; NaN where not valid."""

    def facts(self) -> dict[str, object]:
        """Return what is worth telling, in JSON types."""


Outcome = Literal["computed", "audited", "skipped", "empty", "damaged"]
"""What became of a tile: computed, run although a screen would skip it, skipped by a screen, without data, or computed
from what could be read of it."""


@dataclass(frozen=True)
class Tile:
    """A part of the grid.

    Attributes:
        index: position in the plan.
        core: what the tile answers for.
        window: what is read for it: the core and its halo, inside the grid.
    """

    index: int
    core: Window
    window: Window

    def crop(self, values: NDArray) -> NDArray:
        """Return the core of values (..., rows, columns) of the window."""
        row, col = self.core.row_off - self.window.row_off, self.core.col_off - self.window.col_off
        return values[..., row : row + self.core.height, col : col + self.core.width]


class Screen(Protocol):
    """What decides that a tile needs no detector; see `screening`."""

    def outcome(self, tile: Tile, patch: Patch) -> Outcome:
        """Return what is to become of a tile with data."""


@dataclass
class Timing:
    """Seconds spent; reading overlaps with the detector, so `read` is what the detector waited.

    Attributes:
        pixels: of the cores that were computed.
        read: waiting for input.
        model: in the detector.
        write: storing tiles.
    """

    pixels: int = 0
    read: float = 0.0
    model: float = 0.0
    write: float = 0.0

    def rates(self) -> dict[str, float]:
        """Return megapixels a second of each part."""
        parts = {"read": self.read, "model": self.model, "write": self.write}
        return {f"mpix_per_second_{name}": self.pixels / 1e6 / max(spent, 1e-9) for name, spent in parts.items()}


def plan(shape: tuple[int, int], *, size: int = TILE, halo: int = 0, blend: int = 0) -> list[Tile]:
    """Return the tiles of a grid, row by row.

    Args:
        shape: (rows, columns) of the grid.
        size: rows and columns of a core; a grid that is smaller has one core of its size.
        halo: pixels read around a core.
        blend: pixels by which cores overlap at least; the last ones of a row or column are moved inwards to keep
            their size.
    """
    rows, cols = (_spans(length, size, blend) for length in shape)
    tiles: list[Tile] = []
    for top, bottom in rows:
        for left, right in cols:
            core = Window(left, top, right - left, bottom - top)
            above, before = max(0, top - halo), max(0, left - halo)
            below, after = min(shape[0], bottom + halo), min(shape[1], right + halo)
            tiles.append(Tile(len(tiles), core, Window(before, above, after - before, below - above)))
    return tiles


def weights(tile: Tile, shape: tuple[int, int], blend: int) -> NDArray[np.float32]:
    """Return the blending weights of a core, float32 (rows, columns), above 0; 1 at the borders of the grid."""
    core = tile.core
    return np.outer(
        _ramp(core.height, blend, core.row_off > 0, core.row_off + core.height < shape[0]),
        _ramp(core.width, blend, core.col_off > 0, core.col_off + core.width < shape[1]),
    ).astype(np.float32)


@dataclass
class TileStore:
    """A folder of finished tiles.

    Attributes:
        folder: made when missing.
        fingerprint: of all that decides the tiles; tiles under another one are removed.
        resumed: tiles that were there already.
    """

    folder: Path
    fingerprint: str
    resumed: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        manifest = self.folder / "manifest.json"
        try:
            same = json.loads(manifest.read_text(encoding="utf-8"))["fingerprint"] == self.fingerprint
        except (OSError, ValueError, KeyError, TypeError):
            same = False
        if not same:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            manifest.write_text(json_text({"fingerprint": self.fingerprint}), encoding="utf-8")
        self.resumed = len(list(self.folder.glob("tile_*.npy")))

    def path(self, index: int) -> Path:
        """Return the path of a tile."""
        return self.folder / f"tile_{index:07d}.npy"

    def has(self, index: int) -> bool:
        """Whether the tile is finished."""
        return self.path(index).exists()

    def save(self, index: int, values: NDArray[np.float32], outcome: Outcome = "computed") -> None:
        """Write a tile and what became of it; it appears whole or not at all."""
        note = self._note(index)
        if outcome == "computed":
            note.unlink(missing_ok=True)  # of a run that was killed between the note and the tile
        else:
            note.write_text(outcome, encoding="utf-8")
        scratch = self.folder / f"writing_{os.getpid()}_{index}.npy"
        np.save(scratch, values)
        scratch.replace(self.path(index))

    def outcome(self, index: int) -> Outcome:
        """Return what became of a finished tile."""
        try:
            return cast(Outcome, self._note(index).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return "computed"

    def _note(self, index: int) -> Path:
        return self.folder / f"outcome_{index:07d}.txt"

    def load(self, index: int) -> NDArray[np.float32]:
        """Return a finished tile."""
        return np.load(self.path(index))

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def fingerprint(files: Sequence[Path], **settings: Any) -> str:
    """Return a hash of the names, sizes and times of files, and of settings in JSON types.

    Files inside archives or behind addresses (/vsi...) are known by their names alone.
    """
    stats: list[tuple[str | int, ...]] = []
    for path in files:
        if str(path).startswith("/vsi"):
            stats.append((str(path),))
        else:
            found = path.stat()
            stats.append((str(path.resolve()), found.st_size, found.st_mtime_ns))
    return hashlib.sha256(json_text({"files": stats, **settings}).encode()).hexdigest()


def run(
    pair: Pair,
    detector: Detector,
    tiles: Sequence[Tile],
    store: TileStore,
    *,
    workers: int = 2,
    label: str | None = None,
    screen: Screen | None = None,
) -> Timing:
    """Compute the tiles that the store lacks; the next ones are read meanwhile by `workers` threads.

    Args:
        pair: what is compared.
        detector: what finds the change.
        tiles: from `plan` with the detector's halo and blend.
        store: where the cores go.
        workers: threads that read.
        label: of the progress bar; None is silent.
        screen: decides which tiles need no detector; None gives it all that have data.
    """
    waiting = [tile for tile in tiles if not store.has(tile.index)]
    timing = Timing()
    mark = time.perf_counter()
    patches = read_ahead(pair.read, [tile.window for tile in waiting], workers=workers)
    for tile, patch in zip(tracked(waiting, label), patches, strict=True):
        timing.read, mark = timing.read + time.perf_counter() - mark, time.perf_counter()
        core, outcome = screened(detector, tile, patch, screen)
        timing.model, mark = timing.model + time.perf_counter() - mark, time.perf_counter()
        store.save(tile.index, core, outcome)
        timing.write, mark = timing.write + time.perf_counter() - mark, time.perf_counter()
        timing.pixels += core.size
    return timing


def compute(detector: Detector, tile: Tile, patch: Patch) -> NDArray[np.float32]:
    """Return the core of a tile; the detector is not called where nothing is valid."""
    if not tile.crop(patch.valid).any():
        return np.full((tile.core.height, tile.core.width), np.nan, np.float32)
    found = detector(patch)
    return np.ascontiguousarray(tile.crop(np.where(patch.valid, found, np.float32(np.nan))), dtype=np.float32)


def screened(
    detector: Detector, tile: Tile, patch: Patch, screen: Screen | None
) -> tuple[NDArray[np.float32], Outcome]:
    """Return the core of a tile and what became of it; a skipped tile has a probability of 0 where it has data."""
    if patch.damaged is not None and tile.crop(patch.damaged).any():
        return compute(detector, tile, patch), "damaged"
    if not tile.crop(patch.valid).any():
        return compute(detector, tile, patch), "empty"
    outcome = "computed" if screen is None else screen.outcome(tile, patch)
    if outcome != "skipped":
        return compute(detector, tile, patch), outcome
    return np.where(tile.crop(patch.valid), np.float32(0), np.float32(np.nan)), outcome


def assemble(
    store: TileStore, tiles: Sequence[Tile], shape: tuple[int, int], blend: int
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield (first row, probability (rows, columns)) from top to bottom; rows are final when they are yielded.

    Memory is that of the tiles that share a row. The order of the sums is that of the plan, so the result does not
    depend on the order in which tiles were computed.
    """
    rows: dict[int, list[Tile]] = {}
    for tile in tiles:
        rows.setdefault(tile.core.row_off, []).append(tile)
    starts = sorted(rows)
    if not blend:
        for start in starts:
            yield start, np.concatenate([store.load(tile.index) for tile in rows[start]], axis=1)
        return
    total: NDArray[np.float32] = np.zeros((0, shape[1]), np.float32)
    weight = np.zeros((0, shape[1]), np.float32)
    top = 0
    for index, start in enumerate(starts):
        row = rows[start]
        bottom = start + row[0].core.height
        missing = bottom - top - len(total)
        if missing > 0:
            total = np.concatenate([total, np.zeros((missing, shape[1]), np.float32)])
            weight = np.concatenate([weight, np.zeros((missing, shape[1]), np.float32)])
        for tile in row:
            part = (
                slice(start - top, bottom - top),
                slice(tile.core.col_off, tile.core.col_off + tile.core.width),
            )
            w = weights(tile, shape, blend)
            total[part] += store.load(tile.index) * w
            weight[part] += w
        final = (starts[index + 1] if index + 1 < len(starts) else shape[0]) - top
        if final > 0:
            yield top, total[:final] / weight[:final]
            total, weight, top = total[final:], weight[final:], top + final


def _spans(length: int, size: int, blend: int) -> list[tuple[int, int]]:
    if not 0 <= blend < size:
        raise InputError(
            "tile size", found=f"{size} with {blend} blended", expected="a larger tile", fix="Pass a larger --tile."
        )
    if length <= size:
        return [(0, length)]
    if not blend:
        return [(start, min(start + size, length)) for start in range(0, length, size)]
    starts = [*range(0, length - size, size - blend), length - size]
    return [(start, start + size) for start in starts]


def _ramp(length: int, blend: int, rises: bool, falls: bool) -> NDArray[np.float64]:
    ramp = np.ones(length)
    edge = np.sin(np.pi / 2 * (np.arange(min(blend, length)) + 0.5) / max(blend, 1)) ** 2
    if rises:
        ramp[: len(edge)] *= edge
    if falls:
        ramp[length - len(edge) :] *= edge[::-1]
    return ramp
