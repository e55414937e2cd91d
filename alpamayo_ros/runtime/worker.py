"""One thread owns the engine: loading, warm-up and every inference run on it, one at a time.

The newest context wins: at most one waits, and a newer one replaces it. Errors are values: they
come back as the result of a job, or as the reason of the state 'failed'. Knows no ROS.

All methods are for one thread, that of the owner, and never block. The engine's thread reports
back through `post`, which calls on the owner's thread, so nothing here needs a lock.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
import threading
import time
from typing import Any, Protocol

from .. import images
from ..data_types import Context, Prediction, SamplingOptions
from .memory import is_out_of_memory, release_cached

STATES = ('unloaded', 'loading', 'ready', 'failed')


class Engine(Protocol):
    """Anything that predicts from a context."""

    name: str
    options: SamplingOptions

    def infer(self, context: Context, seed: int) -> Prediction:
        """Predict; raises images.ImageError for a frame that cannot be decoded."""

    def provenance(self) -> dict[str, Any]:
        """What a result depends on besides the inputs."""


@dataclass(frozen=True)
class InferenceJob:
    """One inference to do. is_requested: somebody asked for this one while inference is paused."""

    context: Context
    seed: int
    options: SamplingOptions
    is_requested: bool = False


@dataclass(frozen=True)
class Result:
    """What became of a job: a prediction, or why there is none.

    reason: '' with a prediction, else 'bad_image', 'stale_input', 'out_of_memory' or
    'engine_error'; with is_discarded the reason that `discard` was given.
    """

    job: InferenceJob
    prediction: Prediction | None = None
    reason: str = ''
    detail: str = ''
    is_discarded: bool = False


class Worker:
    """Runs jobs on one engine.

    post(function, *arguments) calls a function soon on the owner's thread; it is called from the
    engine's. on_result gets the Result of every job that `submit` took and did not give back.
    find_staleness(context) is asked when a job begins: a sentence why the context is too old to be
    inferred, '' when it is not. After `max_failures` failed inferences in a row the state becomes
    'failed'.
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
        self.failures_in_a_row = 0
        self._post, self._on_result, self._max_failures = post, on_result, max_failures
        self._find_staleness = find_staleness
        self._thread: threading.Thread | None = None
        self._pool = ThreadPoolExecutor(1, 'engine', initializer=self._begin_thread)
        self._engine: Engine | None = None  # touched on the engine's thread only
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

    def load(self, make_engine: Callable[[], Engine]) -> None:
        """Replace the engine by a new one, made and warmed up on the engine's thread.

        Does nothing while a load is under way.
        """
        if self.state == 'loading':
            return
        self._begin('loading')
        self._run(self._load, self._on_loaded, make_engine)

    def unload(self) -> None:
        """Let go of the engine and its memory."""
        self._begin('unloaded')
        self._run(self._unload, self._on_unloaded)

    def submit(self, job: InferenceJob) -> InferenceJob | None:
        """Take a job; returns the one that waited and is dropped for it."""
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
        self._pool.shutdown(wait=False, cancel_futures=True)
        thread = self._thread  # none has begun: then it finds nothing to do
        if thread is None:
            return True
        thread.join(limit_s)
        return not thread.is_alive()

    def _begin_thread(self) -> None:
        self._thread = threading.current_thread()

    def _begin(self, state: str) -> None:
        self._generation += 1
        self.state, self.error, self.failures_in_a_row = state, '', 0
        self.discard('not_ready')

    def _run(self, work: Callable[..., Any], done: Callable[..., None], *arguments: Any) -> None:
        """Call work(*arguments) on the engine's thread, then done(generation, future) here."""
        future = self._pool.submit(work, *arguments)
        future.add_done_callback(partial(self._report, done, self._generation))

    def _report(self, done: Callable[..., None], generation: int, future: Future[Any]) -> None:
        if not self._stopped:
            self._post(done, generation, future)

    def _load(self, make_engine: Callable[[], Engine]) -> tuple[dict[str, Any], float]:
        self._unload()
        start = time.monotonic()
        self._engine = make_engine()
        return self._engine.provenance(), time.monotonic() - start

    def _unload(self) -> None:
        self._engine = None
        release_cached()

    def _on_loaded(self, generation: int, future: Future[Any]) -> None:
        if generation != self._generation:
            return
        error = future.exception()
        if error is not None:
            self.state, self.error = 'failed', describe_error(error)
        else:
            self.state = 'ready'
            self.provenance, self.load_s = future.result()
            self._next()

    def _on_unloaded(self, generation: int, future: Future[Any]) -> None:
        if generation == self._generation:
            self.provenance = {}

    def _next(self) -> None:
        if self.state != 'ready' or self._running is not None or self._waiting is None:
            return
        job, self._waiting = self._waiting, None
        staleness = self._find_staleness(job.context)  # it may have waited for a long inference
        if staleness:
            self._on_result(Result(job, reason='stale_input', detail=staleness))
            return
        self._running = job, time.monotonic()
        self._run(self._infer, self._on_inferred, job)

    def _infer(self, job: InferenceJob) -> Prediction:
        engine = self._engine
        if engine is None:  # the load that stood before this job in the queue has failed
            raise RuntimeError('no engine is loaded')
        start = time.perf_counter()
        engine.options = job.options
        try:
            prediction = engine.infer(job.context, job.seed)
        except images.ImageError as error:
            raise images.ImageError(images.find_broken_frame(job.context) or str(error)) from error
        total_ms = (time.perf_counter() - start) * 1e3
        return replace(prediction, timing_ms={**prediction.timing_ms, 'total': total_ms})

    def _on_inferred(self, generation: int, future: Future[Any]) -> None:
        assert self._running is not None
        (job, _), self._running = self._running, None
        discarded, self._discarded = self._discarded, ''
        result = _make_result(job, future)
        if result.reason == 'out_of_memory':
            self._pool.submit(release_cached)
        if generation == self._generation:
            self._count(result)
        self._on_result(Result(job, reason=discarded, is_discarded=True) if discarded else result)
        self._next()

    def _count(self, result: Result) -> None:
        """Stop inference after too many failures; an image that is broken is none of them."""
        if result.reason == 'bad_image':
            return
        self.failures_in_a_row = self.failures_in_a_row + 1 if result.reason else 0
        if self.failures_in_a_row >= self._max_failures:
            self.state = 'failed'
            self.error = f'{self.failures_in_a_row} failures in a row: {result.detail}'
            self.discard('not_ready')


def describe_error(error: BaseException) -> str:
    """One line of an error: its text, with the type where the text alone says little."""
    text = ' '.join(str(error).split())
    kind = type(error).__name__
    return text if kind in ('BadInput', 'ImageError') else f'{kind}: {text}' if text else kind


def _make_result(job: InferenceJob, future: Future[Any]) -> Result:
    error = future.exception()
    if error is None:
        return Result(job, prediction=future.result())
    if isinstance(error, images.ImageError):
        return Result(job, reason='bad_image', detail=describe_error(error))
    reason = 'out_of_memory' if is_out_of_memory(error) else 'engine_error'
    return Result(job, reason=reason, detail=describe_error(error))
