"""rclpy.time: a point in time of one kind of clock. Knows no clock object."""

from enum import IntEnum
from functools import total_ordering

from rosless.duration import S_TO_NS, Duration
from rosless.messages import get_message_class


class ClockType(IntEnum):
    """Which clock a time belongs to; times of different clocks do not compare."""

    UNINITIALIZED = 0
    ROS_TIME = 1
    SYSTEM_TIME = 2
    STEADY_TIME = 3


@total_ordering
class Time:
    """Point in time, in ns since the start of its clock."""

    def __init__(
        self,
        *,
        seconds: float = 0,
        nanoseconds: float = 0,
        clock_type: ClockType = ClockType.SYSTEM_TIME,
    ):
        if seconds < 0 or nanoseconds < 0:
            raise ValueError(f'a time is not negative: {seconds} s, {nanoseconds} ns')
        self._nanoseconds = Duration(seconds=seconds, nanoseconds=nanoseconds).nanoseconds
        self._clock_type = ClockType(clock_type)

    @property
    def nanoseconds(self) -> int:
        """Time in ns."""
        return self._nanoseconds

    @property
    def clock_type(self) -> ClockType:
        """Kind of clock that this time was read from."""
        return self._clock_type

    def seconds_nanoseconds(self) -> tuple[int, int]:
        """Whole seconds and the rest in ns."""
        return divmod(self._nanoseconds, S_TO_NS)

    def __repr__(self):
        return f'Time(nanoseconds={self._nanoseconds}, clock_type={self._clock_type.name})'

    def __add__(self, other):
        if not isinstance(other, Duration):
            return NotImplemented
        return self._shift(other.nanoseconds)

    __radd__ = __add__

    def __sub__(self, other):
        if isinstance(other, Duration):
            return self._shift(-other.nanoseconds)
        if not isinstance(other, Time):
            return NotImplemented
        self._require_same_clock(other)
        return Duration(nanoseconds=self._nanoseconds - other._nanoseconds)

    def _shift(self, by_ns: int) -> 'Time':
        return Time(nanoseconds=self._nanoseconds + by_ns, clock_type=self._clock_type)

    def _require_same_clock(self, other: 'Time') -> None:
        if self._clock_type != other._clock_type:
            raise TypeError(
                f'times of {self._clock_type.name} and {other._clock_type.name} do not compare'
            )

    def __eq__(self, other):
        if not isinstance(other, Time):
            return NotImplemented
        self._require_same_clock(other)
        return self._nanoseconds == other._nanoseconds

    def __lt__(self, other: 'Time') -> bool:
        if not isinstance(other, Time):
            return NotImplemented
        self._require_same_clock(other)
        return self._nanoseconds < other._nanoseconds

    def __hash__(self):
        return hash((self._nanoseconds, self._clock_type))

    def to_msg(self):
        """builtin_interfaces/msg/Time of this time."""
        seconds, nanoseconds = self.seconds_nanoseconds()
        cls = get_message_class('builtin_interfaces/msg/Time')
        return cls(sec=seconds, nanosec=nanoseconds)

    @classmethod
    def from_msg(cls, message, clock_type: ClockType = ClockType.ROS_TIME) -> 'Time':
        """Time of a builtin_interfaces/msg/Time."""
        stamp_ns = message.sec * S_TO_NS + message.nanosec
        return cls(nanoseconds=stamp_ns, clock_type=clock_type)
