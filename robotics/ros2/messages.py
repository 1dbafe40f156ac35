"""Sensor messages to numbers, and commands to messages. All are standard messages, so a laptop with wheels has them.

| observation | numbers | stamp |
| --- | --- | --- |
| sensor_msgs/msg/JointState | positions of the named joints | header |
| sensor_msgs/msg/Image | rgb8, bgr8 as red, green, blue; mono8; of the size that the policy was trained on | header |
| geometry_msgs/msg/PoseStamped | x, y, z, qx, qy, qz, qw | header |
| std_msgs/msg/Float64MultiArray, Float32MultiArray | data | of arrival |

| output | message |
| --- | --- |
| joint_trajectory | point i is the command of i ticks from now, at time_from_start (i + 1) / rate; the last rests |
| twist | the named axes, others 0 |
| float64_multi_array | the command of now; the label of its dimension names the numbers |

A trajectory's stamp is 0, which ros2_control's controller takes as "begin now". Its velocities are those of the cubic
through the commands, (v_i + v_{i+1}) / 2; the last is 0, since the controller refuses a trajectory that ends in motion.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from robotics.policy.runtime.loop import Command

AXES = ("linear.x", "linear.y", "linear.z", "angular.x", "angular.y", "angular.z")


def message_class(name: str) -> Any:
    """Return the class of a message type such as "sensor_msgs/msg/JointState"."""
    package, _, kind = name.partition("/msg/")
    return getattr(import_module(f"{package}.msg"), kind)


def _joints(message: Any, joints: Sequence[str]) -> np.ndarray:
    if not joints:
        return np.asarray(message.position)
    places = {name: place for place, name in enumerate(message.name)}
    # An absent joint leaves a shorter array, which the loop reports as a sample of a wrong size.
    found = [places[name] for name in joints if name in places]
    return np.asarray(message.position)[found]


def _pose(message: Any, joints: Sequence[str]) -> np.ndarray:
    at, turned = message.pose.position, message.pose.orientation
    return np.array([at.x, at.y, at.z, turned.x, turned.y, turned.z, turned.w])


def _image(message: Any, joints: Sequence[str]) -> np.ndarray:
    """Return (H, W, 3) or (H, W) uint8; an unknown encoding gives nothing, which the loop reports as a wrong size."""
    channels = {"rgb8": 3, "bgr8": 3, "mono8": 1}.get(message.encoding)
    if channels is None or len(message.data) < message.height * message.step:
        return np.empty(0)
    rows = np.frombuffer(message.data, dtype=np.uint8)[: message.height * message.step]
    used = rows.reshape(message.height, message.step)[:, : message.width * channels]
    if channels == 1:
        return used
    pixels = used.reshape(message.height, message.width, channels)
    return pixels[:, :, ::-1] if message.encoding == "bgr8" else pixels


def _data(message: Any, joints: Sequence[str]) -> np.ndarray:
    return np.asarray(message.data)


OBSERVATIONS: dict[str, Callable[[Any, Sequence[str]], np.ndarray]] = {
    "sensor_msgs/msg/JointState": _joints,
    "sensor_msgs/msg/Image": _image,
    "geometry_msgs/msg/PoseStamped": _pose,
    "std_msgs/msg/Float64MultiArray": _data,
    "std_msgs/msg/Float32MultiArray": _data,
}

OUTPUTS = {
    "joint_trajectory": "trajectory_msgs/msg/JointTrajectory",
    "twist": "geometry_msgs/msg/Twist",
    "float64_multi_array": "std_msgs/msg/Float64MultiArray",
}


def stamp_of(message: Any) -> float | None:
    """Return the seconds of a message's stamp; None where it has none."""
    header = getattr(message, "header", None)
    if header is None or not (header.stamp.sec or header.stamp.nanosec):
        return None
    return float(header.stamp.sec + 1e-9 * header.stamp.nanosec)


def joint_trajectory(command: Command, names: Sequence[str], period: float) -> Any:
    """Return the trajectory of a command and its preview."""
    from rclpy.duration import Duration
    from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

    middle = (command.velocities[:-1] + command.velocities[1:]) / 2
    velocities = np.concatenate([middle, np.zeros((1, len(names)))])
    message = JointTrajectory(joint_names=list(names))
    for place, (action, velocity) in enumerate(zip(command.actions, velocities, strict=True)):
        message.points.append(
            JointTrajectoryPoint(
                positions=action.tolist(),
                velocities=velocity.tolist(),
                time_from_start=Duration(seconds=(place + 1) * period).to_msg(),
            )
        )
    return message


def twist(command: Command, axes: Sequence[str]) -> Any:
    """Return the command of now as a Twist."""
    from geometry_msgs.msg import Twist

    message = Twist()
    for axis, value in zip(axes, command.actions[0], strict=True):
        part, _, name = axis.partition(".")
        setattr(getattr(message, part), name, float(value))
    return message


def multi_array(command: Command, names: Sequence[str]) -> Any:
    """Return the command of now as a Float64MultiArray."""
    from std_msgs.msg import Float64MultiArray, MultiArrayDimension, MultiArrayLayout

    size = len(command.actions[0])
    dimension = MultiArrayDimension(label=",".join(names) or "action", size=size, stride=size)
    return Float64MultiArray(layout=MultiArrayLayout(dim=[dimension]), data=command.actions[0].tolist())
