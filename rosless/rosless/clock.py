"""rclpy.clock: clocks, ROS time that a simulation sets, and callbacks for its jumps.

Knows no topic: a time source sets the time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
import time

from rosless.duration import Duration
from rosless.time import ClockType, Time


class ClockChange(IntEnum):
    """What happened to the source of ROS time at a jump."""

    ROS_TIME_NO_CHANGE = 1
    ROS_TIME_ACTIVATED = 2
    ROS_TIME_DEACTIVATED = 3
    SYSTEM_TIME_NO_CHANGE = 4


@dataclass(frozen=True)
class TimeJump:
    """A jump of ROS time: the new time less the old one, and whether the source changed."""

    clock_change: ClockChange
    delta: Duration


class JumpThreshold:
    """Which jumps are reported: at least `min_forward`, at most `min_backward` (negative), and
    changes of the source. A threshold of None is off.
    """

    def __init__(
        self,
        *,
        min_forward: Duration | None,
        min_backward: Duration | None,
        on_clock_change: bool = True,
    ):
        if min_forward is not None and min_forward.nanoseconds <= 0:
            raise ValueError('min_forward must be positive')
        if min_backward is not None and min_backward.nanoseconds >= 0:
            raise ValueError('min_backward must be negative')
        if min_forward is None and min_backward is None and not on_clock_change:
            raise ValueError('at least one jump threshold must be enabled')
        self.min_forward = min_forward
        self.min_backward = min_backward
        self.on_clock_change = on_clock_change

    def exceeded_by(self, jump: TimeJump) -> bool:
        """Whether a jump is reported."""
        if jump.clock_change != ClockChange.ROS_TIME_NO_CHANGE:
            return self.on_clock_change
        forward = self.min_forward is not None and jump.delta >= self.min_forward
        return forward or (self.min_backward is not None and jump.delta <= self.min_backward)


class JumpHandle:
    """A registered pair of callbacks, until `unregister`."""

    def __init__(
        self,
        *,
        clock: 'Clock',
        threshold: JumpThreshold,
        pre_callback: Callable[[], None] | None,
        post_callback: Callable[[TimeJump], None] | None,
    ):
        if pre_callback is None and post_callback is None:
            raise ValueError('one of pre_callback and post_callback is needed')
        self.threshold = threshold
        self.pre_callback = pre_callback
        self.post_callback = post_callback
        self._clock = clock
        clock._jump_handles.append(self)

    def unregister(self) -> None:
        """Take the callbacks away."""
        if self in self._clock._jump_handles:
            self._clock._jump_handles.remove(self)

    def __enter__(self) -> 'JumpHandle':
        return self

    def __exit__(self, *exception):
        self.unregister()


class Clock:
    """Clock of one type; with ClockType.ROS_TIME a ROSClock is made."""

    def __new__(cls, *, clock_type: ClockType = ClockType.SYSTEM_TIME):
        """Make a ROSClock for ROS time."""
        return super().__new__(ROSClock if clock_type == ClockType.ROS_TIME else cls)

    def __init__(self, *, clock_type: ClockType = ClockType.SYSTEM_TIME):
        self._clock_type = ClockType(clock_type)
        self._jump_handles: list[JumpHandle] = []

    @property
    def clock_type(self) -> ClockType:
        """Type of this clock."""
        return self._clock_type

    @property
    def ros_time_is_active(self) -> bool:
        """Whether a time source sets the time."""
        return False

    def __repr__(self):
        return f'Clock(clock_type={self._clock_type.name})'

    def now(self) -> Time:
        """Present time."""
        steady = self._clock_type == ClockType.STEADY_TIME
        now_ns = time.monotonic_ns() if steady else time.time_ns()
        return Time(nanoseconds=now_ns, clock_type=self._clock_type)

    def create_jump_callback(
        self,
        threshold: JumpThreshold,
        *,
        pre_callback: Callable[[], None] | None = None,
        post_callback: Callable[[TimeJump], None] | None = None,
    ) -> JumpHandle:
        """Call functions before and after a jump that exceeds a threshold."""
        return JumpHandle(
            clock=self,
            threshold=threshold,
            pre_callback=pre_callback,
            post_callback=post_callback,
        )


class ROSClock(Clock):
    """System time, or the time that a time source sets."""

    def __new__(cls):
        """Make one without naming its type."""
        return super().__new__(cls, clock_type=ClockType.ROS_TIME)

    def __init__(self, *, clock_type: ClockType = ClockType.ROS_TIME):
        super().__init__(clock_type=clock_type)
        self._active = False
        self._override_ns = 0

    @property
    def ros_time_is_active(self) -> bool:
        """Whether a time source sets the time."""
        return self._active

    def now(self) -> Time:
        """Time of the source, 0 before its first time; system time without a source."""
        return Time(nanoseconds=self._now_ns(), clock_type=ClockType.ROS_TIME)

    def _now_ns(self) -> int:
        return self._override_ns if self._active else time.time_ns()

    def set_ros_time_override(self, override: Time) -> None:
        """Set the time; jump callbacks are called if it is in use."""
        if self._active:
            delta = Duration(nanoseconds=override.nanoseconds - self._override_ns)
            self._jump(TimeJump(ClockChange.ROS_TIME_NO_CHANGE, delta), override.nanoseconds)
        else:
            self._override_ns = override.nanoseconds

    def _set_ros_time_is_active(self, active: bool) -> None:
        if active == self._active:
            return
        after_ns = self._override_ns if active else time.time_ns()
        delta = Duration(nanoseconds=after_ns - self._now_ns())
        change = ClockChange.ROS_TIME_ACTIVATED if active else ClockChange.ROS_TIME_DEACTIVATED
        self._jump(TimeJump(change, delta), self._override_ns, active)

    def _jump(self, jump: TimeJump, override_ns: int, active: bool = True) -> None:
        exceeded = [handle for handle in self._jump_handles if handle.threshold.exceeded_by(jump)]
        for handle in exceeded:
            if handle.pre_callback is not None:
                handle.pre_callback()
        self._override_ns, self._active = override_ns, active
        for handle in exceeded:
            if handle.post_callback is not None:
                handle.post_callback(jump)
