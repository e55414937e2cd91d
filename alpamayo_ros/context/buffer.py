"""Collects stamped frames and poses; returns an aligned Context or why there is none.

Knows no ROS, no torch and no image decoding. Live input and a recording follow the same rules. The
buffer decides by header stamps only: never by the clock of this machine, by counts or by the order
in which topics arrive. It gives a Context out once no message still to come could change it. So
live and offline results are equal bit for bit, as long as each topic arrives in the order of its
stamps and everything that a context needs arrives before any topic is max_input_age_s past t0.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from ..data_types import GRID_NS, NANOSECONDS, Context, EgoPose, Frame, Rejection
from ..limits import ContextLimits
from ..rig import CameraRig
from .ego_history import HISTORY_NS, build_history
from .frame_selection import GRID_AGES_NS, has_changed, measure_skew, select_frames
from .not_servable import NotServable
from .stream import Item, Stream

LATE_NS = 5_000_000  # further behind its topic a stamp is a step of the clock: one sender rises
COPY_NS = 500_000_000  # a relay may send a message again so much later; a recording starts again


class ContextBuffer:
    """Recent frames and poses of one vehicle; `epoch` counts how often they were cleared.

    A jump of the clock clears them: a stamp more than LATE_NS behind its own topic (a message that
    came twice aside), or ahead of every topic by more than the length of the history that is kept.
    """

    def __init__(self, rig: CameraRig, limits: ContextLimits | None = None) -> None:
        self.rig = rig
        self.limits = limits or rig.limits
        self.epoch = 0
        self._jump = ''
        self._age_ns = _to_ns(self.limits.max_input_age_s)
        self._gap_ns = _to_ns(self.limits.odometry_max_gap_s)
        self._length_ns = HISTORY_NS + self._age_ns + 2 * self._gap_ns
        self._frames: dict[str, Stream[Frame]] = {}
        for camera in rig.cameras:
            # One step more, so that an anchor that nothing served is still there to be refused.
            keep_ns = GRID_AGES_NS[0] + _to_ns(camera.tolerance_s) + self._age_ns + GRID_NS
            self._frames[camera.name] = Stream(camera.name, keep_ns, regular=True)
        self._poses: Stream[EgoPose] = Stream('odometry', self._length_ns, regular=False)
        self._anchor = self._frames[rig.anchor]
        self._bit_depths = {camera.name: camera.bit_depth for camera in rig.cameras}
        # t0 to the stream that it waits for and the count of that stream then
        self._blocked: dict[int, tuple[Stream[Frame] | Stream[EgoPose], int]] = {}

    def add_frame(self, camera: str, frame: Frame) -> Rejection | None:
        """Take a frame of one of the rig's cameras, or say why it is refused."""
        if bit_depth := self._bit_depths[camera]:
            frame = replace(frame, bit_depth=bit_depth)
        return self._add(self._frames[camera], frame)

    def add_pose(self, pose: EgoPose) -> Rejection | None:
        """Take a pose, or say why it is refused."""
        return self._add(self._poses, pose)

    def clear(self) -> None:
        """Forget all input; contexts made from it belong to an earlier epoch."""
        self.epoch += 1
        self._blocked.clear()
        for stream in self._streams():
            stream.clear()

    def forget_before(self, t0_ns: int) -> None:
        """Let go the frames that only a context before t0 needs: nobody will ask for one."""
        for camera in self.rig.cameras:
            oldest_ns = t0_ns - GRID_AGES_NS[0] - _to_ns(camera.tolerance_s)
            self._frames[camera.name].drop_before(oldest_ns)

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
        newest_ns = max(stream.newest_ns or 0 for stream in self._streams())
        is_final = final or newest_ns - t0_ns > self._age_ns
        stream, count = self._blocked.pop(t0_ns, (self._anchor, -1))
        if not is_final and stream.count == count:  # nothing has come that could change it
            self._blocked[t0_ns] = stream, count
            return None
        try:
            return self._build(t0_ns)
        except NotServable as error:
            if is_final or error.waits_for is None:
                return Rejection(t0_ns, error.reason, error.detail)
            self._blocked[t0_ns] = error.waits_for, error.waits_for.count
            return None

    def _streams(self) -> tuple[Stream[Frame] | Stream[EgoPose], ...]:
        return (*self._frames.values(), self._poses)

    def _add(self, stream: Stream[Item], item: Item) -> Rejection | None:
        if item.stamp_ns <= 0:
            return Rejection(item.stamp_ns, 'zero_stamp', f'{stream.name}: stamp is zero')
        if stream.newest_ns is not None:
            newest = max(other.newest_ns or 0 for other in self._streams())
            step_ns = item.stamp_ns - stream.newest_ns
            is_ahead = min(step_ns, item.stamp_ns - newest) > self._length_ns
            is_copy = step_ns > -COPY_NS and stream.holds_copy(item)
            is_behind = step_ns < -LATE_NS and not is_copy
            if is_ahead or is_behind:
                self._jump = f'stamps of {stream.name} jumped by {step_ns / 1e9:+.3g} s'
                self.clear()
        return stream.add(item)

    def _build(self, t0_ns: int) -> Context:
        self._check_clocks(t0_ns)
        lead_ns = _to_ns(self.limits.frame_lead_s)
        frames = {
            camera.name: select_frames(
                self._frames[camera.name], t0_ns, _to_ns(camera.tolerance_s), lead_ns
            )
            for camera in self.rig.cameras
        }
        skew_ns = measure_skew(frames, _to_ns(self.limits.max_skew_s))
        history = build_history(self._poses, t0_ns, self._gap_ns, self.rig.uses_twist)
        return Context(
            t0_ns=t0_ns,
            frames=frames,
            camera_indices=tuple(camera.index for camera in self.rig.cameras),
            history_xyz_m=history.xyz_m.astype(np.float32),
            history_rot=history.rotations.astype(np.float32),
            odom_from_t0=history.odom_from_t0,
            v0_mps=history.v0_mps,
            skew_s=skew_ns / NANOSECONDS,
            checks=(*self._check_cameras(frames), *history.checks),
        )

    def _check_cameras(self, frames: Mapping[str, tuple[Frame, ...]]) -> Iterator[str]:
        if self.rig.absent:
            yield 'camera_subset'
        if any(has_changed(self._frames[name], picked) for name, picked in frames.items()):
            yield 'camera_changed'

    def _check_clocks(self, t0_ns: int) -> None:
        anchor = self._anchor
        if t0_ns <= anchor.dropped_ns:
            raise NotServable('too_old', f'{anchor.name}: t0 is no longer kept')
        at = bisect_left(anchor.stamps, t0_ns)
        if anchor.newest_ns is None or anchor.stamps[at : at + 1] != [t0_ns]:
            if self._jump:
                raise NotServable('clock_jump', self._jump)
            raise NotServable('no_anchor', f'{anchor.name}: no frame at {t0_ns}')
        for stream in self._streams():
            away_ns = abs((stream.newest_ns or anchor.newest_ns) - anchor.newest_ns)
            if away_ns > self._length_ns:
                detail = f'{stream.name} is {away_ns / 1e9:.2g} s away from {anchor.name}'
                raise NotServable('two_clocks', detail)


def _to_ns(seconds: float) -> int:
    return round(seconds * NANOSECONDS)
