"""Real scenes from the command line: two LEVIR scenes as one mosaic, a displaced Sentinel-2 pair, real bad inputs."""

from __future__ import annotations

import json
from dataclasses import dataclass

import geopandas
import numpy as np
import pytest
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from PIL import Image
from rasterio.features import rasterize

from remote_sensing.pipeline import detect
from remote_sensing.settings import Settings
from tests.remote_sensing.scenes import assert_one_clear_line, fewstep, write

pytestmark = pytest.mark.data
SEAM = 1024


@dataclass(frozen=True)
class Known:
    """A detector that answers with the labels: what is tested is all that comes after it."""

    labels: NDArray[np.bool_]
    halo: int = 0
    blend: int = 0

    def __call__(self, patch):
        height, width = patch.valid.shape
        part = self.labels[patch.row : patch.row + height, patch.col : patch.col + width]
        return np.where(part, np.float32(0.9), np.float32(0.1))

    def facts(self):
        return {"method": "known"}


@pytest.fixture
def mosaic(tmp_path, data_file):
    """LEVIR test_1 and test_2, neighbours from west to east, as one virtual raster of each date, and their labels."""
    folder = data_file("remote_sensing/research_only/levir_cd_1024")
    boxes = json.loads((folder / "LEVIR_CD_name_coords.json").read_text())
    boxes = {name.removesuffix(".png"): box for name, box in boxes.items()}
    names = sorted(("test_1", "test_2"), key=lambda name: boxes[name][0])
    left, top, right, bottom = boxes[names[0]]
    place = rasterio.Affine((right - left) / SEAM, 0.0, left, 0.0, (bottom - top) / SEAM, top)
    paths = []
    for date in ("A", "B"):
        images = [np.moveaxis(np.asarray(Image.open(folder / date / f"{name}.png")), -1, 0)[:3] for name in names]
        whole = np.concatenate(images, axis=2)
        paths.append(write(tmp_path / f"{date}.tif", whole, crs="EPSG:4326", transform=place))
    labels = [np.asarray(Image.open(folder / "label" / f"{name}.png").convert("L")) > 0 for name in names]
    return *paths, np.concatenate(labels, axis=1)


def test_polygons_cross_the_seam_of_two_scenes_and_of_two_tiles(tmp_path, mosaic):
    before, after, labels = mosaic
    facts = detect(before, after, tmp_path / "out", Settings(tile=SEAM), detector=Known(labels)).facts
    frame = geopandas.read_file(tmp_path / "out" / "changes.gpkg")
    assert facts["tiles"] == 2
    with rasterio.open(before) as dataset:
        numbers = rasterize(
            zip(frame.geometry, frame["id"], strict=True), labels.shape, transform=dataset.transform, dtype="int32"
        )
    np.testing.assert_array_equal(numbers > 0, labels)
    over = labels[:, SEAM - 1] & labels[:, SEAM]
    assert over.sum() == 87
    np.testing.assert_array_equal(numbers[over, SEAM - 1], numbers[over, SEAM])
    assert facts["changed_area_m2"] / labels.sum() == pytest.approx(0.307, abs=0.002)


def test_the_displacement_of_the_sentinel_pair_is_found_and_taken_away(tmp_path, data_file):
    folder = data_file("remote_sensing/open/s2_pair_t33uuu")
    paths = []
    for name in ("ref_S2A_20160608T153121", "tgt_S2A_20160529T153631"):
        # The crops are single JPEG 2000 tiles, of which every look decodes all.
        paths.append(tmp_path / f"{name}_T33UUU_sub.tif")
        rasterio.shutil.copy(folder / f"{name}_T33UUU_sub.jp2", paths[-1], driver="GTiff", TILED="YES")
    done = fewstep("change", "detect", *paths, "-o", tmp_path / "out", "--coregister", "--resampling", "cubic")
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (facts["shift_rows"], facts["shift_cols"]) == pytest.approx((1.82, -0.62), abs=0.2)
    assert facts["shift_applied"]
    assert (facts["date_before"], facts["date_after"]) == ("2016-06-08", "2016-05-29")
    # 1,856 x 2,703 pixels in common, of which a tenth is fill that no nodata value marks.
    assert 0.8 < facts["data_share_both"] * facts["pixels"] / (1856 * 2703) < 0.95
    assert "taken as missing" in done.stderr


def test_real_rasters_that_cannot_be_compared_are_one_clear_line(tmp_path, data_file):
    fixtures = data_file("remote_sensing/open/geotiff_fixtures")
    crops = data_file("remote_sensing/research_only/levir_cd_256")
    patches = data_file("remote_sensing/open/crs_mismatch_landsat8")
    odd = [next((crops / date).glob("test_113_0256*")) for date in ("A", "B")]
    for first, second, words, more in (
        (patches / "multispectral_t1.tif", patches / "multispectral_t2.tif", ("does not overlap",), ()),
        (fixtures / "all-nodata.tif", fixtures / "all-nodata.tif", ("all is nodata",), ()),
        (fixtures / "RGB.byte.tif", fixtures / "RGBA.uint16.tif", ("overlap",), ()),
        (*odd, ("no coordinate reference system", "--pixel-grid"), ()),
        (*odd, ("384", "383", "equal size"), ("--pixel-grid",)),
    ):
        done = fewstep("change", "detect", first, second, "-o", tmp_path / "out", *more)
        assert_one_clear_line(done, *words)
        assert not (tmp_path / "out").exists()
