"""Synthetic scenes with known truths, rasters on disk, and the command line of this checkout."""

from __future__ import annotations

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS
from scipy.ndimage import gaussian_filter

import shared.cli

UTM = CRS.from_epsg(32633)
TRANSFORM = rasterio.Affine(10.0, 0.0, 500000.0, 0.0, -10.0, 5600000.0)
COMMAND = EntryPoint("change", "remote_sensing.cli:app", shared.cli.GROUP)


def scene(shape=(120, 150), bands=4, *, seed=0, noise=3.0):
    """Two dates (bands, rows, columns) float32 of one smooth landscape, other gains and noise, and the true change."""
    generator = np.random.default_rng(seed)
    layers = np.stack([gaussian_filter(generator.standard_normal(shape), 2 + k) * (2 + k) * 40 for k in range(bands)])
    mixing = np.eye(bands) + 0.4 * generator.standard_normal((bands, bands))
    ground = np.tensordot(mixing, layers, 1) + 300
    changed = np.zeros(shape, bool)
    changed[20:44, 30:60] = True
    changed[70:80, 90:130] = True
    later = ground.copy()
    later[:, changed] = (
        300 + 150 * generator.standard_normal(bands)[:, None] + 20 * generator.standard_normal((bands, changed.sum()))
    )
    before = ground + noise * generator.standard_normal(ground.shape)
    after = 1.3 * later + 40 + noise * generator.standard_normal(ground.shape)
    return before.astype(np.float32), after.astype(np.float32), changed


def write(path: Path, values, *, crs=UTM, transform=TRANSFORM, names=None, **profile) -> Path:
    """Write (bands, rows, columns) as a GeoTIFF."""
    values = np.asarray(values)
    profile = {"driver": "GTiff", "count": values.shape[0], "dtype": values.dtype, "crs": crs} | profile
    with rasterio.open(
        path, "w", height=values.shape[1], width=values.shape[2], transform=transform, **profile
    ) as dataset:
        dataset.write(values)
        for index, name in enumerate(names or ()):
            dataset.set_band_description(index + 1, name)
    return path


def pair_on_disk(folder: Path, **options):
    """Write a synthetic pair; return its paths and the true change."""
    before, after, changed = scene(**options)
    return write(folder / "before.tif", before), write(folder / "after.tif", after), changed


def fewstep(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `fewstep change` as it is here, whatever version of the entry points is installed."""
    words = [str(argument) for argument in arguments]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["fewstep", *words])
        patch.setattr(shared.cli, "entry_points", lambda group: [COMMAND] if group == shared.cli.GROUP else [])
        try:
            shared.cli.main()
        except SystemExit as done:
            code = int(done.code or 0)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def assert_one_clear_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("fewstep: ")
    for word in words:
        assert word in lines[0], lines[0]


def f1(found, truth) -> float:
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))
