"""A stream at a reduced size: what resizing does to disparities, what is remembered, and the sensor's depth."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from robotics.stereo.camera import StereoCamera
from robotics.stereo.estimation import EstimateSettings, estimate
from robotics.stereo.model import StereoModel
from robotics.stereo.pair import StereoPair
from robotics.stereo.stream import StereoStream, enlarge_disparity, reduce_pair
from robotics.stereo.video import VideoPair, VideoSettings
from shared.errors import InputError
from tests.robotics.stereo.matching import matching
from tests.robotics.stereo.test_networks import SMALL

QUICK = EstimateSettings(calls=1, samples=1, max_disparity=32)


@pytest.fixture(scope="module")
def model() -> StereoModel:
    return StereoModel(SMALL, matching(SMALL))


def smooth_pair(shift: int, height: int = 96, width: int = 160) -> StereoPair:
    """A texture that survives halving, seen `shift` columns farther left by the right camera."""
    coarse = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8 + 8, 3), np.uint8)
    wide = coarse.repeat(8, 0).repeat(8, 1)[:, : width + shift]
    camera = StereoCamera(width, height, 100.0, 100.0, (width - 1) / 2, (width - 1) / 2 + 2, (height - 1) / 2, 0.1)
    return StereoPair(np.ascontiguousarray(wide[:, :width]), np.ascontiguousarray(wide[:, shift:]), camera)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_disparities_are_of_the_images_whatever_the_network_works_at(model, scale):
    """With one call this network changes nothing: its map is the first one, which is known here."""
    found = StereoStream(model, QUICK, scale=scale).frame(smooth_pair(16))
    assert found.disparity.shape == (96, 160)
    assert found.disparity.dtype == np.float32
    assert np.median(found.disparity[:, 40:]) == pytest.approx(16, abs=0.1)


def test_enlarging_is_linear_on_a_plane_and_invents_nothing_at_an_edge_or_beside_a_hole():
    columns = np.arange(20, dtype=np.float32)
    plane = np.broadcast_to(5 + 0.3 * columns, (10, 20)).astype(np.float32)
    found = enlarge_disparity(plane, 40, 20)
    # Column u of the larger image lies at (u + 1/2) / 2 - 1/2 of the smaller one, and a disparity doubles.
    expected = 2 * (5 + 0.3 * ((np.arange(40) + 0.5) / 2 - 0.5))
    np.testing.assert_allclose(found[:, 1:-1], np.broadcast_to(expected[1:-1], (20, 38)), rtol=1e-5)
    edge = np.where(columns < 10, 3, 30).astype(np.float32)[None].repeat(10, 0)
    assert set(np.unique(enlarge_disparity(edge, 40, 20))) == {6, 60}
    hole = plane.copy()
    hole[4:6, 8:12] = np.nan
    found = enlarge_disparity(hole, 40, 20)
    assert np.isnan(found).sum() == 2 * 4 * 4
    assert np.isnan(found[8:12, 16:24]).all()


def test_camera_follows_the_reduced_images():
    reduced = reduce_pair(smooth_pair(16), 0.5)
    assert reduced.camera is not None
    assert reduced.left.shape == (48, 80, 3)
    assert (reduced.camera.fx, reduced.camera.doffs) == (50, 1)
    with pytest.raises(InputError, match=r"scale: found 0\.1"):
        reduce_pair(smooth_pair(16), 0.1)


def test_depth_of_a_sensor_is_what_a_raw_frame_begins_from(model):
    one = smooth_pair(16)
    assert one.camera is not None
    depth = one.camera.depth(np.full((96, 160), 14.0))  # the images say 16
    depth[20:30, 50:70] = np.nan
    stream = StereoStream(model, QUICK.model_copy(update={"first": "raw"}), scale=0.5)
    found = stream.frame(one, depth)
    far = np.pad(np.isnan(depth[20:30, 50:70]), ((20, 66), (50, 90)))
    far = cv2.dilate(far.astype(np.uint8), np.ones((33, 33))) == 0
    far[:, :32] = False  # the right camera does not see it
    np.testing.assert_allclose(found.disparity[far], 14, atol=0.1)
    assert np.isfinite(found.disparity).all()
    with pytest.raises(InputError, match="raw depth: found 80x48 pixels; expected 160x96"):
        stream.frame(one, depth[::2, ::2])
    with pytest.raises(InputError, match="raw: found none"):
        stream.frame(one)


def test_stream_begins_warm_after_its_first_frame_cold_after_a_reset_and_is_the_same_every_time(model):
    stream = StereoStream(model, QUICK, video=VideoSettings())
    one = smooth_pair(16)
    frames = [stream.frame(one) for _ in range(2)]
    stream.reset()
    again = [stream.frame(one) for _ in range(2)]
    assert [frame.warm for frame in frames + again] == [False, True, False, True]
    for first, second in zip(frames, again, strict=True):
        np.testing.assert_array_equal(first.disparity, second.disparity)
    cold = StereoStream(model, QUICK)
    still = [cold.frame(one) for _ in range(2)]
    assert not any(frame.warm for frame in still)
    np.testing.assert_array_equal(still[0].disparity, still[1].disparity)


def test_estimate_remembers_both_maps_and_a_cold_one_is_that_of_a_single_pair(model):
    one, memory = smooth_pair(16), VideoPair.of(model, calls=1)
    generator = torch.Generator()
    alone = estimate(model, one, QUICK, generator=generator.manual_seed(3))
    cold = estimate(model, one, QUICK, generator=generator.manual_seed(3), video=memory)
    np.testing.assert_array_equal(alone.dense, cold.dense)
    np.testing.assert_array_equal(alone.right, cold.right)
    warm = estimate(model, one, QUICK, generator=generator.manual_seed(3), video=memory)
    assert (cold.warm, warm.warm) == (False, True)
    assert not np.array_equal(warm.right, cold.right)


def test_weights_without_numbers_are_refused_before_the_first_frame():
    network = matching(SMALL)
    network.leave[-1].bias.fill_(float("nan"))
    with pytest.raises(InputError, match="weights: found NaN"):
        StereoStream(StereoModel(SMALL, network), QUICK).warm_up()
