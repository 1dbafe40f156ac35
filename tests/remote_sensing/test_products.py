"""STAC items and SAFE folders: bands by name out of many files, compared like one raster."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio

from remote_sensing.dates import date_of
from remote_sensing.products import open_product
from remote_sensing.rasters import open_pair
from remote_sensing.sources import gdal_name, read_source
from shared.errors import InputError
from tests.remote_sensing.scenes import TRANSFORM, assert_one_clear_line, f1, fewstep, scene, write

pytest.importorskip("pystac")
TIFF = "image/tiff; application=geotiff; profile=cloud-optimized"
PERIOD = {"start_datetime": "2001-05-06T00:00:00Z", "end_datetime": "2001-06-06T00:00:00Z"}
NAMES = ("blue", "green", "red", "nir")


def item(path: Path, assets: dict, *, moment: str | None = "2003-02-06T02:10:00Z", version: str = "1.1.0") -> Path:
    path.write_text(
        json.dumps(
            {
                "type": "Feature",
                "stac_version": version,
                "id": path.stem,
                "geometry": {"type": "Point", "coordinates": [15.0, 50.5]},
                "bbox": [15.0, 50.5, 15.0, 50.5],
                "properties": {"datetime": moment} | ({} if moment else PERIOD),
                "links": [],
                "assets": assets,
            }
        )
    )
    return path


def one_file_a_band(folder: Path, name: str, values, *, old: bool = False, **options) -> Path:
    """An item beside a folder of its bands, as the archives of Landsat and Sentinel-2 give them."""
    (folder / name).mkdir()
    assets = {"thumbnail": {"href": f"./{name}/none.png", "type": "image/png", "roles": ["thumbnail"]}}
    for number, (common, band) in enumerate(zip(NAMES, values, strict=True), start=1):
        write(folder / name / f"b{number}.tif", band[None], **options)
        told = {"name": f"B{number:02d}", ("common_name" if old else "eo:common_name"): common}
        described = {"eo:bands" if old else "bands": [told]}
        assets[f"asset{number}"] = {"href": f"./{name}/b{number}.tif", "type": TIFF, "roles": ["data"]} | described
    return item(folder / f"{name}.json", assets, version="1.0.0" if old else "1.1.0")


def test_items_are_compared_like_the_stack_of_their_bands(tmp_path):
    before, after, changed = scene()
    first = one_file_a_band(tmp_path, "first", before)
    second = one_file_a_band(tmp_path, "second", after, old=True)
    stacks = write(tmp_path / "a.tif", before[[2, 1, 3]]), write(tmp_path / "b.tif", after[[2, 1, 3]])
    done = fewstep("change", "detect", first, second, "-o", tmp_path / "items", "--bands", "red,B02,asset4")
    assert done.returncode == 0, done.stderr
    assert fewstep("change", "detect", *stacks, "-o", tmp_path / "stacks").returncode == 0
    for name in ("probability.tif", "change.tif"):
        assert (tmp_path / "items" / name).read_bytes() == (tmp_path / "stacks" / name).read_bytes()
    with rasterio.open(tmp_path / "items" / "change.tif") as dataset:
        assert f1(dataset.read(1) == 1, changed) > 0.9
    facts = json.loads((tmp_path / "items" / "result.json").read_text())
    assert (facts["date_before"], facts["date_after"]) == ("2003-02-06", "2003-02-06")
    assert facts["dates_from"] == ["STAC item", "STAC item"]
    assert facts["bands_before"] == ["asset3", "asset2", "asset4"]
    links = json.loads((tmp_path / "items" / "item.json").read_text())["links"]
    assert [Path(link["href"]).name for link in links] == ["first.json", "second.json"]


def test_bands_of_different_files_may_differ_in_resolution_and_nodata(tmp_path):
    before, _, _ = scene((60, 80))
    fine = write(tmp_path / "fine.tif", before[:2])
    coarse = before[2:3].reshape(1, 30, 2, 40, 2).mean((2, 4))
    coarse[0, 4, 5] = -1
    write(tmp_path / "coarse.tif", coarse, transform=TRANSFORM @ rasterio.Affine.scale(2), nodata=-1)
    path = item(
        tmp_path / "x.json",
        {
            "coarse": {"href": "coarse.tif", "type": TIFF},
            "fine": {"href": "fine.tif", "type": TIFF, "bands": [{"name": "B1"}, {"name": "B2"}]},
        },
    )
    pair = open_pair(path, path, bands=("coarse,B2,B1",) * 2)
    assert pair.grid.shape == (60, 80)
    assert pair.before.names == ("coarse", "B2", "B1")
    patch = pair.read(rasterio.windows.Window(0, 0, 80, 60))
    missing = np.zeros((60, 80), bool)
    missing[8:10, 10:12] = True
    np.testing.assert_array_equal(~patch.valid, missing)
    np.testing.assert_array_equal(patch.before[1:, patch.valid], before[[1, 0]][:, patch.valid])
    smooth = patch.before[0][patch.valid] - before[2][patch.valid]
    assert np.abs(smooth).mean() < 0.2 * before[2].std()
    assert read_source(path, bands="fine").bands == (1, 2)
    assert pair.before.files == (path, tmp_path / "coarse.tif", fine)


def test_what_the_item_says_of_missing_pixels_counts(tmp_path):
    before, _, _ = scene((40, 50))
    before[:, 3:9, 5:12] = 7
    path = one_file_a_band(tmp_path, "x", before)
    told = json.loads(path.read_text())
    told["assets"]["asset2"]["raster:bands"] = [{"nodata": 7}]
    path.write_text(json.dumps(told))
    assert open_pair(path, path, bands=("green", "green")).read(rasterio.windows.Window(0, 0, 50, 40)).valid.sum() == (
        40 * 50 - 6 * 7
    )
    assert read_source(path, bands="red").nodata != 7


def test_names_that_choose_nothing_or_too_much_are_refused(tmp_path):
    path = one_file_a_band(tmp_path, "x", scene((30, 30))[0])
    out = tmp_path / "out"
    assert_one_clear_line(
        fewstep("change", "detect", path, path, "-o", out), "4 bands", "asset3 = B03 = red", "--bands"
    )
    assert_one_clear_line(fewstep("change", "detect", path, path, "-o", out, "--bands", "swir16"), "no band 'swir16'")
    told = json.loads(path.read_text())
    told["assets"]["asset1"]["bands"][0]["eo:common_name"] = "red"
    path.write_text(json.dumps(told))
    with pytest.raises(InputError, match="asset1, asset3"):
        read_source(path, bands="red")
    assert not out.exists()


def test_broken_items_are_one_clear_line(tmp_path):
    good = write(tmp_path / "a.tif", scene((30, 30))[0])
    gone = item(tmp_path / "gone.json", {"red": {"href": "absent.tif", "type": TIFF}})
    empty = item(tmp_path / "empty.json", {"meta": {"href": "x.xml", "type": "application/xml"}})
    half, other = tmp_path / "half.json", tmp_path / "other.json"
    half.write_text('{"type": "Feature", ')
    other.write_text('{"type": "FeatureCollection", "features": []}')
    for path, word in ((gone, "no such file"), (empty, "no raster"), (half, "no STAC item"), (other, "no STAC item")):
        assert_one_clear_line(fewstep("change", "detect", good, path, "-o", tmp_path / "out"), word)
        assert not (tmp_path / "out").exists()


def test_addresses_become_names_of_gdal(tmp_path):
    hrefs = {
        "https://host/a.tif": "/vsicurl/https://host/a.tif",
        "s3://bucket/a.tif": "/vsis3/bucket/a.tif",
        "/vsizip/x.zip/a.tif": "/vsizip/x.zip/a.tif",
        (tmp_path / "sp ace.tif").as_uri(): str(tmp_path / "sp ace.tif"),
    }
    path = item(tmp_path / "x.json", {f"k{n}": {"href": href, "type": TIFF} for n, href in enumerate(hrefs)})
    product = open_product(path)
    assert product is not None
    assert [band.file for band in product.bands] == list(hrefs.values())
    assert [gdal_name(Path(band.file)) for band in product.bands] == list(hrefs.values())


def test_an_item_in_an_archive_is_read_through_gdal(tmp_path):
    import zipfile

    before, _, _ = scene((40, 50))
    write(tmp_path / "a.tif", before)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(tmp_path / "a.tif", "in/a.tif")
    path = item(tmp_path / "x.json", {"all": {"href": f"/vsizip/{tmp_path}/x.zip/in/a.tif", "type": TIFF}})
    patch = open_pair(path, tmp_path / "a.tif").read(rasterio.windows.Window(0, 0, 50, 40))
    np.testing.assert_array_equal(patch.before, before)


def test_an_items_period_gives_its_first_date(tmp_path):
    path = item(tmp_path / "x.json", {"a": {"href": "a.tif", "type": TIFF}}, moment=None)
    assert date_of(path, None) == ("2001-05-06", "STAC item")


def safe(folder: Path, name: str, values, resolutions) -> Path:
    """A product folder of Sentinel-2 with one JPEG 2000 a band, lossless."""
    place = folder / name / "GRANULE" / "L2A_T33UUU_A0" / "IMG_DATA"
    for (band, image), metres in zip(values.items(), resolutions, strict=True):
        target = place / f"R{metres}m"
        target.mkdir(parents=True, exist_ok=True)
        file = target / f"T33UUU_20200518T101031_{band}_{metres}m.jp2"
        write(
            file, image[None].astype(np.uint16), driver="JP2OpenJPEG",
            transform=TRANSFORM @ rasterio.Affine.scale(metres / 10), QUALITY=100, REVERSIBLE="YES", YCBCR420="NO",
        )  # fmt: skip
    return folder / name


def test_a_safe_folder_is_one_date_of_named_bands(tmp_path):
    red, swir = (np.random.default_rng(k).integers(200, 4000, (64, 64)) for k in range(2))
    red[:20, :20] = 0
    product = safe(
        tmp_path, "S2A_MSIL2A_20200518T101031_N0500_R022_T33UUU_20230101T000000.SAFE",
        {"B04": red, "B11": swir[:32, :32], "TCI": red}, (10, 20, 10),
    )  # fmt: skip
    other = product / "GRANULE" / "L2A_T33UUU_A0" / "IMG_DATA" / "R20m" / "T33UUU_20200518T101031_B04_20m.jp2"
    other.write_bytes(b"the coarser one is not opened")
    source = read_source(product, bands="red,swir16")
    assert (source.names, source.grid.shape, source.nodata) == (("B04", "B11"), (64, 64), 0)
    patch = open_pair(product, product, bands=("B04", "B04")).read(rasterio.windows.Window(0, 0, 64, 64))
    np.testing.assert_array_equal(patch.valid, red > 0)
    np.testing.assert_allclose(patch.before[0][patch.valid], (red[red > 0] - 1000) / 10_000, rtol=0, atol=1e-7)
    assert date_of(product, None) == ("2020-05-18", "name of the product")
    (tmp_path / "empty.SAFE").mkdir()
    with pytest.raises(InputError, match="no bands"):
        read_source(tmp_path / "empty.SAFE")


def test_dates_stored_in_different_ways_are_equal_in_the_unit_of_the_sensor(tmp_path):
    """Sentinel-2 before and after baseline 04.00, a STAC item with a scale, and a GeoTIFF with one: one reflectance."""
    red = np.random.default_rng(0).integers(200, 4000, (64, 64))
    early = safe(tmp_path, "S2A_MSIL2A_20210518T101031_N0300_R022_T33UUU_20210518T120000.SAFE", {"B04": red}, (10,))
    late = safe(
        tmp_path, "S2A_MSIL2A_20220518T101031_N0400_R022_T33UUU_20220518T120000.SAFE", {"B04": red + 1000}, (10,)
    )
    told = safe(
        tmp_path, "S2A_MSIL1C_20220518T101031_N0301_R022_T33UUU_20220518T120000.SAFE", {"B04": red + 700}, (10,)
    )
    (told / "MTD_MSIL1C.xml").write_text(
        "<QUANTIFICATION_VALUE unit='none'>10000</QUANTIFICATION_VALUE>\n"
        "<RADIO_ADD_OFFSET band_id='3'>-700</RADIO_ADD_OFFSET>"
    )
    write(tmp_path / "stored.tif", (2 * red[None]).astype(np.uint16), nodata=0)
    described = [{"name": "B04", "raster:scale": 5e-5, "nodata": 0}]
    stac = item(tmp_path / "s.json", {"red": {"href": "./stored.tif", "type": TIFF, "bands": described}})
    tagged = write(tmp_path / "tagged.tif", (red[None] + 2000).astype(np.uint16), nodata=0)
    with rasterio.open(tagged, "r+") as dataset:
        dataset.scales, dataset.offsets = (1e-4,), (-0.2,)
    for other in (late, told, stac, tagged):
        bands = ("B04", None if other == tagged else "B04")
        pair = open_pair(early, other, bands=bands)
        patch = pair.read(rasterio.windows.Window(0, 0, 64, 64))
        np.testing.assert_allclose(patch.before[0], red / 10_000, rtol=0, atol=1e-7)
        np.testing.assert_allclose(patch.after, patch.before, rtol=0, atol=1e-7)
        assert pair.notes == ()
    plain = write(tmp_path / "plain.tif", red[None].astype(np.uint16), nodata=0)
    (note,) = open_pair(early, plain, bands=("B04", None)).notes
    assert "plain.tif does not" in note


@pytest.mark.data
def test_two_satellites_are_compared_by_common_names(tmp_path, data_file):
    """Landsat 7 and 8 number their bands differently: red is 3 and 4."""
    folder = data_file("remote_sensing/open/landsat_marburg_le7_lc8")
    commons = ("blue", "green", "red", "nir08", "swir16", "swir22")
    items = []
    for stem, numbers, date in (
        ("LE07_L1TP_195025_20010730_20170204_01_T1", (1, 2, 3, 4, 5, 7), "2001-07-30"),
        ("LC08_L1TP_195025_20130707_20170503_01_T1", (2, 3, 4, 5, 6, 7), "2013-07-07"),
    ):
        assets = {
            f"B{number}": {
                "href": str(folder / f"{stem}_B{number}.TIF"), "type": TIFF, "roles": ["data"],
                "eo:bands": [{"name": f"B{number}", "common_name": common}],
            }
            for number, common in zip(numbers, commons, strict=True)
        }  # fmt: skip
        items.append(item(tmp_path / f"{stem}.json", assets, moment=f"{date}T10:00:00Z", version="1.0.0"))
    done = fewstep("change", "detect", *items, "-o", tmp_path / "out", "--bands", ",".join(commons))
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (facts["date_before"], facts["date_after"]) == ("2001-07-30", "2013-07-07")
    assert facts["bands_before"] == ["B1", "B2", "B3", "B4", "B5", "B7"]
    assert facts["bands_after"] == ["B2", "B3", "B4", "B5", "B6", "B7"]
    with rasterio.open(folder / "LE07_L1TP_195025_20010730_20170204_01_T1_B1.TIF") as dataset:
        assert facts["pixels"] == dataset.width * dataset.height
