"""Messages of a stereo camera to arrays, and maps to messages.

| message in | becomes |
| --- | --- |
| Image rgb8, bgr8, rgba8, bgra8, mono8 | (H, W, 3) uint8 RGB |
| Image 16UC1, mono16 (mm, 0 unknown), 32FC1 (m) | depth (H, W) float32, m, NaN unknown |
| two CameraInfo | `StereoCamera`: B = -P_right[3] / P_right[0] > 0 |

| map | message out |
| --- | --- |
| disparity | stereo_msgs/DisparityImage, 32FC1 d + doffs, so that Z = f t / d as its definition says; NaN unknown |
| depth (REP 118) | Image 32FC1, m along the optical axis, NaN unknown; Image 16UC1, mm, 0 unknown |
| points (REP 103: x right, y down, z forward) | PointCloud2, organised, x, y, z and rgb float32, NaN unknown |

Rows of images may be padded, and numbers may have either order of bytes.
"""

from __future__ import annotations

import array
import sys
from typing import Any

import numpy as np

from robotics.policy.messages import CHANNELS, IMAGE, NUMBERS
from robotics.stereo.calibration import camera_from_projections
from robotics.stereo.camera import StereoCamera
from robotics.stereo.formats import encode_depth, to_ros
from robotics.stereo.geometry import points_of
from shared.errors import InputError

DEPTHS = {"32FC1": "f4", "16UC1": "u2", "mono16": "u2"}
DELTA_D = 1 / 16  # px: what sub-pixel matchers resolve; the network's output itself is continuous
BIG = sys.byteorder == "big"


def pixels_of(message: Any, source: str) -> np.ndarray:
    """Return the pixels of an Image, (H, W, 3) uint8 RGB, grey as three equal channels.

    Args:
        message: sensor_msgs/Image.
        source: names it in errors.

    Raises:
        InputError: another encoding, or fewer bytes than its size needs.
    """
    pixels = NUMBERS[IMAGE](message, [])
    if not pixels.size:
        raise InputError(
            source, found=_what(message), expected=f"pixels as {', '.join(CHANNELS)}",
            fix="Subscribe to the rectified image, after debayering.",
        )  # fmt: skip
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, 2)
    return np.ascontiguousarray(pixels)


def depth_of(message: Any, source: str) -> np.ndarray:
    """Return a depth Image in metres, (H, W) float32, NaN where it is unknown: 0 mm, NaN, infinite or not positive.

    Args:
        message: sensor_msgs/Image of a depth (REP 118).
        source: names it in errors.

    Raises:
        InputError: another encoding, or fewer bytes than its size needs.
    """
    kind = DEPTHS.get(message.encoding)
    wide = 0 if kind is None else np.dtype(kind).itemsize * message.width
    if kind is None or message.step < wide or len(message.data) != message.height * message.step or not wide:
        raise InputError(
            source, found=_what(message), expected="a depth as 16UC1 (mm) or 32FC1 (m)", fix="Subscribe to the depth "
            "image itself, in the left camera's view.",
        )  # fmt: skip
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)[:, :wide]
    values = np.ascontiguousarray(rows).view((">" if message.is_bigendian else "<") + kind).astype(np.float32)
    if kind == "u2":
        values /= 1000
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(values) & (values > 0), values, np.float32(np.nan))


def camera_of(left: Any, right: Any, size: tuple[int, int], baseline: float | None = None) -> StereoCamera:
    """Return the camera of two CameraInfo messages.

    Args:
        left: sensor_msgs/CameraInfo of the left camera.
        right: of the right camera.
        size: (width, height) of the images.
        baseline: m, instead of the one in P.

    Raises:
        InputError: another size, a binning or a window, images that were not rectified, or rectified each by itself, or
            a baseline that is zero or negative.
    """
    return camera_from_projections(
        _projection(left, size, "left/camera_info"),
        _projection(right, size, "right/camera_info"),
        size,
        source="right/camera_info",
        baseline=baseline,
    )


