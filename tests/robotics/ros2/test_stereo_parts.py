"""The parts of the stereo node, each by itself: messages, pairing, the loop, parameters, diagnostics."""

import threading
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from robotics.ros2.stereo_loop import FrameLoop
from robotics.ros2.stereo_parameters import SPECS, different, read
from robotics.ros2.synchroniser import Synchroniser
from robotics.stereo.camera import StereoCamera
from robotics.stereo.formats import from_ros
from shared.errors import InputError

needs_ros = pytest.mark.skipif(find_spec("rclpy") is None, reason="rclpy is absent: pip install 'fewstep[ros]'")
AMENT = Path(__file__).resolve().parents[3] / "robotics" / "ros2" / "ament"
MS = 10**6
NAN = float("nan")
CAMERA = StereoCamera(width=6, height=4, fx=50.0, fy=52.0, cx_l=2.5, cx_r=3.5, cy=1.5, baseline=0.12)


def defaults(**changes):
    return {name: spec.default for name, spec in SPECS.items()} | changes


def header(frame="left_optical", sec=7, nanosec=8):
    from builtin_interfaces.msg import Time
    from std_msgs.msg import Header

    return Header(stamp=Time(sec=sec, nanosec=nanosec), frame_id=frame)


def infos(camera=CAMERA, **right):
    """Two CameraInfo of rectified images; `right` changes numbers of the right P by their place."""
    from sensor_msgs.msg import CameraInfo

    made = []
    for cx, tx in ((camera.cx_l, 0.0), (camera.cx_r, -camera.fx * camera.baseline)):
        p = [camera.fx, 0.0, cx, tx, 0.0, camera.fy, camera.cy, 0.0, 0.0, 0.0, 1.0, 0.0]
        made.append(CameraInfo(width=camera.width, height=camera.height, p=p))
    for place, value in right.items():
        made[1].p[int(place[1:])] = value
    return made


# Messages


@needs_ros
@pytest.mark.parametrize(
    ("encoding", "stored"),
    [
        ("rgb8", [1, 2, 3]), ("bgr8", [3, 2, 1]), ("rgba8", [1, 2, 3, 255]), ("bgra8", [3, 2, 1, 255]),
    ],
)  # fmt: skip
def test_pixels_become_red_green_blue_whatever_the_encoding_and_padding(encoding, stored):
    from sensor_msgs.msg import Image

    from robotics.ros2.stereo_messages import pixels_of

    row = [*stored, *[10 * value for value in stored]]
    step = len(row) + 3
    data = bytes([value % 256 for value in [*row, 9, 9, 9]] * 2)
    found = pixels_of(Image(height=2, width=2, encoding=encoding, step=step, data=data), "left/image_rect")
    assert found.tolist() == [[[1, 2, 3], [10, 20, 30]]] * 2
    assert found.flags.c_contiguous


@needs_ros
def test_grey_has_three_equal_channels_and_other_encodings_are_named():
    from sensor_msgs.msg import Image

    from robotics.ros2.stereo_messages import pixels_of

    grey = Image(height=1, width=2, encoding="mono8", step=2, data=b"\x05\x09")
    assert pixels_of(grey, "left/image_rect").tolist() == [[[5, 5, 5], [9, 9, 9]]]
    grey.encoding = "bayer_rggb8"
    with pytest.raises(InputError, match="left/image_rect: found 'bayer_rggb8', 2x1, 2 bytes"):
        pixels_of(grey, "left/image_rect")
    grey.encoding, grey.height = "mono8", 2
    with pytest.raises(InputError, match="found 'mono8', 2x2, 2 bytes"):
        pixels_of(grey, "left/image_rect")


