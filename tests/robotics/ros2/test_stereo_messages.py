"""Messages of the stereo node: images, depths and calibrations in, disparity, depth and points out."""

from importlib.util import find_spec

import numpy as np
import pytest

from robotics.stereo.camera import StereoCamera
from robotics.stereo.formats import from_ros
from shared.errors import InputError

needs_ros = pytest.mark.skipif(find_spec("rclpy") is None, reason="rclpy is absent: pip install 'fewstep[ros]'")
NAN = float("nan")
CAMERA = StereoCamera(width=6, height=4, fx=50.0, fy=52.0, cx_l=2.5, cx_r=3.5, cy=1.5, baseline=0.12)


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
