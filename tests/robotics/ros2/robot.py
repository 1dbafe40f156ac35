"""The other side of the policy node: sensors, a listener to its commands, and the lifecycle, in the test's process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rclpy
import torch
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters
from rclpy.executors import MultiThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import JointState
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from robotics.policy.config import ActionConfig, MlpConfig, ObservationField, PolicyConfig
from robotics.policy.files import save_policy
from robotics.policy.networks import build_network
from robotics.policy.normalise import Normaliser
from tests.robotics.policy.gaussian import identity

RATE = 10.0
WAIT_S = 120.0  # importing torch on a busy machine
CONFIGURE, CLEANUP, ACTIVATE, DEACTIVATE = 1, 2, 3, 4


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


def until(true: Callable[[], Any], seconds: float = WAIT_S) -> Any:
    """Wait until something is true and return it."""
    end = time.monotonic() + seconds
    while not (found := true()):
        if time.monotonic() > end:
            raise AssertionError("waited in vain")
        time.sleep(0.01)
    return found


class Robot:
    """A node of the test, spinning in a thread, and the process of the policy node."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rclpy.init()
        self.node = rclpy.create_node("robot")
        self.commands: list[tuple[float, JointTrajectory]] = []
        self.diagnostics: list[Any] = []
        self.position = [0.3, -0.2]
        self.publishing = True
        self._clients: dict[str, Any] = {}
        self._joints = self.node.create_publisher(JointState, "/joint_states", qos_profile_sensor_data)
        self.node.create_timer(0.05, self._publish)
        self.node.create_subscription(
            JointTrajectory, "/arm/joint_trajectory", lambda m: self.commands.append((time.monotonic(), m)), 10
        )
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self.executor = MultiThreadedExecutor(num_threads=2)
        self.executor.add_node(self.node)
        self._thread = threading.Thread(target=self.executor.spin, daemon=True)
        self._thread.start()
        self.start()

    def start(self) -> None:
        """Start the process of the policy node."""
        with (self.folder / "node.log").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "robotics.ros2", "policy_node"], env=os.environ, stdout=log, stderr=log,
                cwd=Path(__file__).resolve().parents[3],
            )  # fmt: skip

    def _publish(self) -> None:
        if self.publishing:
            # The order of a driver, and a joint that the policy does not know.
            message = JointState(
                name=["elbow", "wrist", "shoulder"], position=[self.position[1], 9.0, self.position[0]]
            )
            message.header.stamp = self.node.get_clock().now().to_msg()
            self._joints.publish(message)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.diagnostics += message.status

    def call(self, kind: Any, name: str, request: Any) -> Any:
        client = self._clients.get(name)
        if client is None:  # one for all calls: the answer to a client that is not yet known to the node is lost
            client = self._clients[name] = self.node.create_client(kind, name)
        assert client.wait_for_service(WAIT_S), f"{name} did not appear: {self.log()}"
        future = client.call_async(request)
        try:
            until(future.done)
        except AssertionError:
            raise AssertionError(f"{name} did not answer; exit code {self.process.poll()}; {self.log()}") from None
        return future.result()

    def log(self) -> str:
        return (self.folder / "node.log").read_text()

    def transition(self, which: int) -> bool:
        request = ChangeState.Request()
        request.transition.id = which
        return self.call(ChangeState, "/policy/change_state", request).success

    @property
    def state(self) -> str:
        return self.call(GetState, "/policy/get_state", GetState.Request()).current_state.label

    def set(self, **values: Any) -> list[Any]:
        request = SetParameters.Request()
        request.parameters = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        return self.call(SetParameters, "/policy/set_parameters", request).results

    def reset(self) -> Any:
        return self.call(Trigger, "/policy/reset", Trigger.Request())

    def pause(self, on: bool) -> bool:
        return self.call(SetBool, "/policy/pause", SetBool.Request(data=on)).success

    def told(self, text: str, seconds: float = WAIT_S) -> Any:
        """Return the next diagnostic status that says `text`."""
        begin = len(self.diagnostics)
        return until(lambda: next((one for one in self.diagnostics[begin:] if text in one.message), None), seconds)

    def unconfigure(self) -> None:
        """Bring the node to its beginning, whatever it does."""
        self.publishing = True
        if self.process.poll() is not None:
            self.start()
        self.set(use_sim_time=False)
        if self.state == "active":
            self.transition(DEACTIVATE)
        if self.state == "inactive":
            self.transition(CLEANUP)
        assert self.state == "unconfigured"

    def close(self) -> None:
        self.process.kill()  # a hung node ignores a polite signal
        self.process.wait()
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown()
