"""Rules of the soak test: for every path that the peer hears and for every status.

Knows no topic and no process; time of the node's clock is an argument.
"""

from dataclasses import dataclass, field
import time

import numpy as np
from small_bag import ORIGIN_M
from soak_faults import FAR_M, MS, SECOND, stamp_of, true_pose

from alpamayo_ros.ros.anchors import FATES
from alpamayo_ros.ros.publishing.stamped_prediction import HORIZON_NS

GRID_NS = 100 * MS
GRACE_S = 1.0  # of real time, for what is under way
MIN_REMAINING_S = 1.0  # the default of the node
SILENT_AFTER_S = 0.5  # of real time, from the answer of a pause on
# How far a path may begin from the true place and heading; more for what an engine may do by then.
START_M, START_RAD = 0.3, np.radians(2.0)
ACCELERATION_MPS2, YAW_RATE_RADPS = 9.8, 3.3


@dataclass
class Halt:
    """Anchors after begin_ns, and before end_ns once it is over, bring `allowed` paths at most."""

    begin_ns: int
    end_ns: int | None = None
    allowed: int = 0
    paths: set = field(default_factory=set)


class Rules:
    """What holds of every path and every status; what does not is in `broken`."""

    def __init__(self, trims, rate):
        self.broken, self.trims, self.rate = [], trims, rate
        self.sent, self.newest_ns, self.last_ns = {}, 0, 0  # t0 to the true times
        self.halts = []
        self.silent_from_s, self.requested = float('inf'), 0
        self.clock_shift_ns = 0
        self.before_jump_ns, self.jumped_until_s = 0, 0.0
        self.paths = 0

    def breach(self, text):
        """Note a broken rule."""
        if len(self.broken) < 20:
            self.broken.append(text)

    def begin_again(self):
        """The clock is set back: what was sent before may still bring a path."""
        self.leap()
        self.newest_ns = self.last_ns = 0

    def leap(self):
        """The clock jumps: a path that was published before may still be heard."""
        self.halts.clear()
        self.before_jump_ns = self.newest_ns
        self.jumped_until_s = time.monotonic() + GRACE_S

    def set_clock(self, shift_ns):
        """Stamps differ by so much from the true time from now on."""
        self.clock_shift_ns = shift_ns

    def sending(self, t0_ns):
        """An anchor frame is sent."""
        self.sent.setdefault(t0_ns, []).append(t0_ns - self.clock_shift_ns)
        self.newest_ns = max(self.newest_ns, t0_ns)

    def silence(self):
        """From now on no path is due, whatever its stamp; infer_once allows one each."""
        self.silent_from_s, self.requested = time.monotonic() + SILENT_AFTER_S, 0

    def end_silence(self):
        """Paths are due again."""
        self.silent_from_s = float('inf')

    def path(self, message, now_ns):
        """Check a path that was published by the time now_ns."""
        self.paths += 1
        t0_ns = stamp_of(message)
        if t0_ns not in self.sent:
            self.breach(f'{t0_ns} is no anchor frame that was sent')
        self._check_poses(message, t0_ns)
        self._check_start(message, t0_ns)
        if time.monotonic() > self.silent_from_s:
            self.requested -= 1
            if self.requested < 0:
                after_s = time.monotonic() - self.silent_from_s + SILENT_AFTER_S
                self.breach(f'{t0_ns} is published {after_s:.1f} s after a pause')
        is_old = self.before_jump_ns - HORIZON_NS < t0_ns <= self.before_jump_ns
        if is_old and time.monotonic() < self.jumped_until_s:
            return
        if t0_ns < self.last_ns:
            self.breach(f'{t0_ns} is published after {self.last_ns}')
        self.last_ns = t0_ns
        late_ns = round(GRACE_S * self.rate * SECOND)
        if now_ns - late_ns > t0_ns + HORIZON_NS:
            self.breach(f'{t0_ns} is published {(now_ns - t0_ns) / SECOND:.1f} s later')
        for halt in self.halts:
            if halt.begin_ns < t0_ns and (halt.end_ns is None or t0_ns < halt.end_ns):
                halt.paths.add(t0_ns)
                if len(halt.paths) > halt.allowed:
                    after_s = (t0_ns - halt.begin_ns) / SECOND
                    self.breach(f'{t0_ns} is published, {after_s:.1f} s after a halt')

    def _check_poses(self, message, t0_ns):
        poses = [x.pose for x in message.poses]
        first = 65 - len(poses)
        if not self.trims and first != 1 or not len(poses) * 0.1 > MIN_REMAINING_S - 0.11:
            self.breach(f'{t0_ns}: {len(poses)} poses')
        stamps = [stamp_of(x) - t0_ns for x in message.poses]
        if stamps != [k * GRID_NS for k in range(first, 65)]:
            self.breach(f'{t0_ns}: stamps of the poses')
        parts = [(x.position, 'xyz') for x in poses] + [(x.orientation, 'xyzw') for x in poses]
        values = [getattr(part, name) for part, names in parts for name in names]
        places = np.array([(x.position.x, x.position.y) for x in poses])
        if not np.isfinite(values).all():
            self.breach(f'{t0_ns}: not finite')
        elif np.abs(places - ORIGIN_M[:2]).max() > FAR_M / 2:
            self.breach(f'{t0_ns}: a prediction that was to be held back')

    def _check_start(self, message, t0_ns):
        """The first pose is where the vehicle was then, as far as its frame lets one know."""
        first = 65 - len(message.poses)
        after_s, pose = first * GRID_NS / SECOND, message.poses[0].pose
        reach_m = START_M + ACCELERATION_MPS2 * after_s**2 / 2
        reach_rad = START_RAD + YAW_RATE_RADPS * after_s
        yaw = 2 * np.arctan2(pose.orientation.z, pose.orientation.w)
        found = []
        for time_ns in self.sent.get(t0_ns, []):
            place, heading = true_pose(time_ns + first * GRID_NS)
            away_m = np.hypot(pose.position.x - place[0], pose.position.y - place[1])
            turned = abs((yaw - heading + np.pi) % (2 * np.pi) - np.pi)
            found.append((round(float(away_m), 2), round(float(turned), 3)))
        if found and not any(m <= reach_m and rad <= reach_rad for m, rad in found):
            self.breach(f'{t0_ns}: pose {first} is (m, rad) {found} from the true one')

    def counters(self, values):
        """Check the counts of a status."""
        counts = {fate: int(values[fate]) for fate in FATES}
        if int(values['seen']) != sum(counts.values()) + int(values['pending']):
            self.breach(f'seen {values["seen"]}, pending {values["pending"]}, {counts}')
