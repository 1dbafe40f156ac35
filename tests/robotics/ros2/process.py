"""A lifecycle node of ours in a process of its own, and a node in this one that talks to it."""

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
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters
from rclpy.executors import MultiThreadedExecutor
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

WAIT_S = 120.0  # importing torch on a busy machine
CONFIGURE, CLEANUP, ACTIVATE, DEACTIVATE = 1, 2, 3, 4


def until(true: Callable[[], Any], seconds: float = WAIT_S) -> Any:
    """Wait until something is true and return it."""
    end = time.monotonic() + seconds
    while not (found := true()):
        if time.monotonic() > end:
            raise AssertionError("waited in vain")
        time.sleep(0.01)
    return found


def told_numbers(status: Any) -> dict[str, float]:
    """Return the values of a diagnostic status."""
    return {pair.key: float(pair.value) for pair in status.values}


class NodeProcess:
    """A node of the test, spinning in a thread, and the process of the node that is tested.

    Args:
        folder: for the log of the process.
        executable: module of `robotics.ros2`.
        name: of its node.
    """

    def __init__(self, folder: Path, executable: str, name: str) -> None:
        self.folder, self.executable, self.name = folder, executable, name
        rclpy.init()
        self.node = rclpy.create_node("other")
        self.diagnostics: list[Any] = []
        self.told_at = 0  # s, of the last of them
        self._clients: dict[str, Any] = {}
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self.executor = MultiThreadedExecutor(num_threads=2)
        self.executor.add_node(self.node)
        self._thread = threading.Thread(target=self.executor.spin, daemon=True)
        self._thread.start()
        self.start()

    def start(self) -> None:
        """Start the process."""
        with (self.folder / "node.log").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "robotics.ros2", self.executable], env=os.environ, stdout=log, stderr=log,
                cwd=Path(__file__).resolve().parents[3],
            )  # fmt: skip

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.diagnostics += message.status
        self.told_at = message.header.stamp.sec

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
        return self.call(ChangeState, f"/{self.name}/change_state", request).success

    @property
    def state(self) -> str:
        return self.call(GetState, f"/{self.name}/get_state", GetState.Request()).current_state.label

    def set(self, **values: Any) -> list[Any]:
        request = SetParameters.Request()
        request.parameters = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        return self.call(SetParameters, f"/{self.name}/set_parameters", request).results

    def reset(self) -> Any:
        return self.call(Trigger, f"/{self.name}/reset", Trigger.Request())

    def told(self, text: str, seconds: float = WAIT_S) -> Any:
        """Return the next diagnostic status that says `text`."""
        begin = len(self.diagnostics)
        return until(lambda: next((one for one in self.diagnostics[begin:] if text in one.message), None), seconds)

    def unconfigure(self) -> None:
        """Bring the node to its beginning, whatever it does."""
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
