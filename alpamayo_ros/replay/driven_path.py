"""The path that was driven: the odometry of a whole bag, interpolated at any time.

Truth for the metrics and the driven line of the pictures, with the geometry code of the live
buffer. Poses that cannot be used are counted by reason; a truth that crosses a jump, leaves the
plane or is in another frame is no truth. Knows no images and no predictions.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .. import geometry
from ..bags.calibrations import read_static_transforms
from ..bags.reader import Bag
from ..context.odometry_axes import describe_turned_axes
from ..context.odometry_jumps import PoseTrack, describe_jump
from ..data_types import GRID_NS, HISTORY_POSES, WAYPOINTS, EgoPose
from ..json_types import PathFacts
from ..rig import CameraRig
from ..ros.input_topics import list_ego_topics
from ..ros.receiving.ego import EgoReader

MIN_POSES = 4  # what the cubic needs
LEVEL_M, LEVEL_SLOPE = 1.0, 0.35  # a path that climbs more is not in the plane of x and y
_NOTHING = np.zeros((0, 3))


def make_ego_reader(bag: Bag, rig: CameraRig) -> EgoReader:
    """A reader of the rig's motion that knows the static transforms of the bag."""
    reader = EgoReader(rig.ego)
    for message in read_static_transforms(bag):
        reader.add_static(message)
    return reader


@dataclass(frozen=True)
class DrivenTruth:
    """The driven path after a t0: (M, 3) x, y m and yaw rad at t0 + 0.1 s, ... in the t0 frame.

    M < 64 when the odometry ends or has a gap earlier. reason: why there is none though odometry
    goes on, a short fixed name, and a sentence as `detail`.
    """

    path: NDArray[np.float64]
    reason: str = ''
    detail: str = ''


