"""A lifecycle node as a process."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.signals import SignalHandlerOptions


def spin(make: Callable[[], Any], arguments: list[str] | None = None) -> None:
    """Run the node that `make` returns until SIGINT or SIGTERM; it is destroyed while it can still publish."""
    # The handlers of rclpy would end publishing before a robot is at rest.
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    node = make()
    executor = MultiThreadedExecutor(num_threads=3)  # sensors, services, and a transition that waits
    executor.add_node(node)
    try:
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
