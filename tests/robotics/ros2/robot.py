"""The other side of the policy node: sensors, a listener to its commands, and the lifecycle, in the test's process."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import JointState
from std_srvs.srv import SetBool
from trajectory_msgs.msg import JointTrajectory

from robotics.policy.config import ActionConfig, MlpConfig, ObservationField, PolicyConfig
from robotics.policy.files import save_policy
from robotics.policy.networks import build_network
from robotics.policy.normalise import Normaliser
from tests.robotics.policy.gaussian import identity
from tests.robotics.ros2.process import NodeProcess

RATE = 10.0


def small_policy(path: Path, *, names: tuple[str, ...] = ("arm",), size: int = 2) -> Path:
    """Write a policy with random weights: what it commands is in [-1, 1] and of no use."""
    torch.manual_seed(0)
    config = PolicyConfig(
        observation=tuple(ObservationField(name=name, size=size) for name in names),
        action=ActionConfig(size=2, rate_hz=RATE, labels=("shoulder", "elbow")),
        network=MlpConfig(width=32, depth=1, embedding=32),
    )
    network = build_network(config)
    save_policy(path, config, network.state_dict(), identity(size * len(names)), identity(2), {})
    return path


def small_pusht_policy(path: Path) -> Path:
    """Write a policy for the Push-T world with random weights."""
    torch.manual_seed(0)
    config = PolicyConfig(
        observation=(
            ObservationField(name="keypoint", size=18),
            ObservationField(name="state", size=2, columns=(0, 1)),
        ),
        action=ActionConfig(size=2, rate_hz=RATE),
        network=MlpConfig(width=32, depth=1, embedding=32),
    )

    def pixels(size: int) -> Normaliser:
        return Normaliser(torch.full((size,), 1 / 256), -torch.ones(size), identity(size).statistics)

    save_policy(path, config, build_network(config).state_dict(), pixels(20), pixels(2), {})
    return path


def parameters(policy: Path) -> dict[str, Any]:
    """Return the parameters under which the node works."""
    return {
        "policy": str(policy), "levels": [4, 0], "cold_calls": 4, "rate_hz": RATE, "budget_ms": 0.0,
        "observations": ["arm"], "observation_topics": ["/joint_states"],
        "observation_types": ["sensor_msgs/msg/JointState"], "observation_max_age_ms": [350.0],
        "observation_joints": ["shoulder", "elbow"], "position_observation": "arm", "position_columns": [0, 1],
        "action_low": [-1.0, -1.0], "action_high": [1.0, 1.0], "action_velocity": [2.0, 2.0],
        "action_acceleration": [10.0, 10.0], "stop_after_s": 20.0, "preview": 3, "topic_timeout_s": 5.0,
        "max_chunk_age": 4, "output": "joint_trajectory", "action_names": ["shoulder", "elbow"],
        "command_topic": "/arm/joint_trajectory",
    }  # fmt: skip


class Robot(NodeProcess):
    """A robot that tells its joints and notes the commands, and the process of the policy node."""

    def __init__(self, folder: Path) -> None:
        self.commands: list[tuple[float, JointTrajectory]] = []
        self.position = [0.3, -0.2]
        self.publishing = True
        super().__init__(folder, "policy_node", "policy")
        self._joints = self.node.create_publisher(JointState, "/joint_states", qos_profile_sensor_data)
        self.node.create_timer(0.05, self._publish)
        self.node.create_subscription(
            JointTrajectory, "/arm/joint_trajectory", lambda m: self.commands.append((time.monotonic(), m)), 10
        )

    def _publish(self) -> None:
        if self.publishing:
            # The order of a driver, and a joint that the policy does not know.
            message = JointState(
                name=["elbow", "wrist", "shoulder"], position=[self.position[1], 9.0, self.position[0]]
            )
            message.header.stamp = self.node.get_clock().now().to_msg()
            self._joints.publish(message)

    def pause(self, on: bool) -> bool:
        return self.call(SetBool, "/policy/pause", SetBool.Request(data=on)).success

    def unconfigure(self) -> None:
        """Bring the node to its beginning, whatever it does."""
        self.publishing = True
        super().unconfigure()
