"""Hand alpamayo_node's path to Nav2's controller: nav_msgs/Path to the action FollowPath.

Each new path replaces the one before; a gate that closes cancels the goal, and Nav2 stops.
"""

from __future__ import annotations

import sys
from typing import Any

from nav2_msgs.action import FollowPath
from nav_msgs.msg import Path
from path_gate import PathGate
import rclpy
from rclpy.action import ActionClient
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from alpamayo_ros.ros.session import session

PERIOD_S = 0.1


class Nav2Follower(Node):
    """Topic `path` in, action `follow_path` out; no goal goes out before ~/engage.

    The goal is cancelled when the path is too old, and when Nav2 refuses it. Parameters:
    controller_id, goal_checker_id, progress_checker_id (empty: Nav2's own) and those of PathGate.
    """

    def __init__(self) -> None:
        super().__init__('nav2_follower')
        self._plugins = {
            name: self.declare_parameter(name, '').value
            for name in ('controller_id', 'goal_checker_id', 'progress_checker_id')
        }
        self._gate = PathGate(self)
        self._client = ActionClient(self, FollowPath, 'follow_path')
        self._sent: Path | None = None
        self._goal: Any = None
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # ROS time may stand still
        self.create_timer(PERIOD_S, self._update, clock=steady)

    def _update(self) -> None:
        """Send a path that is new, or cancel."""
        path = self._gate.get_path()
        if path is None:
            self._cancel()
        elif not self._client.server_is_ready():
            self._gate.trip('there is no action server follow_path')
        elif path is not self._sent:
            self._sent = path
            goal = FollowPath.Goal(path=path, **self._plugins)
            self._client.send_goal_async(goal).add_done_callback(self._receive_answer)

    def _receive_answer(self, future: Any) -> None:
        goal = future.result()
        if goal.accepted:
            self._goal = goal
        else:
            self._gate.trip('Nav2 refused the path')

    def _cancel(self) -> None:
        if self._goal is not None:
            self._goal.cancel_goal_async()
        self._goal = self._sent = None


def main() -> None:
    """Run the node until SIGINT or SIGTERM."""
    with session(sys.argv):
        rclpy.spin(Nav2Follower())


if __name__ == '__main__':
    main()
