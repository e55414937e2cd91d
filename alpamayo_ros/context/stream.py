"""Keeps the items of one topic in stamp order; knows the earliest stamp still to come.

Knows no grid, no rig and no other topic.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from typing import Generic, TypeVar

import numpy as np

from ..data_types import EgoPose, Frame, Rejection

MIN_INTERVAL_NS = 1_000_000  # closer stamps are one item sent twice; this also bounds the memory

Item = TypeVar('Item', Frame, EgoPose)


class Stream(Generic[Item]):
    """The last `keep_ns` of one topic and one item before that; late items are sorted in.

    regular: a next item is at least half of the smallest of the last eight intervals away, and one
    that comes sooner is refused. So the next stamp has a lower bound, and a frame can be final
    before the next one is there. count: items that came, kept or refused.
    """

    def __init__(self, name: str, keep_ns: int, regular: bool) -> None:
        self.name, self.keep_ns, self.regular = name, keep_ns, regular
        self.count = 0
        self.clear()

    def clear(self) -> None:
        """Forget everything, the intervals too."""
        self.stamps: list[int] = []
        self.items: list[Item] = []
        self.newest_ns: int | None = None  # the newest that came, kept or refused
        self.dropped_ns = -1  # the newest that was let go
        self._intervals: deque[int] = deque(maxlen=8)

    @property
    def next_ns(self) -> int:
        """No stamp before this one can still come, late ones aside."""
        if self.newest_ns is None:
            return -1
        is_known = self.regular and len(self._intervals) >= 3
        return self.newest_ns + max(min(self._intervals) // 2 if is_known else 0, MIN_INTERVAL_NS)

    def add(self, item: Item) -> Rejection | None:
        """Sort an item in, or say why it is refused."""
        self.count += 1
        stamp = item.stamp_ns
        at = bisect_left(self.stamps, stamp)
        for other in self.stamps[max(at - 1, 0) : at + 1]:
            if abs(stamp - other) < MIN_INTERVAL_NS:
                detail = f'{self.name}: stamp {stamp} is within 1 ms of {other}'
                return Rejection(stamp, 'duplicate_stamp', detail)
        next_ns, newest = self.next_ns, self.newest_ns
        if newest is None or stamp > newest:
            self.newest_ns = stamp
            if newest is not None:
                self._intervals.append(stamp - newest)
                if stamp < next_ns:
                    detail = (
                        f'{self.name}: {(stamp - newest) / 1e6:.1f} ms after the one before, '
                        f'expected {(next_ns - newest) / 1e6:.1f} ms or more'
                    )
                    return Rejection(stamp, 'irregular_stamp', detail)
        self.stamps.insert(at, stamp)
        self.items.insert(at, item)
        self.drop_before(self.stamps[-1] - self.keep_ns)
        return None

    def holds_copy(self, item: Item) -> bool:
        """Whether an item of this stamp with equal content is kept: a message that came twice."""
        at = bisect_left(self.stamps, item.stamp_ns)
        return self.stamps[at : at + 1] == [item.stamp_ns] and _is_equal(self.items[at], item)

    def drop_before(self, stamp_ns: int) -> None:
        """Let go what is older than a stamp, but for the newest item of it."""
        old = bisect_left(self.stamps, stamp_ns) - 1
        if old > 0:
            self.dropped_ns = max(self.dropped_ns, self.stamps[old - 1])
            del self.stamps[:old], self.items[:old]


def _is_equal(a: Frame | EgoPose, b: Frame | EgoPose) -> bool:
    if isinstance(a, Frame) and isinstance(b, Frame):
        return a.encoding == b.encoding and np.array_equal(a.data, b.data)
    if isinstance(a, EgoPose) and isinstance(b, EgoPose):
        return np.array_equal(a.position_m, b.position_m)
    return False
