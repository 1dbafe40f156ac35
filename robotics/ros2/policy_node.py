"""A policy in command as a ROS 2 lifecycle node.

    python -m robotics.ros2 policy_node --ros-args --params-file policy.yaml

| transition | what happens |
| --- | --- |
| configure | reads the parameters, loads the policy, checks everything, waits for publishers, warms the network up |
| activate | forgets the last run; the first command is sent when every observation has come |
| deactivate | decelerates to rest, then no more commands |
| cleanup | back to the beginning; parameters may be changed again |

Callbacks only store samples. Commands leave from a thread of their own on the grid of a monotonic clock (of simulated
time with use_sim_time), and the network runs in another: see `robotics.policy.runtime`.

Services: ~/reset (Trigger) leaves a stop, ~/pause (SetBool) holds. /diagnostics once a second. An interrupt (SIGINT,
SIGTERM) brings the robot to rest before the node ends.
"""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock as RosClock
from rclpy.clock import ClockType
from rclpy.exceptions import ParameterUninitializedException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from std_srvs.srv import SetBool, Trigger

from robotics.policy.messages import NUMBERS, stamp_of
from robotics.policy.runtime.inference import Inference, ThreadWorker
from robotics.policy.runtime.ladder import Rung
from robotics.policy.runtime.loop import Command, ControlLoop
from robotics.policy.runtime.pacing import Clock
from robotics.ros2 import messages
from robotics.ros2.diagnostics import RosLog, status_of
from robotics.ros2.parameters import EMPTY, SPECS, NodeSettings, answer_change, declare, read
from robotics.ros2.spinning import spin
from shared.errors import FewstepError, InputError

if TYPE_CHECKING:
    from robotics.policy.policy import Policy

POLL_S = 0.002  # of simulated time and of the first observations
REST_S = 2.0  # longest wait for the robot to come to rest
RUNTIME = logging.getLogger("robotics.policy.runtime")


class _Deactivated(Exception):
    """Ends the control thread inside a wait."""


