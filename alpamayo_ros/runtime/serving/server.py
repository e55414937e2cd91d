"""The engine's own process: loads an engine, then does one job after the other.

`python -m alpamayo_ros.runtime.serving.server DESCRIPTOR`; engine_process.py starts it, and
the end of the pipe ends it. Errors are values: they go back as a Failure.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection
import sys

from .. import memory
from .jobs import Answer, Failure, describe_error, explain_error, run_job
from .shared_frames import JobReceiver


def serve(connection: Connection) -> None:
    """Load the engine that the first message starts, and answer; then do jobs until the end."""
    pool = ThreadPoolExecutor(1, 'engine')
    receiver = JobReceiver(connection)
    load = pool.submit(connection.recv())
    if error := load.exception():
        connection.send(Answer(Failure('load', describe_error(error)), 0))
        return
    engine = load.result()
    connection.send(Answer(engine.provenance(), memory.read_gpu_peak_bytes()))
    while True:
        try:
            job = receiver.receive()
        except EOFError:  # the node has ended
            return
        done = pool.submit(partial(run_job, engine, job))
        error = done.exception()
        value = done.result() if error is None else _explain(error)
        connection.send(Answer(value, memory.read_gpu_peak_bytes()))


def _explain(error: BaseException) -> Failure:
    reason, detail = explain_error(error)
    if reason == 'out_of_memory':
        memory.release_cached()
    return Failure(reason, detail, reason != 'bad_image' and memory.is_gpu_lost())


if __name__ == '__main__':
    serve(Connection(int(sys.argv[1])))
