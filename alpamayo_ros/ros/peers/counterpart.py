"""A peer of the node: publishes CDR bytes to its input topics and subscribes to its outputs.

Knows neither the pace nor the content of the messages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import time
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions

from ..messages import import_interface
from ..session import initialise_rclpy

DEPTH = 50


class Counterpart:
    """A node with best-effort publishers and reliable subscriptions.

    published: topic to type. subscribed: topic to type and callback.
    """

    def __init__(
        self,
        published: Mapping[str, str],
        subscribed: Mapping[str, tuple[str, Callable[[Any], Any]]],
    ) -> None:
        self._context = rclpy.Context()
        options = SignalHandlerOptions.NO
        initialise_rclpy([], context=self._context, signal_handler_options=options)
        self._node = rclpy.create_node('counterpart', context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        profile = QoSProfile(depth=DEPTH, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._publishers = {
            topic: self._node.create_publisher(import_interface(type_name), topic, profile)
            for topic, type_name in published.items()
        }
        for topic, (type_name, callback) in subscribed.items():
            kind = import_interface(type_name)
            self._node.create_subscription(kind, topic, callback, QoSProfile(depth=DEPTH))

    def is_matched(self) -> bool:
        """Whether every published topic has a subscriber."""
        return all(x.get_subscription_count() for x in self._publishers.values())

    def publish(self, topic: str, payload: bytes) -> None:
        """Send one message; for one thread at a time."""
        self._publishers[topic].publish(payload)

    def spin(self, seconds: float) -> None:
        """Run callbacks for some time."""
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left_s)

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)
