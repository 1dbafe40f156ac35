"""From two rasters to a folder of results.

```python
from remote_sensing.pipeline import detect
from remote_sensing.settings import Settings

result = detect(Path("2000.tif"), Path("2003.tif"), Path("out"), Settings(method="ir-mad"))
result.facts["changed_area_m2"]
```

The folder gets probability.tif, change.tif, changes.gpkg (or other formats), QGIS styles, item.json, quicklook.png,
report.html and result.json, which is written last. Until then it holds only `.tiles`, with which a killed run resumes.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from numpy.typing import NDArray

from remote_sensing import tiling
from remote_sensing.classical import fit_classical
from remote_sensing.cluster import run_on_cluster
from remote_sensing.coregistration import Shift, estimate_shift
from remote_sensing.dates import date_of
from remote_sensing.grid import MapGrid, crs_name
from remote_sensing.labels import open_labels
from remote_sensing.outputs.folder import check_output, publish, require_space, staging, writing
from remote_sensing.outputs.page import write_pictures
from remote_sensing.outputs.rasters import Counts, write_coded, write_cog, write_plain
from remote_sensing.outputs.stac import stac_item
from remote_sensing.outputs.styles import write_styles
from remote_sensing.outputs.vectors import trace, write_vectors
from remote_sensing.rasters import CACHE_MB, Pair, Sample, footprint_overlap, open_pair
from remote_sensing.screening import CheapScreen, screening_facts, screening_text
from remote_sensing.settings import Settings
from remote_sensing.tiling import Detector
from shared.errors import InputError
from shared.jsontext import json_text, jsonable

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

Rows = Iterable[tuple[int, NDArray[np.float32]]]
Dates = tuple[str | None, str | None]

NOTICEABLE_SHIFT = 0.5  # pixels
SMALL_COVER = 0.5  # part of the grid with data at both dates below which the report warns


@dataclass(frozen=True)
class Detection:
    """What a comparison found.

    Attributes:
        facts: the content of result.json.
        files: what was written.
    """

    facts: dict[str, Any]
    files: tuple[Path, ...]


def detect(
    before: Path,
    after: Path,
    output: Path,
    settings: Settings | None = None,
    *,
    detector: Detector | None = None,
    overwrite: bool = False,
    label: str | None = None,
) -> Detection:
    """Compare two rasters and write the results into a folder.

    Args:
        before: raster of the first date.
        after: raster of the second date.
        output: folder; made when missing.
        settings: how to compare.
        detector: a trained one, instead of the method of the settings.
        overwrite: replace results of an earlier run.
        label: of the progress bar; None is silent.

    Raises:
        InputError: rasters that cannot be compared, settings that do not fit them, or a folder that cannot be written.
    """
    settings = settings or Settings()
    begin = time.perf_counter()
    _check_settings(settings)
    check_output(output, settings, overwrite=overwrite)
    with rasterio.Env(GDAL_CACHEMAX=CACHE_MB):
        pair = _open(before, after, settings)
        dates = [date_of(path, given) for path, given in ((before, settings.date_before), (after, settings.date_after))]
        clock = _Clock(begin)
        shift = estimate_shift(pair)
        clock.lap("shift")
        moved = settings.coregister and shift.confident
        if moved:
            pair = pair.moved((shift.rows, shift.cols))
        sample = pair.sample(workers=settings.workers)
        clock.lap("sample")
        detector = detector or _fit(pair, sample, settings)
        screen = _screen(pair, sample, settings)
        clock.lap("fit")
        size = settings.tile or int(getattr(detector, "size", tiling.TILE))
        tiles = tiling.plan(pair.grid.shape, size=size, halo=detector.halo, blend=detector.blend)
        require_space(output, pair.grid)
        mark = _fingerprint(settings, pair, detector, size)
        facts: dict[str, Any] = {
            "command": _command(before, after, settings),
            "before": str(before),
            "after": str(after),
            "date_before": dates[0][0],
            "date_after": dates[1][0],
            "dates_from": [source for _, source in dates],
            **detector.facts(),
            "bands_before": list(pair.before.names),
            "bands_after": list(pair.after.names),
            "crs": crs_name(pair.grid.crs),
            "grid": str(pair.grid),
            "extent_overlap": footprint_overlap(pair),
            "data_share_before": sample.shares["before"],
            "data_share_after": sample.shares["after"],
            "data_share_both": sample.shares["both"],
            "nodata_before": pair.before.nodata,
            "nodata_after": pair.after.nodata,
            "shift_rows": shift.rows,
            "shift_cols": shift.cols,
            "shift_confident": shift.confident,
            "shift_applied": moved,
            "warnings": [*_warnings(pair, shift, settings, sample.shares["both"]), *getattr(detector, "notes", ())],
        }
        with writing(output):
            store = tiling.TileStore(output / ".tiles", mark)
            if settings.cluster is None:
                timing = tiling.run(pair, detector, tiles, store, workers=settings.workers, label=label, screen=screen)
            else:
                timing = run_on_cluster(
                    pair, detector, tiles, store, cluster=settings.cluster, label=label, screen=screen
                )
            facts |= {"tiles": len(tiles), "tiles_resumed": store.resumed, **timing.rates()}
            facts |= _damaged(store, tiles)
            if screen is not None:
                facts |= screening_facts(store, tiles)
                facts["warnings"].append(screening_text(facts))
            clock.lap("tiles")
            rows = tiling.assemble(store, tiles, pair.grid.shape, detector.blend)
            known = (dates[0][0], dates[1][0])
            with staging(output) as stage:
                counts, frame = _write_maps(stage, pair, rows, settings, known, clock)
                facts |= _found(counts, frame) | clock.facts(pair.grid)
                _write_rest(stage, pair, sample.pictures, frame, facts, known, (before, after))
                facts = jsonable(facts)
                (stage / "result.json").write_text(json_text(facts), encoding="utf-8")
                files = publish(stage, output)
            store.remove()
    return Detection(facts, tuple(files))


def _open(before: Path, after: Path, settings: Settings) -> Pair:
    pair = open_pair(
        before,
        after,
        bands=(settings.bands_before, settings.bands_after),
        nodata=settings.nodata,
        grid=settings.grid,
        resampling=settings.resampling,
        pixel_grid=settings.pixel_grid,
        excluded=settings.exclude,
        keep_going=settings.keep_going,
    )
    overlap = footprint_overlap(pair)
    if overlap < settings.min_overlap:
        raise InputError(
            after,
            found=f"{100 * overlap:.2g} % of the smaller extent in the other raster",
            expected=f"at least {100 * settings.min_overlap:g} %",
            fix="Check the files and their CRS, or lower --min-overlap.",
        )
    return pair


def _fit(pair: Pair, sample: Sample, settings: Settings) -> Detector:
    if settings.method == "ddpm-cd":
        from remote_sensing.ddpm_cd.fitting import detector_for

        return detector_for(pair, sample, settings)
    if settings.weights is not None:
        raise InputError(
            "--weights",
            found=f"together with --method {settings.method}",
            expected="none: that method is not trained",
            fix="Leave it out, or pass --method ddpm-cd.",
        )
    labels = None
    if settings.rule == "calibrated" and settings.labels is not None:
        labels = open_labels(settings.labels, settings.unchanged, pair.grid)
    return fit_classical(
        settings.method,
        pair,
        sample,
        normalisation=settings.normalisation,
        threshold=settings.rule,
        labels=labels,
    )


def _screen(pair: Pair, sample: Sample, settings: Settings) -> CheapScreen | None:
    if settings.skip_unchanged is None:
        return None
    cheap = fit_classical("ir-mad", pair, sample)
    return CheapScreen(cheap, settings.skip_unchanged, settings.audit, settings.seed)


def _warnings(pair: Pair, shift: Shift, settings: Settings, cover: float) -> list[str]:
    found = list(pair.notes)
    if cover < SMALL_COVER:
        found.append(f"Only {100 * cover:.1f} % of the grid has data at both dates.")
    if settings.coregister and not shift.confident:
        found.append(f"No shift was applied, since the estimate is not trustworthy: {shift}.")
    elif not settings.coregister and shift.confident and shift.pixels > NOTICEABLE_SHIFT:
        found.append(f"The dates are displaced by {shift}: edges may look like change. --coregister moves the second.")
    if settings.labels is not None:
        found.append("The threshold was fitted to the given labels: scores on the same labels are optimistic.")
    return found


def _damaged(store: tiling.TileStore, tiles: Sequence[tiling.Tile]) -> dict[str, Any]:
    """Return the tiles that could not be read as a whole: [first row, first column, rows, columns]."""
    lost = [tile.core for tile in tiles if store.outcome(tile.index) == "damaged"]
    return {
        "tiles_damaged": len(lost),
        "damaged_windows": [[core.row_off, core.col_off, core.height, core.width] for core in lost],
    }


class _Clock:
    """Seconds of the parts of a run, one after the other."""

    def __init__(self, begin: float) -> None:
        self._begin = begin
        self._laps: dict[str, float] = {}
        self.lap("open")

    def lap(self, name: str) -> None:
        self._laps[name] = time.perf_counter() - self._begin - sum(self._laps.values())

    def facts(self, grid: MapGrid) -> dict[str, float]:
        seconds = sum(self._laps.values())
        found = {f"seconds_{name}": spent for name, spent in self._laps.items()} | {"seconds": seconds}
        found["mpix_per_second"] = grid.width * grid.height / 1e6 / seconds
        if grid.crs is not None and grid.crs.is_projected:
            across, down = grid.pixel_size()
            metre = grid.crs.linear_units_factor[1]
            found["km2_per_second"] = found["mpix_per_second"] * across * down * metre**2
        return found


def _write_maps(
    stage: Path, pair: Pair, rows: Rows, settings: Settings, dates: Dates, clock: _Clock
) -> tuple[Counts, GeoDataFrame]:
    tags = {"SOFTWARE": f"fewstep {version('fewstep')}"}
    probability, mask, counts = write_plain(stage, pair.grid, rows, tags=tags)
    clock.lap("rasters")
    frame = trace(mask, probability, pair.grid, min_area=settings.min_area, dates=dates)
    for kind in settings.vectors:
        write_vectors(frame, stage / f"changes.{kind}", kind)
    clock.lap("polygons")
    if settings.probability_type == "uint8":
        probability = write_coded(probability, pair.grid)
    write_cog(probability, stage / "probability.tif", overviews="AVERAGE")
    write_cog(mask, stage / "change.tif", overviews="NEAREST")
    clock.lap("cogs")
    return counts, frame


def _found(counts: Counts, frame: GeoDataFrame) -> dict[str, Any]:
    changed = int(frame["pixels"].sum())
    return {
        "pixels": counts.pixels,
        "valid_pixels": counts.valid,
        "changed_pixels": changed,
        "changed_share": changed / max(counts.valid, 1),
        "changed_area_m2": float(frame["area_m2"].sum(skipna=False)) if len(frame) else 0.0,
        "polygons": len(frame),
        "probability_histogram": list(counts.histogram),
    }


def _write_rest(
    stage: Path,
    pair: Pair,
    pictures: NDArray[np.float32],
    frame: GeoDataFrame,
    facts: dict[str, Any],
    dates: Dates,
    sources: tuple[Path, Path],
) -> None:
    write_styles(stage)
    write_pictures(stage, pair, pictures, frame, facts)
    if pair.grid.crs is not None:
        told: dict[str, Any] = {
            key: facts[key] for key in ("method", "threshold", "changed_area_m2", "polygons") if key in facts
        }
        files = sorted([*stage.iterdir(), stage / "result.json"])
        item = stac_item(sources[1].stem, pair.grid, files, list(sources), dates=dates, facts=told)
        (stage / "item.json").write_text(json_text(item), encoding="utf-8")


def _fingerprint(settings: Settings, pair: Pair, detector: Detector, size: int) -> str:
    decided = settings.model_dump(
        mode="json",
        exclude={"workers", "cluster", "min_area", "vectors", "probability_type", "date_before", "date_after"},
    )
    optional = (settings.exclude, settings.grid, settings.labels, settings.unchanged)
    files = [*pair.before.files, *pair.after.files, *(path for path in optional if path)]
    return tiling.fingerprint(
        files,
        settings=decided,
        shift=list(pair.shift),
        grid=str(pair.grid),
        transform=list(pair.grid.transform[:6]),
        detector=detector.facts(),
        size=size,
        version=version("fewstep"),
    )


def _command(before: Path, after: Path, settings: Settings) -> str:
    """Return the command line that does the same, with the options that differ from their defaults."""
    words = ["fewstep", "change", "detect", str(before), str(after), "-o", "DIR"]
    for name, value in settings.model_dump(mode="json", exclude_defaults=True).items():
        option = f"--{name.replace('normalisation', 'normalise').replace('_', '-')}"
        if value is True:
            words.append(option)
        else:
            words += [option, ",".join(value) if isinstance(value, list) else str(value)]
    return shlex.join(words)


def _check_settings(settings: Settings) -> None:
    if settings.rule == "calibrated" and settings.labels is None:
        raise InputError(
            "--threshold",
            found="calibrated without labels",
            expected="labelled pixels of this pair",
            fix="Pass --labels CHANGED, with --unchanged UNCHANGED where labels are sparse, or another threshold.",
        )
    if settings.rule != "calibrated" and (settings.labels or settings.unchanged):
        raise InputError(
            "--labels" if settings.labels else "--unchanged",
            found=f"labels that a threshold of {settings.rule} does not use",
            expected="--threshold calibrated with labels, or no labels",
            fix="Leave one of the two out; `fewstep change evaluate` scores a result against labels.",
        )
