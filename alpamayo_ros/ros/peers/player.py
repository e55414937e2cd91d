"""Plays a recorded drive to topics at the pace of its log times, with /clock.

Knows no bag format.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import time

import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile

from ...data_types import NANOSECONDS
from ...errors import BadInput
from ..messages import import_interface, make
from ..session import blame_inputs_while_starting, session

CLOCK_PERIOD_NS = 10_000_000
LISTENERS_LIMIT_S = 30.0
DEPTH = 50


class Player(Node):
    """Publishes messages of `topics` (name to type) at `rate` times their pace; counts them."""

    def __init__(self, topics: Mapping[str, str], rate: float = 1.0) -> None:
        super().__init__('player')
        self.count, self._rate, self._types = 0, rate, dict(topics)
        self._publishers_by_topic = {
            topic: self.create_publisher(
                import_interface(type_name), topic, QoSProfile(depth=DEPTH)
            )
            for topic, type_name in topics.items()
        }
        kind = import_interface('rosgraph_msgs/msg/Clock')
        self._clock_publisher = self.create_publisher(kind, '/clock', QoSProfile(depth=1))
        self._clock_ns = 0  # the time that /clock has now

    def wait_for_listeners(self) -> bool:
        """Wait until every topic is subscribed to; False when the process is to end first.

        BadInput when a topic has no subscription for LISTENERS_LIMIT_S.
        """
        end_s = time.monotonic() + LISTENERS_LIMIT_S
        while rclpy.ok(context=self.context):
            publishers = self._publishers_by_topic.items()
            unheard = [topic for topic, x in publishers if not x.get_subscription_count()]
            if not unheard:
                return True
            if time.monotonic() > end_s:
                kind = self._types[unheard[0]]
                raise BadInput(
                    f'{unheard[0]}: no node in this ROS_DOMAIN_ID subscribes to it as {kind}'
                )
            time.sleep(0.05)
        return False

    def play(self, messages: Iterable[tuple[str, int, bytes]]) -> None:
        """Publish (topic, log time ns, CDR bytes) in order, until a signal."""
        origin_ns, start_s = 0, time.monotonic()
        for topic, log_ns, payload in messages:
            origin_ns = origin_ns or log_ns
            if not self._wait_until(log_ns, origin_ns, start_s):
                break
            self._publishers_by_topic[topic].publish(payload)
            self.count += 1

    def _wait_until(self, log_ns: int, origin_ns: int, start_s: float) -> bool:
        """Let the simulated time reach log_ns, with /clock; False when the process is to end."""
        while rclpy.ok(context=self.context):
            passed_ns = round((time.monotonic() - start_s) * self._rate * NANOSECONDS)
            now_ns = min(origin_ns + passed_ns, log_ns)
            if now_ns - self._clock_ns >= CLOCK_PERIOD_NS:
                self._publish_clock(now_ns)
            if now_ns == log_ns:
                return True
            left_ns = min(log_ns - now_ns, self._clock_ns + CLOCK_PERIOD_NS - now_ns)
            time.sleep(left_ns / NANOSECONDS / self._rate)
        return False

    def _publish_clock(self, now_ns: int) -> None:
        self._clock_ns = now_ns
        sec, nanosec = divmod(now_ns, NANOSECONDS)
        stamp = make('builtin_interfaces/msg/Time', sec=sec, nanosec=nanosec)
        self._clock_publisher.publish(make('rosgraph_msgs/msg/Clock', clock=stamp))


def play(
    topics: Mapping[str, str], messages: Iterable[tuple[str, int, bytes]], rate: float
) -> int:
    """Run a Player until the end or a signal; return how many messages went out."""
    player = None
    with session([]):
        try:
            with blame_inputs_while_starting():
                player = Player(topics, rate)
            player.get_logger().info('waiting for subscriptions')
            if player.wait_for_listeners():
                player.get_logger().info(f'playing at {rate:g} x')
                player.play(messages)
        finally:
            if player is not None:
                player.destroy_node()
    return player.count if player else 0