class PolicyNode(LifecycleNode):
    """The node; parameters are those of `robotics.ros2.parameters`."""

    def __init__(self, **options: Any) -> None:
        super().__init__("policy", **options)
        declare(self)
        self.add_on_set_parameters_callback(self._on_set)
        self._sample_group, self._call_group = MutuallyExclusiveCallbackGroup(), MutuallyExclusiveCallbackGroup()
        self._settings: NodeSettings | None = None
        self._policy: Policy | None = None
        self._loop: ControlLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        self._problem = ""
        self._made: list[Any] = []  # subscriptions
        self._commands: Any = None
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        steady = RosClock(clock_type=ClockType.STEADY_TIME)  # it goes on while simulated time stands
        self.create_timer(1.0, self._diagnose, callback_group=self._call_group, clock=steady)
        self.create_service(Trigger, "~/reset", self._on_reset, callback_group=self._call_group)
        self.create_service(SetBool, "~/pause", self._on_pause, callback_group=self._call_group)
        self._log = RosLog(self.get_logger())
        RUNTIME.addHandler(self._log)
        RUNTIME.setLevel(logging.INFO)

    # Transitions

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read, load, check and warm up; a failure says why in the log and in /diagnostics."""
        try:
            self._configure()
        except FewstepError as error:
            self._problem = f"not configured: {error}"
            self.get_logger().error(self._problem)
            self._forget()
            self._diagnose()
            return TransitionCallbackReturn.FAILURE
        self._problem = ""
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to command, from the first observations on."""
        result = super().on_activate(state)
        assert self._policy is not None
        assert self._settings is not None
        self._stopped = threading.Event()
        clock = self._simulated(self._stopped) if self.get_parameter("use_sim_time").value else Clock()
        worker, runtime = ThreadWorker(self._inference()), self._settings.runtime
        nowhere = np.zeros(len(runtime.actions))  # until the robot has told where it is
        self._loop = ControlLoop(self._policy.config, runtime, worker, self._publish, first=nowhere, clock=clock)
        self._thread = threading.Thread(
            target=self._command, args=(self._loop, self._stopped), name="fewstep control", daemon=True
        )
        self._thread.start()
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Come to rest, then command no more."""
        self._halt()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forget the policy."""
        self._forget()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Come to rest, command no more and forget the policy."""
        self._halt()
        self._forget()
        return TransitionCallbackReturn.SUCCESS

    def destroy_node(self) -> None:
        """Stop the threads with the node."""
        self._halt()
        RUNTIME.removeHandler(self._log)
        super().destroy_node()

    # Configuration

    def _configure(self) -> None:
        from robotics.policy.files import load_policy
        from shared.devices import resolve_device

        values = self._values()
        if not values["policy"]:
            raise InputError(
                "parameter policy", found="none", expected="a policy file or a packaged name", fix="Set it."
            )
        self._policy = load_policy(values["policy"], resolve_device(values["device"]))
        self._settings = settings = read(values, self._policy.config)
        inference = self._inference()  # here, so that wrong levels are errors here
        observe = self._policy.config.chunk.observe
        sizes = {
            field.name: field.size if field.columns is None else max(field.columns) + 1
            for field in self._policy.config.observation
        }
        zero = {name: np.zeros((1, observe, size)) for name, size in sizes.items()}
        seconds = inference.warm_up(zero)
        text = f"a plan of all calls takes {1000 * seconds:.1f} ms, budget {1000 * settings.runtime.budget:.0f} ms"
        if seconds > settings.runtime.budget:
            self.get_logger().warning(f"{text}: samplings will be stopped early")
        else:
            self.get_logger().info(text)
        self._await_publishers(values["topic_timeout_s"])
        for observation in settings.observations:
            store = partial(self._on_sample, observation.name, NUMBERS[observation.type])
            kind = messages.message_class(observation.type)
            subscription = self.create_subscription(
                kind, observation.topic, store, qos_profile_sensor_data, callback_group=self._sample_group
            )
            self._made.append(subscription)
        kind = messages.message_class(messages.OUTPUTS[settings.output])
        self._commands = self.create_lifecycle_publisher(kind, settings.topic, QoSProfile(depth=1))

    def _values(self) -> dict[str, Any]:
        found = {}
        for name in SPECS:
            try:
                value = self.get_parameter(name).value
            except ParameterUninitializedException:
                value = None
            found[name] = ([] if value is None else list(value)) if name in EMPTY or name == "levels" else value
        return found

    def _inference(self) -> Inference:
        import torch

        from robotics.policy.rolling import RollingPolicy
        from robotics.policy.warmstart import warm_start_of

        assert self._policy is not None
        assert self._settings is not None
        values = self._values()
        levels = None if values["warm_start"].endswith(".json") else ",".join(map(str, values["levels"]))
        rolling = RollingPolicy(
            self._policy,
            warm=warm_start_of(values["warm_start"], levels, None, source="parameter warm_start"),
            cold_grid=self._policy.grid(values["cold_calls"]),
        )
        generator = torch.Generator().manual_seed(values["seed"])
        return Inference(rolling, self._settings.runtime.budget, generator)

    def _await_publishers(self, patience: float) -> None:
        assert self._settings is not None
        end = time.monotonic() + patience
        missing = list(self._settings.observations) if patience else []
        while missing := [observation for observation in missing if not self.count_publishers(observation.topic)]:
            if time.monotonic() > end:
                names = ", ".join(f"{one.topic} ({one.name})" for one in missing)
                raise InputError(
                    "topics", found=f"no publisher of {names} in {patience:g} s", expected="a publisher of each "
                    "observation", fix="Start the drivers, correct observation_topics, or set topic_timeout_s to 0.",
                )  # fmt: skip
            time.sleep(0.05)

    def _forget(self) -> None:
        for subscription in self._made:
            self.destroy_subscription(subscription)
        if self._commands is not None:
            self.destroy_lifecycle_publisher(self._commands)
        self._made, self._commands, self._policy, self._settings = [], None, None, None

    # Commands

    def _command(self, loop: ControlLoop, stopped: threading.Event) -> None:
        """Run the loop from the first observations until `stopped`: the control thread."""
        try:
            while self._missing(loop):
                if stopped.wait(POLL_S):
                    return
            self._place(loop)
            loop.run(stopped.is_set)
        except _Deactivated:
            pass
        finally:
            loop.worker.close()

    def _missing(self, loop: ControlLoop) -> list[str]:
        """Return the topics of observations without a sample."""
        found = self._settings.observations if self._settings is not None else ()
        return [one.topic for one in found if loop.sensors.buffers[one.name].newest() is None]

    def _place(self, loop: ControlLoop) -> None:
        """Let the loop begin where the robot is."""
        assert self._settings is not None
        newest = {name: buffer.newest() for name, buffer in loop.sensors.buffers.items()}
        loop.reset(self._settings.first({name: values for name, values in newest.items() if values is not None}))

    def _simulated(self, stopped: threading.Event) -> Clock:
        """Return the node's clock; its sleeps end with the node's activity even where simulated time stands still."""

        def sleep(seconds: float) -> None:
            end = self._seconds() + seconds
            while self._seconds() < end:
                if stopped.wait(POLL_S):
                    raise _Deactivated
                if self._seconds() < end - seconds - POLL_S:
                    return  # the simulation began again: the loop will see it

        return Clock(self._seconds, sleep)

    def _seconds(self) -> float:
        return 1e-9 * float(self.get_clock().now().nanoseconds)

    def _publish(self, command: Command) -> None:
        settings = self._settings
        assert settings is not None
        if settings.output == "joint_trajectory":
            message = messages.joint_trajectory(command, settings.names, settings.runtime.period)
        elif settings.output == "twist":
            message = messages.twist(command, settings.axes)
        elif settings.output == "twist_stamped":
            stamp = self.get_clock().now().to_msg()
            message = messages.twist_stamped(command, settings.axes, stamp, settings.frame)
        else:
            message = messages.multi_array(command, settings.names)
        self._commands.publish(message)

    def _halt(self) -> None:
        loop, thread, end = self._loop, self._thread, time.monotonic() + REST_S
        if loop is not None and thread is not None and loop.statistics.commands:
            loop.stop()
            while thread.is_alive() and time.monotonic() < end and not (loop.ladder.rung == Rung.STOP and loop.resting):
                time.sleep(POLL_S)
        self._stopped.set()
        if thread is not None:
            thread.join(5.0)
        self._thread = self._loop = None

    # Callbacks

    def _on_sample(self, name: str, convert: Any, message: Any) -> None:
        settings, loop = self._settings, self._loop
        if settings is None or loop is None:
            return
        values, stamp = convert(message, settings.joints), stamp_of(message)
        # The stamp is by the clock of ROS, the loop's may be another: what they share is the age.
        loop.observe(name, values, None if stamp is None else loop.clock.now() - (self._seconds() - stamp))

    def _on_set(self, parameters: Any) -> Any:
        return answer_change(parameters, SPECS, configured=self._settings is not None)

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        loop = self._loop
        missing = ["the node is not active"] if loop is None else self._missing(loop)
        if loop is None or missing:
            response.message = f"nothing to begin from: {', '.join(missing)}"
            return response
        before = loop.ladder.why
        self._place(loop)
        response.success, response.message = True, f"was: {before}"
        return response

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        loop = self._loop
        if loop is None:
            response.message = "the node is not active"
            return response
        loop.paused = request.data
        response.success = True
        return response

    def _diagnose(self) -> None:
        loop, thread = self._loop, self._thread
        status = DiagnosticStatus(name=f"{self.get_fully_qualified_name()}: policy", hardware_id="fewstep")
        status.level, status.message, status.values = status_of(
            problem=self._problem,
            configured=self._settings is not None,
            loop=loop,
            alive=thread is not None and thread.is_alive(),
            missing=[] if loop is None else self._missing(loop),
        )
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)


def main(arguments: list[str] | None = None) -> None:
    """Run the node until it is interrupted."""
    spin(PolicyNode, arguments)


if __name__ == "__main__":
    main()
