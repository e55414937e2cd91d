"""The ego history of a t0: sixteen poses on the 10 Hz grid from odometry of any rate.

Nothing is extrapolated: a history needs poses on either side of every grid time, without a gap.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
import math

import numpy as np

from .. import geometry
from ..data_types import GRID_NS, HISTORY_POSES, NANOSECONDS, EgoPose
from ..geometry import Array
from .not_servable import NotServable, format_age
from .odometry_axes import describe_turned_axes, describe_upside_down
from .odometry_jumps import PoseTrack, describe_jump
from .stream import Stream

HISTORY_NS = (HISTORY_POSES - 1) * GRID_NS
V0_WARN_MPS, V0_LIMIT_MPS = 0.5, 2.0
FASTEST_MPS = 100.0  # positions in millimetres or degrees give other speeds
STEP_LIMIT_M = 4.0  # range of the history tokens per 0.1 s


@dataclass(frozen=True)
class EgoHistory:
    """Poses at t0-1.5 s ... t0 in the t0 frame: positions (16, 3) m and rotations (16, 3, 3).

    odom_from_t0: the pose at exactly t0. v0_mps: speed fitted to the history. checks: names of
    what is unusual.
    """

    xyz_m: Array
    rotations: Array
    odom_from_t0: EgoPose
    v0_mps: float
    checks: tuple[str, ...]


def build_history(
    stream: Stream[EgoPose], t0_ns: int, max_gap_ns: int, uses_twist: bool
) -> EgoHistory:
    """Interpolate the history of a t0; raises NotServable when the poses do not give one.

    uses_twist: whether the poses are compared with the twist.
    """
    poses = _select_poses(stream, t0_ns, max_gap_ns)
    track = PoseTrack(poses, t0_ns, uses_twist)
    if text := describe_jump(track):
        raise NotServable('odometry_jump', text)
    grid_ns = t0_ns + np.arange(1 - HISTORY_POSES, 1) * GRID_NS
    positions, quaternions = geometry.interpolate_poses(
        track.stamps_ns, track.positions, track.quaternions, grid_ns
    )
    xyz, rotations = geometry.to_local(positions[-1], quaternions[-1], positions, quaternions)
    xyz[-1], rotations[-1] = 0.0, np.eye(3)
    last = poses[-1]
    text = describe_upside_down(quaternions[-1], last.frame_id, last.child_frame_id)
    if text := text or describe_turned_axes(xyz, rotations, last.child_frame_id):
        raise NotServable('odometry_axes', text)
    v0_mps = float(geometry.fit_speeds(xyz[:, :2], geometry.yaw(rotations))[-1])
    if abs(v0_mps) > FASTEST_MPS:
        detail = (
            f'odometry: {last.child_frame_id} moves at {v0_mps:.0f} m/s, expected positions in '
            f'metres and at most {FASTEST_MPS:g} m/s'
        )
        raise NotServable('odometry_speed', detail)
    twist_mps, twist_check = v0_mps, ''
    if uses_twist:
        twist_mps, twist_check = _compare_with_twist(poses, t0_ns, v0_mps)
    is_saturated = bool(np.abs(np.diff(xyz, axis=0)).max() > STEP_LIMIT_M)
    checks = (twist_check, 'history_saturated' if is_saturated else '')
    message_checks = {check for pose in poses for check in pose.checks}
    odom_from_t0 = EgoPose(
        t0_ns, positions[-1], quaternions[-1], twist_mps, last.frame_id, last.child_frame_id
    )
    return EgoHistory(
        xyz, rotations, odom_from_t0, v0_mps, (*filter(None, checks), *sorted(message_checks))
    )


def _compare_with_twist(poses: Sequence[EgoPose], t0_ns: int, v0_mps: float) -> tuple[float, str]:
    """The twist at t0 m/s, or v0 in place of one that cannot be meant, and the name of a check.

    The model does not use the twist, and drivers that leave it zero, NaN or without a sign are
    common: those are checks. Raises NotServable when it contradicts the history otherwise.
    """
    before, after = poses[-2:]
    part = (t0_ns - before.stamp_ns) / (after.stamp_ns - before.stamp_ns)
    twist_mps = before.speed_mps + part * (after.speed_mps - before.speed_mps)
    if math.isnan(twist_mps):
        return v0_mps, 'twist_missing'
    difference_mps = abs(v0_mps - twist_mps)
    if difference_mps <= V0_WARN_MPS:
        return twist_mps, ''
    if all(pose.speed_mps == 0 for pose in poses):
        return v0_mps, 'twist_zero'
    if v0_mps < 0 < twist_mps and abs(v0_mps + twist_mps) <= V0_LIMIT_MPS:
        return v0_mps, 'twist_unsigned'
    if not difference_mps <= V0_LIMIT_MPS:
        detail = (
            f'odometry: history moves at {v0_mps:.2f} m/s, twist says {twist_mps:.2f} m/s, limit '
            f"{V0_LIMIT_MPS} m/s; the rig's twist: ignore leaves the twist out"
        )
        raise NotServable('v0_mismatch', detail)
    return twist_mps, 'v0_mismatch'


def _select_poses(stream: Stream[EgoPose], t0_ns: int, max_gap_ns: int) -> list[EgoPose]:
    """Poses from two before t0-1.5 s to the first one at or after t0."""
    stamps = stream.stamps
    end = bisect_left(stamps, t0_ns)
    if end == len(stamps):
        lag = f'ends {(t0_ns - stamps[-1]) / 1e9:.3f} s before t0' if stamps else 'has no pose'
        raise NotServable('odometry_late', f'odometry {lag}', waits_for=stream)
    start = bisect_right(stamps, t0_ns - HISTORY_NS) - 1
    has_dropped = stream.dropped_ns >= 0
    if start < 0 and not has_dropped:
        detail = f'odometry starts {(t0_ns - stamps[0]) / 1e9:.3f} s before t0, expected 1.5 s'
        raise NotServable('history_short', detail)
    for before, after in pairwise(stamps[max(start, 0) : end + 1]):
        if after - before > max_gap_ns:
            detail = (
                f'odometry: gap of {(after - before) / 1e9:.3f} s at '
                f'{format_age(t0_ns - before)}, limit {max_gap_ns / NANOSECONDS} s'
            )
            raise NotServable('odometry_gap', detail)
    if start < 1 and has_dropped:
        raise NotServable('too_old', 'odometry: t0-1.5 s is no longer kept')
    poses = stream.items[max(start - 1, 0) : end + 1]
    names = {(pose.frame_id, pose.child_frame_id) for pose in poses}
    if len(names) > 1:
        text = ' and '.join(f'{child} in {parent}' for parent, child in sorted(names))
        raise NotServable('odometry_frame', f'odometry: poses of {text} in one history')
    return poses
