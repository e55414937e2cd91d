"""A subscription that is read in batches, so that not every message wakes the executor.

rclpy's executor builds its wait set twice for every message: at 100 Hz of odometry that was a
quarter of the node's processor time. Knows no topic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup


class OnDemand(MutuallyExclusiveCallbackGroup):
    """Group of a subscription that an executor waits for only while `is_waited_for()` is true."""

    def __init__(self, is_waited_for: Callable[[], bool]) -> None:
        super().__init__()
        self._is_waited_for = is_waited_for

    def can_execute(self, entity: Any) -> bool:
        """Whether a callback may start; executors leave out of their wait what may not."""
        return self._is_waited_for() and bool(super().can_execute(entity))


def take_messages(subscription: Any, most: int) -> Iterator[Any]:
    """Messages that wait at a subscription, oldest first, so many at most."""
    for _ in range(most):
        with subscription.handle:
            taken = subscription.handle.take_message(subscription.msg_type, subscription.raw)
        if taken is None:
            return
        yield taken[0]