@needs_ros
@pytest.mark.parametrize("big", [0, 1])
def test_depths_are_metres_with_nan_where_the_sensor_saw_nothing(big):
    from sensor_msgs.msg import Image

    from robotics.ros2.stereo_messages import depth_of

    order = ">" if big else "<"
    millimetres = np.array([[1500, 0], [65535, 1]], order + "u2")
    padded = b"".join(row.tobytes() + b"xx" for row in millimetres)
    image = Image(height=2, width=2, encoding="16UC1", is_bigendian=big, step=6, data=padded)
    np.testing.assert_allclose(depth_of(image, "raw/depth"), [[1.5, NAN], [65.535, 0.001]], rtol=1e-6)
    metres = np.array([[1.5, NAN], [np.inf, -1.0]], order + "f4")
    image = Image(height=2, width=2, encoding="32FC1", is_bigendian=big, step=8, data=metres.tobytes())
    np.testing.assert_array_equal(depth_of(image, "raw/depth"), [[1.5, NAN], [NAN, NAN]])
    image.encoding = "rgb8"
    with pytest.raises(InputError, match="raw/depth: found 'rgb8'"):
        depth_of(image, "raw/depth")
    image.encoding, image.height = "32FC1", 3
    with pytest.raises(InputError, match="raw/depth: found '32FC1', 2x3, 16 bytes"):
        depth_of(image, "raw/depth")


@needs_ros
def test_infos_give_the_camera_and_the_baseline_may_be_told():
    from robotics.ros2.stereo_messages import camera_of

    assert camera_of(*infos(), (6, 4)) == CAMERA
    assert camera_of(*infos(p3=0.0), (6, 4), baseline=0.2).baseline == 0.2
    rectified = infos()
    rectified[0].d, rectified[0].r = [0.1, 0.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    assert camera_of(*rectified, (6, 4)) == CAMERA  # how it was rectified is no fault


@needs_ros
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda left, right: right.p.__setitem__(3, 0.0), r"right/camera_info: found P\[3\] = 0, a baseline of 0 m"),
        (lambda left, right: right.p.__setitem__(3, 6.0), r"found P\[3\] = 6, a baseline of -0.12 m.*Swap left"),
        (lambda left, right: right.p.__setitem__(0, 60.0), "found fx 60, cy 1.5; expected those of the left camera"),
        (lambda left, right: right.p.__setitem__(6, 9.0), "Rectify the pair together"),
        (lambda left, right: right.p.__setitem__(7, -6.0), "cameras above each other"),
        (lambda left, right: left.p.__setitem__(0, 0.0), r"found P\[0\] of 0"),
        (lambda left, right: setattr(left, "width", 12), "left/camera_info: found 12x4 pixels; expected 6x4"),
        (lambda left, right: setattr(right, "binning_x", 2), "right/camera_info: found binning"),
        (lambda left, right: setattr(left.roi, "width", 3), "region of interest"),
    ],
)
def test_infos_that_do_not_fit_are_told(spoil, message):
    from robotics.ros2.stereo_messages import camera_of

    given = infos()
    spoil(*given)
    with pytest.raises(InputError, match=message):
        camera_of(*given, (6, 4))


@needs_ros
def test_infos_of_images_that_nobody_rectified_are_told():
    from robotics.ros2.stereo_messages import camera_of

    left, right = infos()
    for info in (left, right):
        info.r, info.k, info.d = np.eye(3).ravel(), info.p.reshape(3, 4)[:, :3].ravel(), [-0.3, 0.1, 0.0, 0.0, 0.0]
    with pytest.raises(InputError, match=r"left/camera_info: found distortion D = \[-0.3, 0.1, .*P = K"):
        camera_of(left, right, (6, 4))
    left.d = right.d = []
    assert camera_of(left, right, (6, 4)) == CAMERA


def disparity_map() -> np.ndarray:
    values = np.linspace(1, 24, 24, dtype=np.float32).reshape(4, 6)
    values[1, 2] = np.nan
    return values


@needs_ros
def test_disparity_message_keeps_its_own_definition_of_depth():
    from robotics.ros2.stereo_messages import disparity_message

    disparity = disparity_map()
    message = disparity_message(disparity, CAMERA, header(), max_disparity=30, scale=0.5)
    assert message.header == message.image.header == header()
    assert (message.image.encoding, message.image.step, message.image.height) == ("32FC1", 24, 4)
    stored = np.frombuffer(message.image.data, np.float32).reshape(4, 6)
    np.testing.assert_array_equal(from_ros(stored, message.min_disparity, CAMERA.doffs), disparity)
    # "Z = fT/d" (stereo_msgs/DisparityImage), with doffs = 1: what triangulation says.
    np.testing.assert_allclose(message.f * message.t / stored, 50 * 0.12 / (disparity + 1), rtol=1e-6)
    assert message.t > 0
    assert (message.min_disparity, message.max_disparity, message.delta_d) == (1, 31, 0.125)
    window = message.valid_window
    assert (window.x_offset, window.y_offset, window.width, window.height) == (0, 0, 6, 4)
    behind = StereoCamera(6, 4, 50.0, 52.0, 3.5, 2.5, 1.5, 0.12)  # doffs -1: d of 1 px is at infinity
    assert disparity_message(disparity, behind, header(), max_disparity=30).min_disparity == 0


