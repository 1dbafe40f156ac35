"""Rasters as training data: each becomes an array on disk (.npy) that is mapped into memory.

Pairs come from a folder in the layout of LEVIR-CD (A/, B/ and label/ with files of equal names) or from a CSV file with
the columns before, after, label and, optionally, unchanged and name; its paths are relative to the file.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from remote_sensing.ddpm_cd.crops import UNKNOWN, PairScene, Scene
from remote_sensing.grid import MapGrid
from remote_sensing.labels import open_labels
from remote_sensing.rasters import open_pair
from remote_sensing.sources import GridReader, read_source
from remote_sensing.tiling import fingerprint
from shared.errors import InputError
from shared.files import atomic_path

Nodata = float | Literal["auto", "none"]
Block = tuple[NDArray[np.float32], NDArray[np.bool_]]

BESIDE = {
    ".aux", ".csv", ".hdr", ".jgw", ".json", ".md", ".msk", ".ovr", ".pgw", ".prj", ".qml", ".tfw", ".txt", ".wld",
    ".xml",
}  # fmt: skip
"""Suffixes of files that lie beside rasters and are none."""


@dataclass(frozen=True)
class PairFiles:
    """The files of a labelled pair.

    Attributes:
        name: by which it is left out or held out.
        before: raster of the first date.
        after: raster of the second date.
        label: raster of the changed pixels; None without labels.
        unchanged: raster of the unchanged pixels where labels are sparse.
    """

    name: str
    before: Path
    after: Path
    label: Path | None = None
    unchanged: Path | None = None


def rasters_in(folder: Path) -> list[Path]:
    """Return the rasters of a folder and of the folders in it, by name.

    Raises:
        InputError: no folder, or no raster in it.
    """
    if not folder.is_dir():
        raise InputError(
            folder,
            found="a file" if folder.exists() else "no such folder",
            expected="a folder of rasters",
            fix="Check the path.",
        )
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    found = sorted(path for path in files if path.suffix.lower() not in BESIDE)
    if not found:
        raise InputError(folder, found="no raster", expected="rasters such as GeoTIFF or PNG", fix="Check the path.")
    return found


def pairs_in(path: Path, *, labelled: bool = True) -> list[PairFiles]:
    """Return the pairs of a folder or a CSV file (see the module), by name.

    Raises:
        InputError: another layout, a file that has no counterpart, or two pairs of one name.
    """
    found = _from_csv(path) if path.is_file() else _from_folders(path)
    names = [pair.name for pair in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(
            path,
            found=f"{names.count(twice[0])} pairs named {twice[0]}",
            expected="names that differ",
            fix="Rename them, or add a column name.",
        )
    for pair in found:
        if labelled and pair.label is None:
            raise InputError(
                path,
                found=f"no label for {pair.name}",
                expected="labelled pairs",
                fix="Add its label, or give a --teacher.",
            )
        for part in (pair.before, pair.after, pair.label, pair.unchanged):
            if part is not None and not part.exists():
                raise InputError(part, found="no such file", expected=f"a raster of {pair.name}", fix="Check the path.")
    return sorted(found, key=lambda pair: pair.name)


def chosen(pairs: Sequence[PairFiles], patterns: Iterable[str], option: str) -> set[str]:
    """Return the names that match patterns such as test_2*.

    Raises:
        InputError: a pattern matches none.
    """
    found: set[str] = set()
    for pattern in patterns:
        matched = {pair.name for pair in pairs if fnmatch(pair.name, pattern)}
        if not matched:
            raise InputError(
                f"{option} {pattern}",
                found="no pair of that name",
                expected=f"one of {', '.join(pair.name for pair in pairs[:8])}{', ...' if len(pairs) > 8 else ''}",
                fix="Correct the name.",
            )
        found |= matched
    return found


def read_scene(path: Path, cache: Path, *, bands: str | None, nodata: Nodata) -> Scene:
    """Return a raster (bands, y, x), mapped into memory; whole numbers as stored, else float32 with NaN for no data.

    Raises:
        InputError: no raster, no such band, or a damaged file.
    """
    source = read_source(path, bands=bands, nodata=nodata, georeferenced=False)
    reader = GridReader(source, source.grid)
    target = cache / f"{_key((path,), bands, nodata)}.npy"
    if not target.exists():
        _store(target, len(source.bands), source.grid, source.dtype, lambda: _blocks(reader, source.grid))
    return np.load(target, mmap_mode="r", allow_pickle=False)


def read_pair(
    files: PairFiles, cache: Path, *, bands: str | None, nodata: Nodata, pixel_grid: bool, resampling: str = "bilinear"
) -> PairScene:
    """Return a pair on the grid of its first date, mapped into memory; pixels without data are unlabelled.

    Raises:
        InputError: rasters or labels that do not fit each other.
    """
    pair = open_pair(
        files.before,
        files.after,
        bands=(bands, bands),
        nodata=nodata,
        resampling=resampling,  # type: ignore[arg-type]
        pixel_grid=pixel_grid,
    )
    sources = tuple(part for part in (files.before, files.after, files.label, files.unchanged) if part is not None)
    key = _key(sources, bands, nodata, pixel_grid, resampling)
    targets = [cache / f"{key}_{part}.npy" for part in ("before", "after", "label")]
    labels = None if files.label is None else open_labels(files.label, files.unchanged, pair.grid)
    windows = pair.grid.windows()
    for target, date, name in zip(targets, (pair.before, pair.after), ("before", "after"), strict=False):
        if not target.exists():

            def blocks(name: str = name) -> Iterator[Block]:
                for window in windows:
                    patch = pair.read(window)
                    yield getattr(patch, name), patch.valid

            _store(target, pair.bands, pair.grid, date.dtype, blocks)
    if labels is not None and not targets[2].exists():

        def marks() -> Iterator[Block]:
            for window in windows:
                valid = pair.read(window).valid
                label = np.where(valid, labels.read(window.row_off, window.col_off, valid.shape), UNKNOWN)
                yield label[None].astype(np.float32), np.ones_like(valid)

        _store(targets[2], 1, pair.grid, "uint8", marks)
    before, after = (np.load(target, mmap_mode="r", allow_pickle=False) for target in targets[:2])
    label = None if labels is None else np.load(targets[2], mmap_mode="r", allow_pickle=False)[0]
    return PairScene(before, after, label)


def require_fit(path: Path, scene: Scene, *, bands: int, crop: int, limits: Sequence[tuple[float, float]]) -> None:
    """Raise `InputError` unless a raster has the network's bands, a crop's size and numbers within its limits."""
    if scene.shape[0] != bands:
        raise InputError(
            path,
            found=f"{scene.shape[0]} bands",
            expected=f"{bands}, as the configuration says",
            fix="Choose them with --bands, or change the configuration.",
        )
    if min(scene.shape[1:]) < crop:
        raise InputError(
            path,
            found=f"{scene.shape[2]} x {scene.shape[1]} pixels",
            expected=f"at least {crop} x {crop}, the size of a crop",
            fix="Leave it out, or lower crop in the configuration.",
        )
    step = max(1, int(np.sqrt(scene.shape[1] * scene.shape[2] / 250_000)))
    require_units(path, [band[::step, ::step] for band in scene], limits)


def require_units(path: Path, bands: Iterable[Scene], limits: Sequence[tuple[float, float]]) -> None:
    """Raise `InputError` if numbers lie far outside the limits of their band, or fill next to nothing between them.

    Other units would go unnoticed: a network that expects 0 to 255 sees reflectances of 0 to 1 as black.

    Args:
        path: named in the error.
        bands: values of each band, any shape; NaN is no value.
        limits: (low, high) of each band, which the network sees as -1 and 1.
    """
    for number, (band, (low, high)) in enumerate(zip(bands, limits, strict=True), start=1):
        values = np.asarray(band, np.float32)
        values = values[np.isfinite(values)]
        if not values.size:
            continue
        bottom, top = (float(q) for q in np.quantile(values, (0.01, 0.99)))
        margin = 0.25 * (high - low)
        if bottom < low - margin or top > high + margin or top - bottom < 0.01 * (high - low):
            raise InputError(
                path,
                found=f"band {number} from {bottom:.4g} to {top:.4g} (98 % of the pixels)",
                expected=f"numbers within {low:g} to {high:g}, the units of the network",
                fix="Convert the raster to these units, or train a network for its own (low and high).",
            )


def _from_folders(root: Path) -> list[PairFiles]:
    parts = {name: _by_stem(root / name) for name in ("A", "B", "label")}
    if not parts["A"] or not parts["B"]:
        raise InputError(
            root,
            found="no such folder" if not root.exists() else "no rasters in A/ and B/",
            expected="a folder with A/, B/ and label/, or a CSV file with before, after and label",
            fix="Check the path.",
        )
    if lone := sorted(set(parts["A"]) ^ set(parts["B"])):
        raise InputError(
            root, found=f"{lone[0]} at one date only", expected="equal names in A/ and B/", fix="Add or remove it."
        )
    return [PairFiles(name, path, parts["B"][name], parts["label"].get(name)) for name, path in parts["A"].items()]


def _by_stem(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in rasters_in(folder)} if folder.is_dir() else {}


def _from_csv(path: Path) -> list[PairFiles]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            path, found=f"no CSV ({error})", expected="columns before, after and label", fix="Correct the file."
        ) from error
    if not rows or not {"before", "after"} <= set(rows[0]):
        raise InputError(
            path,
            found=f"the columns {', '.join(map(str, rows[0]))}" if rows else "no rows",
            expected="columns before, after and label",
            fix="Correct the file.",
        )
    pairs = []
    for row in rows:
        label, unchanged = (path.parent / row[key] if row.get(key) else None for key in ("label", "unchanged"))
        before, after = path.parent / row["before"], path.parent / row["after"]
        pairs.append(PairFiles(row.get("name") or before.stem, before, after, label, unchanged))
    return pairs


def _blocks(reader: GridReader, grid: MapGrid) -> Iterator[Block]:
    for window in grid.windows():
        yield reader.read(window)


def _store(target: Path, bands: int, grid: MapGrid, dtype: str, blocks: Callable[[], Iterable[Block]]) -> None:
    """Write blocks as an array: in the file's own whole numbers where all pixels have data, else in float32."""
    small = np.dtype(dtype).kind in "iu" and np.dtype(dtype).itemsize <= 2
    with atomic_path(target, overwrite=True) as scratch:
        for kind in (dtype, "float32") if small else ("float32",):
            array = np.lib.format.open_memmap(scratch, mode="w+", dtype=kind, shape=(bands, *grid.shape))
            for window, (values, valid) in zip(grid.windows(), blocks(), strict=True):
                if kind != "float32" and not valid.all():
                    break
                rows = slice(window.row_off, window.row_off + window.height)
                array[:, rows, window.col_off : window.col_off + window.width] = values
            else:
                array.flush()
                return


def _key(paths: Sequence[Path], *facts: object) -> str:
    return fingerprint(paths, facts=list(facts))[:24]
