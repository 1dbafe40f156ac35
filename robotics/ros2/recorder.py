"""Topics to an MCAP bag that `ros2 bag play` reads, where rosbag2 is not installed.

Messages are written as they come, serialized, with the time of arrival. Parameters: topics (their types are found from
the publishers, which are waited for), output (a new folder), distribution (whose message definitions are written),
duration_s (0 is until interrupted). The bag is whole after an interrupt (SIGINT, SIGTERM).
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data

from robotics.ros2.messages import message_class
from shared.errors import InputError, MissingExtra

FIND_S = 0.2


class Recorder(Node):
    """The recorder.

    Raises:
        InputError: no topics, an output that exists, or an unknown distribution.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__("recorder", **options)
        try:
            from rosbags.rosbag2 import StoragePlugin, Writer
            from rosbags.typesys import Stores, get_typestore
        except ImportError as error:
            raise MissingExtra("rosbags", extra="ros", purpose="to write bags") from error
        self.declare_parameter("topics", Parameter.Type.STRING_ARRAY)
        output = Path(self.declare_parameter("output", "bag").value)
        name = self.declare_parameter("distribution", "kilted").value
        self.topics = set(self.get_parameter_or("topics", Parameter("topics", value=[""])).value or ()) - {""}
        if not self.topics:
            raise InputError("parameter topics", found="none", expected="one or more", fix="Name the topics.")
        if output.exists():
            raise InputError("parameter output", found=str(output), expected="a new folder", fix="Name another.")
        known = {store.name.removeprefix("ROS2_").lower(): store for store in Stores if store.name.startswith("ROS2_")}
        if name not in known:
            raise InputError(
                "parameter distribution", found=repr(name), expected=f"one of {', '.join(known)}", fix="Correct it."
            )
        self._store = get_typestore(known[name])
        self.written = dict.fromkeys(self.topics, 0)
        self._waiting = set(self.topics)
        self._writer = Writer(output, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        self.create_timer(FIND_S, self._find)

    def destroy_node(self) -> None:
        """Close the bag with the node."""
        self._writer.close()
        super().destroy_node()

    def _find(self) -> None:
        """Subscribe to the topics that have got a publisher."""
        for topic in sorted(self._waiting):
            publishers = self.get_publishers_info_by_topic(topic)
            if publishers:
                kind = publishers[0].topic_type
                connection = self._writer.add_connection(topic, kind, typestore=self._store)
                # Best effort fits every publisher.
                self.create_subscription(
                    message_class(kind), topic, partial(self._write, connection), qos_profile_sensor_data, raw=True
                )
                self._waiting.discard(topic)
                self.get_logger().info(f"records {topic} ({kind})")

    def _write(self, connection: Any, message: bytes) -> None:
        self._writer.write(connection, time.time_ns(), message)
        self.written[connection.topic] += 1


def main(arguments: list[str] | None = None) -> None:
    """Record until interrupted, or for duration_s."""
    rclpy.init(args=arguments)
    try:
        node = Recorder()
    except BaseException:
        rclpy.try_shutdown()
        raise
    duration = node.declare_parameter("duration_s", 0.0).value
    end = time.monotonic() + (duration or float("inf"))
    try:
        while time.monotonic() < end:
            rclpy.spin_once(node, timeout_sec=0.1)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
