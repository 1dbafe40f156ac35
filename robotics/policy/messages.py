"""Messages of ROS as numbers, whoever read them: rclpy in a node, or rosbags from a recording.

| message | numbers |
| --- | --- |
| sensor_msgs/msg/JointState | positions of the named joints |
| trajectory_msgs/msg/JointTrajectory | positions of the named joints in its first point |
| sensor_msgs/msg/Image | rgb8, bgr8, rgba8, bgra8 as red, green, blue (H, W, 3); mono8 (H, W) |
| geometry_msgs/msg/PoseStamped | x, y, z, qx, qy, qz, qw |
| geometry_msgs/msg/Twist, TwistStamped | linear x, y, z, angular x, y, z |
| std_msgs/msg/Float64MultiArray, Float32MultiArray | data |

Joints in the order of their names; without names, all of them in the message's order. An absent joint, or an image of
another encoding, leaves fewer numbers, which is then an error of size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

IMAGE = "sensor_msgs/msg/Image"
CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}


def _named(values: Any, names: Sequence[str], joints: Sequence[str]) -> np.ndarray:
    if not joints:
        return np.asarray(values)
    places = {name: place for place, name in enumerate(names)}
    return np.asarray(values)[[places[name] for name in joints if name in places]]


def _joints(message: Any, joints: Sequence[str]) -> np.ndarray:
    return _named(message.position, message.name, joints)


def _trajectory(message: Any, joints: Sequence[str]) -> np.ndarray:
    return _named(message.points[0].positions, message.joint_names, joints) if len(message.points) else np.empty(0)


def _image(message: Any, joints: Sequence[str]) -> np.ndarray:
    channels = CHANNELS.get(message.encoding)
    if channels is None or len(message.data) != message.height * message.step:
        return np.empty(0)
    rows = np.frombuffer(message.data, dtype=np.uint8).reshape(message.height, message.step)
    used = rows[:, : message.width * channels]  # rows may be padded
    if channels == 1:
        return used
    pixels = used.reshape(message.height, message.width, channels)[:, :, :3]
    return pixels[:, :, ::-1] if message.encoding.startswith("bgr") else pixels


def _pose(message: Any, joints: Sequence[str]) -> np.ndarray:
    at, turned = message.pose.position, message.pose.orientation
    return np.array([at.x, at.y, at.z, turned.x, turned.y, turned.z, turned.w])


def _twist(message: Any, joints: Sequence[str]) -> np.ndarray:
    twist = getattr(message, "twist", message)
    return np.array([getattr(part, axis) for part in (twist.linear, twist.angular) for axis in "xyz"])


def _data(message: Any, joints: Sequence[str]) -> np.ndarray:
    return np.asarray(message.data)


NUMBERS: dict[str, Callable[[Any, Sequence[str]], np.ndarray]] = {
    "sensor_msgs/msg/JointState": _joints,
    "trajectory_msgs/msg/JointTrajectory": _trajectory,
    IMAGE: _image,
    "geometry_msgs/msg/PoseStamped": _pose,
    "geometry_msgs/msg/Twist": _twist,
    "geometry_msgs/msg/TwistStamped": _twist,
    "std_msgs/msg/Float64MultiArray": _data,
    "std_msgs/msg/Float32MultiArray": _data,
}


def stamp_of(message: Any) -> float | None:
    """Return the seconds of a message's stamp; None where it has none."""
    nanoseconds = nanoseconds_of(message)
    return None if nanoseconds is None else 1e-9 * nanoseconds


def nanoseconds_of(message: Any) -> int | None:
    """Return the nanoseconds of a message's stamp; None where it has none."""
    header = getattr(message, "header", None)
    if header is None or not (header.stamp.sec or header.stamp.nanosec):
        return None
    return int(header.stamp.sec) * 10**9 + int(header.stamp.nanosec)
