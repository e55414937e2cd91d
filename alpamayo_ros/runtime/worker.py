"""One thread owns the engine: loading, warm-up and every inference run on it, one at a time.

The newest context wins: at most one waits, and a newer one replaces it. Errors are values: they
come back as the result of a job, or as the reason of the state 'failed'. The engine is in this
process or in one of its own (serving/). Knows no ROS.

All methods are for one thread, that of the owner, and never block. The engine's thread reports
back through `post`, which calls on the owner's thread, so nothing here needs a lock.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
import threading
import time
from typing import Any

from ..data_types import Context, Prediction
from .memory import release_cached
from .serving.jobs import (
    EngineHost,
    EngineLost,
    InferenceJob,
    Reply,
    Result,
    describe_error,
    explain_error,
)

STATES = ('unloaded', 'loading', 'ready', 'failed')


class Worker:
    """Runs jobs on one engine.

    post(function, *arguments) calls a function soon on the owner's thread; it is called from the
    engine's. on_result gets the Result of every job that `submit` took and did not give back.
    find_staleness(context) is asked when a job begins: a sentence why the context is too old to be
    inferred, '' when it is not. An engine that is lost, because its process hangs or has ended, is
    loaded again; `restarts` counts that. After `max_failures` failed inferences in a row, lost
    engines among them, the state becomes 'failed'.
    """

    def __init__(
        self,
        post: Callable[..., Any],
        on_result: Callable[[Result], None],
        max_failures: int = 3,
        find_staleness: Callable[[Context], str] = lambda context: '',
    ) -> None:
        self.state, self.error = 'unloaded', ''
        self.provenance: dict[str, Any] = {}
        self.load_s = 0.0
        self.failures_in_a_row = self.restarts = 0
        self._post, self._on_result, self._max_failures = post, on_result, max_failures
        self._find_staleness = find_staleness
        self._thread: threading.Thread | None = None
        self._pool = ThreadPoolExecutor(1, 'engine', initializer=self._begin_thread)
        self._host: EngineHost | None = None  # called on the engine's thread only
        self._make_host: Callable[[], EngineHost] | None = None  # of the last load
        self._waiting: InferenceJob | None = None
        self._running: tuple[InferenceJob, float] | None = None
        self._discarded = ''  # why the result of the running job is worthless
        self._generation = 0  # of loads and unloads: an older one's end changes nothing
        self._stopped = False

    @property
    def pending(self) -> int:
        """Jobs that wait or run."""
        return (self._waiting is not None) + (self._running is not None)

    @property
    def busy_s(self) -> float:
        """How long the present inference has been running, 0 without one."""
        return time.monotonic() - self._running[1] if self._running else 0.0

    @property
    def engine_pid(self) -> int | None:
        """Number of the process that holds the engine."""
        host = self._host
        return host.pid if host else None

    @property
    def gpu_peak_bytes(self) -> int:
        """Peak of what that process had on its GPU, 0 without one."""
        host = self._host
        return host.read_gpu_peak_bytes() if host else 0

    def load(self, make_host: Callable[[], EngineHost]) -> None:
        """Replace the engine by a new one, made and warmed up on the engine's thread.

        Does nothing while a load is under way.
        """
        if self.state == 'loading':
            return
        self.failures_in_a_row = 0
        self._begin_load(make_host)

    def check(self) -> None:
        """Notice an engine that was lost while it had nothing to do."""
        if self.state == 'ready' and self._running is None:
            self._run(self._check, self._on_checked)

    def unload(self) -> None:
        """Let go of the engine and its memory; the state 'failed' and its reason stay."""
        has_failed = self.state == 'failed'
        self._begin(*(('failed', self.error) if has_failed else ('unloaded',)))
        self._run(self._unload, self._on_unloaded)

    def submit(self, job: InferenceJob) -> InferenceJob | None:
        """Take a job; returns the one that waited and is dropped for it.

        A question that waits keeps its place: the new job comes back.
        """
        if self._waiting is not None and self._waiting.question:
            return job
        dropped, self._waiting = self._waiting, job
        self._next()
        return dropped

    def discard(self, reason: str) -> None:
        """Take back the job that waits and drop the result of the one that runs.

        on_result gets both as discarded for this reason: the first now, the second when the
        inference ends.
        """
        if self._running is not None:
            self._discarded = self._discarded or reason
        job, self._waiting = self._waiting, None
        if job is not None:
            self._on_result(Result(job, reason=reason, is_discarded=True))

    def stop(self, limit_s: float) -> bool:
        """End; False when the engine's thread is still at work after the limit."""
        self._stopped = True
        if self._host is not None:
            self._host.interrupt()
        self._pool.shutdown(wait=False, cancel_futures=True)
        thread = self._thread  # none has begun: then it finds nothing to do
        if thread is None:
            return True
        thread.join(limit_s)
        return not thread.is_alive()

    def _begin_thread(self) -> None:
        self._thread = threading.current_thread()

    def _begin(self, state: str, error: str = '') -> None:
        if self._running is not None and self._host is not None:
            self._host.interrupt()  # its result would be worthless
        self._generation += 1
        self.state, self.error = state, error
        self.discard('not_ready')

    def _begin_load(self, make_host: Callable[[], EngineHost]) -> None:
        self._begin('loading')
        self._make_host = make_host
        self._run(self._load, self._on_loaded, make_host)

    def _run(self, work: Callable[..., Any], done: Callable[..., None], *arguments: Any) -> None:
        """Call work(*arguments) on the engine's thread, then done(generation, future) here."""
        future = self._pool.submit(work, *arguments)
        future.add_done_callback(partial(self._report, done, self._generation))

    def _report(self, done: Callable[..., None], generation: int, future: Future[Any]) -> None:
        if not self._stopped:
            self._post(done, generation, future)

    def _load(self, make_host: Callable[[], EngineHost]) -> tuple[dict[str, Any], float]:
        self._unload()
        start = time.monotonic()
        self._host = make_host()
        return self._host.provenance(), time.monotonic() - start

    def _unload(self) -> None:
        host, self._host = self._host, None
        if host is not None:
            host.close()
        del host
        release_cached()

    def _check(self) -> None:
        if self._host is not None:
            self._host.check()

    def _on_loaded(self, generation: int, future: Future[Any]) -> None:
        if generation != self._generation:
            return
        error = future.exception()
        if error is not None:
            self.state, self.error = 'failed', describe_error(error)
        else:
            self.state, self.error = 'ready', ''
            self.provenance, self.load_s = future.result()
            self._next()

    def _on_unloaded(self, generation: int, future: Future[Any]) -> None:
        if generation == self._generation:
            self.provenance = {}

    def _on_checked(self, generation: int, future: Future[None]) -> None:
        error = future.exception()
        if generation == self._generation and isinstance(error, EngineLost):
            self._count_failure(str(error))
            self._restart(str(error))

    def _next(self) -> None:
        if self.state != 'ready' or self._running is not None or self._waiting is None:
            return
        job, self._waiting = self._waiting, None
        # it may have waited for a long inference, which matters to a path only
        staleness = '' if job.question else self._find_staleness(job.context)
        if staleness:
            self._on_result(Result(job, reason='stale_input', detail=staleness))
            return
        self._running = job, time.monotonic()
        self._run(self._infer, self._on_inferred, job)

    def _infer(self, job: InferenceJob) -> Prediction | Reply:
        if self._host is None:  # the load that stood before this job in the queue has failed
            raise RuntimeError('no engine is loaded')
        start = time.perf_counter()
        found = self._host.run(job)
        if isinstance(found, Reply):
            return found
        total_ms = (time.perf_counter() - start) * 1e3
        return replace(found, timing_ms={**found.timing_ms, 'total': total_ms})

    def _on_inferred(self, generation: int, future: Future[Any]) -> None:
        assert self._running is not None
        (job, _), self._running = self._running, None
        discarded, self._discarded = self._discarded, ''
        error = future.exception()
        found = future.result() if error is None else None
        if isinstance(found, Reply):
            result = Result(job, reply=found)
        elif error is None:
            result = Result(job, prediction=found)
        else:
            reason, detail = explain_error(error)
            result = Result(job, reason=reason, detail=detail)
        if result.reason == 'out_of_memory':
            self._pool.submit(release_cached)
        if generation == self._generation:
            self._count(result)
            if isinstance(error, EngineLost):
                self._restart(result.detail)
        self._on_result(Result(job, reason=discarded, is_discarded=True) if discarded else result)
        self._next()

    def _count(self, result: Result) -> None:
        """Count failures in a row; a broken image and a bad question are none of them."""
        if not result.reason:
            self.failures_in_a_row = 0
        elif result.reason not in ('bad_image', 'bad_question'):
            self._count_failure(result.detail)

    def _count_failure(self, detail: str) -> None:
        """Stop inference after too many failures."""
        self.failures_in_a_row += 1
        if self.failures_in_a_row >= self._max_failures:
            self.state = 'failed'
            self.error = f'{self.failures_in_a_row} failures in a row: {detail}'
            self.discard('not_ready')

    def _restart(self, detail: str) -> None:
        """Load a lost engine again, unless there were too many failures."""
        if self.state == 'ready' and self._make_host is not None:
            self.restarts += 1
            self._begin_load(self._make_host)
            self.error = f'{detail}; restart {self.restarts}'
