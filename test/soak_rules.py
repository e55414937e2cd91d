"""Rules of the soak test: what holds of every path that is heard and of every status.

Knows no topic and no process; time of the node's clock is an argument.
"""

from dataclasses import dataclass, field
import time

import numpy as np
from small_bag import ORIGIN_M
from soak_faults import FAR_M, MS, SECOND, stamp_of

from alpamayo_ros.ros.anchors import FATES
from alpamayo_ros.ros.publishing.stamped_prediction import HORIZON_NS

GRID_NS = 100 * MS
GRACE_S = 1.0  # of real time, for what is under way
MIN_REMAINING_S = 1.0  # the default of the node


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
        self.sent, self.newest_ns, self.last_ns = set(), 0, 0
        self.halts = []
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

    def sending(self, t0_ns):
        """An anchor frame is sent."""
        self.sent.add(t0_ns)
        self.newest_ns = max(self.newest_ns, t0_ns)

    def path(self, message, now_ns):
        """Check a path that was published by the time now_ns."""
        self.paths += 1
        t0_ns = stamp_of(message)
        if t0_ns not in self.sent:
            self.breach(f'{t0_ns} is no anchor frame that was sent')
        self._check_poses(message, t0_ns)
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

    def counters(self, values):
        """Check the counts of a status."""
        counts = {fate: int(values[fate]) for fate in FATES}
        if int(values['seen']) != sum(counts.values()) + int(values['pending']):
            self.breach(f'seen {values["seen"]}, pending {values["pending"]}, {counts}')
