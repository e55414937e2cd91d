"""The gate of a follower: hands out the path only while a person has engaged it and it is fresh.

~/engage (std_srvs/SetBool) opens it and nothing else does; a path that is too old closes it.
"""

from __future__ import annotations

from typing import Any

from nav_msgs.msg import Path
from rclpy.node import Node
from rclpy.time import Time
from std_srvs.srv import SetBool


class PathGate:
    """The latest path on the topic `path` of a node, and whether it may be followed.

    The parameter max_path_age_s is the deadman: how long after its stamp a path is followed.
    is_tripped: closed by a fault, so that the vehicle has to be stopped; until somebody engages
    again or releases the vehicle with `data: false`.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._max_age_s = node.declare_parameter('max_path_age_s', 2.0).value
        self._path: Path | None = None
        self._is_engaged = False
        self.is_tripped = False
        node.create_subscription(Path, 'path', self._receive, 1)
        node.create_service(SetBool, '~/engage', self._engage)

    def get_path(self) -> Path | None:
        """The path to follow, None unless engaged; trips when it is too old."""
        if fault := self._find_fault():
            self.trip(fault)
        return self._path if self._is_engaged else None

    def trip(self, fault: str) -> None:
        """Close the gate for a reason, if it is open."""
        if self._is_engaged:
            self._is_engaged, self.is_tripped = False, True
            self._node.get_logger().error(f'stopping: {fault}')

    def _receive(self, path: Path) -> None:
        self._path = path

    def _engage(self, request: Any, response: Any) -> Any:
        fault = self._find_fault() if request.data else ''
        if not fault:
            self._is_engaged, self.is_tripped = request.data, False
        response.success, response.message = not fault, fault
        return response

    def _find_fault(self) -> str:
        """Why no path can be followed now, '' if one can."""
        if self._path is None or not self._path.poses:
            return 'there is no path'
        age = self._node.get_clock().now() - Time.from_msg(self._path.header.stamp)
        age_s = age.nanoseconds / 1e9
        is_fresh = abs(age_s) <= self._max_age_s
        return '' if is_fresh else f'the path is {age_s:.1f} s old'
