"""Chooses the anchor frame that is inferred next, and counts what became of every other one.

Anchors feeds a ContextBuffer and asks it for the newest t0 that can be served. It knows no engine
and no ROS; the time is an argument. Every anchor frame that arrives ends in exactly one fate:

- inferred: there is a prediction
- failed: the engine has failed
- dropped: a newer t0 was inferred in its place, or it came sooner than max_rate_hz allows
- rejected: it could not be used or served, with the reason of the buffer
- discarded: it was made worthless by a reset, a clock jump, a pause or a model that is not ready

so that seen = inferred + failed + dropped + rejected + discarded + pending.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from ..context.buffer import ContextBuffer
from ..data_types import NANOSECONDS, Context, EgoPose, Frame, Rejection
from ..limits import ContextLimits
from ..rig import CameraRig

FATES = ('inferred', 'failed', 'dropped', 'rejected', 'discarded')


class Fate(NamedTuple):
    """What became of the anchor frame at t0: one of FATES, a short reason and a sentence."""

    t0_ns: int
    name: str
    reason: str
    detail: str = ''


class Anchors:
    """Anchor frames on their way to the engine.

    seen, fates: anchor frames that arrived, and (fate, reason) to how many. rejections: reason to
    how many, of anchors and of all other messages. last: why the newest anchor was not served,
    None once one was.
    """

    def __init__(self, rig: CameraRig, limits: ContextLimits, max_rate_hz: float) -> None:
        self.rig = rig
        self.buffer = ContextBuffer(rig, limits)
        self.seen = 0
        self.fates: Counter[tuple[str, str]] = Counter()
        self.rejections: Counter[str] = Counter()
        self.last: Rejection | None = None
        self._decided: list[Fate] = []
        self._age_ns = round(limits.max_input_age_s * NANOSECONDS)
        self._period_ns = round(NANOSECONDS / max_rate_hz)
        self._waiting: dict[int, int | None] = {}  # t0 to its age when first looked at
        self._epoch = self.buffer.epoch
        self._due_ns = 0  # no t0 before this one is inferred

    @property
    def epoch(self) -> int:
        """Epoch of the buffer: what was made in an earlier one is worthless."""
        return self.buffer.epoch

    @property
    def waiting(self) -> int:
        """Anchor frames without a fate that were not taken yet."""
        return len(self._waiting)

    def add_frame(self, camera: str, frame: Frame) -> Rejection | None:
        """Take a frame; returns why it is refused."""
        refused = self._after(self.buffer.add_frame(camera, frame))
        if camera == self.rig.anchor:
            self.seen += 1
            if refused:
                self._decide_fate(frame.stamp_ns, 'rejected', refused.reason, refused.detail)
            else:
                self._waiting[frame.stamp_ns] = None
        return refused

    def add_pose(self, pose: EgoPose) -> Rejection | None:
        """Take a pose; returns why it is refused."""
        return self._after(self.buffer.add_pose(pose))

    def refuse(self, name: str, why: Rejection) -> None:
        """Count a message of a camera or the odometry that could not be converted or decoded.

        why.t0_ns: the stamp of the message, 0 where it is not known.
        """
        if name == self.rig.anchor and why.t0_ns:
            self.seen += 1
            self.reject(why)
            return
        self.rejections[why.reason] += 1
        if name == self.rig.anchor:
            self.seen += 1
            self.fates['rejected', why.reason] += 1

    def reset(self) -> None:
        """Forget all input."""
        self.buffer.clear()
        self._after(None)

    def take(self, now_ns: int, refusal: str = '') -> Context | Rejection | None:
        """Take the newest context that can be served now; older anchors are dropped.

        With a refusal ('paused', 'not_ready') it is discarded instead. What is more than
        max_input_age_s older than `now_ns` is decided with the input that is there, and rejected.
        Without a context: why the newest anchor that was decided now has none, if any was.
        """
        result = self._take_newest(now_ns, refusal)
        if anchors := self.buffer.anchors():  # no older t0 is asked for again
            self.buffer.forget_before(min(self._waiting, default=anchors[-1]))
        return result

    def reject(self, rejection: Rejection) -> None:
        """Count an anchor that cannot be served, or whose context turned out to be unusable."""
        self.last = rejection
        self._decide_fate(rejection.t0_ns, 'rejected', rejection.reason, rejection.detail)
        self.rejections[rejection.reason] += 1

    def settle(self, fate: str, reason: str = '') -> None:
        """Count what became of a context that was taken."""
        self.fates[fate, reason] += 1

    def drain_decided(self) -> list[Fate]:
        """Fates that were decided since the last call, but for those of `settle`."""
        decided, self._decided = self._decided, []
        return decided

    def total(self, fate: str) -> int:
        """Anchor frames with a fate, for whatever reason."""
        return sum(count for (name, _), count in self.fates.items() if name == fate)

    def _take_newest(self, now_ns: int, refusal: str) -> Context | Rejection | None:
        rejection = None
        for t0_ns in sorted(self._waiting, reverse=True):
            result = self._decide(t0_ns, now_ns)
            if result is None:
                continue
            del self._waiting[t0_ns]
            if isinstance(result, Rejection):
                self.reject(result)
                rejection = rejection or result
                continue
            self.last = None
            self._drop_before(t0_ns)
            if refusal:
                self._decide_fate(t0_ns, 'discarded', refusal)
            elif self._is_too_soon(t0_ns):
                self._decide_fate(t0_ns, 'dropped', 'rate_limit')
            else:
                return result
            break
        return rejection

    def _decide(self, t0_ns: int, now_ns: int) -> Context | Rejection | None:
        age_ns = now_ns - t0_ns
        first_age_ns = self._waiting[t0_ns]
        if first_age_ns is None:
            first_age_ns = self._waiting[t0_ns] = age_ns
        result = self.buffer.context_at(t0_ns, final=age_ns > self._age_ns)
        late = first_age_ns > self._age_ns  # whatever else is missing comes even later
        if late or (isinstance(result, Context) and abs(age_ns) > self._age_ns):
            reason = 'stale_input' if age_ns > 0 else 'future_input'
            limit = f'limit {self._age_ns / NANOSECONDS:g} s'
            return Rejection(t0_ns, reason, f't0 is {age_ns / 1e9:.3g} s old, {limit}')
        return result

    def _after(self, refused: Rejection | None) -> Rejection | None:
        """Follow the buffer into a new epoch; count what it refuses."""
        if self.buffer.epoch != self._epoch:
            self._epoch, self._due_ns = self.buffer.epoch, 0
            for t0_ns in self._waiting:
                self._decide_fate(t0_ns, 'discarded', 'reset')
            self._waiting.clear()
            self.last = None
        if refused:
            self.rejections[refused.reason] += 1
        return refused

    def _drop_before(self, t0_ns: int) -> None:
        older = [stamp for stamp in self._waiting if stamp < t0_ns]
        for stamp in older:
            self._decide_fate(stamp, 'dropped', 'overtaken')
            del self._waiting[stamp]

    def _decide_fate(self, t0_ns: int, name: str, reason: str, detail: str = '') -> None:
        self.fates[name, reason] += 1
        self._decided.append(Fate(t0_ns, name, reason, detail))

    def _is_too_soon(self, t0_ns: int) -> bool:
        """Whether this t0 would exceed the rate; a quarter of a period of jitter is allowed.

        One before the t0 that was taken last, a late arrival, always does.
        """
        if t0_ns < self._due_ns - self._period_ns // 4:
            return True
        self._due_ns = max(self._due_ns, t0_ns) + self._period_ns
        return False