def _projection(info: Any, size: tuple[int, int], source: str) -> np.ndarray:
    """Return P (3, 4) of a CameraInfo, after checking everything that concerns one camera."""
    if (info.width, info.height) != size:
        raise InputError(
            source, found=f"{info.width}x{info.height} pixels", expected=f"{size[0]}x{size[1]} as the images",
            fix="Publish the calibration of these images.",
        )  # fmt: skip
    window = info.roi.width not in (0, info.width) or info.roi.height not in (0, info.height)
    if info.binning_x > 1 or info.binning_y > 1 or window:
        raise InputError(
            source, found="binning, or a region of interest", expected="the calibration of the whole image",
            fix="Publish a camera_info of the image as it is sent.",
        )  # fmt: skip
    projection = np.array(info.p, float).reshape(3, 4)
    if projection[1, 3]:
        raise InputError(
            source, found=f"P[7] = {projection[1, 3]:g}, cameras above each other", expected="P[7] = 0, side by side",
            fix="Calibrate the pair as a horizontal one.",
        )  # fmt: skip
    distortion = np.array(info.d, float)
    identity = np.allclose(np.array(info.r, float), np.eye(3).ravel(), atol=1e-9)
    same = np.allclose(projection[:, :3].ravel(), np.array(info.k, float), rtol=1e-9)
    # The infos of rectified images tell how they were rectified; this one tells that they were not.
    if np.abs(distortion).max(initial=0) > 1e-9 and identity and same:
        raise InputError(
            source, found=f"distortion D = {np.round(distortion, 4).tolist()} with R = 1 and P = K",
            expected="the P and R of a rectification, or D = 0 for images without distortion",
            fix="Calibrate both cameras together (camera_calibration), and subscribe to the rectified images.",
        )  # fmt: skip
    return projection


def image_message(values: np.ndarray, encoding: str, header: Any) -> Any:
    """Return (H, W) float32 or uint16 as a sensor_msgs/Image.

    Args:
        values: of the type that the encoding says.
        encoding: 32FC1 or 16UC1.
        header: std_msgs/Header.
    """
    from sensor_msgs.msg import Image

    height, width = values.shape
    return Image(
        header=header, height=height, width=width, encoding=encoding, is_bigendian=int(BIG),
        step=values.itemsize * width, data=_bytes(values),
    )  # fmt: skip


def disparity_message(
    disparity: np.ndarray, camera: StereoCamera, header: Any, *, max_disparity: float, scale: float = 1.0
) -> Any:
    """Return a map as a stereo_msgs/DisparityImage, whose disparities are d + doffs.

    Args:
        disparity: d, (H, W) float32, px, NaN unknown.
        camera: of the map.
        header: std_msgs/Header of the left image.
        max_disparity: largest d that was searched, px.
        scale: at which the map was made, for its resolution.
    """
    from sensor_msgs.msg import RegionOfInterest
    from stereo_msgs.msg import DisparityImage

    height, width = disparity.shape
    return DisparityImage(
        header=header, image=image_message(to_ros(disparity, camera.doffs), "32FC1", header),
        f=camera.fx, t=camera.baseline,
        # Every pixel of the left image has an estimate, those out of the right camera's view as well.
        valid_window=RegionOfInterest(height=height, width=width),
        # d + doffs <= 0 lies behind the cameras, whatever was searched.
        min_disparity=max(0.0, camera.doffs), max_disparity=max_disparity + camera.doffs,
        delta_d=DELTA_D / scale,
    )  # fmt: skip


def depth_message(disparity: np.ndarray, camera: StereoCamera, header: Any, *, millimetres: bool = False) -> Any:
    """Return the depth of a map as a sensor_msgs/Image, 32FC1 in m, or 16UC1 in mm."""
    if millimetres:
        return image_message(encode_depth(disparity, camera), "16UC1", header)
    return image_message(camera.depth(disparity), "32FC1", header)


def points_message(disparity: np.ndarray, camera: StereoCamera, colours: np.ndarray, header: Any) -> Any:
    """Return the points of a map as an organised sensor_msgs/PointCloud2 with colours.

    Args:
        disparity: (H, W) float32, px, NaN unknown.
        camera: of the map.
        colours: of the left image, (H, W, 3) uint8 RGB.
        header: std_msgs/Header, of the left optical frame.
    """
    from sensor_msgs.msg import PointCloud2, PointField

    height, width = disparity.shape
    values = np.empty((height, width, 4), np.float32)
    values[..., :3] = points_of(disparity, camera)
    red, green, blue = (colours[..., channel].astype(np.uint32) for channel in range(3))
    values[..., 3] = (red << 16 | green << 8 | blue).view(np.float32)
    fields = [
        PointField(name=name, offset=4 * place, datatype=PointField.FLOAT32, count=1)
        for place, name in enumerate(("x", "y", "z", "rgb"))
    ]
    return PointCloud2(
        header=header, height=height, width=width, fields=fields, is_bigendian=BIG, point_step=16, row_step=16 * width,
        data=_bytes(values), is_dense=False,
    )  # fmt: skip


def _bytes(values: np.ndarray) -> array.array:
    # The messages' setters look at every byte of anything but an array.
    return array.array("B", values.tobytes())


def _what(message: Any) -> str:
    return f"{message.encoding!r}, {message.width}x{message.height}, {len(message.data)} bytes"
