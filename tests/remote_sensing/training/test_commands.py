"""`fewstep change pretrain` and `fewstep change train`: what they write, how they go on, and what they refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from remote_sensing.ddpm_cd.files import load_detector, load_diffusion
from remote_sensing.training.data import PairFiles, pairs_in, rasters_in, read_pair, read_scene
from tests.remote_sensing.scenes import assert_one_clear_line, fewstep, write

UNET = {"channels": 8, "multipliers": [1, 2], "blocks": 1, "attention": [], "groups": 4, "dropout": 0.0, "fold": 2}
LOOP = {"crop": 32, "batch": 2, "steps": 3, "rate": 1e-3, "warm_up": 1, "average": 0.5}
ABOUT = {"data": "made up", "licence": "CC0", "warning": "Only for tests.", "pixel_m": [8, 12]}
PRETRAIN = {"name": "remote_sensing/small", "diffusion": {"unet": UNET}, **LOOP}
TRAIN = {
    "name": "remote_sensing/small_detector",
    "detector": {"preset": "light", "head": {"timesteps": [50], "hidden": 8}},
    **LOOP,
}


def image(seed: int, bands: int = 3, size: int = 48) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    waves = [np.sin(0.2 * x + rng.uniform(0, 6)) + np.cos(0.3 * y + rng.uniform(0, 6)) for _ in range(bands)]
    return (120 + 40 * np.stack(waves)).astype(np.uint8)


def config(folder: Path, values: dict, name: str = "config.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


@pytest.fixture
def rasters(tmp_path):
    folder = tmp_path / "rasters"
    (folder / "deeper").mkdir(parents=True)
    write(folder / "a.tif", image(0))
    write(folder / "deeper" / "b.tif", image(1))
    (folder / "notes.txt").write_text("no raster")
    return folder


@pytest.fixture
def labelled(tmp_path):
    root = tmp_path / "pairs"
    for part in ("A", "B", "label"):
        (root / part).mkdir(parents=True)
    for number in range(3):
        before, label = image(10 + number), np.zeros((1, 48, 48), np.uint8)
        label[0, 8:24, 10 : 20 + number] = 255
        write(root / "A" / f"place_{number}.tif", before)
        write(root / "B" / f"place_{number}.tif", np.where(label > 0, 250, before).astype(np.uint8))
        write(root / "label" / f"place_{number}.tif", label)
    return root


@pytest.fixture
def pretrained(tmp_path, rasters):
    words = ["--data", rasters, "-o", tmp_path / "net.safetensors", "--about", config(tmp_path, ABOUT, "about.yaml")]
    done = fewstep("change", "pretrain", config(tmp_path, PRETRAIN), *words, "-q")
    assert done.returncode == 0, done.stderr
    return tmp_path / "net.safetensors"


def test_pretraining_writes_weights_that_load_and_a_card_with_data_licence_and_command(pretrained):
    _, diffusion, training = load_diffusion(pretrained)
    assert diffusion.unet.channels == 8
    assert (training["steps"], training["licence"], training["scenes"]) == (3, "CC0", 2)
    card = json.loads(pretrained.with_suffix(".json").read_text())
    assert card["files"]["trained on"] == ["a.tif", "deeper/b.tif"]
    text = pretrained.with_suffix(".md").read_text()
    for word in ("made up", "CC0", "Only for tests.", "fewstep change pretrain", "seed 0"):
        assert word in text


def test_a_finished_pretraining_gives_the_same_weights_again_and_trains_no_further(tmp_path, rasters, pretrained):
    before, log = load_diffusion(pretrained)[0].state_dict(), (tmp_path / "net" / "log.jsonl").read_text()
    words = ["--data", rasters, "-o", pretrained, "--work", tmp_path / "net", "--overwrite"]
    again = fewstep("change", "pretrain", tmp_path / "config.yaml", *words)
    assert again.returncode == 0, again.stderr
    assert "goes on from step 3 of 3" in again.stderr
    after = load_diffusion(pretrained)[0].state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert (tmp_path / "net" / "log.jsonl").read_text() == log


def test_other_rasters_of_the_same_size_do_not_continue_a_pretraining(tmp_path, rasters, pretrained):
    write(rasters / "a.tif", image(7))
    words = ["--data", rasters, "-o", tmp_path / "n.safetensors", "--work", tmp_path / "net"]
    done = fewstep("change", "pretrain", tmp_path / "config.yaml", *words)
    assert_one_clear_line(done, "another scenes", "Choose another folder")
    assert not (tmp_path / "n.safetensors").exists()


@pytest.mark.parametrize("share", [0, 1])
def test_training_keeps_the_pretrained_network_at_share_zero_and_always_its_warning(
    tmp_path, labelled, pretrained, share
):
    out = tmp_path / f"head_{share}.safetensors"
    words = [
        "--pairs",
        labelled,
        "--start",
        pretrained,
        "--unet-share",
        share,
        "--validate",
        "place_2",
        "-o",
        out,
        "-q",
    ]
    done = fewstep("change", "train", config(tmp_path, TRAIN, "t.yaml"), *words)
    assert done.returncode == 0, done.stderr
    detector, training = load_detector(out)
    unet, _, _ = load_diffusion(pretrained)
    same = all(torch.equal(value, detector.unet.state_dict()[name]) for name, value in unet.state_dict().items())
    assert same == (share == 0)
    assert (training["pairs"], training["unet_share"], training["warning"]) == (2, share, "Only for tests.")
    card = json.loads(out.with_suffix(".json").read_text())
    assert card["files"] == {"held out": ["place_2"], "trained on": ["place_0", "place_1"]}
    assert 0 <= card["measured"]["f1"] <= 1


def test_a_student_learns_from_a_teacher_without_labels(tmp_path, labelled, pretrained):
    path = config(tmp_path, TRAIN, "t.yaml")

    def words(name):
        return ["change", "train", path, "--pairs", labelled, "--start", pretrained, "-o", tmp_path / name, "-q"]

    fewstep(*words("teacher.safetensors"))
    shutil.rmtree(labelled / "label")
    assert_one_clear_line(fewstep(*words("student.safetensors")), "no label for place_0", "--teacher")
    done = fewstep(*words("student.safetensors"), "--teacher", tmp_path / "teacher.safetensors")
    assert done.returncode == 0, done.stderr
    assert load_detector(tmp_path / "student.safetensors")[1]["distilled"] is True


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: shutil.rmtree(folder), ("no such folder",)),
        (lambda folder: [path.unlink() for path in folder.rglob("*.tif")], ("no raster",)),
        (lambda folder: write(folder / "a.tif", image(0) / np.float32(255)), ("a.tif", "units of the network")),
        (lambda folder: write(folder / "a.tif", image(0, bands=2)), ("a.tif", "2 bands", "--bands")),
        (lambda folder: write(folder / "a.tif", image(0, size=20)), ("a.tif", "20 x 20", "32 x 32")),
        (lambda folder: (folder / "a.tif").write_bytes(b"no raster"), ("a.tif", "cannot open")),
    ],
    ids=["absent", "empty", "units", "bands", "size", "damaged"],
)  # fmt: skip
def test_pretraining_refuses_data_in_one_line_and_writes_nothing(tmp_path, rasters, spoil, words):
    spoil(rasters)
    done = fewstep(
        "change", "pretrain", config(tmp_path, PRETRAIN), "--data", rasters, "-o", tmp_path / "net.safetensors"
    )
    assert_one_clear_line(done, *words)
    assert not list(tmp_path.glob("net.*"))


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({"crpo": 3}, {}, ("crpo",)),
        ({}, {"-o": "net.pt"}, (".safetensors", "Rename")),
        ({"detector": {"preset": "huge"}}, {}, ("preset", "official, light")),
        ({}, {"--leave-out": "nowhere*"}, ("--leave-out nowhere*", "place_0")),
        ({}, {"--leave-out": "place_*"}, ("scenes", "none")),
        ({}, {"--start": "no/such"}, ("no such weights",)),
        ({}, {"--nodata": "zero"}, ("--nodata", "auto or none")),
    ],
)
def test_training_refuses_what_it_cannot_use_in_one_line(tmp_path, labelled, changes, options, words):
    named = {"-o": "net.safetensors", "--start": "none", **options}
    named["-o"] = tmp_path / named["-o"]
    flat = [word for pair in named.items() for word in pair]
    done = fewstep("change", "train", config(tmp_path, {**TRAIN, **changes}), "--pairs", labelled, *flat)
    assert_one_clear_line(done, *words)
    assert not list(tmp_path.glob("net.*"))


def test_grey_labels_and_an_existing_output_are_refused(tmp_path, labelled):
    path, out = config(tmp_path, TRAIN), tmp_path / "net.safetensors"
    out.write_bytes(b"mine")
    assert_one_clear_line(
        fewstep("change", "train", path, "--pairs", labelled, "-o", out), "existing output", "--overwrite"
    )
    assert out.read_bytes() == b"mine"
    grey = np.zeros((1, 48, 48), np.uint8)
    grey[0, :8], grey[0, 8:16] = 255, 128
    write(labelled / "label" / "place_1.tif", grey)
    done = fewstep("change", "train", path, "--pairs", labelled, "-o", out, "--overwrite")
    assert_one_clear_line(done, "place_1.tif", "0 for unchanged")
    assert out.read_bytes() == b"mine"


def test_a_detector_is_no_start_and_a_diffusion_network_no_teacher(tmp_path, labelled, pretrained):
    path, out = config(tmp_path, TRAIN, "t.yaml"), tmp_path / "a.safetensors"
    fewstep("change", "train", path, "--pairs", labelled, "--start", pretrained, "-o", out, "-q")
    words = ["change", "train", path, "--pairs", labelled, "-o", tmp_path / "b.safetensors"]
    assert_one_clear_line(fewstep(*words, "--start", out), "change detector", "image diffusion")
    assert_one_clear_line(fewstep(*words, "--teacher", pretrained, "--start", pretrained), "image diffusion")


def test_whole_numbers_stay_as_stored_and_missing_pixels_become_nan(tmp_path):
    values = image(3)
    whole = read_scene(write(tmp_path / "whole.tif", values), tmp_path / "data", bands=None, nodata="auto")
    assert whole.dtype == np.uint8
    assert np.array_equal(whole, values)
    values[:, :10] = 0
    holed = read_scene(write(tmp_path / "holed.tif", values, nodata=0), tmp_path / "data", bands="3,1", nodata="auto")
    assert holed.dtype == np.float32
    assert np.isnan(holed[:, :10]).all()
    assert np.array_equal(holed[:, 10:], values[[2, 0], 10:])


def test_a_pair_lies_on_the_grid_of_its_first_date_and_has_no_labels_where_a_date_has_no_data(tmp_path, labelled):
    files = pairs_in(labelled)[0]
    shifted = image(4)
    shifted[:, :5] = 0
    write(files.after, shifted, nodata=0)
    pair = read_pair(files, tmp_path / "data", bands=None, nodata="auto", pixel_grid=False)
    assert np.isnan(pair.after[:, :5]).all()
    assert (pair.label[:5] == 255).all()
    assert (pair.label[8:24, 10:20] == 1).all()
    assert set(np.unique(pair.label[5:])) == {0, 1}


def test_pairs_of_a_csv_file_are_relative_to_it(labelled):
    table = labelled / "pairs.csv"
    table.write_text("name,before,after,label\nhere,A/place_0.tif,B/place_0.tif,label/place_0.tif\n")
    assert pairs_in(table) == [
        PairFiles("here", *(labelled / part / "place_0.tif" for part in ("A", "B", "label")), None)
    ]


def test_files_beside_rasters_are_no_rasters(rasters):
    assert [path.name for path in rasters_in(rasters)] == ["a.tif", "b.tif"]
