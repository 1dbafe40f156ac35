"""Commands to messages, and the classes of messages; `robotics.policy.messages` has the numbers of observations.

All are standard messages, so a laptop with wheels has them.

| output | message |
| --- | --- |
| joint_trajectory | point i is the command of i ticks from now, at time_from_start (i + 1) / rate; the last rests |
| twist | the named axes, others 0 |
| twist_stamped | the same, with the time of the command and a frame |
| float64_multi_array | the command of now; the label of its dimension names the numbers |

A trajectory's stamp is 0, which ros2_control's controller takes as "begin now". Its velocities are those of the cubic
through the commands, (v_i + v_{i+1}) / 2; the last is 0, since the controller refuses a trajectory that ends in motion.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

from robotics.policy.runtime.loop import Command

AXES = ("linear.x", "linear.y", "linear.z", "angular.x", "angular.y", "angular.z")


def message_class(name: str) -> Any:
    """Return the class of a message type such as "sensor_msgs/msg/JointState"."""
    package, _, kind = name.partition("/msg/")
    return getattr(import_module(f"{package}.msg"), kind)


OUTPUTS = {
    "joint_trajectory": "trajectory_msgs/msg/JointTrajectory",
    "twist": "geometry_msgs/msg/Twist",
    "twist_stamped": "geometry_msgs/msg/TwistStamped",
    "float64_multi_array": "std_msgs/msg/Float64MultiArray",
}


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


def twist_stamped(command: Command, axes: Sequence[str], stamp: Any, frame: str) -> Any:
    """Return the command of now as a TwistStamped.

    Args:
        command: of the loop.
        axes: of the numbers.
        stamp: builtin_interfaces/msg/Time of now.
        frame: in which the axes are meant, such as "base_link".
    """
    from geometry_msgs.msg import TwistStamped

    message = TwistStamped(twist=twist(command, axes))
    message.header.stamp, message.header.frame_id = stamp, frame
    return message


def multi_array(command: Command, names: Sequence[str]) -> Any:
    """Return the command of now as a Float64MultiArray."""
    from std_msgs.msg import Float64MultiArray, MultiArrayDimension, MultiArrayLayout

    size = len(command.actions[0])
    dimension = MultiArrayDimension(label=",".join(names) or "action", size=size, stride=size)
    return Float64MultiArray(layout=MultiArrayLayout(dim=[dimension]), data=command.actions[0].tolist())
