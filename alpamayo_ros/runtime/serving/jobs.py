"""Jobs for an engine, their results, and the interface of the place where the engine runs.

Knows no thread and no process: engine_process.py has the host in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import os
from typing import Any, NamedTuple, Protocol

from ... import images
from ...data_types import Context, Prediction, SamplingOptions
from ...errors import BadInput
from ..memory import is_out_of_memory, read_gpu_peak_bytes


class Engine(Protocol):
    """Anything that predicts from a context."""

    name: str
    options: SamplingOptions

    def infer(self, context: Context, seed: int) -> Prediction:
        """Predict; raises images.ImageError for a frame that cannot be decoded."""

    def answer(self, context: Context, question: str, seed: int) -> tuple[str, bool]:
        """Answer a question in words; the text, and whether it has ended.

        Raises BadInput for a question that cannot be asked, ImageError as `infer`.
        """

    def provenance(self) -> dict[str, Any]:
        """What a result depends on besides the inputs."""


class Reply(NamedTuple):
    """What an engine says to a question, and whether that has ended within the budget."""

    text: str
    has_ended: bool


@dataclass(frozen=True)
class InferenceJob:
    """One inference to do: a path, or with a question a reply in words.

    is_requested: somebody asked for this one while inference is paused.
    """

    context: Context
    seed: int
    options: SamplingOptions
    is_requested: bool = False
    question: str = ''


@dataclass(frozen=True)
class Result:
    """What became of a job: a prediction or a reply, or why there is none.

    reason: '' with one, else 'bad_image', 'bad_question', 'stale_input', 'out_of_memory',
    'engine_error' or that of an EngineLost; with is_discarded the reason that `discard` was given.
    """

    job: InferenceJob
    prediction: Prediction | None = None
    reply: Reply | None = None
    reason: str = ''
    detail: str = ''
    is_discarded: bool = False


class InferenceFailed(RuntimeError):
    """A job failed in another process, for a reason as in Result; the text is one line."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class EngineLost(InferenceFailed):
    """An engine that can do no more: 'engine_hung', 'engine_died' or 'gpu_lost'."""


@dataclass(frozen=True)
class Failure:
    """Why another process has no result; reason and detail as in Result.

    is_gpu_lost: the GPU answers this process with errors only.
    """

    reason: str
    detail: str
    is_gpu_lost: bool = False


@dataclass(frozen=True)
class Answer:
    """What another process sends back: a result or a Failure, and the peak of its GPU memory."""

    value: Any
    gpu_peak_bytes: int


class EngineHost(Protocol):
    """A loaded engine in the place where it runs.

    pid: number of the process that holds it.
    """

    pid: int

    def provenance(self) -> dict[str, Any]:
        """That of the engine."""

    def run(self, job: InferenceJob) -> Prediction | Reply:
        """Do a job; raises what the engine raises, InferenceFailed or EngineLost."""

    def check(self) -> None:
        """Raise EngineLost when the engine is gone."""

    def read_gpu_peak_bytes(self) -> int:
        """Return the peak of what the engine's process had on its GPU; any thread may ask."""

    def interrupt(self) -> None:
        """End a job that nobody waits for any more, if that is possible; any thread may ask."""

    def close(self) -> None:
        """Let go of the engine."""


class EngineHere:
    """The host in this process; its thread is the caller's."""

    def __init__(self, start: Callable[[], Engine]) -> None:
        self._engine = start()
        self.pid = os.getpid()

    def provenance(self) -> dict[str, Any]:
        """That of the engine."""
        return self._engine.provenance()

    def run(self, job: InferenceJob) -> Prediction | Reply:
        """Do a job."""
        return run_job(self._engine, job)

    def check(self) -> None:
        """Do nothing: this process is there."""

    def read_gpu_peak_bytes(self) -> int:
        """Return the peak of this process."""
        return read_gpu_peak_bytes()

    def interrupt(self) -> None:
        """Do nothing: a thread cannot be ended."""

    def close(self) -> None:
        """Do nothing: the engine goes with its host."""


def run_job(engine: Engine, job: InferenceJob) -> Prediction | Reply:
    """Do a job; the error for a frame that cannot be decoded names camera and time.

    Raises InferenceFailed for a question that cannot be asked.
    """
    engine.options = job.options
    try:
        if job.question:
            return Reply(*engine.answer(job.context, job.question, job.seed))
        return engine.infer(job.context, job.seed)
    except BadInput as error:
        if not job.question:
            raise
        raise InferenceFailed('bad_question', str(error)) from error
    except images.ImageError as error:
        raise images.ImageError(images.find_broken_frame(job.context) or str(error)) from error


def explain_error(error: BaseException) -> tuple[str, str]:
    """Reason, as in Result, and one line of text of what a job raised."""
    if isinstance(error, InferenceFailed):
        return error.reason, str(error)
    if isinstance(error, images.ImageError):
        return 'bad_image', describe_error(error)
    return 'out_of_memory' if is_out_of_memory(error) else 'engine_error', describe_error(error)


def describe_error(error: BaseException) -> str:
    """One line of an error: its text, with the type where the text alone says little."""
    text = ' '.join(str(error).split())
    kind = type(error).__name__
    if kind in ('BadInput', 'ImageError') or isinstance(error, InferenceFailed):
        return text
    return f'{kind}: {text}' if text else kind