@needs_ros
def test_depth_messages_follow_rep_118():
    from robotics.ros2.stereo_messages import depth_message

    disparity = disparity_map()
    expected = 50 * 0.12 / (disparity + 1)
    metres = depth_message(disparity, CAMERA, header())
    assert (metres.encoding, metres.step, metres.header) == ("32FC1", 24, header())
    np.testing.assert_allclose(np.frombuffer(metres.data, np.float32).reshape(4, 6), expected, rtol=1e-6)
    millimetres = depth_message(disparity, CAMERA, header(), millimetres=True)
    assert (millimetres.encoding, millimetres.step) == ("16UC1", 12)
    stored = np.frombuffer(millimetres.data, np.uint16).reshape(4, 6)
    assert stored[1, 2] == 0  # unknown
    np.testing.assert_allclose(stored / 1000, np.nan_to_num(expected), atol=0.0005)


@needs_ros
def test_points_are_in_the_optical_frame_with_packed_colours():
    from robotics.ros2.stereo_messages import points_message

    disparity = disparity_map()
    colours = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    cloud = points_message(disparity, CAMERA, colours, header())
    assert cloud.header == header()
    assert (cloud.height, cloud.width, cloud.point_step, cloud.row_step, cloud.is_dense) == (4, 6, 16, 96, False)
    assert [(field.name, field.offset, field.datatype, field.count) for field in cloud.fields] == [
        ("x", 0, 7, 1), ("y", 4, 7, 1), ("z", 8, 7, 1), ("rgb", 12, 7, 1),
    ]  # fmt: skip
    values = np.frombuffer(cloud.data, np.float32).reshape(4, 6, 4)
    z = 50 * 0.12 / (disparity + 1)
    np.testing.assert_allclose(values[..., 2], z, rtol=1e-6)
    # Projected back, a point is seen where it came from: right is +x, down is +y.
    np.testing.assert_allclose((50 * values[..., 0] / z + 2.5)[0], np.arange(6), atol=1e-5)
    np.testing.assert_allclose((52 * values[..., 1] / z + 1.5)[:, 0], np.arange(4), atol=1e-5)
    packed = np.ascontiguousarray(values[..., 3]).view(np.uint32)
    rgb = np.stack([packed >> 16 & 255, packed >> 8 & 255, packed & 255], -1)
    np.testing.assert_array_equal(rgb, colours)
    assert np.isnan(values[1, 2, :3]).all()


# Pairing


def test_equal_stamps_go_together_and_each_message_is_used_once():
    together = Synchroniser(("left", "right"), 0.01)
    assert together.add("left", 100 * MS, "l1") is None
    assert together.add("right", 100 * MS, "r1") == {"left": "l1", "right": "r1"}
    assert together.add("right", 100 * MS, "again") is None
    assert together.add("left", 100 * MS, "again") is None
    assert together.unpaired == 0


def test_nearest_within_the_slop_goes_and_what_is_older_is_given_up():
    together = Synchroniser(("left", "right", "raw"), 0.01)
    for stamp in (0, 33, 66):
        together.add("left", stamp * MS, stamp)
    for stamp in (20, 60, 70):
        assert together.add("right", stamp * MS, stamp) is None
    assert together.add("raw", 67 * MS, 67) == {"left": 66, "right": 70, "raw": 67}
    assert together.unpaired == 2
    assert together.add("raw", 34 * MS, 34) is None  # its frame is over


