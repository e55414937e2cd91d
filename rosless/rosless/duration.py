"""rclpy.duration: a span of time in ns. Knows no clock."""

from functools import total_ordering

from rosless.messages import get_message_class

S_TO_NS = 10**9
INFINITE_NS = 2**63 - 1


@total_ordering
class Duration:
    """Signed span of time, exact to the nanosecond."""

    def __init__(self, *, seconds: float = 0, nanoseconds: float = 0):
        total_ns = int(seconds * S_TO_NS) + int(nanoseconds)
        if not -(2**63) <= total_ns < 2**63:
            raise OverflowError(f'{total_ns} ns do not fit into 64 bits')
        self._nanoseconds = total_ns

    @property
    def nanoseconds(self) -> int:
        """Length in ns."""
        return self._nanoseconds

    def __repr__(self):
        return f'Duration(nanoseconds={self._nanoseconds})'

    def __eq__(self, other):
        if not isinstance(other, Duration):
            return NotImplemented
        return self._nanoseconds == other._nanoseconds

    def __lt__(self, other: 'Duration') -> bool:
        if not isinstance(other, Duration):
            return NotImplemented
        return self._nanoseconds < other._nanoseconds

    def __hash__(self):
        return hash(self._nanoseconds)

    def to_msg(self):
        """builtin_interfaces/msg/Duration of the same length."""
        seconds, nanoseconds = divmod(self._nanoseconds, S_TO_NS)
        cls = get_message_class('builtin_interfaces/msg/Duration')
        return cls(sec=seconds, nanosec=nanoseconds)

    @classmethod
    def from_msg(cls, message) -> 'Duration':
        """Duration of a builtin_interfaces/msg/Duration."""
        return cls(nanoseconds=message.sec * S_TO_NS + message.nanosec)


Infinite = Duration(nanoseconds=INFINITE_NS)
