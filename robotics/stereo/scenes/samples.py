"""One seed, one sample."""

from __future__ import annotations

import numpy as np

from robotics.stereo.pair import StereoPair, StereoSample, occlusion
from robotics.stereo.scenes.config import ScenesConfig
from robotics.stereo.scenes.layouts import random_scene
from robotics.stereo.scenes.rendering import render_pair
from robotics.stereo.scenes.sensor import expose, random_sensor
from robotics.stereo.sgbm import sgbm


def make_sample(config: ScenesConfig, width: int, height: int, seed: int, index: int) -> StereoSample:
    """Return sample `index` of the data set with this seed; it depends on nothing else but the configuration.

    `raw` is what semi-global matching finds in the two images, with its holes.

    Args:
        config: the family of scenes.
        width: of the images, px.
        height: of the images, px.
        seed: of the data set.
        index: of the sample, 0, 1, ...
    """
    for_scene, for_sensor = (np.random.default_rng(s) for s in np.random.SeedSequence((seed, index)).spawn(2))
    scene, camera = random_scene(config, width, height, for_scene)
    sensor = random_sensor(config.sensor, for_sensor)
    views = render_pair(scene, camera, vertical_shift=sensor.vertical_shift, edge_samples=config.edge_samples)
    left, right = expose(sensor, views[0].light, views[1].light, for_sensor)
    return StereoSample(
        pair=StereoPair(left, right, camera),
        disparity_left=views[0].disparity,
        disparity_right=views[1].disparity,
        occluded=occlusion(views[0].disparity, views[1].disparity),
        material=views[0].material,
        raw=sgbm(left, right, 1.2 * config.near_disparity[1] * width),
        seed=index,
    )