def test_stamps_that_never_meet_are_counted_and_their_distance_told():
    together = Synchroniser(("left", "right"), 0.01, depth=4)
    assert together.apart() is None
    for place in range(10):
        assert together.add("left", 100 * place * MS, place) is None
        assert together.add("right", (100 * place + 50) * MS, place) is None
    assert together.since == together.unpaired == 6
    assert together.apart() == pytest.approx(0.05)


def test_time_that_begins_again_is_followed_even_between_clocks_far_apart():
    together = Synchroniser(("left", "right"), 0.01)
    for stamp in (5000, 5100):
        together.add("left", stamp * MS, stamp)
        together.add("right", stamp * MS, stamp)
    assert together.add("left", 0, "l") is None
    assert together.add("right", 0, "r") == {"left": "l", "right": "r"}
    apart = Synchroniser(("left", "right"), 0.01, depth=2)
    for place in range(5):
        apart.add("left", place * MS, place)
        apart.add("right", (10**12 + place) * MS, place)
    assert apart.since == 3
    assert apart.apart() == pytest.approx(1e9, rel=1e-3)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_every_set_lies_within_the_slop_and_time_only_goes_on(data):
    """Frames of 30 Hz, each topic with a jitter of 4 ms, some lost, in an order that is almost that of time."""
    names = ("left", "right", "raw")
    sent = []
    for place in range(12):
        for name in names:
            if data.draw(st.floats(0, 1)) < 0.85:
                stamp = 33 * place * MS + data.draw(st.integers(0, 4 * MS))
                sent.append((stamp + data.draw(st.integers(0, 20 * MS)), name, stamp, place))
    together, found = Synchroniser(names, 0.01), []
    for _, name, stamp, place in sorted(sent):
        if taken := together.add(name, stamp, (stamp, place)):
            found.append(taken)
    for taken in found:
        assert len({place for _, place in taken.values()}) == 1
    leading = [taken["left"][0] for taken in found]
    assert leading == sorted(set(leading))
    whole = [place for place in range(12) if sum(one[3] == place for one in sent) == 3]
    assert {taken["left"][1] for taken in found} <= set(whole)
    if not any(one[0] > two[2] for one in sent for two in sent if two[3] > one[3]):  # nothing overtook
        assert len(found) == len(whole)


# The loop


class Slow:
    """A map that is made when the test says so."""

    def __init__(self):
        self.begun, self.gate = threading.Semaphore(0), threading.Semaphore(0)
        self.made, self.told, self.rested, self.forgot = [], [], [], 0

    def make(self, frame):
        self.begun.release()
        assert self.gate.acquire(timeout=10)
        if isinstance(frame, Exception):
            raise frame
        self.made.append(frame)
        return frame == "warm"

    def forget(self):
        self.forgot += 1

    def loop(self) -> FrameLoop:
        return FrameLoop(self.make, self.rested.append, self.forget, self.told.append)


def finished(loop: FrameLoop, count: int) -> None:
    """Wait until `count` frames have gone through."""
    for _ in range(1000):
        if loop.frames_out + loop.frames_refused >= count:
            return
        threading.Event().wait(0.01)
    raise AssertionError("waited in vain")


def test_newest_frame_wins_and_no_queue_grows():
    slow = Slow()
    loop = slow.loop()
    loop.offer(0)
    assert slow.begun.acquire(timeout=10)  # it is being worked on: it cannot be dropped
    for frame in range(1, 50):
        loop.offer(frame)
    slow.gate.release(2)
    finished(loop, 2)
    assert slow.made == [0, 49]
    told = loop.numbers()
    assert (told["frames_in"], told["frames_out"], told["frames_dropped"]) == (50, 2, 48)
    assert told["latency_ms_p50"] >= 0
    loop.close()
    assert slow.rested == [0, 49]
    assert not loop.alive


def test_failures_are_told_once_and_the_next_frame_is_tried():
    slow = Slow()
    loop = slow.loop()
    slow.gate.release(5)
    wrong = InputError("left/camera_info", found="nothing", expected="a camera", fix="Calibrate.")
    for count, frame in enumerate((wrong, wrong, MemoryError("too large"), "warm", "cold"), start=1):
        loop.offer(frame)
        finished(loop, count)
        if count == 2:
            assert loop.refused == str(wrong)
    loop.close()
    assert slow.told == [str(wrong), "MemoryError: too large"]
    assert (loop.refused, loop.frames_refused, loop.frames_out) == ("", 3, 2)
    assert loop.numbers()["warm_share"] == 0.5
    assert slow.forgot == 1


