"""The trained detector for a pair: weights that fit its bands and units, and what a user must read about them."""

from __future__ import annotations

import math

import numpy as np

from remote_sensing.ddpm_cd.files import load_detector
from remote_sensing.ddpm_cd.tiles import PatchDetector
from remote_sensing.grid import MapGrid
from remote_sensing.rasters import Pair, Sample
from remote_sensing.settings import Settings
from remote_sensing.training.data import require_units
from shared.devices import resolve_device
from shared.errors import InputError

LARGEST_RATIO = 2.0  # of pixel sizes between which a detector is used without a warning


def detector_for(pair: Pair, sample: Sample, settings: Settings) -> PatchDetector:
    """Return the detector of the settings, ready for a pair.

    Raises:
        InputError: settings that a trained detector has not, no such weights, or a pair with other bands or units than
            those that the weights were trained on.
    """
    _refuse_other_options(settings)
    name = settings.weights
    if name is None:
        raise InputError(
            "--weights",
            found="none",
            expected="a trained detector, by name or path; none is packaged",
            fix="Train one with fewstep change train, or use --method ir-mad, which needs none.",
        )
    detector, training = load_detector(name, resolve_device(settings.device))
    detector.precision = settings.precision
    diffusion = detector.config.diffusion
    if pair.bands != diffusion.unet.bands:
        raise InputError(
            pair.before.path,
            found=f"{pair.bands} bands ({', '.join(pair.before.names)})",
            expected=f"{diffusion.unet.bands}, those of the weights {name}",
            fix="Choose them with --bands in the order of the training, or train weights for these bands.",
        )
    for source, values in ((pair.before, sample.before), (pair.after, sample.after)):
        require_units(source.path, list(values), diffusion.limits)
    return PatchDetector(detector, training, notes=tuple(_notes(training, pair.grid, settings.tile)))


def pixel_metres(grid: MapGrid) -> float | None:
    """Return the geodesic length of the mean side of the pixel in the middle of the grid; None without a CRS."""
    if grid.crs is None:
        return None
    from pyproj import CRS, Geod, Transformer

    crs = CRS(grid.crs.to_wkt())
    columns = np.array([0.0, 1.0, 0.0]) + grid.width / 2
    rows = np.array([0.0, 0.0, 1.0]) + grid.height / 2
    x, y = grid.transform @ (columns, rows)
    lon, lat = Transformer.from_crs(crs, crs.geodetic_crs or "EPSG:4326", always_xy=True).transform(x, y)
    geod = crs.get_geod() or Geod(ellps="WGS84")
    _, _, lengths = geod.inv([lon[0]] * 2, [lat[0]] * 2, lon[1:], lat[1:])
    return float(math.sqrt(lengths[0] * lengths[1]))


def _notes(training: dict[str, object], grid: MapGrid, tile: int | None) -> list[str]:
    found = []
    if training.get("warning"):
        found.append(str(training["warning"]))
    metres, known = pixel_metres(grid), training.get("pixel_m")
    if metres is not None and isinstance(known, (list, tuple)):
        low, high = (float(side) for side in known)
        if not low / LARGEST_RATIO <= metres <= high * LARGEST_RATIO:
            found.append(
                f"The pixels are {metres:.3g} m wide, where the weights were trained on {low:g} to {high:g} m: do not "
                "trust the result without labels to check it on."
            )
    crop = training.get("crop")
    if tile is not None and crop is not None and tile != crop:
        found.append(f"Tiles of {tile} pixels, where the weights were trained on {crop}: normalisations see others.")
    return found


def _refuse_other_options(settings: Settings) -> None:
    given = {
        "--threshold": settings.threshold is not None,
        "--labels": settings.labels is not None,
        "--normalise": settings.normalisation != "invariant",
    }
    for option, refused in given.items():
        if refused:
            raise InputError(
                option,
                found="together with --method ddpm-cd",
                expected="none: the weights decide, and the boundary is a probability of 1/2",
                fix="Leave it out.",
            )
