"""The stereo node in a process of its own, on real rclpy."""

import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is absent: pip install 'fewstep[ros]'")

from robotics.policy.messages import nanoseconds_of
from tests.robotics.ros2.cameras import CAMERA, FRAME, SHIFT, Cameras, small_stereo
from tests.robotics.ros2.process import ACTIVATE, CLEANUP, CONFIGURE, DEACTIVATE, told_numbers, until

DEPTH = CAMERA.fx * CAMERA.baseline / (SHIFT + CAMERA.doffs)
QUICK = {
    "device": "cpu", "calls": 1, "samples": 1, "first": "sgbm", "max_disparity": 32.0, "threshold": 0.0, "video": False,
    "scale": 1.0, "seed": 0, "slop_ms": 10.0, "baseline": 0.0, "depth_mm": True, "silence_s": 30.0,
    "check_every_s": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def shared_cameras(ros):
    cameras = Cameras(ros)
    cameras.weights = small_stereo(ros / "stereo.safetensors")
    yield cameras
    cameras.close()


@pytest.fixture
def cameras(shared_cameras):
    shared_cameras.unconfigure()
    shared_cameras.infos = {
        "left": shared_cameras._info(CAMERA.cx_l, 0.0),
        "right": shared_cameras._info(CAMERA.cx_r, CAMERA.baseline),
    }
    chosen = QUICK | {"weights": str(shared_cameras.weights)}
    assert all(result.successful for result in shared_cameras.set(**chosen))
    return shared_cameras


def start(cameras: Cameras) -> None:
    """Configure and activate."""
    assert cameras.transition(CONFIGURE), cameras.log()
    assert cameras.transition(ACTIVATE)


def maps(cameras: Cameras, *names: str, **how) -> tuple[int, list]:
    """Send frames until one gives the named maps; return its stamp and the maps.

    The first frames are lost while the topics' ends find each other.
    """
    counts = [len(cameras.maps[name]) for name in names]
    sent = []

    def all_came():
        if "stamp" in how:
            how["stamp"] += 1  # a stamp that has been taken is not taken again
        sent.append(cameras.send(**how))
        end = time.monotonic() + 2
        while time.monotonic() < end:
            found = [cameras.maps[name][count:] for name, count in zip(names, counts, strict=True)]
            stamps = [{nanoseconds_of(message) for message in messages} for messages in found]
            common = set.intersection(set(sent), *stamps)  # those of frames before may still come
            if common:
                stamp = max(common)
                return stamp, [next(one for one in messages if nanoseconds_of(one) == stamp) for messages in found]
            time.sleep(0.01)
        return None

    return until(all_came)


def values(image, dtype=np.float32) -> np.ndarray:
    return np.frombuffer(image.data, dtype).reshape(image.height, image.width)


def test_maps_carry_the_left_stamp_and_frame_and_agree_with_triangulation(cameras):
    start(cameras)
    names = ("disparity", "depth", "depth_mm", "confidence", "points")
    _, (disparity, depth, millimetres, confidence, points) = maps(cameras, *names)
    for message in (disparity, disparity.image, depth, millimetres, confidence, points):
        assert message.header.frame_id == FRAME
    encodings = [image.encoding for image in (disparity.image, depth, millimetres, confidence)]
    assert encodings == ["32FC1", "32FC1", "16UC1", "32FC1"]
    assert (points.height, points.width) == (CAMERA.height, CAMERA.width)
    seen = np.s_[8:-8, 24:-8]  # away from what the right camera does not see
    adjusted = values(disparity.image)
    assert disparity.t == pytest.approx(CAMERA.baseline)
    assert disparity.f == pytest.approx(CAMERA.fx)
    assert np.median(adjusted[seen]) == pytest.approx(SHIFT + CAMERA.doffs, abs=0.05)  # positive: left minus right
    metres = values(depth)
    assert np.median(metres[seen]) == pytest.approx(DEPTH, rel=0.01)
    np.testing.assert_allclose(metres, disparity.f * disparity.t / adjusted, rtol=1e-5)
    np.testing.assert_allclose(values(millimetres, np.uint16), 1000 * metres, atol=0.51)
    z = np.frombuffer(points.data, np.float32).reshape(CAMERA.height, CAMERA.width, 4)[..., 2]
    np.testing.assert_array_equal(z, metres)
    chance = values(confidence)
    assert chance.min() >= 0
    assert chance.max() <= 1
    assert np.median(chance[seen]) > np.median(chance[:, : int(SHIFT)])  # the border, which the right camera misses
    status = cameras.told("maps")
    numbers = told_numbers(status)
    assert status.level == b"\x00"
    assert numbers["frames_out"] >= 1
    assert 0 < numbers["latency_ms_p50"] <= numbers["latency_ms_p99"]
    assert numbers["age_ms_p50"] >= numbers["latency_ms_p50"]


def test_newest_frame_wins_under_load_and_the_last_one_always_gets_its_maps(cameras):
    cameras.set(calls=4, samples=2)
    start(cameras)
    maps(cameras, "disparity")
    count = len(cameras.maps["disparity"])
    sent = []
    for _ in range(20):
        sent.append(cameras.send())
        time.sleep(0.02)
    until(lambda: nanoseconds_of(cameras.maps["disparity"][-1]) == sent[-1])
    out = [nanoseconds_of(message) for message in cameras.maps["disparity"][count:]]
    assert out == sorted(set(out))
    assert len(out) < 20
    last = told_numbers(cameras.told("maps"))
    assert last["frames_dropped"] > 0
    assert last["frames_in"] == last["frames_out"] + last["frames_dropped"]
    assert last["frames_refused"] == 0


def test_parameters_are_refused_out_of_range_and_configure_tells_what_is_wrong(cameras, ros):
    outside = {"calls": 0, "scale": 1.5, "threshold": 1.0, "slop_ms": -1.0, "video": 1, "silence_s": float("nan")}
    for name, value in outside.items():
        assert not cameras.set(**{name: value})[0].successful, name
    (ros / "other.safetensors").write_bytes(b"no tensors")
    for change, text in (
        ({"weights": str(ros / "absent.safetensors")}, "absent.safetensors"),
        ({"weights": str(ros / "other.safetensors")}, "other.safetensors"),
        ({"first": "bm"}, "parameter first: found 'bm'"),
    ):
        assert all(result.successful for result in cameras.set(**change))
        begin = len(cameras.diagnostics)
        assert not cameras.transition(CONFIGURE), change
        until(lambda text=text, begin=begin: any(text in one.message for one in cameras.diagnostics[begin:]), 20)
        assert cameras.state == "unconfigured"
        cameras.set(**QUICK, weights=str(cameras.weights))
    assert cameras.transition(CONFIGURE), cameras.log()
    refused = cameras.set(calls=2)[0]
    assert not refused.successful
    assert "clean up" in refused.reason


def test_inactive_node_makes_no_maps_and_a_reset_lets_the_next_frame_start_cold(cameras):
    cameras.set(video=True)
    assert cameras.transition(CONFIGURE), cameras.log()
    assert not cameras.reset().success
    count = len(cameras.maps["disparity"])
    for _ in range(5):
        cameras.send()
    cameras.told("not active")
    assert len(cameras.maps["disparity"]) == count
    assert cameras.transition(ACTIVATE)
    maps(cameras, "disparity")
    maps(cameras, "disparity")
    told = told_numbers(cameras.told("maps"))
    warm = round(told["warm_share"] * told["frames_out"])
    assert warm == told["frames_out"] - 1  # all but the first
    assert cameras.reset().success
    maps(cameras, "disparity")
    after = told_numbers(cameras.told("maps"))
    assert round(after["warm_share"] * after["frames_out"]) == after["frames_out"] - 2
    assert cameras.transition(DEACTIVATE)
    count = len(cameras.maps["disparity"])
    cameras.send()
    cameras.told("not active")
    assert len(cameras.maps["disparity"]) == count
    assert cameras.transition(CLEANUP)


def test_silent_cameras_bad_infos_and_stamps_apart_are_told_and_survived(cameras):
    cameras.set(silence_s=0.5, check_every_s=0.1)
    start(cameras)
    waiting = cameras.told("waits for")
    assert "left/image_rect" in waiting.message
    assert waiting.level == b"\x01"
    maps(cameras, "depth")
    silent = cameras.told("no message of")
    assert "right/camera_info" in silent.message
    assert silent.level == b"\x02"
    cameras.infos["right"].p[3] = cameras.camera.fx * cameras.camera.baseline  # swapped sides
    assert "found P[3] = 9.6" in told_while_sending(cameras, "a baseline of -0.12 m").message
    cameras.infos["right"].p[3] = 0.0
    assert told_while_sending(cameras, "a baseline of 0 m").level == b"\x02"
    cameras.infos["right"] = cameras._info(CAMERA.cx_r, CAMERA.baseline)
    cameras.infos["right"].width = 192
    told_while_sending(cameras, "right/camera_info: found 192x64 pixels; expected 96x64")
    cameras.infos["right"].width = CAMERA.width
    assert "10000.0 ms apart" in told_while_sending(cameras, "stamps do not go together", apart=10.0).message
    cameras.pictures["right"] = np.roll(cameras.pictures["right"], 3, 0)  # three rows lower
    try:
        found = told_while_sending(cameras, "rows that differ by +3")
        assert found.level == b"\x01"
        assert told_numbers(found)["pair_warnings"] >= 1
    finally:
        cameras.pictures["right"] = np.roll(cameras.pictures["right"], -3, 0)
    maps(cameras, "depth")
    assert "a baseline of -0.12 m" in cameras.log()


def told_while_sending(cameras: Cameras, text: str, **how):
    """Send frames until a diagnostic status says `text`, and return it."""
    begin = len(cameras.diagnostics)

    def told():
        cameras.send(**how)
        time.sleep(0.05)
        return next((one for one in cameras.diagnostics[begin:] if text in one.message), None)

    return until(told)


def test_depth_of_a_sensor_is_what_the_maps_begin_from(cameras):
    cameras.set(first="raw", scale=0.5)
    start(cameras)
    cameras.send()
    assert "raw/depth" in told_while_sending(cameras, "waits for").message
    _, (depth,) = maps(cameras, "depth", depth=0.8)  # the images say 0.96 m
    metres = values(depth)
    np.testing.assert_allclose(metres[:12, 32:], 0.8, rtol=0.02)
    assert np.isfinite(metres).all()  # the hole is filled


def test_simulated_time_that_stands_is_no_silence_and_one_that_begins_again_is_followed(cameras):
    from rosgraph_msgs.msg import Clock

    clock = cameras.node.create_publisher(Clock, "/clock", 10)
    message = Clock()

    def at(sec: int):
        message.clock.sec = sec
        clock.publish(message)
        until(lambda: cameras.told_at == sec)

    cameras.set(use_sim_time=True, silence_s=1.0, video=True)
    start(cameras)
    until(clock.get_subscription_count)
    at(500)
    maps(cameras, "depth", stamp=499_750_000_000)
    time.sleep(1.5)
    standing = cameras.told("maps")
    assert told_numbers(standing)["age_ms_p50"] == pytest.approx(250, abs=1)
    at(502)
    assert "for 2.0 s" in cameras.told("no message of").message
    at(3)
    maps(cameras, "depth", stamp=2_500_000_000)
    cameras.told("maps")
    cameras.node.destroy_publisher(clock)


def test_interrupted_node_ends_by_itself(cameras):
    start(cameras)
    maps(cameras, "depth")
    cameras.process.terminate()
    assert cameras.process.wait(30) == 0, cameras.log()
