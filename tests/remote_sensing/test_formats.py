"""The formats of the trade read alike, and odd transforms come out as they went in."""

from __future__ import annotations

import json

import geopandas
import numpy as np
import pyogrio
import pytest
import rasterio
import rasterio.shutil
from rasterio.windows import Window
from rio_cogeo.cogeo import cog_validate

from remote_sensing.pipeline import detect
from remote_sensing.rasters import open_pair
from remote_sensing.settings import Settings
from remote_sensing.sources import open_raster
from tests.remote_sensing.scenes import TRANSFORM, f1, fewstep, scene, write

FORMATS = {
    "GeoTIFF": ("b.tif", {"driver": "GTiff", "COMPRESS": "LZW"}),
    "COG": ("b.tif", {"driver": "COG", "BLOCKSIZE": 128}),
    "JPEG 2000": ("b.jp2", {"driver": "JP2OpenJPEG", "QUALITY": 100, "REVERSIBLE": "YES", "YCBCR420": "NO"}),
    "ENVI": ("b.img", {"driver": "ENVI"}),
    "VRT": ("b.vrt", {"driver": "VRT"}),
}


@pytest.fixture
def dates():
    before, after, changed = scene()
    return before.clip(1).astype(np.uint16), after.clip(1).astype(np.uint16), changed


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_reads_like_a_geotiff(tmp_path, dates, name):
    before, after, changed = dates
    file, options = FORMATS[name]
    plain = write(tmp_path / "plain.tif", after)
    (tmp_path / "x").mkdir()
    path = tmp_path / "x" / file
    rasterio.shutil.copy(plain, path, **options)
    with open_raster(path) as dataset:
        assert dataset.driver == {"COG": "GTiff"}.get(options["driver"], options["driver"])
    first = write(tmp_path / "a.tif", before)
    expected, found = (open_pair(first, second).read(Window(0, 0, 150, 120)) for second in (plain, path))
    np.testing.assert_array_equal(found.after, expected.after)
    np.testing.assert_array_equal(found.valid, expected.valid)
    done = fewstep("change", "detect", first, path, "-o", tmp_path / "out", "--quiet")
    assert done.returncode == 0, done.stderr
    with rasterio.open(tmp_path / "out" / "change.tif") as dataset:
        assert f1(dataset.read(1) == 1, changed) > 0.9


@pytest.mark.parametrize("kind", ["rotated", "south up", "degrees"])
def test_results_have_the_first_dates_georeference_whatever_it_is(tmp_path, dates, kind):
    before, after, changed = dates
    transform, crs = {
        "rotated": (TRANSFORM @ rasterio.Affine.rotation(25), "EPSG:32633"),
        "south up": (rasterio.Affine(10.0, 0.0, 5e5, 0.0, 10.0, 5.6e6), "EPSG:32633"),
        "degrees": (rasterio.Affine(1e-4, 0.0, 15.0, 0.0, -1e-4, 50.5), "EPSG:4326"),
    }[kind]
    paths = [write(tmp_path / f"{k}.tif", date, transform=transform, crs=crs) for k, date in enumerate((before, after))]
    facts = detect(*paths, tmp_path / "out", Settings(vectors=("gpkg", "fgb", "geojson", "parquet"))).facts
    for name in ("probability.tif", "change.tif"):
        with rasterio.open(tmp_path / "out" / name) as found, rasterio.open(paths[0]) as first:
            assert found.crs.to_wkt() == first.crs.to_wkt()
            assert found.transform == first.transform
            assert found.shape == first.shape
            assert found.nodata is not None
    with rasterio.open(tmp_path / "out" / "change.tif") as dataset:
        assert f1(dataset.read(1) == 1, changed) > 0.9
    frames = {
        name: geopandas.read_parquet(path) if name == "parquet" else geopandas.read_file(path)
        for name in ("gpkg", "fgb", "geojson", "parquet")
        for path in [tmp_path / "out" / f"changes.{name}"]
    }
    for name, frame in frames.items():
        assert len(frame) == facts["polygons"] > 0
        assert frame["area_m2"].sum() == pytest.approx(facts["changed_area_m2"])
        assert frame.geometry.is_valid.all(), name
        assert frame.crs == ("EPSG:4326" if name == "geojson" else crs)
    west, south, east, north = json.loads((tmp_path / "out" / "item.json").read_text())["bbox"]
    assert west <= frames["geojson"].total_bounds[0] <= frames["geojson"].total_bounds[2] <= east
    assert south <= frames["geojson"].total_bounds[1] <= frames["geojson"].total_bounds[3] <= north


def test_every_output_of_a_run_passes_its_formats_own_check(tmp_path, dates):
    before, after, _ = dates
    wide = [np.tile(date, (1, 6, 5)) for date in (before, after)]
    paths = [write(tmp_path / f"{k}.tif", date) for k, date in enumerate(wide)]
    out = tmp_path / "out"
    facts = detect(*paths, out, Settings(vectors=("gpkg", "fgb", "geojson", "parquet"), tile=256)).facts
    for name in ("probability.tif", "change.tif"):
        valid, errors, warnings = cog_validate(out / name, quiet=True)
        assert valid, (errors, warnings)
        assert not warnings
        with rasterio.open(out / name) as dataset:
            assert dataset.overviews(1)
    for name in ("gpkg", "fgb", "geojson"):
        info = pyogrio.read_info(out / f"changes.{name}")
        assert info["features"] == facts["polygons"]
        assert info["geometry_type"] == "Polygon"
    described = json.loads((out / "changes.geojson").read_text())
    assert "crs" not in described  # RFC 7946 knows longitude and latitude only
    pystac = pytest.importorskip("pystac")
    item = pystac.Item.from_file(str(out / "item.json"))
    vectors = {"changes-gpkg", "changes-fgb", "changes-geojson", "changes-parquet"}
    assert set(item.assets) == {"probability", "change", "quicklook", "report", "result"} | vectors
    assert all((out / asset.href).exists() for asset in item.assets.values())
