"""A status: level, name, one sentence and key-value pairs; and the message that carries statuses.

Knows no rclpy, no clock and no thread. The sentence starts with what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..messages import Make, make_header

OK, WARN, ERROR, STALE = range(4)
ARRAY_TYPE = 'diagnostic_msgs/msg/DiagnosticArray'


@dataclass(frozen=True)
class Status:
    """One status of diagnostics; level is OK, WARN, ERROR or STALE."""

    level: int
    name: str
    message: str
    values: Mapping[str, object] = field(default_factory=dict)


def build_diagnostic_array(
    statuses: Iterable[Status], make: Make, stamp_ns: int, node_name: str, hardware: str
) -> Any:
    """diagnostic_msgs/DiagnosticArray; every status is named after the node."""
    return make(
        ARRAY_TYPE,
        header=make_header(make, stamp_ns, ''),
        status=[
            make(
                'diagnostic_msgs/msg/DiagnosticStatus',
                level=bytes([status.level]),
                name=f'{node_name}: {status.name}',
                message=status.message,
                hardware_id=hardware,
                values=[
                    make('diagnostic_msgs/msg/KeyValue', key=key, value=str(value))
                    for key, value in status.values.items()
                ],
            )
            for status in statuses
        ],
    )
