"""rclpy.callback_groups: which callbacks may run at the same time in a multi-threaded executor."""

import threading


class CallbackGroup:
    """Base of the groups; an executor asks it before each callback and reports the end."""

    def can_execute(self, entity) -> bool:
        """Whether a callback of the group may start now."""
        raise NotImplementedError

    def beginning_execution(self, entity) -> bool:
        """Start a callback; False if it may not start now."""
        raise NotImplementedError

    def ending_execution(self, entity) -> None:
        """Report that a callback ended."""
        raise NotImplementedError


class ReentrantCallbackGroup(CallbackGroup):
    """Callbacks run whenever there is a thread for them."""

    def can_execute(self, entity) -> bool:
        """Always True."""
        return True

    def beginning_execution(self, entity) -> bool:
        """Always True."""
        return True

    def ending_execution(self, entity) -> None:
        """Nothing to note."""


class MutuallyExclusiveCallbackGroup(CallbackGroup):
    """One callback at a time, a suspended coroutine counted."""

    def __init__(self):
        self._active = None
        self._lock = threading.Lock()

    def can_execute(self, entity) -> bool:
        """Whether no callback of the group runs."""
        return self._active is None

    def beginning_execution(self, entity) -> bool:
        """Take the only place."""
        with self._lock:
            if self._active is not None:
                return False
            self._active = entity
            return True

    def ending_execution(self, entity) -> None:
        """Free the place."""
        with self._lock:
            self._active = None
