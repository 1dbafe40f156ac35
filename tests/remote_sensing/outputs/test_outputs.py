"""Rasters, polygons, styles and the STAC item, against GDAL's, PROJ's and other readers' geometry."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import geopandas
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from pyproj import Geod, Transformer
from rasterio.crs import CRS
from rasterio.features import rasterize

from remote_sensing.dates import date_of
from remote_sensing.grid import MapGrid
from remote_sensing.outputs.quicklook import shown_bands
from remote_sensing.outputs.rasters import write_cog, write_plain
from remote_sensing.outputs.stac import stac_item
from remote_sensing.outputs.styles import write_styles
from remote_sensing.outputs.vectors import trace, write_vectors
from shared.errors import InputError
from tests.remote_sensing.scenes import TRANSFORM, UTM, write

SHAPE = (90, 110)
GRIDS = {
    "utm": MapGrid(UTM, TRANSFORM, 110, 90),
    "degrees": MapGrid(CRS.from_epsg(4326), rasterio.Affine(1e-3, 0, 12.0, 0, -1e-3, 60.0), 110, 90),
    "mercator": MapGrid(CRS.from_epsg(3857), rasterio.Affine(30, 0, 1.3e6, 0, -30, 8.4e6), 110, 90),
    "rotated": MapGrid(UTM, TRANSFORM @ rasterio.Affine.rotation(25), 110, 90),
    "south up": MapGrid(UTM, rasterio.Affine(10, 0, 5e5, 0, 10, 5.6e6), 110, 90),
}


@pytest.fixture
def probability():
    """Blobs, one with a hole, two that touch at a corner, a wedge without data."""
    p = np.full(SHAPE, 0.1, np.float32)
    p[10:40, 10:50] = 0.9
    p[20:30, 20:30] = 0.2
    p[22, 24] = 0.7
    p[50:60, 50:60] = 0.6
    p[60:70, 60:70] = 0.8
    p[:, 100:] = np.nan
    p[80:90, 95:105] = np.where(np.isnan(p[80:90, 95:105]), np.nan, 0.55)
    return p


def maps(folder, grid, p, rows=17):
    pieces = ((top, p[top : top + rows]) for top in range(0, len(p), rows))
    return write_plain(folder, grid, pieces, tags={})


@pytest.mark.parametrize("name", GRIDS)
def test_cogs_have_the_grid_of_the_pair_and_are_valid(tmp_path, probability, name):
    from rio_cogeo.cogeo import cog_validate

    grid = GRIDS[name]
    plain, mask, counts = maps(tmp_path, grid, probability)
    write_cog(plain, tmp_path / "probability.tif", overviews="AVERAGE")
    write_cog(mask, tmp_path / "change.tif", overviews="NEAREST")
    for file in ("probability.tif", "change.tif"):
        with rasterio.open(tmp_path / file) as dataset:
            assert dataset.crs == grid.crs
            assert dataset.crs.to_wkt() == grid.crs.to_wkt()
            assert dataset.transform == grid.transform
            assert dataset.shape == grid.shape
            assert dataset.driver == "GTiff"
            assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        if name != "rotated" and name != "south up":
            assert cog_validate(tmp_path / file, quiet=True)[0]
    with rasterio.open(tmp_path / "probability.tif") as dataset:
        assert np.isnan(dataset.nodata)
        np.testing.assert_array_equal(dataset.read(1), probability)
    with rasterio.open(tmp_path / "change.tif") as dataset:
        found = dataset.read(1)
        assert dataset.nodata == 255
        assert dataset.colormap(1)[1] == (215, 25, 28, 255)
    np.testing.assert_array_equal(found, np.where(np.isnan(probability), 255, probability >= 0.5))
    assert (counts.valid, counts.changed) == (np.isfinite(probability).sum(), (probability >= 0.5).sum())
    assert sum(counts.histogram) == counts.valid
    assert not list(tmp_path.glob("*.plain.tif"))


def test_large_rasters_have_overviews_in_which_nodata_does_not_leak(tmp_path):
    grid = MapGrid(UTM, TRANSFORM, 1200, 1100)
    p = np.full(grid.shape, 0.25, np.float32)
    p[:, 600:] = np.nan
    plain, _, _ = maps(tmp_path, grid, p, rows=300)
    write_cog(plain, tmp_path / "p.tif", overviews="AVERAGE")
    with rasterio.open(tmp_path / "p.tif") as dataset:
        assert dataset.overviews(1)
        small = dataset.read(1, out_shape=(275, 300))
    np.testing.assert_allclose(small[:, :149], 0.25)
    assert np.isnan(small[:, 151:]).all()


@pytest.mark.parametrize("name", GRIDS)
def test_polygons_are_the_mask_with_areas_of_the_ellipsoid(tmp_path, probability, name):
    grid = GRIDS[name]
    plain, mask, _ = maps(tmp_path, grid, probability)
    frame = trace(mask, plain, grid, dates=("2000-01-01", "2003-02-03"))
    changed = probability >= 0.5
    assert len(frame) == 5  # the hole holds an island; corners do not join
    assert frame.geometry.is_valid.all()
    np.testing.assert_array_equal(rasterize(frame.geometry, SHAPE, transform=grid.transform) > 0, changed)
    assert frame["pixels"].sum() == changed.sum()
    # Independent: every changed pixel as a quadrilateral of geodesics.
    rows, cols = np.nonzero(changed)
    corners = [(cols + dx, rows + dy) for dx, dy in ((0, 0), (1, 0), (1, 1), (0, 1))]
    a, b, c, d, e, f = grid.transform[:6]
    to_degrees = Transformer.from_crs(grid.crs.to_wkt(), 4326, always_xy=True)
    lonlat = [to_degrees.transform(a * x + b * y + c, d * x + e * y + f) for x, y in corners]
    geod = Geod(ellps="WGS84")
    pixels = [
        abs(geod.polygon_area_perimeter([lon[i] for lon, _ in lonlat], [lat[i] for _, lat in lonlat])[0])
        for i in range(len(rows))
    ]
    assert frame["area_m2"].sum() == pytest.approx(sum(pixels), rel=1e-4)
    assert (np.diff(frame["area_m2"]) <= 0).all()
    holed = frame.iloc[0]
    values = probability[10:40, 10:50]
    assert holed["pixels"] == 30 * 40 - 100
    assert holed["mean_probability"] == pytest.approx(0.9)
    assert holed["max_probability"] == pytest.approx(values.max())
    assert set(frame["max_probability"].round(3)) == {0.9, 0.8, 0.7, 0.6, 0.55}
    assert list(frame["date_after"].unique()) == ["2003-02-03"]


def test_perimeters_include_holes(tmp_path, probability):
    plain, mask, _ = maps(tmp_path, GRIDS["utm"], probability)
    frame = trace(mask, plain, GRIDS["utm"])
    assert frame["perimeter_m"].iloc[0] == pytest.approx(10 * (2 * (30 + 40) + 4 * 10), rel=1e-3)


def test_web_mercator_is_not_taken_at_its_word(tmp_path, probability):
    grid = GRIDS["mercator"]
    plain, mask, _ = maps(tmp_path, grid, probability)
    frame = trace(mask, plain, grid)
    latitude = Transformer.from_crs(3857, 4326, always_xy=True).transform(1.3e6, 8.4e6 - 1300)[1]
    naive = frame["pixels"].sum() * 900
    assert frame["area_m2"].sum() == pytest.approx(naive * np.cos(np.radians(latitude)) ** 2, rel=0.01)


def test_small_areas_are_dropped_from_polygons_and_mask_alike(tmp_path, probability):
    plain, mask, _ = maps(tmp_path, GRIDS["utm"], probability)
    frame = trace(mask, plain, GRIDS["utm"], min_area=150)
    assert len(frame) == 4
    with rasterio.open(mask) as dataset:
        found = dataset.read(1)
    np.testing.assert_array_equal(rasterize(frame.geometry, SHAPE, transform=TRANSFORM) > 0, found == 1)
    assert found[22, 24] == 0


def test_polygons_cross_the_borders_of_blocks(tmp_path):
    grid = MapGrid(UTM, TRANSFORM, 2300, 1100)
    p = np.zeros(grid.shape, np.float32)
    p[1000:1060, 100:2200] = 0.75
    p[1020:1050, 1000:1100] = 1.0
    plain, mask, _ = maps(tmp_path, grid, p, rows=64)
    frame = trace(mask, plain, grid)
    assert len(frame) == 1
    assert frame["pixels"].iloc[0] == 60 * 2100
    assert frame["mean_probability"].iloc[0] == pytest.approx(p[p > 0].mean())
    assert frame["max_probability"].iloc[0] == 1


@pytest.mark.parametrize("kind", ["gpkg", "fgb", "geojson", "parquet"])
@pytest.mark.parametrize("empty", [False, True])
def test_every_format_reads_back(tmp_path, probability, kind, empty):
    grid = GRIDS["utm"]
    plain, mask, _ = maps(tmp_path, grid, np.minimum(probability, 0.3) if empty else probability)
    frame = trace(mask, plain, grid, dates=("2000-01-01", None))
    path = tmp_path / f"changes.{kind}"
    write_vectors(frame, path, kind)
    found = geopandas.read_parquet(path) if kind == "parquet" else geopandas.read_file(path)
    assert len(found) == (0 if empty else 5)
    if not (empty and kind == "geojson"):  # whose columns are those of its features
        assert set(frame.columns) <= set(found.columns)
    assert found.crs.to_epsg() == (4326 if kind == "geojson" else 32633)
    if kind != "parquet":
        assert pyogrio.read_info(path)["geometry_type"] in ("Polygon", "Unknown")
    if not empty:
        # FlatGeobuf sorts by place, so features are compared by id.
        merged = found.set_index("id").sort_index().to_crs(UTM.to_wkt())
        expected = frame.set_index("id").sort_index()
        np.testing.assert_allclose(merged["area_m2"], expected["area_m2"])
        assert shapely.hausdorff_distance(merged.geometry.values, expected.geometry.values).max() < 0.1


def test_no_crs_has_pixels_but_no_area(tmp_path, probability):
    grid = MapGrid(None, rasterio.Affine.identity(), 110, 90)
    plain, mask, _ = maps(tmp_path, grid, probability)
    frame = trace(mask, plain, grid, min_area=2)
    assert frame["area_m2"].isna().all()
    assert len(frame) == 4
    write_vectors(frame, tmp_path / "changes.gpkg", "gpkg")


def test_the_stac_item_says_where_when_and_of_what(tmp_path):
    grid = GRIDS["utm"]
    files = [tmp_path / name for name in ("probability.tif", "change.tif", "changes.gpkg", "change.qml")]
    sources = [tmp_path / "a.tif", tmp_path / "b.tif"]
    item = stac_item("x", grid, files, sources, dates=("2003-02-06", "2000-03-17"), facts={"polygons": 3})
    west, south, east, north = item["bbox"]
    lon, lat = Transformer.from_crs(32633, 4326, always_xy=True).transform(
        [5e5, 5e5 + 1100] * 2, [5.6e6, 5.6e6, 5.6e6 - 900, 5.6e6 - 900]
    )
    assert (west, south, east, north) == pytest.approx((min(lon), min(lat), max(lon), max(lat)), abs=1e-6)
    properties = item["properties"]
    assert properties["datetime"] is None
    assert properties["start_datetime"] < properties["end_datetime"]
    assert properties["proj:code"] == "EPSG:32633"
    assert set(item["assets"]) == {"probability", "change", "changes"}
    assert [link["rel"] for link in item["links"]] == ["derived_from"] * 2
    assert item["stac_version"] == "1.1.0"
    json.dumps(item, allow_nan=False)
    assert stac_item("x", grid, files, sources, dates=(None, None), facts={})["properties"]["datetime"]


def test_styles_are_xml_with_one_renderer(tmp_path):
    for path in write_styles(tmp_path):
        root = ElementTree.parse(path).getroot()
        assert root.tag == "qgis"
        assert len([*root.iter("rasterrenderer"), *root.iter("renderer-v2")]) == 1


@pytest.mark.parametrize(
    ("name", "date"),
    [
        ("LC08_L1TP_195025_20130707_20170503_01_T1_B4.TIF", "2013-07-07"),
        ("S2A_MSIL2A_20160529T153631_T33UUU.jp2", "2016-05-29"),
        ("field-2019-08-05.tif", "2019-08-05"),
        ("2003TM.tif", None),
        ("tile_12345678901.tif", None),
    ],
)
def test_dates_come_from_names(tmp_path, name, date):
    path = write(tmp_path / name, np.zeros((1, 3, 3), np.uint8), driver="GTiff")
    assert date_of(Path(path), None)[0] == date


def test_dates_come_from_the_option_then_acquisition_then_name_then_file_time(tmp_path):
    path, plain = (write(tmp_path / name, np.zeros((1, 3, 3), np.uint8)) for name in ("x_20130707.tif", "x.tif"))
    for file in (path, plain):
        with rasterio.open(file, "r+") as dataset:
            dataset.update_tags(TIFFTAG_DATETIME="2016:02:03 10:20:30")
    assert date_of(plain, None) == ("2016-02-03", "tag TIFFTAG_DATETIME")
    assert date_of(path, None) == ("2013-07-07", "file name")
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(ACQUISITION_DATE="2011-02-03")
    assert date_of(path, None) == ("2011-02-03", "tag ACQUISITION_DATE")
    assert date_of(path, "2010-01-01") == ("2010-01-01", "given")
    with pytest.raises(InputError, match="no date"):
        date_of(path, "yesterday")


def test_colours_are_shown_by_name_and_by_custom():
    assert shown_bands(("nir", "Red", "green", "BLUE")) == (1, 2, 3)
    assert shown_bands(("band 1", "band 2", "band 3", "band 4")) == (2, 1, 0)
    assert shown_bands(("band 1", "band 2", "band 3")) == (0, 1, 2)
    assert shown_bands(("band 1", "band 2")) == (0, 0, 0)
