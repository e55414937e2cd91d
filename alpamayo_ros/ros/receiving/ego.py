"""Reads poses of the rear axle from whatever a vehicle publishes, for node and replay alike.

Sources are those of rig.EgoSource: Odometry, a pose with or without a twist beside it, a chain of
TF. A pose waits for the twist around its stamp, so that the order of arrival changes
nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
import math
from typing import Any, NamedTuple

import numpy as np

from ... import geometry
from ...data_types import NANOSECONDS, EgoPose
from ...rig import EgoSource, RearAxle
from ...transform_tree import NoTransform, TransformTree
from ..cdr import Odometry, read_odometry
from ..input_topics import STATIC_TOPIC
from ..inputs import (
    convert_odometry,
    find_nanoseconds,
    read_odometry_message,
    read_pose,
    to_links,
    to_pose,
)
from .transform_chain import TransformChain

TWIST_GAP_NS = NANOSECONDS // 5  # a wider one is not bridged, and no pose waits longer
KEPT_NS = 2 * NANOSECONDS  # of twists
NOTHING = math.nan


class Twist(NamedTuple):
    """A measured motion: stamp ns, forward and leftward speed m/s, yaw rate rad/s."""

    stamp_ns: int
    speed_mps: float
    lateral_mps: float
    yaw_rate_radps: float


class EgoReader:
    """Turns messages of one rig's ego topics into poses, in the order of their stamps.

    tree: what is known of TF.
    """

    def __init__(self, source: EgoSource) -> None:
        self.tree = TransformTree()
        self._source = source
        self._chain = TransformChain(self.tree, source.frame, source.child_frame)
        self._axle: tuple[tuple[str, int], RearAxle] | None = None  # frame, state of the tree
        self._waiting: deque[Odometry] = deque()
        self._twists: list[Twist] = []
        self._newest_ns = 0
        self._before: EgoPose | None = None

    def read_poses(self, message: Any) -> tuple[int | None, list[EgoPose]]:
        """Stamp of a message of the odometry's topic, and the poses that are ready now.

        An Odometry may be CDR bytes. No stamp: a TFMessage about other frames. Raises ValueError
        as inputs.to_pose does, and where a transform is missing.
        """
        if self._source == EgoSource():
            pose = read_pose(message) if isinstance(message, bytes) else to_pose(message)
            return pose.stamp_ns, [pose]
        stamp_ns, found = self._read(message)
        poses: list[EgoPose] = []
        for odometry in found:
            if self._source.twist_topic:
                convert_odometry(odometry)  # what cannot be used is not kept waiting
                if odometry.stamp_ns < self._newest_ns - TWIST_GAP_NS:
                    poses += self._release(is_last=True)
                    self._drop_twists_after(odometry.stamp_ns + TWIST_GAP_NS)
                self._newest_ns = odometry.stamp_ns
                self._waiting.append(odometry)
                poses += self._release()
            else:
                poses.append(self._finish(odometry))
        return stamp_ns, poses

    def read_twist(self, message: Any) -> tuple[int, list[EgoPose]]:
        """Stamp of a message of the twist's topic, and the poses that have waited for it."""
        twist = _to_twist(message)
        self._drop_twists_after(twist.stamp_ns + TWIST_GAP_NS)
        self._twists.insert(bisect_left(self._twists, twist), twist)
        newest_ns = self._twists[-1].stamp_ns
        self._twists = [x for x in self._twists if x.stamp_ns > newest_ns - KEPT_NS]
        return twist.stamp_ns, self._release()

    def add_static(self, message: Any) -> None:
        """Take a TFMessage of /tf_static."""
        for link in to_links(message, is_static=True):
            self.tree.add(link)

    def _read(self, message: Any) -> tuple[int | None, list[Odometry]]:
        """Stamp of a message, and what it completes."""
        if hasattr(message, 'transforms'):
            stamp_ns, found = self._chain.read(message)
            return stamp_ns, [self._make(x.stamp_ns, self._source.frame, *x.pose) for x in found]
        if isinstance(message, bytes):
            odometry = read_odometry(message)
        elif hasattr(message, 'twist'):
            odometry = read_odometry_message(message)
        else:
            pose = message.pose.pose if hasattr(message.pose, 'pose') else message.pose
            at, turn = pose.position, pose.orientation
            stamp_ns = find_nanoseconds(message.header.stamp)
            place = (at.x, at.y, at.z), (turn.x, turn.y, turn.z, turn.w)
            odometry = self._make(stamp_ns, message.header.frame_id, *place)
        return odometry.stamp_ns, [odometry]

    def _make(
        self, stamp_ns: int, frame: str, position: Iterable[float], quaternion: Iterable[float]
    ) -> Odometry:
        x, y, z = position
        numbers = (x, y, z), tuple(quaternion)
        return Odometry(
            stamp_ns, *numbers, NOTHING, NOTHING, frame, self._source.child_frame, NOTHING
        )

    def _drop_twists_after(self, stamp_ns: int) -> None:
        """Forget the twists that a clock which has jumped back has left behind."""
        self._twists = [x for x in self._twists if x.stamp_ns <= stamp_ns]

    def _release(self, is_last: bool = False) -> list[EgoPose]:
        """Poses whose twist is known, or does not come any more."""
        poses = []
        while self._waiting:
            odometry = self._waiting[0]
            has_later = bool(self._twists) and self._twists[-1].stamp_ns >= odometry.stamp_ns
            waited_ns = self._waiting[-1].stamp_ns - odometry.stamp_ns
            if not (has_later or is_last or waited_ns > TWIST_GAP_NS):
                break
            twist = _interpolate(self._twists, odometry.stamp_ns)
            self._waiting.popleft()
            if twist is not None:
                odometry = odometry._replace(
                    speed_mps=twist.speed_mps,
                    lateral_mps=twist.lateral_mps,
                    yaw_rate_radps=twist.yaw_rate_radps,
                )
            poses.append(self._finish(odometry))
        return poses

    def _finish(self, odometry: Odometry) -> EgoPose:
        pose = convert_odometry(odometry)
        if axle := self._find_axle(pose.child_frame_id):
            pose = move_to_axle(pose, odometry.lateral_mps, axle)
        if not self._source.has_twist:
            pose, self._before = measure_speed(self._before, pose), pose
        return pose

    def _find_axle(self, frame: str) -> RearAxle | None:
        """Where the axle is in a frame: by the rig, else by /tf_static; None: it is the frame."""
        axle = self._source.rear_axle
        if axle is None or axle.position_m is not None:
            return axle
        key = frame, self.tree.static_count
        if self._axle is None or self._axle[0] != key:
            try:
                position, quaternion = self.tree.find(frame, axle.frame)
            except NoTransform as error:
                raise ValueError(f'rear_axle by {STATIC_TOPIC}: {error}') from error
            place = tuple(position.tolist()), tuple(quaternion.tolist())
            self._axle = key, RearAxle(axle.frame, *place)
        return self._axle[1]


