"""Stamped frames and poses in; one aligned Context, or the reason why there is none, out.

Knows no ROS, no torch and no image decoding. The rules are those of a live vehicle and hold for a
recording in the same way: everything is decided by header stamps, nothing by the clock of this
machine, by counts or by the order in which topics arrive. A Context is only given out when no
message still to come could change it. So live and offline results are equal bit for bit, as long
as each topic by itself is in order of stamps and what a context needs is there before any topic
is max_input_age_s past t0.

When is a frame final? Once no stamp that its camera can still send (stream.py) is nearer to the
grid time. At 10 Hz that is at once for frames up to 25 ms early, and for t0 itself up to 40 ms;
for others it is when the next frame comes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np

from . import geometry
from .data_types import (
    FRAMES_PER_CAMERA,
    GRID_NS,
    HISTORY_POSES,
    NANOSECONDS,
    Context,
    EgoPose,
    Frame,
    Rejection,
)
from .errors import BadInput
from .rig import CameraRig, RigCamera
from .stream import Item, Stream

HISTORY_NS = (HISTORY_POSES - 1) * GRID_NS
GRID_AGES_NS = tuple(GRID_NS * k for k in reversed(range(FRAMES_PER_CAMERA)))
V0_WARN_MPS, V0_LIMIT_MPS = 0.5, 2.0
STEP_LIMIT_M = 4.0  # range of the history tokens per 0.1 s
JUMP_NS = 500_000_000  # how far back a stamp is a jump of the clock, however late inputs may be


@dataclass(frozen=True)
class ContextLimits:
    """How late, sparse or scattered inputs may be; seconds, the parameters of the node.

    frame_lead_s: how much later than t0 a frame may be stamped, for cameras of one trigger.
    """

    max_input_age_s: float = 0.5
    odometry_max_gap_s: float = 0.2
    max_skew_s: float = 0.05
    frame_lead_s: float = 0.01

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if not 0 <= value <= 10:
                raise BadInput(f'{name}={value} is not in 0 ... 10 s')
        if self.odometry_max_gap_s > 0.5:  # the cubic needs four samples in 1.5 s
            raise BadInput(f'odometry_max_gap_s={self.odometry_max_gap_s} is above 0.5 s')


class _NotServable(Exception):
    """No context at this t0; `may_come` when input that is still missing could change that."""

    def __init__(self, reason: str, detail: str, may_come: bool = False) -> None:
        super().__init__(detail)
        self.reason, self.detail, self.may_come = reason, detail, may_come


class ContextBuffer:
    """Recent frames and poses of one vehicle; `epoch` counts how often they were cleared.

    A clock jump clears them: a stamp more than max_input_age_s, or half a second, behind its own
    topic, or ahead of every topic by more than the length of the history that is kept.
    """

    def __init__(self, rig: CameraRig, limits: ContextLimits | None = None) -> None:
        self.rig = rig
        self.limits = limits or ContextLimits()
        self.epoch = 0
        self._jump = ''
        self._age_ns = _ns(self.limits.max_input_age_s)
        self._gap_ns = _ns(self.limits.odometry_max_gap_s)
        self._length_ns = HISTORY_NS + self._age_ns + 2 * self._gap_ns
        self._frames: dict[str, Stream[Frame]] = {}
        for camera in rig.cameras:
            # One step more, so that an anchor that nothing served is still there to be refused.
            keep_ns = GRID_AGES_NS[0] + _ns(camera.tolerance_s) + self._age_ns + GRID_NS
            self._frames[camera.name] = Stream(camera.name, keep_ns, regular=True)
        self._poses: Stream[EgoPose] = Stream('odometry', self._length_ns, regular=False)
        self._anchor = self._frames[rig.anchor]

    def add_frame(self, camera: str, frame: Frame) -> Rejection | None:
        """Take a frame of one of the rig's cameras, or say why it is refused."""
        return self._add(self._frames[camera], frame)

    def add_pose(self, pose: EgoPose) -> Rejection | None:
        """Take a pose, or say why it is refused."""
        return self._add(self._poses, pose)

    def clear(self) -> None:
        """Forget all input; what was made from it belongs to an earlier epoch."""
        self.epoch += 1
        for stream in self._streams():
            stream.clear()

    def anchors(self) -> tuple[int, ...]:
        """Stamps of the anchor camera's frames that are kept, oldest first: the possible t0."""
        return tuple(self._anchor.stamps)

    def newest(self, after_ns: int = 0, oldest_ns: int = 0) -> Context | Rejection | None:
        """Context of the newest anchor that can be served now; else why the newest one cannot.

        Anchors at or before `after_ns`, before `oldest_ns`, or more than max_input_age_s before
        the newest are not looked at; None when that leaves none.
        """
        reason = None
        stamps = self.anchors()
        oldest_ns = max(oldest_ns, stamps[-1] - self._age_ns) if stamps else oldest_ns
        for t0_ns in reversed(stamps):
            if t0_ns <= after_ns or t0_ns < oldest_ns:
                break
            result = self.context_at(t0_ns, final=True)
            if isinstance(result, Context):
                return result
            reason = reason or result
        return reason

    def context_at(self, t0_ns: int, final: bool = False) -> Context | Rejection | None:
        """Context at the stamp of an anchor frame, or why it cannot be served.

        None while the answer may still change; with `final`, or when any topic is more than
        max_input_age_s past t0, what is missing then is the reason.
        """
        try:
            return self._context(t0_ns)
        except _NotServable as error:
            newest_ns = max(stream.newest_ns or 0 for stream in self._streams())
            if error.may_come and not final and newest_ns - t0_ns <= self._age_ns:
                return None
            return Rejection(t0_ns, error.reason, error.detail)

    def _streams(self) -> tuple[Stream[Frame] | Stream[EgoPose], ...]:
        return (*self._frames.values(), self._poses)

    def _add(self, stream: Stream[Item], item: Item) -> Rejection | None:
        if item.stamp_ns <= 0:
            return Rejection(item.stamp_ns, 'zero_stamp', f'{stream.name}: stamp is zero')
        if stream.newest_ns is not None:
            newest = max(other.newest_ns or 0 for other in self._streams())
            step_ns = item.stamp_ns - stream.newest_ns
            ahead = min(step_ns, item.stamp_ns - newest) > self._length_ns
            if ahead or step_ns < -min(self._age_ns, JUMP_NS):
                self._jump = f'stamps of {stream.name} jumped by {step_ns / 1e9:+.3g} s'
                self.clear()
        return stream.add(item)

    def _context(self, t0_ns: int) -> Context:
        self._check_clocks(t0_ns)
        frames = {camera.name: self._pick(camera, t0_ns) for camera in self.rig.cameras}
        skew_ns = self._skew_ns(frames)
        poses = self._history(t0_ns)
        stamps = np.array([pose.stamp_ns for pose in poses])
        positions, quaternions = geometry.interpolate_poses(
            stamps,
            np.array([pose.position_m for pose in poses]),
            np.array([pose.quaternion_xyzw for pose in poses]),
            t0_ns + np.arange(1 - HISTORY_POSES, 1) * GRID_NS,
        )
        xyz, rotations = geometry.to_local(positions[-1], quaternions[-1], positions, quaternions)
        xyz[-1], rotations[-1] = 0.0, np.eye(3)
        v0_mps = float(geometry.fit_speeds(xyz[:, :2], geometry.yaw(rotations))[-1])
        twist_mps = _speed_at(poses[-2], poses[-1], t0_ns)
        if abs(v0_mps - twist_mps) > V0_LIMIT_MPS:
            detail = (
                f'odometry: history moves at {v0_mps:.2f} m/s, twist says {twist_mps:.2f} m/s, '
                f'limit {V0_LIMIT_MPS} m/s'
            )
            raise _NotServable('v0_mismatch', detail)
        unusual = {
            'camera_subset': bool(self.rig.absent),
            'v0_mismatch': abs(v0_mps - twist_mps) > V0_WARN_MPS,
            'history_saturated': bool(np.abs(np.diff(xyz, axis=0)).max() > STEP_LIMIT_M),
        }
        last = poses[-1]
        return Context(
            t0_ns=t0_ns,
            frames=frames,
            camera_indices=tuple(camera.index for camera in self.rig.cameras),
            history_xyz_m=xyz.astype(np.float32),
            history_rot=rotations.astype(np.float32),
            odom_from_t0=EgoPose(
                t0_ns,
                positions[-1],
                quaternions[-1],
                twist_mps,
                last.frame_id,
                last.child_frame_id,
            ),
            v0_mps=v0_mps,
            skew_s=skew_ns / NANOSECONDS,
            checks=tuple(name for name, found in unusual.items() if found),
        )

    def _check_clocks(self, t0_ns: int) -> None:
        anchor = self._anchor
        if t0_ns <= anchor.dropped_ns:
            raise _NotServable('too_old', f'{anchor.name}: t0 is no longer kept')
        at = bisect_left(anchor.stamps, t0_ns)
        if anchor.newest_ns is None or anchor.stamps[at : at + 1] != [t0_ns]:
            if self._jump:
                raise _NotServable('clock_jump', self._jump)
            raise _NotServable('no_anchor', f'{anchor.name}: no frame at {t0_ns}')
        for stream in self._streams():
            away_ns = abs((stream.newest_ns or anchor.newest_ns) - anchor.newest_ns)
            if away_ns > self._length_ns:
                detail = f'{stream.name} is {away_ns / 1e9:.2g} s away from {anchor.name}'
                raise _NotServable('two_clocks', detail)

    def _pick(self, camera: RigCamera, t0_ns: int) -> tuple[Frame, ...]:
        stream, picked = self._frames[camera.name], []
        tolerance_ns = _ns(camera.tolerance_s)
        for age_ns in GRID_AGES_NS:
            grid_ns = t0_ns - age_ns
            low = grid_ns - tolerance_ns
            high = min(grid_ns + tolerance_ns, t0_ns + _ns(self.limits.frame_lead_s))
            if low <= stream.dropped_ns:
                raise _NotServable('too_old', f'{camera.name}: {_at(age_ns)} is no longer kept')
            frame = _nearest(stream, grid_ns, low, high)
            nearer = high if frame is None else min(high, 2 * grid_ns - frame.stamp_ns - 1)
            if frame is None or stream.next_ns <= nearer:
                raise _NotServable(
                    'frame_missing',
                    f'{camera.name}: no {"" if frame is None else "final "}frame within '
                    f'{camera.tolerance_s * 1e3:.0f} ms of {_at(age_ns)}',
                    may_come=stream.next_ns <= nearer,
                )
            picked.append(frame)
        if any(b.stamp_ns <= a.stamp_ns for a, b in pairwise(picked)):
            raise _NotServable('frame_repeated', f'{camera.name}: one frame for two grid times')
        sizes = {(frame.width, frame.height) for frame in picked if frame.width}
        if len(sizes) > 1:
            text = ' and '.join(f'{width}x{height}' for width, height in sorted(sizes))
            raise _NotServable('image_size', f'{camera.name}: sizes {text} in one context')
        return tuple(picked)

    def _skew_ns(self, frames: dict[str, tuple[Frame, ...]]) -> int:
        """Largest spread of the cameras' stamps in one slot; one above the limit is refused."""
        spreads = []
        for slot, age_ns in enumerate(GRID_AGES_NS):
            stamps = {name: picked[slot].stamp_ns for name, picked in frames.items()}
            first, last = min(stamps, key=stamps.__getitem__), max(stamps, key=stamps.__getitem__)
            spreads.append(stamps[last] - stamps[first])
            if spreads[-1] > _ns(self.limits.max_skew_s):
                raise _NotServable(
                    'camera_skew',
                    f'{last} is {spreads[-1] / 1e6:.1f} ms after {first} at {_at(age_ns)}, '
                    f'limit {self.limits.max_skew_s * 1e3:.0f} ms',
                )
        return max(spreads)

    def _history(self, t0_ns: int) -> list[EgoPose]:
        """Poses from two before t0-1.5 s to the first one at or after t0."""
        stamps = self._poses.stamps
        end = bisect_left(stamps, t0_ns)
        if end == len(stamps):
            lag = f'ends {(t0_ns - stamps[-1]) / 1e9:.3f} s before t0' if stamps else 'has no pose'
            raise _NotServable('odometry_late', f'odometry {lag}', may_come=True)
        start = bisect_right(stamps, t0_ns - HISTORY_NS) - 1
        dropped = self._poses.dropped_ns >= 0
        if start < 0 and not dropped:
            detail = f'odometry starts {(t0_ns - stamps[0]) / 1e9:.3f} s before t0, expected 1.5 s'
            raise _NotServable('history_short', detail)
        for before, after in pairwise(stamps[max(start, 0) : end + 1]):
            if after - before > self._gap_ns:
                detail = (
                    f'odometry: gap of {(after - before) / 1e9:.3f} s at {_at(t0_ns - before)}, '
                    f'limit {self.limits.odometry_max_gap_s} s'
                )
                raise _NotServable('odometry_gap', detail)
        if start < 1 and dropped:
            raise _NotServable('too_old', 'odometry: t0-1.5 s is no longer kept')
        poses = self._poses.items[max(start - 1, 0) : end + 1]
        names = {(pose.frame_id, pose.child_frame_id) for pose in poses}
        if len(names) > 1:
            text = ' and '.join(f'{child} in {parent}' for parent, child in sorted(names))
            raise _NotServable('odometry_frame', f'odometry: poses of {text} in one history')
        return poses


def _nearest(stream: Stream[Frame], grid_ns: int, low: int, high: int) -> Frame | None:
    """The frame nearest to a grid time among those in [low, high]; the older one on a tie."""
    at = bisect_right(stream.stamps, grid_ns)
    near = [i for i in (at - 1, at) if 0 <= i < len(stream.stamps)]
    near = [i for i in near if low <= stream.stamps[i] <= high]
    return stream.items[min(near, key=lambda i: abs(stream.stamps[i] - grid_ns))] if near else None


def _speed_at(before: EgoPose, after: EgoPose, t0_ns: int) -> float:
    part = (t0_ns - before.stamp_ns) / (after.stamp_ns - before.stamp_ns)
    return before.speed_mps + part * (after.speed_mps - before.speed_mps)


def _at(age_ns: int) -> str:
    return f't0-{age_ns / 1e9:.1f} s' if age_ns else 't0'


def _ns(seconds: float) -> int:
    return round(seconds * NANOSECONDS)