class DrivenPath:
    """Poses of a rig's odometry by stamp: (N,) int64 ns, (N, 3) m, (N, 4) xyzw, (N,) m/s.

    A pose is left out when it cannot be used, when its stamp is far from those around it, when it
    is not newer than the one before, or when it is in a rarer pair of frames. `facts` counts them.
    """

    def __init__(self, bag: Bag, rig: CameraRig) -> None:
        reader = make_ego_reader(bag, rig)
        topics = [x for x, _ in list_ego_topics(rig).values()]
        left_out: Counter[str] = Counter()
        poses: list[EgoPose] = []
        for message in bag.messages_by_stamp(topics):
            is_odometry = message.topic == rig.odometry_topic
            read = reader.read_poses if is_odometry else reader.read_twist
            try:
                _, found = read(bag.decode(message.topic, message.payload))
            except ValueError:
                left_out['bad_message'] += 1  # the replay itself writes a line about it
                continue
            if message.is_outlier:
                left_out['stamp_outlier'] += len(found)
            else:
                poses += found
        pairs = Counter((pose.frame_id, pose.child_frame_id) for pose in poses)
        self._frames = pairs.most_common(1)[0][0] if pairs else ('', '')
        self._poses: list[EgoPose] = []
        for pose in poses:
            if (pose.frame_id, pose.child_frame_id) != self._frames:
                left_out['other_frame'] += 1
            elif self._poses and pose.stamp_ns <= self._poses[-1].stamp_ns:
                left_out['not_newer'] += 1
            else:
                self._poses.append(pose)
        self._max_gap_ns = round(rig.limits.odometry_max_gap_s * 1e9)
        self._uses_twist = rig.uses_twist
        self.recorded_until_ns = max((pose.stamp_ns for pose in poses), default=0)
        self.facts: PathFacts = {
            'recorded': len(self._poses) + left_out.total(),
            'used': len(self._poses),
            'left_out': dict(left_out.most_common()),
        }
        self.stamps_ns = np.array([pose.stamp_ns for pose in self._poses], np.int64)
        self.positions_m = np.array([x.position_m for x in self._poses]).reshape(-1, 3)
        self.quaternions = np.array([x.quaternion_xyzw for x in self._poses]).reshape(-1, 4)
        self.speeds_mps = np.array([pose.speed_mps for pose in self._poses])

    def pose(self, stamp_ns: int) -> EgoPose | None:
        """Interpolated pose at a stamp; None where the odometry has none."""
        times = np.array([stamp_ns], np.int64)
        if not self._covers(times)[0]:
            return None
        (position,), (quaternion,) = geometry.interpolate_poses(
            self.stamps_ns, self.positions_m, self.quaternions, times
        )
        origin = self.stamps_ns[0]
        speed = np.interp(stamp_ns - origin, self.stamps_ns - origin, self.speeds_mps)
        return EgoPose(stamp_ns, position, quaternion, float(speed), *self._frames)

    def truth(self, odom_from_t0: EgoPose) -> DrivenTruth:
        """The path from t0 on, or why it is no truth."""
        frames = odom_from_t0.frame_id, odom_from_t0.child_frame_id
        if frames != self._frames:
            detail = f'{frames[1]} in {frames[0]}, the path has {" in ".join(self._frames[::-1])}'
            return DrivenTruth(_NOTHING, 'other_frame', detail)
        xyz, rotations = self._interpolate(odom_from_t0, np.arange(1, WAYPOINTS + 1))
        if not len(xyz):
            return DrivenTruth(_NOTHING)
        t0_ns = odom_from_t0.stamp_ns
        ends = t0_ns + np.array([0, len(xyz)]) * GRID_NS
        first, last = np.searchsorted(self.stamps_ns, ends)
        poses = self._poses[max(first - 1, 0) : last + 1]
        if detail := describe_jump(PoseTrack(poses, t0_ns, self._uses_twist)):
            return DrivenTruth(_NOTHING, 'odometry_jump', detail)
        if detail := _describe_off_plane(xyz, rotations, frames[1]):
            return DrivenTruth(_NOTHING, 'off_plane', detail)
        return DrivenTruth(_flatten(xyz, rotations))

    def history(self, odom_from_t0: EgoPose) -> NDArray[np.float64]:
        """The last M <= 16 poses up to t0, oldest first; columns as in `DrivenTruth`."""
        return _flatten(*self._interpolate(odom_from_t0, -np.arange(HISTORY_POSES)))[::-1]

    def speeds(self, odom_from_t0: EgoPose, steps: NDArray[np.int64]) -> NDArray[np.float64]:
        """Measured speed m/s at each step of the 10 Hz grid after t0, by linear interpolation."""
        times = odom_from_t0.stamp_ns + steps * GRID_NS
        origin = odom_from_t0.stamp_ns
        return np.interp(
            (times - origin).astype(float),
            (self.stamps_ns - origin).astype(float),
            self.speeds_mps,
        )

    def _interpolate(
        self, origin: EgoPose, steps: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Positions (M, 3) and rotations (M, 3, 3) in the frame of `origin` at grid steps.

        They end at the first step that cannot be interpolated.
        """
        times = origin.stamp_ns + steps * GRID_NS
        times = times[: int(np.argmin(np.append(self._covers(times), False)))]
        if not len(times):
            return _NOTHING, np.zeros((0, 3, 3))
        poses = geometry.interpolate_poses(
            self.stamps_ns, self.positions_m, self.quaternions, times
        )
        return geometry.to_local(origin.position_m, origin.quaternion_xyzw, *poses)

    def _covers(self, times_ns: NDArray[np.int64]) -> NDArray[np.bool_]:
        stamps = self.stamps_ns
        if len(stamps) < MIN_POSES:
            return np.zeros(len(times_ns), bool)
        after = np.clip(np.searchsorted(stamps, times_ns), 1, len(stamps) - 1)
        inside = (times_ns >= stamps[0]) & (times_ns <= stamps[-1])
        return np.asarray(inside & (stamps[after] - stamps[after - 1] <= self._max_gap_ns))


def _flatten(xyz: NDArray[np.float64], rotations: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns x, y m and yaw rad of poses in the t0 frame."""
    return np.column_stack([xyz[:, :2], np.unwrap(geometry.yaw(rotations))])


def _describe_off_plane(
    xyz: NDArray[np.float64], rotations: NDArray[np.float64], child_frame_id: str
) -> str:
    """Describe a path that x, y and yaw do not hold, since its axes are turned; '' for others."""
    if text := describe_turned_axes(xyz, rotations, child_frame_id):
        return text
    travelled_m = np.cumsum(np.linalg.norm(np.diff(xyz, axis=0, prepend=0.0), axis=1))
    excess = np.abs(xyz[:, 2]) - LEVEL_M - LEVEL_SLOPE * travelled_m
    at = int(np.argmax(excess))
    if excess[at] <= 0:
        return ''
    return (
        f'odometry: {child_frame_id} moves {xyz[at, 2]:+.1f} m along its own z axis over '
        f'{travelled_m[at]:.1f} m, expected z up'
    )
