"""An engine in a process of its own: it may hang or die, and the node goes on.

The process ends with the node, whatever it does then. server.py is its other side.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
import multiprocessing
import os
import signal
import subprocess
import sys
from typing import Any

from ...data_types import Prediction
from ...errors import BadInput
from .jobs import Answer, Engine, EngineLost, Failure, InferenceFailed, InferenceJob, Reply
from .shared_frames import JobSender

SERVER = 'alpamayo_ros.runtime.serving.server'
END_LIMIT_S = 5.0  # for the kernel to take a process away


class EngineProcess:
    """The host in another process, which is started and has loaded the engine at the end of init.

    start: as the engine is made there; it is pickled, so it is a function that can be imported,
    with its arguments. limit_s: longest job; then the process is ended. Raises BadInput for an
    engine that cannot be loaded. Methods are for one thread where nothing else is said. It must
    outlive the process: the kernel ends the process with it.
    """

    def __init__(self, start: Callable[[], Engine], limit_s: float) -> None:
        self._limit_s, self._gpu_peak_bytes = limit_s, 0
        self._connection, other_end = multiprocessing.Pipe()
        self._process = subprocess.Popen(
            # the kernel ends it when the node is killed, in the middle of an inference too
            ['setpriv', '--pdeathsig', 'KILL', sys.executable, '-m', SERVER]
            + [str(other_end.fileno())],
            pass_fds=[other_end.fileno()],
            env=os.environ | {'PYTHONPATH': os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # Ctrl-C is for the node
        )
        other_end.close()
        self.pid = self._process.pid
        self._sender = JobSender(self._connection)
        with ExitStack() as stack:
            stack.callback(self.close)
            try:
                self._provenance: dict[str, Any] = self._ask(self._connection.send, start, None)
            except InferenceFailed as error:
                raise BadInput(str(error)) from error
            stack.pop_all()

    def provenance(self) -> dict[str, Any]:
        """That of the engine."""
        return self._provenance

    def run(self, job: InferenceJob) -> Prediction | Reply:
        """Do a job; raises InferenceFailed, or EngineLost when there is no engine any more."""
        result: Prediction | Reply = self._ask(self._sender.send, job, self._limit_s)
        return result

    def check(self) -> None:
        """Raise EngineLost when the process has ended."""
        if self._process.poll() is not None:
            raise self._lose('engine_died', self._describe_end())

    def read_gpu_peak_bytes(self) -> int:
        """Return the peak of the process on its GPU, after its last job."""
        return self._gpu_peak_bytes

    def interrupt(self) -> None:
        """End the process; its job is lost."""
        self._process.kill()

    def close(self) -> None:
        """End the process, and wait until it has ended."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # held by a driver: it ends when that lets go
            self._process.wait(END_LIMIT_S)
        self._sender.close()
        self._connection.close()

    def _ask(self, send: Callable[[Any], None], message: Any, limit_s: float | None) -> Any:
        """Send a message, and return what comes back for it."""
        try:
            send(message)
            if not self._connection.poll(limit_s):
                text = f'the inference took longer than {limit_s:g} s, its process is ended'
                raise self._lose('engine_hung', text)
            answer: Answer = self._connection.recv()
        except (EOFError, OSError) as error:  # nobody is there any more
            raise self._lose('engine_died', self._describe_end()) from error
        self._gpu_peak_bytes = answer.gpu_peak_bytes
        if not isinstance(answer.value, Failure):
            return answer.value
        failure = answer.value
        if failure.is_gpu_lost:
            raise self._lose('gpu_lost', failure.detail)
        raise InferenceFailed(failure.reason, failure.detail)

    def _lose(self, reason: str, detail: str) -> EngineLost:
        self.close()
        return EngineLost(reason, detail)

    def _describe_end(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_LIMIT_S)
        status = self._process.returncode
        if status is None:
            return "the engine's process no longer answers"
        how = signal.Signals(-status).name if status < 0 else f'status {status}'
        return f"the engine's process ended with {how}"