def test_what_fails_after_a_map_takes_neither_the_map_nor_the_thread():
    slow = Slow()

    def fails(frame):
        raise ValueError(f"no look at {frame}")

    loop = FrameLoop(slow.make, fails, slow.forget, slow.told.append)
    slow.gate.release(2)
    for count in (1, 2):
        loop.offer(count)
        finished(loop, count)
    assert loop.alive
    loop.close()
    assert (slow.made, loop.refused, loop.frames_out) == ([1, 2], "", 2)
    assert slow.told == ["ValueError: no look at 1", "ValueError: no look at 2"]


def test_restart_forgets_before_the_next_frame():
    slow = Slow()
    loop = slow.loop()
    slow.gate.release(3)
    for count in (1, 2, 3):
        if count == 2:
            loop.restart()
        loop.offer(count)
        finished(loop, count)
    loop.close()
    assert slow.forgot == 2


# Parameters, diagnostics, package


def test_parameters_become_settings():
    found = read(
        defaults(calls=2, first="none", max_disparity=90.0, threshold=0.5, video=True, slop_ms=5.0, baseline=0.2)
    )
    made = found.estimate
    assert (made.calls, made.first, made.max_disparity, made.threshold) == (2, "none", 90, 0.5)
    assert found.video is not None
    assert (found.slop, found.baseline) == (0.005, 0.2)
    plain = read(defaults())
    assert plain.estimate == type(plain.estimate)()
    assert (plain.weights, plain.video, plain.baseline) == ("robotics/stereo_small", None, None)


def test_settings_that_a_confidence_was_not_fitted_with_are_told():
    fitted = read(defaults()).estimate.model_dump(mode="json", exclude={"threshold"})
    assert different(fitted, read(defaults(threshold=0.5))) == ""
    assert different(fitted, read(defaults(samples=1, scale=0.5))) == "samples 4, scale 1.0"


def test_unknown_first_map_is_named():
    with pytest.raises(InputError, match="parameter first: found 'bm'; expected one of sgbm, raw, none"):
        read(defaults(first="bm"))


@needs_ros
def test_diagnostics_tell_the_first_thing_that_is_wrong():
    from diagnostic_msgs.msg import DiagnosticStatus

    from robotics.ros2.stereo_diagnostics import stereo_status

    slow = Slow()
    loop = slow.loop()
    told = {
        "problem": "", "configured": True, "loop": loop, "missing": (), "silent": {}, "unpaired": "", "findings": (),
        "numbers": {"unpaired": 3},
    }  # fmt: skip
    level, message, values = stereo_status(**told)
    assert (level, message) == (DiagnosticStatus.OK, "the first map is being made")
    assert {"frames_in": "0", "unpaired": "3"}.items() <= {pair.key: pair.value for pair in values}.items()
    rising = [
        ({"findings": ("rows differ. Rectify.",)}, DiagnosticStatus.WARN, "rows differ. Rectify."),
        ({"unpaired": "50 ms apart"}, DiagnosticStatus.WARN, "50 ms apart"),
        ({"silent": {"left/image_rect": 3.04}}, DiagnosticStatus.ERROR, "no message of left/image_rect for 3.0 s"),
        ({"missing": ["raw/depth"]}, DiagnosticStatus.WARN, "waits for raw/depth"),
        ({"loop": None}, DiagnosticStatus.STALE, "not active"),
        ({"configured": False}, DiagnosticStatus.STALE, "not configured"),
        ({"problem": "no file"}, DiagnosticStatus.ERROR, "no file"),
    ]
    for change, level, message in rising:
        told |= change
        assert stereo_status(**told)[:2] == (level, message)
    loop.close()
    told |= {"problem": "", "configured": True, "loop": loop}
    assert "the thread of the maps has ended" in stereo_status(**told)[1]


def test_parameters_of_the_package_are_the_defaults():
    given = yaml.safe_load((AMENT / "config" / "stereo.yaml").read_text())["/**/stereo"]["ros__parameters"]
    assert given == defaults()
