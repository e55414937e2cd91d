"""rclpy.executors: threads that wait for work of nodes and run it.

One wait set holds one read condition per reader and one guard condition, which everything else
sets: new work from other threads, new entities, the end of the context. There is no DDS listener:
its thread would wait for the GIL that a blocked write holds.
"""

from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from concurrent import futures
from contextlib import contextmanager
from itertools import chain
import os
import threading
import time
from typing import Any

from cyclonedds.core import DDSException
from cyclonedds.internal import dds_infinity

from rosless.context import Context, get_default_context
from rosless.duration import S_TO_NS
from rosless.task import Future, Task


class ExternalShutdownException(Exception):
    """The context ended while an executor waited."""

    def __init__(self):
        super().__init__('The associated context was shut down')


class Executor:
    """Base of the executors: `_run` decides which thread runs a callback."""

    def __init__(self, *, context: Context | None = None):
        self._context = get_default_context() if context is None else context
        self._waitset = self._context.participant.create_waitset()
        self._guard = self._context.participant.create_guard()
        self._waitset.attach(self._guard)
        self._attached: set[Any] = set()
        self._lock = threading.RLock()  # nodes and attached conditions
        self._nodes: list[Any] = []
        self._tasks: deque[tuple[Task, Any]] = deque()  # a task, and what it is a callback of
        self._task_turns = 0
        self._ready: deque[Any] = deque()
        self._suspended: dict[Task, Any] = {}
        self._queued: set[Any] = set()  # what has a callback that no thread has begun yet
        self._is_shutdown = False
        self._context.add_waker(self)

    @property
    def context(self) -> Context:
        """Context of the nodes."""
        return self._context

    def add_node(self, node) -> bool:
        """Run the callbacks of a node from now on; False if that is so already."""
        with self._lock:
            if node in self._nodes:
                return False
            self._nodes.append(node)
        node.executor = self
        self.wake()
        return True

    def remove_node(self, node) -> None:
        """Run no more callbacks of a node."""
        with self._lock:
            if node not in self._nodes:
                return
            self._nodes.remove(node)
            self._ready.clear()  # nothing is lost: what is ready is not yet taken
            self._attach()
        node.executor = None
        self.wake()

    def get_nodes(self) -> list[Any]:
        """Nodes that were added."""
        with self._lock:
            return list(self._nodes)

    def forget(self, waitable) -> None:
        """Stop waiting for something that its node is about to destroy and lists no more."""
        with self._lock:
            self._attach()

    def wake(self) -> None:
        """Let the executor look for work again; any thread may call this."""
        with self._participant_may_go():
            self._guard.set(True)

    def create_task(self, callback: Callable | Coroutine, *args, **kwargs) -> Task:
        """Run a function or a coroutine in the executor; any thread may call this."""
        task = Task(callback, args, kwargs, executor=self)
        self._tasks.append((task, None))
        self.wake()
        return task

    def resume(self, task: Task) -> None:
        """Give a suspended coroutine its next turn; any thread may call this."""
        self._tasks.append((task, self._suspended.pop(task, None)))
        self.wake()

    def shutdown(self, timeout_sec: float | None = None) -> bool:
        """Stop: spin returns. Callbacks that run now go on to their end."""
        with self._lock:
            if not self._is_shutdown:
                self._is_shutdown = True
                self.wake()
                for node in self._nodes:
                    node.executor = None
                self._nodes.clear()
        return True

    def spin(self) -> None:
        """Run callbacks until shutdown.

        Raises:
            ExternalShutdownException: the context ended during the wait, by SIGTERM for example.
        """
        while self._context.ok() and not self._is_shutdown:
            self.spin_once()

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """Wait for one callback and run it; None or negative: without a limit."""
        self._spin_once(timeout_sec, lambda: False)

    def spin_until_future_complete(self, future: Future, timeout_sec: float | None = None) -> None:
        """Run callbacks until a future is done or the time is over."""
        future.add_done_callback(lambda _: self.wake())
        limited = timeout_sec is not None and timeout_sec >= 0
        end_s = time.monotonic() + (timeout_sec or 0)
        while self._context.ok() and not future.done() and not self._is_shutdown:
            left_s = end_s - time.monotonic() if limited else None
            if left_s is not None and left_s < 0:
                return
            self._spin_once(left_s, future.done)

    def _spin_once(self, timeout_sec: float | None, ended: Callable[[], bool]) -> None:
        raise NotImplementedError

    def _next_work(
        self, timeout_sec: float | None, ended: Callable[[], bool]
    ) -> tuple[Task, Any] | None:
        """Work to run now; None after the time-out, at shutdown, or when `ended()`."""
        limited = timeout_sec is not None and timeout_sec >= 0
        end_s = time.monotonic() + (timeout_sec or 0)
        waited = False
        while not self._is_shutdown and not ended():
            if not self._context.ok():
                raise ExternalShutdownException
            if (work := self._ready_work()) is not None:
                return work
            left_s = max(end_s - time.monotonic(), 0) if limited else None
            if waited and left_s == 0:
                return None
            self._wait(left_s)
            waited = True
        return None

    def _ready_work(self) -> tuple[Task, Any] | None:
        """One piece of work; a pass takes all waiting tasks and one callback per ready entity."""
        if self._task_turns and self._tasks:
            self._task_turns -= 1
            return self._tasks.popleft()
        while self._ready:
            waitable = self._ready.popleft()
            if waitable.callback_group.beginning_execution(waitable):
                if (callback := waitable.take()) is not None:
                    return Task(callback, executor=self), waitable
                waitable.callback_group.ending_execution(waitable)
        return None

    def _waitables(self) -> Iterator[Any]:
        return chain.from_iterable(node.waitables for node in self._nodes)

    def _may_run(self, waitable) -> bool:
        return waitable not in self._queued and waitable.callback_group.can_execute(waitable)

    def _attach(self) -> list[Any]:
        """Attach the conditions of what may run now, and no others; returns what may run."""
        runnable = [w for w in self._waitables() if self._may_run(w)]
        conditions = {w.condition for w in runnable}
        conditions.discard(None)
        if conditions != self._attached:
            with self._participant_may_go():
                for condition in self._attached - conditions:
                    self._waitset.detach(condition)
                for condition in conditions - self._attached:
                    self._waitset.attach(condition)
            self._attached = conditions
        return runnable

    def _wait(self, left_s: float | None) -> None:
        """Wait for work, and note what is ready: each of them once."""
        with self._lock:
            runnable = self._attach()
        limits = [w.wait_limit_ns() for w in runnable if w.condition is None]
        if left_s is not None:
            limits.append(int(left_s * S_TO_NS))
        limit_ns = min((ns for ns in limits if ns is not None), default=dds_infinity)
        triggered: set[Any] = set()
        with self._participant_may_go():
            triggered = self._waitset.wait_for_triggered(max(limit_ns, 0))
            self._guard.take()
        triggered.add(None)  # timers
        with self._lock:
            # a look at every entity would cost more than a message does
            hit = [w for w in self._waitables() if w.condition in triggered]
            self._ready.extend(w for w in hit if self._may_run(w) and w.ready())
        self._task_turns = len(self._tasks)

    @contextmanager
    def _participant_may_go(self) -> Iterator[None]:
        """Another thread may end the context, and with it every entity, at any moment."""
        try:
            yield
        except DDSException:
            if self._context.ok():
                raise

    def _execute(self, task: Task, waitable) -> None:
        """Run a task in this thread; an exception of it is raised here."""
        # noted before it runs: another thread may resume it as soon as it is suspended
        if waitable is not None:
            self._suspended[task] = waitable
        finished = True
        try:
            finished = task()
        finally:
            if finished and waitable is not None:
                self._suspended.pop(task, None)
                waitable.callback_group.ending_execution(waitable)

    def __enter__(self) -> 'Executor':
        return self

    def __exit__(self, *exception):
        self.shutdown()


