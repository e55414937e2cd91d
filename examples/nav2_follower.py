"""Hand alpamayo_node's path to Nav2's controller: nav_msgs/Path to the action FollowPath.

Each new path is a goal that replaces the one before; Nav2 ends that one as aborted. A gate that
closes cancels the newest goal, and Nav2 stops.
"""

from __future__ import annotations

import sys
from typing import Any

from action_msgs.msg import GoalStatus
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

    The gate closes when the path is too old, and when Nav2 refuses a goal or gives up the newest
    one. Parameters: controller_id, goal_checker_id, progress_checker_id (empty: Nav2's own; the
    last one is unknown to Humble) and those of PathGate.
    """

    def __init__(self) -> None:
        super().__init__('nav2_follower')
        names = ('controller_id', 'goal_checker_id', 'progress_checker_id')
        chosen = {name: self.declare_parameter(name, '').value for name in names}
        self._plugins = {name: value for name, value in chosen.items() if value}
        self._gate = PathGate(self)
        self._client = ActionClient(self, FollowPath, 'follow_path')
        self._sent: Path | None = None  # the path of the newest goal, None when that is cancelled
        self._running: dict[int, tuple[Path, Any]] = {}  # accepted goals that have not ended
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # ROS time may stand still
        self.create_timer(PERIOD_S, self._update, clock=steady)

    def _update(self) -> None:
        """Send a path that is new, or cancel."""
        path, is_ready = self._gate.get_path(), self._client.server_is_ready()
        if path is not None and not is_ready:
            self._gate.trip('there is no action server follow_path')
            path = None
        if path is None:
            self._sent = None
            if is_ready:
                self._cancel()
        elif path is not self._sent:
            self._sent = path
            goal = FollowPath.Goal(path=path, **self._plugins)
            sending = self._client.send_goal_async(goal)
            sending.add_done_callback(lambda future: self._receive_answer(path, future.result()))

    def _cancel(self) -> None:
        """Ask for the end of every goal that has not ended, again and again until it has."""
        for _, goal in self._running.values():
            goal.cancel_goal_async()

    def _receive_answer(self, path: Path, goal: Any) -> None:
        if not goal.accepted:
            if path is self._sent:
                self._gate.trip('Nav2 refused the path')
            return
        self._running[id(goal)] = path, goal
        ending = goal.get_result_async()
        ending.add_done_callback(lambda future: self._receive_result(goal, future.result()))
        if self._sent is None:  # the gate has closed meanwhile
            goal.cancel_goal_async()

    def _receive_result(self, goal: Any, result: Any) -> None:
        path, _ = self._running.pop(id(goal))
        if path is self._sent and result.status == GoalStatus.STATUS_ABORTED:
            code = getattr(result.result, 'error_code', 'unknown')  # Humble has none
            self._gate.trip(f'Nav2 gave up the path, error_code {code}')


def main() -> None:
    """Run the node until SIGINT or SIGTERM."""
    with session(sys.argv):
        rclpy.spin(Nav2Follower())


if __name__ == '__main__':
    main()
