"""`fewstep change detect`: the whole job, the numbers of the note, and nothing half-written."""

from __future__ import annotations

import json
import shutil

import geopandas
import numpy as np
import pytest
import rasterio
from PIL import Image
from scipy.ndimage import shift as moved

from remote_sensing import pipeline
from remote_sensing.evaluate import evaluate
from remote_sensing.pipeline import detect
from remote_sensing.rasters import open_pair
from remote_sensing.settings import Settings
from shared.errors import InputError
from tests.remote_sensing.scenes import TRANSFORM, assert_one_clear_line, f1, fewstep, pair_on_disk, scene, write

EXPECTED = {
    "probability.tif", "change.tif", "changes.gpkg", "report.html", "result.json", "quicklook.png", "item.json",
    "probability.qml", "change.qml", "changes.qml",
}  # fmt: skip


def mask_of(folder):
    with rasterio.open(folder / "change.tif") as dataset:
        return dataset.read(1)


def test_one_command_does_the_whole_job(tmp_path):
    before, after, changed = pair_on_disk(tmp_path)
    out, numbers = tmp_path / "out", tmp_path / "numbers.json"
    out.mkdir()
    done = fewstep(
        "change", "detect", before, after, "-o", out, "--vectors", "gpkg,fgb,geojson,parquet", "--json", numbers,
        "--date-before", "2000-03-17", "--date-after", "2003-02-06",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    more = {"changes.fgb", "changes.geojson", "changes.parquet"}
    assert {path.name for path in out.iterdir()} == EXPECTED | more
    assert sorted(done.stdout.split()) == sorted(str(out / name) for name in EXPECTED | more)
    found = mask_of(out)
    assert f1(found == 1, changed) > 0.9
    facts = json.loads((out / "result.json").read_text())
    assert facts["changed_pixels"] == (found == 1).sum()
    assert facts["changed_area_m2"] == pytest.approx(100 * facts["changed_pixels"], rel=2e-3)
    assert facts["method"] == "ir-mad"
    assert (facts["date_before"], facts["date_after"]) == ("2000-03-17", "2003-02-06")
    assert len(geopandas.read_file(out / "changes.gpkg")) == facts["polygons"]
    assert json.loads(numbers.read_text())["polygons"] == facts["polygons"]
    page = (out / "report.html").read_text()
    assert page.count("<img") >= 4
    assert "changed areas" in page
    assert Image.open(out / "quicklook.png").width > 600
    assert json.loads((out / "item.json").read_text())["properties"]["change:polygons"] == facts["polygons"]


@pytest.mark.parametrize("method", ["cva", "pca-kmeans"])
def test_every_method_runs_from_the_command_line(tmp_path, method):
    before, after, changed = pair_on_disk(tmp_path)
    done = fewstep("change", "detect", before, after, "-o", tmp_path / "out", "--method", method, "--quiet")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert f1(mask_of(tmp_path / "out") == 1, changed) > 0.9


def test_a_tile_size_and_a_worker_count_change_nothing(tmp_path):
    before, after, _ = pair_on_disk(tmp_path)
    for name, options in (("a", {"tile": 64, "workers": 3}), ("b", {"tile": 1024})):
        detect(before, after, tmp_path / name, Settings(method="pca-kmeans", **options))
    for file in ("probability.tif", "change.tif"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_identical_dates_give_valid_empty_results(tmp_path):
    before, _, _ = pair_on_disk(tmp_path)
    result = detect(before, before, tmp_path / "out")
    assert (mask_of(tmp_path / "out") == 0).all()
    assert result.facts["polygons"] == 0
    assert result.facts["changed_area_m2"] == 0
    assert len(geopandas.read_file(tmp_path / "out" / "changes.gpkg")) == 0


def test_missing_data_is_nodata_in_the_results_never_no_change(tmp_path):
    before, after, changed = scene()
    before[:, :15], after[:, :, 140:] = -9999, np.nan
    result = detect(
        write(tmp_path / "a.tif", before, nodata=-9999), write(tmp_path / "b.tif", after), tmp_path / "out", Settings()
    )
    missing = np.zeros(changed.shape, bool)
    missing[:15], missing[:, 140:] = True, True
    found = mask_of(tmp_path / "out")
    np.testing.assert_array_equal(found == 255, missing)
    with rasterio.open(tmp_path / "out" / "probability.tif") as dataset:
        np.testing.assert_array_equal(np.isnan(dataset.read(1)), missing)
    assert f1((found == 1)[~missing], changed[~missing]) > 0.9
    assert result.facts["data_share_both"] == pytest.approx(1 - missing.mean())


def test_what_a_cloud_mask_excludes_is_no_data(tmp_path):
    before, after, changed = scene()
    cloud = np.zeros((1, *changed.shape), np.uint8)
    cloud[:, 60:100, 20:80] = 3
    after[:, cloud[0] > 0] = 9000
    paths = [write(tmp_path / f"{name}.tif", values) for name, values in (("a", before), ("b", after), ("c", cloud))]
    done = fewstep("change", "detect", *paths[:2], "-o", tmp_path / "out", "--exclude", paths[2])
    assert done.returncode == 0, done.stderr
    found, kept = mask_of(tmp_path / "out"), cloud[0] == 0
    np.testing.assert_array_equal(found == 255, ~kept)
    assert f1((found == 1)[kept], changed[kept]) > 0.9
    assert f"--exclude {paths[2]}" in json.loads((tmp_path / "out" / "result.json").read_text())["command"]


def test_a_second_date_of_another_extent_is_compared_on_the_first_ones_grid(tmp_path):
    before, after, changed = scene()
    part = after[:, 10:, 20:]
    place = TRANSFORM @ rasterio.Affine.translation(20, 10)
    result = detect(write(tmp_path / "a.tif", before), write(tmp_path / "b.tif", part, transform=place), tmp_path / "o")
    found = mask_of(tmp_path / "o")
    assert found.shape == changed.shape
    assert (found[:10] == 255).all()
    assert f1(found[10:, 20:] == 1, changed[10:, 20:]) > 0.9
    assert result.facts["extent_overlap"] == pytest.approx(1)


def test_another_raster_can_give_the_grid(tmp_path):
    before, after, _ = pair_on_disk(tmp_path)
    coarse = TRANSFORM @ rasterio.Affine.translation(10, 5) @ rasterio.Affine.scale(2)
    other = write(tmp_path / "grid.tif", np.zeros((1, 50, 60), np.uint8), transform=coarse)
    done = fewstep("change", "detect", before, after, "-o", tmp_path / "out", "--grid", other)
    assert done.returncode == 0, done.stderr
    with rasterio.open(tmp_path / "out" / "change.tif") as dataset:
        assert dataset.transform == coarse
        assert dataset.shape == (50, 60)


def test_finished_tiles_serve_only_the_settings_that_made_them(tmp_path, monkeypatch):
    before, after, _ = pair_on_disk(tmp_path, shape=(130, 130))
    out = tmp_path / "out"

    seen = []

    def full(store, *rest):
        seen.append(store.resumed)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pipeline.tiling, "assemble", full)
    for options in (
        {},
        {"workers": 1, "min_area": 300, "vectors": ("fgb",)},  # nothing that changes a tile
        {"threshold": 5.0},
        {"threshold": 5.0},
    ):
        with pytest.raises(InputError, match="No space left"):
            detect(before, after, out, Settings(tile=64, **options))
        assert [path.name for path in out.iterdir()] == [".tiles"]
    assert seen == [0, 9, 0, 9]


def test_a_sliver_of_overlap_is_refused_unless_asked_for(tmp_path):
    before, after, _ = scene()
    place = TRANSFORM @ rasterio.Affine.translation(142, 0)
    paths = write(tmp_path / "a.tif", before), write(tmp_path / "b.tif", after, transform=place)
    assert_one_clear_line(fewstep("change", "detect", *paths, "-o", tmp_path / "o"), "5.3 %", "at least 10 %")
    assert not (tmp_path / "o").exists()
    result = detect(*paths, tmp_path / "o", Settings(min_overlap=0.0))
    assert "Only 5.3 % of the grid" in " ".join(result.facts["warnings"])


def test_a_probability_of_whole_numbers_says_the_same(tmp_path):
    before, after, changed = pair_on_disk(tmp_path)
    detect(before, after, tmp_path / "float")
    detect(before, after, tmp_path / "uint8", Settings(probability_type="uint8"))
    with rasterio.open(tmp_path / "float/probability.tif") as a, rasterio.open(tmp_path / "uint8/probability.tif") as b:
        p, coded = a.read(1), b.read(1)
        assert (b.dtypes[0], b.nodata, b.scales[0], b.transform) == ("uint8", 255, 1 / 254, a.transform)
    np.testing.assert_array_equal(coded == 255, ~np.isfinite(p))
    decoded = coded[coded < 255] / 254
    assert 0 <= (p[coded < 255] - decoded).max() <= 1 / 254 + 1e-6
    np.testing.assert_array_equal(decoded >= 0.5, p[coded < 255] >= 0.5)
    label = write(tmp_path / "label.tif", changed[None].astype(np.uint8))
    scores = [evaluate(tmp_path / kind / "probability.tif", label).scores() for kind in ("float", "uint8")]
    assert scores[0]["f1"] == scores[1]["f1"]
    assert scores[0]["brier"] == pytest.approx(scores[1]["brier"], abs=5e-3)


def test_small_areas_are_dropped_on_request(tmp_path):
    before, after, _ = pair_on_disk(tmp_path)
    result = detect(before, after, tmp_path / "out", Settings(min_area=5000))
    frame = geopandas.read_file(tmp_path / "out" / "changes.gpkg")
    assert frame["area_m2"].min() >= 5000
    assert (mask_of(tmp_path / "out") == 1).sum() == frame["pixels"].sum() == result.facts["changed_pixels"]


def test_images_without_georeference_are_compared_pixel_by_pixel_on_request(tmp_path):
    before, after, changed = scene(bands=3)
    paths = []
    for name, values in (("a", before), ("b", after / 1.3)):
        pixels = np.clip(np.moveaxis(values, 0, -1) / 3, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        paths.append(tmp_path / f"{name}.png")
    assert_one_clear_line(fewstep("change", "detect", *paths, "-o", tmp_path / "o"), "no coordinate", "--pixel-grid")
    done = fewstep("change", "detect", *paths, "-o", tmp_path / "o", "--pixel-grid")
    assert done.returncode == 0, done.stderr
    assert f1(mask_of(tmp_path / "o") == 1, changed) > 0.8
    assert json.loads((tmp_path / "o" / "result.json").read_text())["changed_area_m2"] is None


def test_bad_input_is_one_line_and_leaves_nothing(tmp_path):
    before, after, _ = pair_on_disk(tmp_path)
    text = tmp_path / "text.tif"
    text.write_text("not a raster")
    empty = write(tmp_path / "empty.tif", np.full((4, 120, 150), 5, np.float32), nodata=5)
    two = write(tmp_path / "two.tif", scene()[0][:2])
    out = tmp_path / "out"
    for arguments, words in (
        ((before, text), ["text.tif", "cannot open"]),
        ((before, tmp_path / "absent.tif"), ["no such file"]),
        ((before, empty), ["all is nodata"]),
        ((before, two), ["2 bands", "--bands"]),
        ((before, after, "--bands", "1,9"), ["no band '9'"]),
        ((before, after, "--method", "magic"), ["--method", "magic", "ir-mad"]),
        ((before, after, "--threshold", "best"), ["--threshold"]),
        ((before, after, "--nodata", "maybe"), ["--nodata"]),
        ((before, after, "--vectors", "shp"), ["--vectors", "shp"]),
        ((before, after, "--method", "cva", "--threshold", "chi2"), ["chi2"]),
        ((before, after, "--date-before", "spring"), ["no date"]),
        ((before, after, "--labels", text), ["text.tif"]),
    ):
        assert_one_clear_line(fewstep("change", "detect", *arguments, "-o", out), *words)
        assert not out.exists(), arguments
    assert_one_clear_line(fewstep("change", "detect", before, after, "-o", text), "a file")


def test_a_damaged_file_ends_the_run_or_is_used_as_far_as_it_goes(tmp_path):
    before, after, changed = scene((384, 256))
    options = {"tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "deflate", "interleave": "pixel"}
    first, second = write(tmp_path / "a.tif", before, **options), write(tmp_path / "b.tif", after, **options)
    with rasterio.open(second) as dataset:  # the block at rows 256 to 384, columns 128 to 256
        place, size = (int(dataset.get_tag_item(f"BLOCK_{word}_1_2", "TIFF", bidx=1)) for word in ("OFFSET", "SIZE"))
    with second.open("r+b") as file:
        file.seek(place)
        file.write(b"\xff" * size)
    words = ["change", "detect", first, second, "--tile", 128, "-o", tmp_path / "out"]
    done = fewstep(*words)
    assert_one_clear_line(done, "b.tif", "cannot be read")
    assert not (tmp_path / "out" / "change.tif").exists()
    done = fewstep(*words, "--keep-going")
    assert done.returncode == 1, done.stderr
    assert "2 of 6 tiles could not be read as a whole" in done.stderr
    facts = json.loads((tmp_path / "out" / "result.json").read_text())
    # GDAL warps blocks of 512 x 128 pixels: they are lost as a whole.
    assert facts["damaged_windows"] == [[256, 0, 128, 128], [256, 128, 128, 128]]
    with rasterio.open(tmp_path / "out" / "probability.tif") as dataset:
        found = dataset.read(1)
    assert np.isnan(found[256:]).all()
    assert f1(found[:256] >= 0.5, changed[:256]) > 0.9


def test_results_are_replaced_only_on_request(tmp_path):
    before, after, _ = pair_on_disk(tmp_path)
    out = tmp_path / "out"
    detect(before, after, out, Settings(vectors=("gpkg", "fgb")))
    (out / "mine.txt").write_text("notes")
    first = (out / "result.json").read_bytes()
    assert_one_clear_line(fewstep("change", "detect", before, after, "-o", out), "--overwrite")
    assert (out / "result.json").read_bytes() == first
    done = fewstep("change", "detect", before, after, "-o", out, "--overwrite", "--method", "cva")
    assert done.returncode == 0
    assert json.loads((out / "result.json").read_text())["method"] == "cva"
    assert (out / "mine.txt").read_text() == "notes"
    assert not (out / "changes.fgb").exists()  # it would tell of the earlier run


def test_a_full_disk_is_told_before_and_during_the_run(tmp_path, monkeypatch):
    before, after, _ = pair_on_disk(tmp_path)
    usage = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(free=1000))
    with pytest.raises(InputError, match="free space"):
        detect(before, after, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(shutil, "disk_usage", usage)

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pipeline, "write_cog", full)
    with pytest.raises(InputError, match="No space left"):
        detect(before, after, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".tiles"]
    monkeypatch.undo()
    assert detect(before, after, tmp_path / "out").facts["tiles_resumed"] == 1


@pytest.fixture
def taizhou(data_file):
    return data_file("remote_sensing/open/landsat_taizhou")


def scores(folder, taizhou):
    return evaluate(folder / "change.tif", taizhou / "change.bmp", taizhou / "unchanged.bmp").scores()


@pytest.mark.data
def test_taizhou_reaches_the_note_from_the_command_line(tmp_path, taizhou):
    out, numbers = tmp_path / "out", tmp_path / "n.json"
    assert fewstep("change", "detect", taizhou / "2000TM", taizhou / "2003TM", "-o", out).returncode == 0
    labels = (taizhou / "change.bmp", "--unchanged", taizhou / "unchanged.bmp")
    assert fewstep("change", "evaluate", out / "change.tif", *labels, "--json", numbers).returncode == 0
    found = json.loads(numbers.read_text())
    assert {"f1", "iou", "oa", "kappa", "precision", "recall"} <= set(found)
    assert found["f1"] >= 0.945
    assert found["kappa"] >= 0.93


@pytest.mark.data
@pytest.mark.parametrize(("method", "bar"), [("cva", 0.916), ("pca-kmeans", 0.94)])
def test_the_other_methods_reach_their_bars_on_taizhou(tmp_path, taizhou, method, bar):
    detect(taizhou / "2000TM", taizhou / "2003TM", tmp_path / "out", Settings(method=method))
    assert scores(tmp_path / "out", taizhou)["f1"] >= bar


@pytest.mark.data
@pytest.mark.parametrize("tagged", [True, False])
def test_a_tenth_of_empty_rows_does_no_harm(tmp_path, taizhou, tagged):
    with rasterio.open(taizhou / "2003TM") as dataset:
        values, place = dataset.read(), {"crs": dataset.crs, "transform": dataset.transform}
    values[:, 180:220] = 0
    after = write(tmp_path / "b.tif", values, **place, **({"nodata": 0} if tagged else {}))
    detect(taizhou / "2000TM", after, tmp_path / "out")
    found = scores(tmp_path / "out", taizhou)
    assert found["labelled_without_data"] > 500
    assert found["f1"] >= 0.94


@pytest.mark.data
def test_a_displaced_date_is_brought_back(tmp_path, taizhou):
    with rasterio.open(taizhou / "2003TM") as dataset:
        values, place = dataset.read().astype(np.float32), {"crs": dataset.crs, "transform": dataset.transform}
    for band in values:
        band[:] = moved(band, (-1.8, 0.6), order=3, mode="nearest")
    after = write(tmp_path / "b.tif", values, **place)
    spoiled = detect(taizhou / "2000TM", after, tmp_path / "spoiled")
    assert "displaced by" in " ".join(spoiled.facts["warnings"])
    assert scores(tmp_path / "spoiled", taizhou)["f1"] < 0.87
    brought = detect(taizhou / "2000TM", after, tmp_path / "brought", Settings(coregister=True, resampling="cubic"))
    assert brought.facts["shift_applied"]
    assert scores(tmp_path / "brought", taizhou)["f1"] >= 0.93


@pytest.mark.data
def test_another_crs_and_resolution_of_the_second_date_cost_little(tmp_path, taizhou):
    pair = open_pair(taizhou / "2000TM", taizhou / "2003TM")
    with rasterio.open(taizhou / "2003TM") as dataset:
        transform, width, height = rasterio.warp.calculate_default_transform(
            dataset.crs, "EPSG:3857", dataset.width, dataset.height, *dataset.bounds, resolution=32
        )
        values = np.zeros((6, height, width), np.uint8)
        rasterio.warp.reproject(
            dataset.read(), values, src_transform=dataset.transform, src_crs=dataset.crs, dst_transform=transform,
            dst_crs="EPSG:3857", resampling=rasterio.warp.Resampling.cubic,
        )  # fmt: skip
    after = write(tmp_path / "b.tif", values, crs="EPSG:3857", transform=transform, nodata=0)
    detect(taizhou / "2000TM", after, tmp_path / "out", Settings())
    with rasterio.open(tmp_path / "out" / "change.tif") as dataset:
        assert dataset.transform == pair.grid.transform
        assert dataset.crs == pair.grid.crs
    assert scores(tmp_path / "out", taizhou)["f1"] >= 0.93, scores(tmp_path / "out", taizhou)
