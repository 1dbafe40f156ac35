"""ROS 2: a policy and stereo depth as lifecycle nodes, a Push-T world, a recorder. Only its modules import rclpy.

    python -m robotics.ros2 policy_node --ros-args --params-file policy.yaml

| module | what |
| --- | --- |
| parameters | the parameters of the policy node, with descriptions and ranges, and what they mean together |
| messages | sensor messages to numbers, commands to messages |
| policy_node, diagnostics | the policy in command, and what it tells about itself |
| stereo_node, stereo_loop, stereo_parameters, stereo_messages, stereo_diagnostics | stereo depth |
| synchroniser | messages of several topics that belong to one moment |
| spinning | a lifecycle node as a process |
| pusht_node | the Push-T world |
| recorder | topics to an MCAP bag |
| ament | the package that colcon builds, so that `ros2 run fewstep_ros2 policy_node` works |

Under the Fast DDS profile `ament/config/fastdds_images.xml` images arrive in a millisecond. See docs/ros2_policy.md
and docs/stereo.md.
"""

from __future__ import annotations

from importlib.util import find_spec

from shared.errors import MissingExtra


def require_ros() -> None:
    """Raise `MissingExtra` without rclpy and its middleware."""
    for package in ("rclpy", "trajectory_msgs", "stereo_msgs", "diagnostic_msgs", "std_srvs"):
        if find_spec(package) is None:
            raise MissingExtra(package, extra="ros", purpose="for ROS 2")
