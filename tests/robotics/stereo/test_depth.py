"""`fewstep stereo depth`: what it writes is what was estimated, and bad pairs are told."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from robotics.stereo import estimation
from robotics.stereo.calibration import write_middlebury
from robotics.stereo.camera import StereoCamera
from robotics.stereo.cli import app
from robotics.stereo.confidence import Confidence, FittedConfidence
from robotics.stereo.estimation import EstimateSettings, estimate
from robotics.stereo.files import load_stereo, read_stereo, save_fitted, save_stereo
from robotics.stereo.formats import read_disparity, read_pfm, write_disparity
from robotics.stereo.geometry import points_of
from robotics.stereo.networks import StereoNetwork
from robotics.stereo.pair import StereoPair
from robotics.stereo.resizing import resized_disparity
from shared.errors import InputError
from shared.weights import sha256
from tests.robotics.stereo.test_cli import call
from tests.robotics.stereo.test_model import pair
from tests.robotics.stereo.test_networks import SMALL

CAMERA = StereoCamera(144, 96, 120.0, 121.0, 70.0, 71.5, 47.0, 0.06)
FITTED = FittedConfidence(
    numbers=Confidence(weights=(2.0, 0.5, 0.5, 0.3), offset=0.1, slope=1.0, factor=2.0),
    settings=EstimateSettings(calls=1, samples=2).model_dump(mode="json", exclude={"threshold"}),
    data={"folders": [], "scenes": 2, "pixels": 10, "seed": 0},
    measured={"interval_coverage": 0.9},
)
GIVEN = ("--calls", 1, "--samples", 2, "--max-disparity", 32)


@pytest.fixture
def files(tmp_path):
    """A textured pair with its calibration, and a small model with a confidence."""
    one = pair(height=96, width=144)
    for name, image in (("left", one.left), ("right", one.right)):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    (tmp_path / "calib.txt").write_text(write_middlebury(CAMERA))
    torch.manual_seed(0)
    network = StereoNetwork(SMALL)
    save_stereo(tmp_path / "plain.safetensors", SMALL, network.state_dict(), {"steps": 3})
    save_fitted(tmp_path / "model.safetensors", read_stereo(tmp_path / "plain.safetensors"), FITTED)
    return tmp_path


def depth(files, *more, model="model.safetensors", left="left.png", right="right.png"):
    return call("depth", files / left, files / right, "--model", files / model, *GIVEN, *more)


def test_every_file_holds_the_estimate_and_its_metres(files):
    out = files / "out"
    lines = depth(files, "--calib", files / "calib.txt", "-o", out, "--seed", 3, "--json", files / "n.json")
    names = [
        "confidence.pfm",
        "depth.npy",
        "disparity.pfm",
        "disparity.png",
        "points.ply",
        "report.html",
        "result.json",
    ]
    assert sorted(path.name for path in out.iterdir()) == names
    assert [str(out / name) for name in names] == sorted(lines[-7:])
    one = StereoPair(pair(height=96, width=144).left, pair(height=96, width=144).right, CAMERA)
    settings = EstimateSettings(calls=1, samples=2, max_disparity=32)
    generator = torch.Generator().manual_seed(3)
    said = estimate(load_stereo(files / "model.safetensors"), one, settings, generator=generator)
    np.testing.assert_array_equal(read_disparity(out / "disparity.pfm"), said.disparity)
    np.testing.assert_array_equal(read_pfm(out / "confidence.pfm"), said.confidence)
    metres = np.load(out / "depth.npy")
    assert metres.dtype == np.float32
    np.testing.assert_allclose(metres, 120 * 0.06 / (said.disparity + 1.5), rtol=1e-5)
    ply = (out / "points.ply").read_bytes()
    header, _, body = ply.partition(b"end_header\n")
    assert b"element vertex 13824" in header
    rows = np.frombuffer(body, [("xyz", "<f4", 3), ("rgb", "u1", 3)])
    np.testing.assert_array_equal(rows["xyz"], points_of(said.disparity, CAMERA).reshape(-1, 3))
    np.testing.assert_array_equal(rows["rgb"], one.left.reshape(-1, 3))
    result = json.loads((out / "result.json").read_text())
    assert result["model"]["sha256"] == sha256(files / "model.safetensors")
    assert result["inputs"]["left"] == {"name": "left.png", "sha256": sha256(files / "left.png")}
    assert result["network_calls"] == 2
    assert result["numbers"]["density"] == 100
    assert result["numbers"]["depth_median"] == pytest.approx(float(np.median(metres)))
    assert json.loads((files / "n.json").read_text())["disparity_max"] == pytest.approx(float(said.disparity.max()))
    assert result["command"].startswith(f"fewstep stereo depth {files / 'left.png'} {files / 'right.png'}")
    assert "--seed 3" in result["command"]
    assert "--first" not in result["command"]
    assert "--guidance" not in result["command"]
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64") == 4
    assert sha256(files / "model.safetensors") in page
    assert "confidence fitted with: calls" in page
    with Image.open(out / "disparity.png") as picture:
        assert picture.size == (144, 96)


def test_the_threshold_makes_holes_in_every_file(files):
    out = files / "out"
    depth(files, "--calib", files / "calib.txt", "-o", out, "-q")
    middle = float(np.median(read_pfm(out / "confidence.pfm")))
    depth(files, "--calib", files / "calib.txt", "-o", out, "-q", "--overwrite", "--threshold", middle)
    sure = read_pfm(out / "confidence.pfm") >= np.float32(middle)
    known = np.isfinite(read_disparity(out / "disparity.pfm"))
    np.testing.assert_array_equal(known, sure)
    assert 0.2 < known.mean() < 0.8
    np.testing.assert_array_equal(np.isfinite(np.load(out / "depth.npy")), known)
    assert f"element vertex {known.sum()}\n".encode() in (out / "points.ply").read_bytes()
    with Image.open(out / "disparity.png") as picture:
        grey = (np.array(picture) == (58, 62, 70)).all(-1)
    np.testing.assert_array_equal(grey, ~known)


def test_without_calibration_or_confidence_there_are_neither_metres_nor_chances_and_it_says_so(files):
    out = files / "out"
    runner = CliRunner().invoke(
        app, ["depth", str(files / "left.png"), str(files / "right.png"), "--model", str(files / "plain.safetensors"),
              "-o", str(out), *map(str, GIVEN)],
    )  # fmt: skip
    assert runner.exit_code == 0
    assert "no fitted confidence" in runner.stderr
    assert sorted(path.name for path in out.iterdir()) == [
        "disparity.pfm", "disparity.png", "report.html", "result.json"
    ]  # fmt: skip
    assert "unknown: no calibration" in (out / "report.html").read_text()
    with pytest.raises(InputError, match="threshold"):
        depth(files, "-o", files / "two", "--threshold", 0.5, model="plain.safetensors")
    assert not (files / "two").exists()


def test_a_scale_works_on_smaller_images_with_their_camera(files):
    out = files / "out"
    depth(files, "--calib", files / "calib.txt", "-o", out, "--scale", 0.5, "-q")
    result = json.loads((out / "result.json").read_text())
    assert result["size"] == [72, 48]
    assert result["settings"]["max_disparity"] == 16
    small = CAMERA.resized(72, 48)
    assert result["camera"]["cx_l"] == pytest.approx(small.cx_l)
    disparity = read_disparity(out / "disparity.pfm")
    np.testing.assert_allclose(np.load(out / "depth.npy"), small.depth(disparity))
    # A disparity of half the pixels is the same distance.
    np.testing.assert_allclose(small.depth(disparity), CAMERA.depth(2 * disparity), rtol=1e-5)


def test_a_raw_map_is_begun_from_and_resized_without_inventing_depths(files):
    steps = np.full((96, 144), 6.0, np.float32)
    steps[:, 72:], steps[:24] = 12.0, np.nan
    write_disparity(files / "raw.pfm", steps)
    half = resized_disparity(steps, (48, 72))
    assert set(np.unique(half[12:])) == {3.0, 6.0}
    np.testing.assert_array_equal(np.isnan(half), np.isnan(steps[::2, ::2]))
    for number, scale in enumerate((1, 0.5)):
        depth(files, "-o", files / f"out{number}", "--first", "raw", "--raw", files / "raw.pfm", "--scale", scale, "-q")
        numbers = json.loads((files / f"out{number}" / "result.json").read_text())["numbers"]
        assert numbers["first_known"] == 75
    other = json.loads((files / "out0" / "result.json").read_text())["warnings"]
    assert any("fitted with first sgbm" in warning for warning in other)


def test_guidance_and_what_the_network_sees_enlarged_are_passed_on(files):
    led = ("--guidance", "smooth=1", "--guidance", "cap_px=1", "--guidance", "rounds=1", "--enlarge", 1.5)
    depth(files, "-o", files / "led", "-q", "--seed", 3, *led)
    result = json.loads((files / "led" / "result.json").read_text())
    settings = result["settings"]
    assert settings["guidance"] == {**settings["guidance"], "smooth": 1, "cap_px": 1, "rounds": 1, "raw": 0}
    assert (settings["enlarge"], result["size"]) == (1.5, [144, 96])
    one = StereoPair(pair(height=96, width=144).left, pair(height=96, width=144).right)
    asked = EstimateSettings.model_validate(settings)
    said = estimate(load_stereo(files / "model.safetensors"), one, asked, generator=torch.Generator().manual_seed(3))
    np.testing.assert_array_equal(read_disparity(files / "led" / "disparity.pfm"), said.disparity)
    assert any("fitted with enlarge 1.0" in warning for warning in result["warnings"])


@pytest.mark.parametrize(("count", "below"), [(4, 1), (3, 1), (2, 0)])
def test_of_several_samples_the_middle_one_is_the_map_and_of_two_in_the_middle_the_lower(
    files, monkeypatch, count, below
):
    made = []

    def kept(disparity, size):
        made.append(resized(disparity, size) + (2, 0, 3, 1, 0)[len(made)])  # the small network's own hardly differ
        return made[-1]

    resized = estimation.shrunk_disparity
    monkeypatch.setattr(estimation, "shrunk_disparity", kept)
    monkeypatch.setattr(estimation, "refined", lambda disparity, *_: disparity)
    one = StereoPair(pair(height=96, width=144).left, pair(height=96, width=144).right)
    settings = EstimateSettings(calls=1, samples=count, max_disparity=32)
    generator = torch.Generator().manual_seed(3)
    found = estimate(load_stereo(files / "model.safetensors"), one, settings, generator=generator)
    samples = np.stack(made[:count])
    assert (samples < found.dense).sum(0).max() == below
    assert (samples <= found.dense).sum(0).min() == below + 1


def test_bad_pairs_are_told_with_what_to_do_and_nothing_is_written(files):
    one = pair(height=96, width=144)
    Image.fromarray(np.roll(one.right, 5, 0)).save(files / "shifted.png")
    Image.fromarray(one.right[:, :100]).save(files / "narrow.png")
    Image.fromarray(np.full((96, 144, 3), 90, np.uint8)).save(files / "plain.png")
    (files / "kitti.txt").write_text("P2: 100 0 70 0 0 100 48 0 0 0 1 0\nP3: 100 0 70 0 0 100 48 0 0 0 1 0\n")
    (files / "bare.txt").write_text(write_middlebury(CAMERA).replace("baseline=60.0\n", ""))
    write_disparity(files / "raw.pfm", np.ones((10, 10), np.float32))
    write_disparity(files / "nan.pfm", np.full((96, 144), np.nan, np.float32))
    cases = [
        ({"right": "shifted.png"}, (), "rows that differ"),
        ({"left": "right.png", "right": "left.png"}, (), "swapped views"),
        ({"right": "narrow.png"}, (), r"narrow.png: found 100x96 pixels; expected 144x96"),
        ({"left": "plain.png", "right": "plain.png"}, (), "no texture"),
        ({"right": "none.png"}, (), "no such file"),
        ({}, ("--calib", files / "kitti.txt"), r"kitti.txt: found a baseline of 0 m.*--baseline"),
        ({}, ("--calib", files / "bare.txt"), r"bare.txt: found no baseline.*--baseline"),
        ({}, ("--baseline", 0.1), "--calib"),
        ({}, ("--first", "raw"), "raw"),
        ({}, ("--raw", files / "raw.pfm", "--first", "raw"), r"raw.pfm: found 10x10 pixels; expected 144x96"),
        ({}, ("--raw", files / "raw.pfm"), "nothing uses"),
        ({}, ("--raw", files / "nan.pfm", "--first", "raw"), r"nan.pfm: found NaN or holes in every pixel"),
        ({"model": "absent.safetensors"}, (), "no such weights"),
        ({}, ("--glass", 0.1), "found 0.1, and a model without a branch"),
    ]
    for names, more, message in cases:
        with pytest.raises(InputError, match=message):
            depth(files, "-o", files / "out", *more, **names)
    assert not (files / "out").exists()
    assert not list(files.glob(".out*"))
    depth(files, "-o", files / "out", "--calib", files / "bare.txt", "--baseline", 0.06, "-q")
    depth(files, "-o", files / "out", "-q", "--overwrite")
    assert not (files / "out" / "depth.npy").exists()
    (files / "out" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="existing output"):
        depth(files, "-o", files / "out", "-q")
    with pytest.raises(InputError, match=r"notes\.txt"):
        depth(files, "-o", files / "out", "-q", "--overwrite")
    assert (files / "out" / "notes.txt").read_text() == "mine"
