"""rclpy.task: results that come later, and functions or coroutines that an executor runs.

Knows an executor only as something with `create_task` and `resume`.
"""

from collections.abc import Callable
import inspect
import threading
from typing import Any


class Future:
    """A result or an exception that is set once, from any thread."""

    def __init__(self, *, executor=None):
        self._executor = executor
        self._done = False
        self._cancelled = False
        self._result: Any = None
        self._exception: BaseException | None = None
        self._callbacks: list[Callable[[Any], Any]] = []
        self._lock = threading.Lock()

    def __await__(self):
        while not self.done():
            yield self
        return self.result()

    def done(self) -> bool:
        """Whether there is a result or an exception; a cancelled future is not done in Jazzy."""
        return self._done

    def cancelled(self) -> bool:
        """Whether it was cancelled before it was done."""
        return self._cancelled

    def result(self) -> Any:
        """Result, None if there is none yet; an exception that was set is raised."""
        if self._exception is not None:
            raise self._exception
        return self._result

    def exception(self) -> BaseException | None:
        """Exception that was set, if any."""
        return self._exception

    def cancel(self) -> None:
        """Give up waiting, unless it is done."""
        with self._lock:
            self._cancelled = not self._done
        self._call_back()

    def set_result(self, result) -> None:
        """Set the result and call back."""
        self._finish(result, None)

    def set_exception(self, exception: BaseException) -> None:
        """Set an exception and call back."""
        self._finish(None, exception)

    def _finish(self, result, exception: BaseException | None) -> None:
        with self._lock:
            self._result, self._exception = result, exception
            self._done, self._cancelled = True, False
        self._call_back()

    def add_done_callback(self, callback: Callable[[Any], Any]) -> None:
        """Call a function with this future when it is done: in its executor, if it has one."""
        with self._lock:
            self._callbacks.append(callback)
        if self.done():
            self._call_back()

    def _call_back(self) -> None:
        with self._lock:
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            if self._executor is None:
                callback(self)
            else:
                self._executor.create_task(callback, self)


class Task(Future):
    """A function or coroutine; each call runs it, or resumes it where it awaits a future."""

    def __init__(self, handler, args=(), kwargs=None, executor=None):
        super().__init__(executor=executor)
        self._handler = handler
        self._args = args
        self._kwargs = kwargs or {}
        self._executing = False

    def executing(self) -> bool:
        """Whether it runs at this moment."""
        return self._executing

    def __call__(self) -> bool:
        """Run until the end or the next await; return whether it has ended.

        An exception of the handler is kept as that of the task, and raised.
        """
        if self.done():
            return True
        self._executing = True
        try:
            if not inspect.iscoroutine(self._handler):
                result = self._handler(*self._args, **self._kwargs)
                if not inspect.iscoroutine(result):
                    self.set_result(result)
                    return True
                self._handler = result
            awaited = self._handler.send(None)
        except StopIteration as end:
            self.set_result(end.value)
            return True
        except BaseException as error:
            self.set_exception(error)
            raise
        finally:
            self._executing = False
        self._resume_after(awaited)
        return False

    def _resume_after(self, awaited) -> None:
        if isinstance(awaited, Future):
            awaited.add_done_callback(lambda _: self._executor.resume(self))
        else:  # a bare yield asks for a turn later on
            self._executor.resume(self)
