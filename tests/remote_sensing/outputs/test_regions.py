"""Areas labelled band by band are those of the whole mask; pictures made window by window are means of the whole."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from rasterio.windows import Window
from scipy import ndimage

from remote_sensing.fill import fill_share
from remote_sensing.grid import MapGrid
from remote_sensing.outputs import regions, vectors
from remote_sensing.outputs.regions import erase, find_regions
from remote_sensing.outputs.vectors import trace
from remote_sensing.thumbnails import CellMeans, cell_sums
from shared.errors import InputError
from tests.remote_sensing.scenes import TRANSFORM, UTM, write

SHAPE = (61, 47)
GRID = MapGrid(UTM, TRANSFORM, SHAPE[1], SHAPE[0])


@pytest.fixture(params=[0.05, 0.4, 0.6, 1.0])
def rasters(tmp_path, request):
    """A mask of noise, from specks to one area that winds through all bands, with missing pixels."""
    generator = np.random.default_rng(int(100 * request.param))
    mask = (generator.random(SHAPE) < request.param).astype(np.uint8)
    mask[generator.random(SHAPE) < 0.05] = 255
    p = generator.random(SHAPE).astype(np.float32)
    return write(tmp_path / "m.tif", mask[None], nodata=255), write(tmp_path / "p.tif", p[None]), mask == 1, p


@pytest.mark.parametrize("band", [1, 7, 512])
def test_areas_of_bands_are_those_of_the_whole(rasters, monkeypatch, band):
    mask, raster, changed, p = rasters
    monkeypatch.setattr(regions, "BLOCK", band)
    found = find_regions(mask, raster, GRID)
    label, count = ndimage.label(changed)
    numbers = np.arange(1, count + 1)
    first = [int(np.flatnonzero(label == number)[0]) for number in numbers]
    order = np.argsort(first)
    assert len(found) == count
    np.testing.assert_array_equal(found.first, np.sort(first))
    np.testing.assert_array_equal(found.pixels, ndimage.sum_labels(changed, label, numbers)[order])
    np.testing.assert_allclose(found.mean, ndimage.mean(p.astype(float), label, numbers)[order])
    np.testing.assert_array_equal(found.highest, ndimage.maximum(p, label, numbers)[order])
    erase(mask, found, found.pixels < 3, GRID)
    with rasterio.open(mask) as dataset:
        left = dataset.read(1) == 1
    sizes = ndimage.sum_labels(changed, label, np.arange(count + 1))
    np.testing.assert_array_equal(left, changed & (sizes[label] >= 3))


def test_polygons_carry_the_numbers_of_their_own_area(rasters):
    mask, raster, changed, p = rasters
    frame = trace(mask, raster, GRID)
    label, count = ndimage.label(changed)
    assert len(frame) == count
    for row in frame.itertuples():
        inside = rasterio.features.rasterize([row.geometry], SHAPE, transform=TRANSFORM) > 0
        assert inside.sum() == row.pixels
        assert len(np.unique(label[inside])) == 1
        assert row.mean_probability == pytest.approx(p[inside].mean(dtype=np.float64))
        assert row.max_probability == p[inside].max()


def test_more_areas_than_fit_in_memory_are_refused_with_the_way_out(rasters, monkeypatch):
    mask, raster, changed, _ = rasters
    count = ndimage.label(changed)[1]
    monkeypatch.setattr(vectors, "MOST_POLYGONS", count - 1)
    with pytest.raises(InputError, match="--min-area"):
        trace(mask, raster, GRID)
    if count > 1:
        assert len(trace(mask, raster, GRID, min_area=150)) < count  # two pixels at least


@pytest.mark.parametrize("size", [5, 16, 100])
def test_pictures_are_means_of_cells_however_the_grid_is_cut(size):
    generator = np.random.default_rng(0)
    values = generator.random((2, *SHAPE)).astype(np.float32)
    valid = generator.random(SHAPE) > 0.3
    valid[:12, :12] = False
    whole = CellMeans(SHAPE, 2, 6)
    for window in GRID.windows(size):
        part = np.s_[window.row_off : window.row_off + window.height, window.col_off : window.col_off + window.width]
        whole.add(cell_sums(window, np.where(valid, values, np.nan)[:, part[0], part[1]], valid[part], 6))
    image = whole.image()
    assert image.shape == (2, 11, 8)
    assert np.isnan(image[:, :2, :2]).all()
    for row, col in ((3, 2), (10, 7), (0, 5)):
        cell = np.s_[6 * row : 6 * row + 6, 6 * col : 6 * col + 6]
        np.testing.assert_allclose(image[:, row, col], values[(slice(None), *cell)][:, valid[cell]].mean(1), rtol=1e-5)


@pytest.mark.parametrize("tiled", [True, False])
def test_fill_is_found_alike_in_large_files_with_and_without_overviews(tmp_path, tiled):
    generator = np.random.default_rng(0)
    image = generator.integers(1, 200, (2, 1600, 1400)).astype(np.uint8)
    image[:, np.add.outer(np.arange(1600), np.arange(1400)) < 800] = 0
    image[:, 1000:1300, 600:900] = 0  # a lake does not touch the border
    options = {"tiled": True, "blockxsize": 256, "blockysize": 256} if tiled else {}
    path = write(tmp_path / "a.tif", image, **options)
    expected = 800 * 801 / 2 / (1600 * 1400)
    with rasterio.open(path) as dataset:
        assert fill_share(dataset, (1, 2)) == pytest.approx(expected, rel=0.02)
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2, 4], rasterio.enums.Resampling.nearest)
    with rasterio.open(path) as dataset:
        assert fill_share(dataset, (1, 2)) == pytest.approx(expected, rel=0.02)
    inside = image.copy()
    inside[:, :, :5] = 9
    inside[:, :5] = 9
    with rasterio.open(write(tmp_path / "b.tif", inside, **options)) as dataset:
        assert fill_share(dataset, (1, 2)) == 0
        assert dataset.read(1, window=Window(0, 0, 5, 5)).all()
