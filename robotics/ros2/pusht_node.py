"""The Push-T world as a ROS 2 node, for the policy node on a laptop.

| topic | message | numbers |
| --- | --- | --- |
| ~/state (out) | std_msgs/Float64MultiArray | pusher x, y, T x, y (pixels), angle (rad) |
| ~/keypoint (out) | std_msgs/Float64MultiArray | nine points of the T, x and y of each, pixels |
| ~/reward (out) | std_msgs/Float64 | min(1, coverage / 0.95) |
| command (in) | std_msgs/Float64MultiArray | where the pusher should go, x and y, pixels |
| /clock (out, with publish_clock) | rosgraph_msgs/Clock | simulated time, 100 times a simulated second |

The world goes on ten times a (simulated) second, with the last command; before the first one it stays. Parameters: seed
of the world, publish_clock, speed (simulated seconds a second, with publish_clock). Service ~/reset: the next seed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from rosgraph_msgs.msg import Clock as ClockMessage
from std_msgs.msg import Float64, Float64MultiArray
from std_srvs.srv import Trigger

from robotics.policy.pusht import PushT

PARTS = 10  # ticks of the clock in one of the world


class PushTNode(Node):
    """The world."""

    def __init__(self, **options: Any) -> None:
        super().__init__("pusht", **options)
        self.seed = self.declare_parameter("seed", PushT.first_seed).value
        self.publishes_clock = self.declare_parameter("publish_clock", False).value
        speed = self.declare_parameter("speed", 1.0).value if self.publishes_clock else 1.0
        self.world = PushT()
        self.nanoseconds, self.part = 0, 0
        self._state, self._keypoint = (
            self.create_publisher(Float64MultiArray, f"~/{name}", qos_profile_sensor_data)
            for name in ("state", "keypoint")
        )
        self._reward = self.create_publisher(Float64, "~/reward", 10)
        self._clock_topic = self.create_publisher(ClockMessage, "/clock", 10) if self.publishes_clock else None
        self.create_subscription(Float64MultiArray, "command", self._on_command, QoSProfile(depth=1))
        self.create_service(Trigger, "~/reset", self._on_reset)
        self._begin()
        period = 1 / (PushT.rate_hz * PARTS * speed)
        # This node makes the time, so it must not wait for it.
        self.create_timer(period, self._advance, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def destroy_node(self) -> None:
        """Release the world with the node."""
        self.world.close()
        super().destroy_node()

    def _begin(self) -> None:
        self.seen = self.world.reset(self.seed)
        self.action = self.world.hold(self.seen)

    def _on_command(self, message: Float64MultiArray) -> None:
        action = np.asarray(message.data, dtype=np.float64)
        if action.shape == (2,) and np.isfinite(action).all():
            self.action = action
        else:
            self.get_logger().error(f"command refused: found {action.tolist()}, expected two finite numbers")

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.seed += 1
        self._begin()
        response.success, response.message = True, f"seed {self.seed}"
        return response

    def _advance(self) -> None:
        self.part = (self.part + 1) % PARTS
        self.nanoseconds += round(1e9 / (PushT.rate_hz * PARTS))
        if self._clock_topic is not None:
            message = ClockMessage()
            message.clock.sec, message.clock.nanosec = divmod(self.nanoseconds, 10**9)
            self._clock_topic.publish(message)
        if self.part:
            return
        self.seen, reward, _ = self.world.step(self.action)
        self._state.publish(Float64MultiArray(data=self.seen["state"].astype(float).tolist()))
        self._keypoint.publish(Float64MultiArray(data=self.seen["keypoint"].astype(float).ravel().tolist()))
        self._reward.publish(Float64(data=reward))


def main(arguments: list[str] | None = None) -> None:
    """Run the world until it is interrupted."""
    rclpy.init(args=arguments)
    node = PushTNode()
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