def move_to_axle(pose: EgoPose, lateral_mps: float, axle: RearAxle) -> EgoPose:
    """The pose and twist of the rear axle, from those of another frame of the same rigid body.

    axle: its position r and orientation in that frame. p_axle = p + R r, R_axle = R R_r, and with
    the twist (v, w) of the frame v_axle = R_r^T (v + w x r): Lynch and Park, Modern Robotics
    (2017), 3.3. Of w only the yaw rate is known. lateral_mps: v to the left.
    """
    r, yaw_rate = np.array(axle.position_m, np.float64), pose.yaw_rate_radps
    turned = geometry.rotation_matrix(pose.quaternion_xyzw)
    forward, left, _ = geometry.rotation_matrix(axle.quaternion_xyzw)[:, 0]
    speed_mps = pose.speed_mps - (yaw_rate * r[1] if r[1] else 0.0)
    if left:
        speed_mps = forward * speed_mps + left * (lateral_mps + yaw_rate * r[0])
    return replace(
        pose,
        position_m=pose.position_m + turned @ r,
        quaternion_xyzw=geometry.multiply(pose.quaternion_xyzw, axle.quaternion_xyzw),
        speed_mps=float(speed_mps),
        child_frame_id=axle.frame,
    )


def measure_speed(before: EgoPose | None, pose: EgoPose) -> EgoPose:
    """The pose with speed and yaw rate of its motion since the one before; as it is without one.

    The motion is measured in the axes half way, so that a turn costs no speed.
    """
    seconds = (pose.stamp_ns - before.stamp_ns) / NANOSECONDS if before else 0.0
    if before is None or not 1e-3 < seconds <= TWIST_GAP_NS / NANOSECONDS:
        return pose
    axes = [geometry.rotation_matrix(x.quaternion_xyzw) for x in (before, pose)]
    middle = axes[0][:, 0] + axes[1][:, 0]
    moved = pose.position_m - before.position_m
    turned = geometry.wrap_angle(geometry.yaw(axes[1]) - geometry.yaw(axes[0]))
    return replace(
        pose,
        speed_mps=float(moved @ middle / np.linalg.norm(middle) / seconds),
        yaw_rate_radps=float(turned / seconds),
    )


def _to_twist(message: Any) -> Twist:
    """A TwistStamped, one with covariance, or Autoware's VelocityReport."""
    stamp_ns = find_nanoseconds(message.header.stamp)
    if stamp_ns <= 0:
        raise ValueError('header stamp is zero')
    if hasattr(message, 'longitudinal_velocity'):
        report = message
        speeds = report.longitudinal_velocity, report.lateral_velocity, report.heading_rate
    else:
        twist = message.twist.twist if hasattr(message.twist, 'twist') else message.twist
        speeds = twist.linear.x, twist.linear.y, twist.angular.z
    return Twist(stamp_ns, *map(float, speeds))


def _interpolate(twists: list[Twist], stamp_ns: int) -> Twist | None:
    """The twist at a stamp, between two that are TWIST_GAP_NS apart at most."""
    at = bisect_left(twists, stamp_ns, key=lambda twist: twist.stamp_ns)
    if at < len(twists) and twists[at].stamp_ns == stamp_ns:
        return twists[at]
    if not 0 < at < len(twists):
        return None
    before, after = twists[at - 1], twists[at]
    gap_ns = after.stamp_ns - before.stamp_ns
    if gap_ns > TWIST_GAP_NS:
        return None
    part = (stamp_ns - before.stamp_ns) / gap_ns
    speeds = (a + part * (b - a) for a, b in zip(before[1:], after[1:], strict=True))
    return Twist(stamp_ns, *speeds)
