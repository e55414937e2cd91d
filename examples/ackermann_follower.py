"""Steer an Ackermann vehicle along alpamayo_node's path: nav_msgs/Path to AckermannDriveStamped.

Each odometry message becomes one command, by the law of the evaluation in closed loop.
"""

from __future__ import annotations

import math
import sys
from typing import Any

from ackermann_msgs.msg import AckermannDriveStamped
from nav_msgs.msg import Odometry, Path
import numpy as np
from path_gate import PathGate
import rclpy
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.time import Time

from alpamayo_ros import geometry
from alpamayo_ros.data_types import GRID_S, NANOSECONDS, WAYPOINTS, EgoPose
from alpamayo_ros.drives.follower import BRAKE_MPS2, FollowedPath, follow
from alpamayo_ros.ros.inputs import to_pose
from alpamayo_ros.ros.session import session
from alpamayo_ros.world.moments import SIMULATION_STEP_S, State

WATCH_S = 0.1
STANDING_M = 1e-3  # a step of the path that has no direction


class AckermannFollower(Node):
    """Topics `path` and `odometry` in, `drive` out; nothing goes out before ~/engage.

    It stops the vehicle when the path or the odometry is too old or cannot be followed, and keeps
    it standing until somebody engages again or releases it. Parameters: wheelbase_m,
    max_odometry_age_s and those of PathGate.
    """

    def __init__(self) -> None:
        super().__init__('ackermann_follower')
        self._wheelbase_m = self.declare_parameter('wheelbase_m', 2.7).value
        self._max_age_s = self.declare_parameter('max_odometry_age_s', 0.3).value
        self._gate = PathGate(self)
        self._heard_ns = 0
        self._steering_rad = 0.0
        self._commands = self.create_publisher(AckermannDriveStamped, 'drive', 1)
        self.create_subscription(Odometry, 'odometry', self._follow, qos_profile_sensor_data)
        self.create_timer(WATCH_S, self._watch)

    def _follow(self, odometry: Odometry) -> None:
        """Command what leads to the path."""
        path = self._gate.get_path()
        try:
            pose = to_pose(odometry)
            self._heard_ns = pose.stamp_ns
            if path is not None:
                self._command(follow_path(path, pose))
        except ValueError as error:
            self._gate.trip(str(error))

    def _command(self, wanted: State) -> None:
        self._steering_rad = math.atan(self._wheelbase_m * wanted.curvature)
        self._publish(wanted.after(SIMULATION_STEP_S).speed_mps, wanted.acceleration_mps2)

    def _publish(self, speed_mps: float, acceleration_mps2: float) -> None:
        message = AckermannDriveStamped()
        message.header.stamp = self.get_clock().now().to_msg()
        message.drive.steering_angle = self._steering_rad
        message.drive.speed = speed_mps
        message.drive.acceleration = abs(acceleration_mps2)  # the type has no sign for braking
        self._commands.publish(message)

    def _watch(self) -> None:
        """Trip when no odometry comes, and stop the vehicle after a fault."""
        age_s = (self.get_clock().now().nanoseconds - self._heard_ns) / NANOSECONDS
        if age_s > self._max_age_s:
            self._gate.trip(f'the odometry is {age_s:.1f} s old')
        if self._gate.is_tripped:
            self._publish(0.0, BRAKE_MPS2)


def follow_path(path: Path, pose: EgoPose) -> State:
    """Motion of the vehicle now, with the acceleration and curvature that lead along a path.

    Raises ValueError for a path of another frame and for what cannot be followed.
    """
    if path.header.frame_id != pose.frame_id:
        raise ValueError(f'path in {path.header.frame_id!r}, odometry in {pose.frame_id!r}')
    if not math.isfinite(pose.speed_mps):
        raise ValueError('the speed of the odometry is not finite')
    x_m, y_m, _ = pose.position_m.tolist()
    yaw_rad = float(geometry.yaw(geometry.rotation_matrix(pose.quaternion_xyzw)))
    state = State(0.0, x_m, y_m, yaw_rad, pose.speed_mps, 0.0, 0.0)
    t_s = (pose.stamp_ns - _to_nanoseconds(path)) / NANOSECONDS
    return follow(state, t_s, read_path(path))


def read_path(path: Path) -> FollowedPath:
    """Rows of a path every 0.1 s from its stamp on, t0_s = 0.

    Raises ValueError without three finite poses whose stamps rise. The row at the stamp itself,
    which alpamayo_node does not publish, continues the first three backwards.
    """
    t0_ns = _to_nanoseconds(path)
    times = np.array([_to_nanoseconds(pose) - t0_ns for pose in path.poses]) / NANOSECONDS
    if len(times) < 3 or not (np.diff(times) > 0).all():
        raise ValueError('the stamps of the path do not rise')
    places = [pose.pose.position for pose in path.poses]
    turns = [pose.pose.orientation for pose in path.poses]
    quaternions = np.array([[q.x, q.y, q.z, q.w] for q in turns])
    yaw = np.unwrap(geometry.yaw(geometry.rotation_matrix(quaternions)))
    poses = np.column_stack([[place.x for place in places], [place.y for place in places], yaw])
    if not np.isfinite(poses).all():
        raise ValueError('the path is not finite')
    poses = np.vstack([3 * poses[0] - 3 * poses[1] + poses[2], poses])
    times = np.concatenate([[2 * times[0] - times[1]], times])
    rows = np.arange(WAYPOINTS + 1) * GRID_S
    xy = np.column_stack([np.interp(rows, times, column) for column in poses.T[:2]])
    yaw = np.interp(rows, times, poses[:, 2])
    steps = np.linalg.norm(np.diff(xy, axis=0), axis=1)
    way = np.concatenate([[0.0], np.cumsum(steps)])
    curvature = np.where(steps > STANDING_M, np.diff(yaw) / np.maximum(steps, STANDING_M), 0.0)
    return FollowedPath(0.0, xy, yaw, np.gradient(way, GRID_S, edge_order=2), way, curvature)


def _to_nanoseconds(stamped: Any) -> int:
    stamp: int = Time.from_msg(stamped.header.stamp).nanoseconds
    return stamp


def main() -> None:
    """Run the node until SIGINT or SIGTERM."""
    with session(sys.argv):
        rclpy.spin(AckermannFollower())


if __name__ == '__main__':
    main()
