"""Stereo depth as a ROS 2 lifecycle node: a rectified pair in, disparity, depth, confidence and points out.

    python -m robotics.ros2 stereo_node --ros-args -p weights:=robotics/stereo_small -r left/image_rect:=...

| topic in (sensor data) | message |
| --- | --- |
| left/image_rect, right/image_rect | sensor_msgs/Image, rectified; paired by their stamps |
| left/camera_info, right/camera_info | sensor_msgs/CameraInfo; the newest one counts |
| raw/depth | sensor_msgs/Image, a sensor's depth in the left view, with `first: raw`; paired as well |

| topic out (reliable, depth 1) | message |
| --- | --- |
| disparity | stereo_msgs/DisparityImage |
| depth, depth_mm | sensor_msgs/Image: 32FC1 in m; 16UC1 in mm, with `depth_mm` |
| confidence | sensor_msgs/Image, 32FC1: chance that the disparity is right, of weights that have a fitted one |
| points | sensor_msgs/PointCloud2 |

All carry stamp and frame of the left image. What nobody subscribes to is not sent.

| transition | what happens |
| --- | --- |
| configure | reads the parameters, loads the weights, warms the network up |
| activate | forgets the last frame and counts anew; maps are made of the newest frame |
| deactivate | no more maps |
| cleanup | back to the beginning; parameters may be changed again |

Callbacks only store messages; maps are made in a thread of their own: see `robotics.ros2.stereo_loop`. ~/reset
(Trigger) forgets the last frame. /diagnostics once a second, in every state.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock as RosClock
from rclpy.clock import ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_srvs.srv import Trigger
from stereo_msgs.msg import DisparityImage

from robotics.policy.messages import nanoseconds_of
from robotics.policy.runtime.statistics import quantiles
from robotics.ros2 import stereo_messages as messages
from robotics.ros2.parameters import answer_change, declare
from robotics.ros2.spinning import spin
from robotics.ros2.stereo_diagnostics import stereo_status
from robotics.ros2.stereo_loop import HISTORY, FrameLoop
from robotics.ros2.stereo_parameters import SPECS, StereoNodeSettings, different, read
from robotics.ros2.synchroniser import Synchroniser
from robotics.stereo.checks import check_pair
from robotics.stereo.estimation import FAR
from robotics.stereo.pair import StereoPair
from robotics.stereo.stream import StereoStream, StreamFrame
from shared.errors import FewstepError

if TYPE_CHECKING:
    from robotics.stereo.model import StereoModel

LEFT, RIGHT, RAW = "left/image_rect", "right/image_rect", "raw/depth"
LEFT_INFO, RIGHT_INFO = "left/camera_info", "right/camera_info"


@dataclass
class _Run:
    """What an active node has seen.

    Attributes:
        stream: makes maps.
        together: pairs the images.
        infos: the newest CameraInfo of each camera.
        heard: when each topic last gave a message, s of the node's clock.
        ages: from the stamp of a left image to its maps, s of the node's clock.
        stamp: of the last frame, ns.
        pair: of the last frame.
        findings: of the last look at a pair.
        look_after: when to look at a pair again, s of the monotonic clock.
        warnings: looks that found something.
        loop: that makes the maps.
    """

    stream: StereoStream
    together: Synchroniser
    infos: dict[str, Any] = field(default_factory=dict)
    heard: dict[str, float] = field(default_factory=dict)
    ages: deque[float] = field(default_factory=lambda: deque(maxlen=HISTORY))
    stamp: int = 0
    pair: StereoPair | None = None
    findings: tuple[str, ...] = ()
    look_after: float = 0.0
    warnings: int = 0
    loop: FrameLoop = field(init=False)

    @property
    def missing(self) -> list[str]:
        """Return the topics that have given nothing."""
        return [name for name in (*self.together.names, LEFT_INFO, RIGHT_INFO) if name not in self.heard]


class StereoNode(LifecycleNode):
    """The node; parameters are those of `robotics.ros2.stereo_parameters`."""

    def __init__(self, **options: Any) -> None:
        super().__init__("stereo", **options)
        declare(self, SPECS)
        self.add_on_set_parameters_callback(self._on_set)
        self._sample_group, self._call_group = MutuallyExclusiveCallbackGroup(), MutuallyExclusiveCallbackGroup()
        self._settings: StereoNodeSettings | None = None
        self._model: StereoModel | None = None
        self._run: _Run | None = None
        self._problem = ""
        self._made: list[Any] = []  # subscriptions
        self._outputs: dict[str, Any] = {}
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        steady = RosClock(clock_type=ClockType.STEADY_TIME)  # it goes on while simulated time stands
        self.create_timer(1.0, self._diagnose, callback_group=self._call_group, clock=steady)
        self.create_service(Trigger, "~/reset", self._on_reset, callback_group=self._call_group)

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
        """Begin to make maps."""
        result = super().on_activate(state)
        assert self._settings is not None
        names = (LEFT, RIGHT, RAW) if self._settings.estimate.first == "raw" else (LEFT, RIGHT)
        run = _Run(self._stream(), Synchroniser(names, self._settings.slop))
        run.loop = FrameLoop(partial(self._make, run), partial(self._look, run), run.stream.reset, self._tell)
        self._run = run
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Make no more maps."""
        self._halt()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forget the weights."""
        self._forget()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Make no more maps and forget the weights."""
        self._halt()
        self._forget()
        return TransitionCallbackReturn.SUCCESS

    def destroy_node(self) -> None:
        """Stop the thread with the node."""
        self._halt()
        super().destroy_node()

    # Configuration

    def _configure(self) -> None:
        from robotics.stereo.files import read_stereo
        from shared.devices import resolve_device

        settings = read({name: self.get_parameter(name).value for name in SPECS})
        file = read_stereo(settings.weights)
        self._model = file.model(resolve_device(settings.device))
        self._settings = settings
        self.get_logger().info(f"a frame of 320x240 takes {1000 * self._stream().warm_up():.0f} ms")
        if file.fitted is None:
            self.get_logger().warning("these weights have no fitted confidence: none is published")
        elif others := different(file.fitted.settings, settings):
            self.get_logger().warning(
                f"the confidence was fitted with {others}: with other settings it is a guide only"
            )
        inputs: dict[str, Any] = {LEFT: Image, RIGHT: Image, LEFT_INFO: CameraInfo, RIGHT_INFO: CameraInfo}
        if settings.estimate.first == "raw":
            inputs[RAW] = Image
        for name, kind in inputs.items():
            store = partial(self._on_sample, name)
            subscription = self.create_subscription(
                kind, name, store, qos_profile_sensor_data, callback_group=self._sample_group
            )
            self._made.append(subscription)
        outputs: dict[str, Any] = {"disparity": DisparityImage, "depth": Image, "points": PointCloud2}
        if settings.millimetres:
            outputs["depth_mm"] = Image
        if file.fitted is not None:
            outputs["confidence"] = Image
        self._outputs = {
            name: self.create_lifecycle_publisher(kind, name, QoSProfile(depth=1)) for name, kind in outputs.items()
        }

    def _stream(self) -> StereoStream:
        settings = self._settings
        assert settings is not None
        assert self._model is not None
        return StereoStream(
            self._model,
            settings.estimate,
            video=settings.video,
            scale=settings.scale,
            seed=settings.seed,
        )

    def _forget(self) -> None:
        for subscription in self._made:
            self.destroy_subscription(subscription)
        for publisher in self._outputs.values():
            self.destroy_lifecycle_publisher(publisher)
        self._made, self._outputs = [], {}
        self._model = self._settings = None

    def _halt(self) -> None:
        if self._run is not None:
            self._run.loop.close()
        self._run = None

    # Maps, in the loop's thread

    def _make(self, run: _Run, frame: dict[str, Any]) -> bool:
        """Make and send the maps of a frame; return whether it started from the last one."""
        settings = self._settings
        assert settings is not None
        left = frame[LEFT]
        seen, other = (messages.pixels_of(frame[name], name) for name in (LEFT, RIGHT))
        size = seen.shape[1], seen.shape[0]
        camera = messages.camera_of(frame[LEFT_INFO], frame[RIGHT_INFO], size, settings.baseline)
        depth = messages.depth_of(frame[RAW], RAW) if RAW in frame else None
        pair = run.pair = StereoPair(seen, other, camera)
        stamp = nanoseconds_of(left) or 0
        if stamp < run.stamp:
            run.stream.reset()  # time began again
        run.stamp = stamp
        found = run.stream.frame(pair, depth)
        if not run.loop.closed:
            self._send(pair, found, left.header)
            run.ages.append(self._seconds() - 1e-9 * stamp)
        return found.warm

    def _send(self, pair: StereoPair, found: StreamFrame, header: Any) -> None:
        settings, camera, disparity, confidence = self._settings, pair.camera, found.disparity, found.confidence
        assert settings is not None
        assert camera is not None
        far = settings.estimate.max_disparity or FAR * camera.width
        made: dict[str, Callable[[], Any]] = {
            "disparity": lambda: messages.disparity_message(
                disparity, camera, header, max_disparity=far, scale=settings.scale
            ),
            "depth": lambda: messages.depth_message(disparity, camera, header),
            "depth_mm": lambda: messages.depth_message(disparity, camera, header, millimetres=True),
            "points": lambda: messages.points_message(disparity, camera, pair.left, header),
        }
        if confidence is not None:
            made["confidence"] = lambda: messages.image_message(confidence, "32FC1", header)
        for name, publisher in self._outputs.items():
            if publisher.get_subscription_count():
                publisher.publish(made[name]())

    def _look(self, run: _Run, frame: dict[str, Any]) -> None:
        """Look now and then whether the last pair is a rectified one."""
        settings, now = self._settings, time.monotonic()
        if settings is None or settings.check_every is None or run.pair is None or now < run.look_after:
            return
        run.look_after = now + settings.check_every
        report = check_pair(run.pair, settings.estimate.max_disparity)
        found = tuple(f"{one.found}. {one.fix}" for one in report.findings)
        if found != run.findings:
            for text in found:
                self.get_logger().warning(text)
        run.findings, run.warnings = found, run.warnings + bool(found)

    # Callbacks

    def _on_sample(self, name: str, message: Any) -> None:
        run = self._run
        if run is None:
            return
        run.heard[name] = self._seconds()
        if name in (LEFT_INFO, RIGHT_INFO):
            run.infos[name] = message
            return
        stamp = nanoseconds_of(message)
        if stamp is None:
            run.loop.refuse(f"{name}: found a stamp of 0; expected the time of the exposure. Correct the driver.")
            return
        frame = run.together.add(name, stamp, message)
        if frame is not None and len(run.infos) == 2:
            run.loop.offer(frame | run.infos)

    def _on_set(self, parameters: Any) -> Any:
        return answer_change(parameters, SPECS, configured=self._settings is not None)

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        run = self._run
        if run is None:
            response.message = "the node is not active"
            return response
        run.loop.restart()
        response.success, response.message = True, "the next frame starts from noise"
        return response

    def _tell(self, text: str) -> None:
        self.get_logger().error(text)

    def _seconds(self) -> float:
        return 1e-9 * float(self.get_clock().now().nanoseconds)

    def _diagnose(self) -> None:
        run, settings = self._run, self._settings
        status = DiagnosticStatus(name=f"{self.get_fully_qualified_name()}: stereo", hardware_id="fewstep")
        silent: dict[str, float] = {}
        unpaired = ""
        numbers: dict[str, float] = {}
        if run is not None and settings is not None:
            now = self._seconds()
            silent = {name: now - at for name, at in dict(run.heard).items() if now - at > settings.silence}
            apart = run.together.apart()
            if run.together.since and apart is not None:
                unpaired = f"stamps do not go together: {1000 * apart:.1f} ms apart, slop {1000 * settings.slop:g} ms"
            numbers = {"unpaired": run.together.unpaired, "pair_warnings": run.warnings}
            numbers |= quantiles("age_ms", tuple(run.ages), 1000)
        status.level, status.message, status.values = stereo_status(
            problem=self._problem,
            configured=settings is not None,
            loop=None if run is None else run.loop,
            missing=[] if run is None else run.missing,
            silent=silent,
            unpaired=unpaired,
            findings=() if run is None else run.findings,
            numbers=numbers,
        )
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)


def main(arguments: list[str] | None = None) -> None:
    """Run the node until it is interrupted."""
    spin(StereoNode, arguments)


if __name__ == "__main__":
    main()
