"""Hold back signals while cyclonedds calls Python from C: an exception there ends badly.

In the constructor of a sample's information it is a crash, in that of an endpoint another error.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import threading
from typing import Any

_waiting: list[Callable[[], Any]] | None = None  # None: signals do not wait now


@contextmanager
def hold_signals() -> Iterator[None]:
    """Let signals wait for the end of the block; in the main thread, which is where they run."""
    global _waiting
    if threading.get_ident() != threading.main_thread().ident or _waiting is not None:
        yield
        return
    _waiting = []
    try:
        yield
    finally:
        waiting, _waiting = _waiting, None
        for handle in waiting:
            handle()


def is_put_off(handle: Callable[[], Any]) -> bool:
    """Whether a handler has to wait; then it is called at the end of the block."""
    if _waiting is None:
        return False
    _waiting.append(handle)
    return True
