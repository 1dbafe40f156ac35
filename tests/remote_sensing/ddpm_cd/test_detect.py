"""`fewstep change detect --method ddpm-cd`: the trained detector in the pipeline, on one process and on workers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
import torch
from scipy.ndimage import gaussian_filter

from remote_sensing.ddpm_cd.config import detector_from_data
from remote_sensing.ddpm_cd.detector import ChangeDetector
from remote_sensing.ddpm_cd.files import load_detector, save_detector, save_diffusion
from remote_sensing.ddpm_cd.fitting import pixel_metres
from remote_sensing.ddpm_cd.tiles import PatchDetector
from remote_sensing.grid import MapGrid
from tests.remote_sensing.scenes import assert_one_clear_line, fewstep, write

UNET = {"channels": 8, "multipliers": [1, 2], "blocks": 1, "attention": [], "groups": 4, "dropout": 0.0, "fold": 2}
CONFIG = detector_from_data({"preset": "light", "diffusion": {"unet": UNET}, "head": {"timesteps": [50], "hidden": 8}})
TRAINING = {"crop": 64, "warning": "Research only.", "pixel_m": [8.0, 12.0]}
SHAPE = (100, 150)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return make_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


def make_weights(path):
    """Write a random detector with probabilities far from 1/2, alike for the pixels of a place: few polygons."""
    torch.manual_seed(1)
    detector = ChangeDetector(CONFIG)
    last = detector.head.clfr_stg2
    with torch.no_grad():
        for parameter in (last.weight, last.bias):
            parameter.copy_(40 * parameter.view(2, 4, -1)[:, :1].expand(2, 4, -1).reshape(parameter.shape))
    save_detector(path, CONFIG, detector.state_dict(), TRAINING)
    return path


def images(seed: int = 0, bands: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Two dates that differ on the right, smooth, so that there are few polygons to trace."""
    noise = np.random.default_rng(seed).standard_normal((2, bands, *SHAPE))
    before, after = (128 + 900 * gaussian_filter(noise, (0, 0, 5, 5))).clip(1, 255).astype(np.uint8)
    after[:, :, :50] = before[:, :, :50]
    return before, after


@pytest.fixture
def pair(tmp_path):
    before, after = images()
    return write(tmp_path / "before.tif", before), write(tmp_path / "after.tif", after)


def detect(pair, out, *words):
    return fewstep("change", "detect", *pair, "-o", out, "--method", "ddpm-cd", "-q", *words)


def probability(folder) -> np.ndarray:
    with rasterio.open(folder / "probability.tif") as dataset:
        return dataset.read(1)


def test_tiles_have_the_size_of_the_training_crops_and_are_blended_by_a_quarter(tmp_path, pair, weights):
    done = detect(pair, tmp_path / "out", "--weights", weights)
    assert done.returncode == 0, done.stderr
    detector, _ = load_detector(weights)
    before, after = (torch.from_numpy(image).float() for image in images())
    total, weight = np.zeros(SHAPE), np.zeros(SHAPE)
    for row in (0, 36):  # 64 with 16 shared; the last ones end at the border: 100 - 64, 150 - 64
        for col in (0, 48, 86):
            place = slice(row, row + 64), slice(col, col + 64)
            a, b = (date[(slice(None), *place)][None] for date in (before, after))
            found = detector.probability(a, b, torch.tensor([[row, col]]))[0].numpy()
            share = np.outer(*(ramp(at, at > 0, at + 64 < end) for at, end in ((row, 100), (col, 150))))
            total[place] += share * found
            weight[place] += share
    assert np.ptp(total / weight) > 0.2
    np.testing.assert_allclose(probability(tmp_path / "out"), total / weight, rtol=0, atol=1e-5)
    facts = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (facts["method"], facts["tiles"], facts["threshold"]) == ("ddpm-cd", 6, 0.5)
    assert "Research only." in facts["warnings"]


def ramp(start: int, rises: bool, falls: bool) -> np.ndarray:
    """Squared sine over the 16 shared pixels of a tile, 1 elsewhere."""
    edge = np.sin(np.pi / 32 * (np.arange(16) + 0.5)) ** 2
    values = np.ones(64)
    if rises:
        values[:16] *= edge
    if falls:
        values[-16:] *= edge[::-1]
    return values


