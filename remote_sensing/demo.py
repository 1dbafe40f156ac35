"""The part of `fewstep demo` on change detection: two simulated dates of a landscape, whose changes are known.

The second date is what analysts get: another extent, another light, a wedge without data, and a sub-pixel displacement.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from remote_sensing.packages import require_packages
from shared.report import Code, Picture, Section, Table

if TYPE_CHECKING:
    import torch

SIDE = 256  # pixels of 10 m
CELLS = 60  # fields
SUBPIXELS = 3  # along each axis: pixels at edges are mixed
DISPLACEMENT = (0.8, -0.5)  # pixels by which the ground lies lower and further right at the second date
CROP = 12  # pixels that the second date lacks at the top and at the left
EPSG = 32633
CORNER = (500000.0, 5600000.0)
# Reflectance times 10,000 in blue, green, red and near infrared.
SPECTRA = {
    "forest": (250, 420, 300, 2700),
    "crop": (450, 800, 600, 3600),
    "meadow": (500, 850, 750, 3000),
    "soil": (900, 1250, 1650, 2300),
    "water": (500, 450, 280, 120),
    "roof": (1900, 2000, 2150, 2400),
}
CLASSES = tuple(SPECTRA)
LIGHT = ((1.12, 1.08, 1.05, 0.92), (60.0, 40.0, 25.0, -30.0))  # gain and offset of the second date
METHODS = ("ir-mad", "cva", "pca-kmeans")


def demo(folder: Path, *, seed: int, device: torch.device) -> list[Section]:
    """Simulate the dates, compare them by every method and score the masks; the files lie in `folder`."""
    require_packages()
    from remote_sensing.evaluate import evaluate
    from remote_sensing.pipeline import detect
    from remote_sensing.settings import Settings

    before, after, truth = write_dates(folder, seed)
    rows, pictures = [], []
    for method in METHODS:
        begin = time.perf_counter()
        settings = Settings.model_validate({"method": method, "coregister": True, "resampling": "cubic"})
        result = detect(before, after, folder / method, settings, overwrite=True)
        seconds = time.perf_counter() - begin
        scores = evaluate(folder / method / "change.tif", truth).scores()
        facts = result.facts
        rows.append(
            (
                method, scores["f1"], scores["iou"], scores["kappa"], facts["polygons"],
                facts["changed_area_m2"] / 1e4, seconds,
            )
        )  # fmt: skip
        if method == METHODS[0]:
            sheet = (folder / method / "quicklook.png").read_bytes()
            pictures.append(Picture(sheet, f"{method}, quicklook.png", alt="both dates, change and its probability"))
    return [
        Section(
            "Change detection: two simulated dates with known changes",
            (
                "Simulated, not measured: fields, woods, water and roofs of 10 m pixels in four bands. New roofs, a "
                "felled wood and a reservoir are the truth. The second date has another extent and light, a wedge "
                f"without data, and lies {DISPLACEMENT[0]:+g} rows and {DISPLACEMENT[1]:+g} columns off; the estimate "
                f"moved it by {facts['shift_rows']:+.2f} rows and {facts['shift_cols']:+.2f} columns. No method sees "
                "the truth.",
                pictures,
                Table(
                    ("method", "F1", "IoU", "kappa", "polygons", "changed area in ha", "seconds"),
                    rows,
                    f"Against the true change where both dates have data; true area {_true_area(truth):.4g} ha.",
                ),
                Code(f"fewstep change detect {before} {after} -o changes --coregister --resampling cubic"),
            ),
        )
    ]


def write_dates(folder: Path, seed: int) -> tuple[Path, Path, Path]:
    """Write before.tif, after.tif and truth.tif (0, 1); return their paths."""
    import rasterio

    generator = np.random.default_rng(seed)
    places = generator.uniform(-10, SIDE + 10, (CELLS, 2))
    kinds = generator.choice(4, CELLS)
    later = kinds.copy()
    later[int(np.argmin(np.abs(places - [70, 170]).sum(1)))] = CLASSES.index("soil")
    later[int(np.argmin(np.abs(places - [180, 60]).sum(1)))] = CLASSES.index("water")
    roofs = [(150 + 14 * k, 150 + 22 * (k % 3), 9, 15) for k in range(6)]
    first = _seen(generator, places, kinds, [], (0.0, 0.0))
    second = _seen(generator, places, later, roofs, DISPLACEMENT)
    labels = [_labels(places, state, built) for state, built in ((kinds, []), (later, roofs))]
    gain, offset = (np.array(values)[:, None, None] for values in LIGHT)
    second = gain * second + offset
    wedge = np.add.outer(np.arange(SIDE), np.arange(SIDE)) > 2 * SIDE - 90
    second[:, wedge] = 0
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "before.tif", folder / "after.tif", folder / "truth.tif"
    changed = (labels[0] != labels[1])[None].astype(np.uint8)
    images = (first, second[:, CROP:, CROP:], changed)
    for path, image, start in zip(paths, images, (0, CROP, 0), strict=True):
        values = image if image.dtype == np.uint8 else np.rint(image).clip(0, 65535).astype(np.uint16)
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            width=values.shape[2],
            height=values.shape[1],
            count=len(values),
            dtype=values.dtype,
            crs=f"EPSG:{EPSG}",
            transform=rasterio.Affine(10, 0, CORNER[0] + 10 * start, 0, -10, CORNER[1] - 10 * start),
            nodata=None if path.stem == "truth" else 0,
        ) as dataset:
            dataset.write(values)
            for band, name in enumerate(("blue", "green", "red", "nir")[: len(values)], start=1):
                dataset.set_band_description(band, name if len(values) > 1 else "changed")
    return paths


def _seen(
    generator: np.random.Generator,
    places: NDArray[np.float64],
    kinds: NDArray[np.int64],
    roofs: list[tuple[int, int, int, int]],
    displacement: tuple[float, float],
) -> NDArray[np.float64]:
    """Return one date (bands, rows, columns) with mixed pixels, texture that stays, and noise that does not."""
    table = np.array([SPECTRA[name] for name in CLASSES], dtype=np.float64)
    steps = (np.arange(SUBPIXELS) + 0.5) / SUBPIXELS - 0.5
    image = np.zeros((SIDE, SIDE, 4))
    texture = np.random.default_rng(0).standard_normal((SIDE + 20, SIDE + 20))
    for down in steps:
        for right in steps:
            labels = _labels(places, kinds, roofs, (down - displacement[0], right - displacement[1]))
            image += table[labels] / SUBPIXELS**2
    image *= 1 + 0.12 * _smooth(texture, displacement)[..., None]
    image += 12 * generator.standard_normal(image.shape)
    return np.moveaxis(image, -1, 0)


def _labels(
    places: NDArray[np.float64],
    kinds: NDArray[np.int64],
    roofs: list[tuple[int, int, int, int]],
    offset: tuple[float, float] = (0.0, 0.0),
) -> NDArray[np.int64]:
    """Return the class at each pixel's middle, moved by an offset in pixels."""
    from scipy.spatial import cKDTree

    rows, cols = np.mgrid[:SIDE, :SIDE]
    points = np.stack([rows + offset[0], cols + offset[1]], -1)
    labels = kinds[cKDTree(places).query(points.reshape(-1, 2))[1]].reshape(SIDE, SIDE)
    for top, left, height, width in roofs:
        inside = (points >= (top - 0.5, left - 0.5)) & (points < (top + height - 0.5, left + width - 0.5))
        labels[inside.all(-1)] = CLASSES.index("roof")
    return labels


def _smooth(texture: NDArray[np.float64], displacement: tuple[float, float]) -> NDArray[np.float64]:
    from scipy.ndimage import gaussian_filter, shift

    ground = gaussian_filter(texture, 1.2)
    moved = shift(ground / ground.std(), displacement, order=3)
    return moved[10:-10, 10:-10]


def _true_area(truth: Path) -> float:
    import rasterio

    with rasterio.open(truth) as dataset:
        return float((dataset.read(1) == 1).sum()) * 100 / 1e4
