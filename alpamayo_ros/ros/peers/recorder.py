"""Records what alpamayo_node publishes, and reports once a second.

Messages are CDR bytes with their simulated time of arrival. Knows no bag format: messages go to a
function.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message

from ...data_types import NANOSECONDS
from ..diagnostics import t0_status
from ..diagnostics.status import ARRAY_TYPE
from ..messages import import_interface
from ..publishing.outputs import OUTPUTS
from ..session import blame_inputs_while_starting, session

DIAGNOSTICS = '/diagnostics'
PERIOD_S = 1.0
DEPTH = 50

Write = Callable[[str, str, int, bytes], None]


class OutputRecorder(Node):
    """Subscribes to the outputs below `node_name` and to /diagnostics.

    write(topic, type, time ns, bytes) gets every message, report(text) a line each second.
    """

    def __init__(self, node_name: str, write: Write, report: Callable[[str], Any]) -> None:
        simulated = Parameter('use_sim_time', value=True)
        super().__init__('recorder', parameter_overrides=[simulated])
        self._write, self._report_line = write, report
        self._ages_ms: list[float] = []
        self.paths = self._dropped = self._start_ns = 0
        topics = {f'{node_name}/{output.topic}': output.type_name for output in OUTPUTS}
        topics |= {f'{node_name}/{t0_status.TOPIC}': ARRAY_TYPE, DIAGNOSTICS: ARRAY_TYPE}
        for topic, type_name in topics.items():
            self.create_subscription(
                import_interface(type_name),
                topic,
                partial(self._on_message, topic, type_name),
                QoSProfile(depth=DEPTH),
                raw=True,
            )
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # goes on when the drive does not
        self.create_timer(PERIOD_S, self._report, clock=steady)

    def _on_message(self, topic: str, type_name: str, payload: bytes) -> None:
        now_ns = int(self.get_clock().now().nanoseconds)
        if not now_ns:
            return  # the drive has not begun
        self._start_ns = self._start_ns or now_ns
        self._write(topic, type_name, now_ns, bytes(payload))
        self.paths += topic.endswith('/output/path')
        if topic.endswith('/path_age_ms'):
            self._ages_ms.append(deserialize_message(payload, import_interface(type_name)).data)
        elif topic.endswith('/dropped_contexts'):
            self._dropped = deserialize_message(payload, import_interface(type_name)).data

    def _report(self) -> None:
        """Report what arrived in the last second."""
        ages, self._ages_ms = self._ages_ms, []
        if not self._start_ns:
            return
        passed_s = (self.get_clock().now().nanoseconds - self._start_ns) / NANOSECONDS
        text = (
            f'{passed_s:5.1f} s: {self.paths:3} paths, {len(ages) / PERIOD_S:4.1f} predictions/s'
        )
        if ages:
            text += f', age {sum(ages) / len(ages):.0f} ms (at most {max(ages):.0f})'
        self._report_line(f'{text}, {self._dropped} contexts dropped')


def record(node_name: str, write: Write, report: Callable[[str], Any]) -> None:
    """Run an OutputRecorder until a signal."""
    with session([]):
        with blame_inputs_while_starting():
            recorder = OutputRecorder(node_name, write, report)
        report('recording')
        rclpy.spin(recorder)