def test_workers_give_the_bytes_of_one_process_although_dask_gives_them_other_threads(tmp_path, pair, weights):
    pytest.importorskip("distributed")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert detect(pair, tmp_path / "one", "--weights", weights).returncode == 0
        done = detect(pair, tmp_path / "two", "--weights", weights, "--cluster", 2)
    finally:
        torch.set_num_threads(threads)
    assert done.returncode == 0, done.stderr
    for name in ("probability.tif", "change.tif"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_what_lies_under_nodata_changes_nothing_and_is_nodata_in_the_result(tmp_path, weights):
    found = []
    for fill in (0, 200):
        before, after = images()
        before[:, 10:30, 20:50] = fill
        mask = np.zeros((1, *SHAPE), np.uint8)
        mask[0, 10:30, 20:50] = 1
        folder = tmp_path / str(fill)
        folder.mkdir()
        paths = [write(folder / f"{name}.tif", values) for name, values in (("a", before), ("b", after), ("m", mask))]
        done = detect(paths[:2], folder / "out", "--weights", weights, "--exclude", paths[2])
        assert done.returncode == 0, done.stderr
        found.append(probability(folder / "out"))
    assert np.array_equal(np.isnan(found[0]), mask[0] > 0)
    assert np.array_equal(found[0], found[1], equal_nan=True)


def test_a_killed_run_goes_on_with_its_tiles(tmp_path, pair, weights):
    out = tmp_path / "out"
    detect(pair, tmp_path / "whole", "--weights", weights)

    class Killed(BaseException):
        pass

    calls, ask = [], PatchDetector.__call__

    def three(self, patch):
        if len(calls) == 3:
            raise Killed
        calls.append(patch.row)
        return ask(self, patch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PatchDetector, "__call__", three)
        with pytest.raises(Killed):
            detect(pair, out, "--weights", weights)
    assert not (out / "result.json").exists()
    done = detect(pair, out, "--weights", weights)
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "result.json").read_text())["tiles_resumed"] == 3
    assert (out / "probability.tif").read_bytes() == (tmp_path / "whole" / "probability.tif").read_bytes()


def test_half_precision_moves_the_probability_by_little(tmp_path, pair, weights):
    for precision in ("float32", "bfloat16"):
        done = detect(pair, tmp_path / precision, "--weights", weights, "--precision", precision)
        assert done.returncode == 0, done.stderr
    apart = np.abs(probability(tmp_path / "bfloat16") - probability(tmp_path / "float32"))
    assert 0 < apart.max() < 0.1
    assert apart.mean() < 0.01


@pytest.mark.parametrize(
    ("bands", "convert", "words"),
    [
        (4, lambda values: values, ("4 bands", "3, those of the weights", "--bands")),
        (1, lambda values: values, ("1 bands", "3, those of the weights")),
        (3, lambda values: values / np.float32(255), ("from 0.0", "0 to 255", "units")),
        (3, lambda values: values.astype(np.uint16) * 40, ("band 1", "0 to 255", "units")),
    ],
    ids=["more bands", "fewer bands", "reflectance", "16 bits"],
)
def test_a_pair_of_other_bands_or_units_than_the_weights_is_refused(tmp_path, weights, bands, convert, words):
    paths = [
        write(tmp_path / f"{name}.tif", convert(values), photometric="MINISBLACK", alpha="NO")
        for name, values in zip("ab", images(bands=bands), strict=True)
    ]
    assert_one_clear_line(detect(paths, tmp_path / "out", "--weights", weights), *words)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--threshold", "3"], ("--threshold", "ddpm-cd")),
        (["--normalise", "zscore"], ("--normalise", "ddpm-cd")),
        (["--method", "cva"], ("--weights", "not trained")),
        (["--precision", "float64"], ("--precision", "float32")),
        (["--device", "cuda:77"], ("cuda:77", "no such device")),
        (["--weights", "no/such"], ("no such weights",)),
    ],
)
def test_options_that_a_trained_detector_has_not_are_refused(tmp_path, pair, weights, options, words):
    assert_one_clear_line(detect(pair, tmp_path / "out", "--weights", weights, *options), *words)


def test_without_weights_it_says_how_to_get_them(tmp_path, pair):
    assert_one_clear_line(detect(pair, tmp_path / "out"), "--weights", "fewstep change train", "ir-mad")


def test_a_diffusion_network_is_no_detector(tmp_path, pair, weights):
    path = tmp_path / "diffusion.safetensors"
    detector, _ = load_detector(weights)
    save_diffusion(path, CONFIG.diffusion, detector.unet.state_dict(), {})
    assert_one_clear_line(detect(pair, tmp_path / "out", "--weights", path), "image diffusion", "change detector")


def test_other_pixel_sizes_than_those_of_the_training_are_told(tmp_path, weights):
    wide = rasterio.Affine(30.0, 0.0, 500000.0, 0.0, -30.0, 5600000.0)
    paths = [
        write(tmp_path / f"{name}.tif", values, transform=wide) for name, values in zip("ab", images(), strict=True)
    ]
    done = detect(paths, tmp_path / "out", "--weights", weights)
    assert done.returncode == 0, done.stderr
    warnings = json.loads((tmp_path / "out" / "result.json").read_text())["warnings"]
    assert any("30 m wide" in warning for warning in warnings)


def test_a_pixel_is_measured_on_the_ground_whatever_the_crs():
    # At 60 degrees north a degree of longitude has half of its length at the equator; Web Mercator is twice too large.
    degrees = MapGrid(rasterio.CRS.from_epsg(4326), rasterio.Affine(1e-3, 0, 10, 0, -1e-3, 60.05), 100, 100)
    assert pixel_metres(degrees) == pytest.approx(111_320e-3 * 0.5**0.5, rel=0.01)
    mercator = MapGrid(rasterio.CRS.from_epsg(3857), rasterio.Affine(10, 0, 1.1e6, 0, -10, 8.4e6), 100, 100)
    assert pixel_metres(mercator) == pytest.approx(5.0, rel=0.02)
    assert pixel_metres(MapGrid(None, rasterio.Affine.identity(), 9, 9)) is None
