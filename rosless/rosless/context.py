"""rclpy.context: the time between init and shutdown, with the participant and the arguments.

Knows no node and no executor beyond the functions that wake them.
"""

import atexit
from collections.abc import Callable
import os
import sys
import threading
from typing import Any, TypeVar
import weakref

from cyclonedds.core import DDSException

from rosless import arguments, logging
from rosless.exceptions import NotInitializedException
from rosless.graph import Graph
from rosless.participant import Participant
from rosless.rcl_error import RCLError

Begun = TypeVar('Begun')


class Context:
    """One init, one shutdown; a second init raises RuntimeError.

    Before init, `participant` and `graph` raise NotInitializedException.
    """

    def __init__(self):
        self._participant: Participant | None = None
        self._graph: Graph | None = None
        self._arguments = arguments.RosArguments()
        self._ok = False
        self._shut_down = False
        self._domain_id = 0
        self._lock = threading.Lock()
        self._on_shutdown: list[Callable[[], None]] = []
        self._wakers: weakref.WeakSet[Any] = weakref.WeakSet()

    def init(self, args: list[str] | None = None, *, domain_id: int | None = None) -> None:
        """Read the arguments (sys.argv when None) and enter the domain (ROS_DOMAIN_ID or 0).

        Raises:
            RuntimeError: called twice.
            RCLError: an argument is refused, or DDS cannot start.
        """
        with self._lock:
            if self._participant is not None:
                raise RuntimeError('Context.init() must only be called once')
            self._arguments = arguments.parse(sys.argv if args is None else args)
            self._domain_id = domain_id_or_default(domain_id)
            for name, level in self._arguments.log_levels.items():
                logging.set_logger_level(name, level)
            try:
                self._participant = Participant(self._domain_id, self._arguments.enclave)
            except DDSException as error:
                raise RCLError(f'cannot enter DDS domain {self._domain_id}: {error}') from error
            self._graph = Graph(self._participant)
            self._ok = True
        _started.add(self)

    @property
    def participant(self) -> Participant:
        """DDS participant of the process; a signal ends the context and leaves it be."""
        return _require_begun(self._participant)

    @property
    def graph(self) -> Graph:
        """View of the domain."""
        return _require_begun(self._graph)

    @property
    def arguments(self) -> arguments.RosArguments:
        """What the command line asked for."""
        return self._arguments

    def ok(self) -> bool:
        """Whether the context is between init and shutdown."""
        return self._ok

    def get_domain_id(self) -> int:
        """DDS domain."""
        return self._domain_id

    def on_shutdown(self, callback: Callable[[], None]) -> None:
        """Call a function at shutdown, at once if that is over."""
        if self._shut_down:
            callback()
        else:
            self._on_shutdown.append(callback)

    def add_waker(self, executor: Any) -> None:
        """Call `executor.wake()` whenever the context ends; only a weak reference is kept."""
        self._wakers.add(executor)

    def interrupt(self) -> None:
        """End the context from a signal handler: no lock, no callback of the user, no DDS entity
        deleted; shutdown or the end of the process does the rest.
        """
        self._ok = False
        self.wake()

    def wake(self) -> None:
        """Let every executor look at the state of the context."""
        for executor in list(self._wakers):
            executor.wake()

    def shutdown(self) -> None:
        """End the context and leave the domain.

        Raises:
            RuntimeError: it never began or is over already, by a signal for example.
        """
        if not self._ok:
            raise RCLError('the context is not initialized or already shut down')
        self.try_shutdown()

    def try_shutdown(self) -> None:
        """End the context and leave the domain, if that is still to do."""
        with self._lock:
            if self._participant is None or self._shut_down:
                return
            self._shut_down = True
        self.interrupt()
        callbacks, self._on_shutdown = self._on_shutdown, []
        for callback in callbacks:
            callback()
        self._participant.leave()

    def __enter__(self) -> 'Context':
        self.init()
        return self

    def __exit__(self, *exception):
        self.try_shutdown()


def _require_begun(value: Begun | None) -> Begun:
    if value is None:
        raise NotInitializedException('there is no participant')
    return value


def domain_id_or_default(domain_id: int | None) -> int:
    """Domain that was asked for, else ROS_DOMAIN_ID, else 0.

    Raises:
        RCLError: ROS_DOMAIN_ID is no number from 0 to 232.
    """
    text = os.environ.get('ROS_DOMAIN_ID') or '0'
    if domain_id is None and not text.isdecimal():
        raise RCLError(f'ROS_DOMAIN_ID={text} is not a number')
    chosen = int(text) if domain_id is None else domain_id
    if not 0 <= chosen <= 232:
        raise RCLError(f'domain id {chosen} is not in 0..232')
    return chosen


_started: weakref.WeakSet[Context] = weakref.WeakSet()
_default: list[Context] = []


def list_started_contexts() -> list[Context]:
    """Contexts that were initialized, ended ones included."""
    return list(_started)


def get_default_context(*, shutting_down: bool = False) -> Context:
    """Context that is used when none is given; after `shutting_down` there is a new one."""
    if not _default:
        _default.append(Context())
    return _default.pop() if shutting_down else _default[0]


@atexit.register
def _leave_at_exit() -> None:
    for context in list_started_contexts():
        context.try_shutdown()
