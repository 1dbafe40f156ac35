"""Data sets in the layout of `fewstep stereo generate`, small and quickly made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robotics.stereo.camera import StereoCamera
from robotics.stereo.pair import Surface
from robotics.stereo.scenes import samples, shards
from robotics.stereo.scenes.config import ScenesConfig
from robotics.stereo.scenes.shards import generate
from shared.config import load_config
from tests.robotics.stereo.test_model import sample

CAMERA = StereoCamera(128, 64, 100.0, 100.0, 63.5, 63.5, 31.5, 0.06)


@pytest.fixture
def make_scenes(tmp_path, monkeypatch):
    """Return a function (name, scenes, seed) that writes a data set of planes with a mirror and gives its folder."""

    def known(config, width, height, seed, index):
        one = sample(10 * seed + index)
        material = np.where(np.isnan(one.raw), Surface.MIRROR, Surface.DIFFUSE).astype(np.uint8)
        return replace(one, pair=replace(one.pair, camera=CAMERA), material=material, seed=index)

    monkeypatch.setattr(samples, "make_sample", known)
    monkeypatch.setattr(shards, "SHARD", 2)

    def make(name: str, scenes: int, seed: int) -> Path:
        config = load_config("robotics/stereo_scenes", ScenesConfig)
        for _ in generate(tmp_path / name, config, scenes, (128, 64), seed):
            pass
        return tmp_path / name

    return make
