"""rclpy.timer: calls at a fixed period of a clock. Knows no thread: an executor asks it."""

from collections.abc import Callable

from rosless.clock import Clock, ClockChange, JumpThreshold, TimeJump
from rosless.duration import Duration

ANY_JUMP = JumpThreshold(
    min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=True
)


class Timer:
    """Timer of a node; it fires once however many periods went by since the last call.

    With simulated time it can fire whenever /clock is received, so late by up to one of its
    periods; it does not fire while the clock stands.
    """

    condition = None  # nothing that DDS could wait for

    def __init__(self, callback: Callable, callback_group, timer_period_ns: int, clock: Clock):
        self.callback = callback
        self.callback_group = callback_group
        self.timer_period_ns = int(timer_period_ns)
        self.clock = clock
        self._canceled = False
        self._restart()
        self._jumps = clock.create_jump_callback(ANY_JUMP, post_callback=self._on_jump)

    def _restart(self) -> None:
        self._last_ns = self.clock.now().nanoseconds
        self._next_ns = self._last_ns + self.timer_period_ns

    def _on_jump(self, jump: TimeJump) -> None:
        back = self.clock.now().nanoseconds < self._last_ns
        if back or jump.clock_change != ClockChange.ROS_TIME_NO_CHANGE:
            self._restart()

    def cancel(self) -> None:
        """Stop firing until reset."""
        self._canceled = True

    def reset(self) -> None:
        """Start a new period now, also after cancel."""
        self._restart()
        self._canceled = False

    def is_canceled(self) -> bool:
        """Whether it was stopped."""
        return self._canceled

    def time_since_last_call(self) -> int:
        """Time since the last call in ns."""
        return self.clock.now().nanoseconds - self._last_ns

    def time_until_next_call(self) -> int | None:
        """Time to the next call in ns, negative if it is due; None when canceled."""
        return None if self._canceled else self._next_ns - self.clock.now().nanoseconds

    def is_ready(self) -> bool:
        """Whether a call is due."""
        left_ns = self.time_until_next_call()
        return left_ns is not None and left_ns <= 0

    def ready(self) -> bool:
        """Whether a call is due."""
        return self.is_ready()

    def wait_limit_ns(self) -> int | None:
        """How long an executor may wait; None when only a message can make it due."""
        return None if self.clock.ros_time_is_active else self.time_until_next_call()

    def take(self) -> Callable | None:
        """Callback that is due, with the next call scheduled; None if none is due."""
        if not self.is_ready():
            return None
        self._last_ns = self.clock.now().nanoseconds
        self._next_ns += self.timer_period_ns
        if self._next_ns < self._last_ns:  # calls that were missed are left out
            missed = -((self._next_ns - self._last_ns) // max(self.timer_period_ns, 1))
            self._next_ns += missed * self.timer_period_ns
        return self.callback

    def destroy(self) -> None:
        """Stop for good."""
        self.cancel()
        self._jumps.unregister()
