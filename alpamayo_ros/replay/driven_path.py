"""The path that was driven: the odometry of a whole bag, interpolated where it is asked for.

Truth for the metrics and the driven line of the pictures, with the geometry code of the live
buffer. Knows no images and no predictions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .. import geometry
from ..bags.reader import Bag
from ..data_types import GRID_NS, HISTORY_POSES, NANOSECONDS, WAYPOINTS, EgoPose
from ..ros.inputs import to_pose

MAX_GAP_NS = NANOSECONDS // 5  # odometry_max_gap_s of the node
MIN_POSES = 4  # what the cubic needs


class DrivenPath:
    """Poses of one odometry topic by stamp: (N,) int64 ns, (N, 3) m, (N, 4) xyzw, (N,) m/s.

    Poses that cannot be used, are older than the one before or are in another frame than the
    first one are left out: the buffer refuses them too.
    """

    def __init__(self, bag: Bag, topic: str) -> None:
        kept: list[EgoPose] = []
        for _, _, payload in bag.messages([topic]):
            try:
                pose = to_pose(bag.decode(topic, payload))
            except ValueError:
                continue  # the replay itself writes a line about it
            if not kept or (_follows(kept[-1], pose)):
                kept.append(pose)
        self.stamps_ns = np.array([pose.stamp_ns for pose in kept], np.int64)
        self.positions_m = np.array([pose.position_m for pose in kept]).reshape(-1, 3)
        self.quaternions = np.array([pose.quaternion_xyzw for pose in kept]).reshape(-1, 4)
        self.speeds_mps = np.array([pose.speed_mps for pose in kept])
        self._frames = (kept[0].frame_id, kept[0].child_frame_id) if kept else ('', '')

    def pose(self, stamp_ns: int) -> EgoPose | None:
        """Interpolated pose at a stamp; None where the odometry has none."""
        times = np.array([stamp_ns], np.int64)
        if not self._known(times)[0]:
            return None
        (position,), (quaternion,) = geometry.interpolate_poses(
            self.stamps_ns, self.positions_m, self.quaternions, times
        )
        origin = self.stamps_ns[0]
        speed = np.interp(stamp_ns - origin, self.stamps_ns - origin, self.speeds_mps)
        return EgoPose(stamp_ns, position, quaternion, float(speed), *self._frames)

    def future(self, odom_from_t0: EgoPose) -> NDArray[np.float64]:
        """Truth (M, 3): x, y m and yaw rad in the t0 frame at t0 + 0.1 s, ... up to 6.4 s.

        M < 64 when the odometry ends or has a gap above MAX_GAP_NS earlier.
        """
        return self._local(odom_from_t0, np.arange(1, WAYPOINTS + 1))

    def history(self, odom_from_t0: EgoPose) -> NDArray[np.float64]:
        """The last M <= 16 poses up to t0, oldest first; columns as in `future`."""
        return self._local(odom_from_t0, -np.arange(HISTORY_POSES))[::-1]

    def speeds(self, odom_from_t0: EgoPose, steps: NDArray[np.int64]) -> NDArray[np.float64]:
        """Measured speed m/s at each step of the 10 Hz grid after t0, by linear interpolation."""
        times = odom_from_t0.stamp_ns + steps * GRID_NS
        origin = odom_from_t0.stamp_ns
        return np.interp(
            (times - origin).astype(float),
            (self.stamps_ns - origin).astype(float),
            self.speeds_mps,
        )

    def _local(self, origin: EgoPose, steps: NDArray[np.int64]) -> NDArray[np.float64]:
        """Poses at successive grid steps, up to the first one that cannot be interpolated."""
        times = origin.stamp_ns + steps * GRID_NS
        times = times[: int(np.argmin(np.append(self._known(times), False)))]
        if not len(times):
            return np.zeros((0, 3))
        poses = geometry.interpolate_poses(
            self.stamps_ns, self.positions_m, self.quaternions, times
        )
        xyz, rotations = geometry.to_local(origin.position_m, origin.quaternion_xyzw, *poses)
        return np.column_stack([xyz[:, :2], np.unwrap(geometry.yaw(rotations))])

    def _known(self, times_ns: NDArray[np.int64]) -> NDArray[np.bool_]:
        stamps = self.stamps_ns
        if len(stamps) < MIN_POSES:
            return np.zeros(len(times_ns), bool)
        after = np.clip(np.searchsorted(stamps, times_ns), 1, len(stamps) - 1)
        inside = (times_ns >= stamps[0]) & (times_ns <= stamps[-1])
        return np.asarray(inside & (stamps[after] - stamps[after - 1] <= MAX_GAP_NS))


def _follows(before: EgoPose, pose: EgoPose) -> bool:
    same = (before.frame_id, before.child_frame_id) == (pose.frame_id, pose.child_frame_id)
    return same and pose.stamp_ns > before.stamp_ns