class SingleThreadedExecutor(Executor):
    """Runs callbacks in the thread that spins."""

    def _spin_once(self, timeout_sec: float | None, ended: Callable[[], bool]) -> None:
        if (work := self._next_work(timeout_sec, ended)) is not None:
            self._execute(*work)


class MultiThreadedExecutor(Executor):
    """Runs callbacks in a pool of threads; callback groups say which may overlap.

    When the context ends, its spin returns without an exception, as rclpy's does.
    """

    def __init__(self, num_threads: int | None = None, *, context: Context | None = None):
        super().__init__(context=context)
        count = num_threads or len(os.sched_getaffinity(0))
        self._pool = futures.ThreadPoolExecutor(count, thread_name_prefix='rosless')
        self._running: list[futures.Future] = []

    def _spin_once(self, timeout_sec: float | None, ended: Callable[[], bool]) -> None:
        try:
            work = self._next_work(timeout_sec, lambda: ended() or self._any_failed())
        except ExternalShutdownException:
            return
        if work is not None:
            self._queued.add(work[1])
            self._running.append(self._pool.submit(self._execute_and_wake, *work))
        done = [future for future in self._running if future.done()]
        self._running = [future for future in self._running if future not in done]
        for future in done:
            future.result()  # raises what the callback raised

    def _any_failed(self) -> bool:
        return any(future.done() and future.exception() for future in self._running)

    def _execute_and_wake(self, task: Task, waitable) -> None:
        self._queued.discard(waitable)
        self.wake()
        try:
            self._execute(task, waitable)
        finally:
            self.wake()  # the group is free again

    def shutdown(self, timeout_sec: float | None = None) -> bool:
        """Stop; returns whether the running callbacks ended within the time."""
        super().shutdown()
        _, running = futures.wait(self._running, timeout_sec)
        self._pool.shutdown(wait=False, cancel_futures=True)
        return not running
