"""Workers on a Ray cluster: one actor per GPU or CPU, each with one item at a time.

An item of a lost worker goes to another one; an item that TRIES workers were lost with is given
up. A worker that is lost is replaced, and gets its first item once it has begun.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
import logging
import os
from typing import Any
import warnings

os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')  # nothing about a vehicle's work goes out
os.environ.setdefault(
    'RAY_worker_niceness', '0'
)  # as this process; Ray's own is 15, the last in line
os.environ.setdefault('RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO', '0')  # else Ray warns at each start
# A Ray that is started here then has the address 127.0.0.1; connecting to others is not affected.
os.environ.setdefault('RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER', '0')

import ray
from ray.exceptions import RayError, RayTaskError

from ..errors import BadInput
from .workers import LOCAL, Begin, Cluster, Item, Outcome, Result

TRIES = 3
STORE_BYTES = 512 << 20  # of a local Ray, for results on their way


@dataclass
class _Job:
    item: Any
    losses: int = 0


class _Worker:
    """The actor: calls `begin` once, then performs items."""

    def begin(self, begin: Begin[Any, Any]) -> None:
        self._perform: Callable[[Any], Any] = begin()

    def perform(self, item: Any) -> Any:
        return self._perform(item)


class RayWorkers:
    """Actors of a Ray cluster, from the first `run` to `stop`."""

    def __init__(self, begin: Begin[Item, Result], cluster: Cluster) -> None:
        self._has_connected = connect(cluster)
        self._begin = ray.put(begin)
        self._idle: deque[Any] = deque()
        self._busy: dict[Any, tuple[Any, _Job | None]] = {}  # of a job, or at its beginning
        self._lost_beginnings = 0
        try:
            count, self._resources = _plan_workers(cluster)
        except BadInput:
            self.stop()
            raise
        for _ in range(count):
            self._start()

    def run(self, items: Iterable[Item]) -> Iterator[Outcome[Item, Result]]:
        """Perform all items; see `Workers.run`. Raises BadInput when no worker can begin."""
        waiting, again = iter(items), deque[_Job]()

        def take() -> _Job | None:
            if again:
                return again.popleft()
            return next((_Job(item) for item in waiting), None)

        while True:
            while self._idle and (job := take()):
                actor = self._idle.popleft()
                self._busy[actor.perform.remote(job.item)] = actor, job
            if not again and not any(job for _, job in self._busy.values()):
                if self._idle or (rest := take()) is None:
                    return
                again.append(rest)
            (ready,), _ = ray.wait(list(self._busy), num_returns=1)
            actor, job = self._busy.pop(ready)
            try:
                result = ray.get(ready)
            except RayTaskError as error:
                raise error.cause from error
            except RayError as error:
                outcome = self._replace(actor, job, _shorten(error))
                if outcome:
                    yield outcome
                elif job:
                    again.append(job)
                continue
            self._idle.append(actor)
            if job:
                self._lost_beginnings = 0
                yield Outcome(job.item, result)

    def stop(self) -> None:
        """End the workers, and the local Ray or the connection that they came with."""
        for actor in [*self._idle, *(actor for actor, _ in self._busy.values())]:
            ray.kill(actor)
        self._idle.clear()
        self._busy.clear()
        if self._has_connected:
            ray.shutdown()

    def _start(self) -> None:
        actor: Any = ray.remote(_Worker).options(**self._resources).remote()
        self._busy[actor.begin.remote(self._begin)] = actor, None

    def _replace(self, actor: Any, job: _Job | None, why: str) -> Outcome[Any, Any] | None:
        """Replace a lost worker; returns the outcome of its job when that is given up."""
        ray.kill(actor)  # it may live on behind a lost connection
        if job is None:
            self._lost_beginnings += 1
            if self._lost_beginnings >= TRIES:
                raise BadInput(
                    f'cluster: {TRIES} workers were lost before they could begin: {why}'
                )
        self._start()
        if job:
            job.losses += 1
            if job.losses >= TRIES:
                return Outcome(job.item, None, f'{TRIES} workers were lost with it: {why}')
        return None


def connect(cluster: Cluster) -> bool:
    """Connect to the cluster; returns whether that was needed: a process has one connection.

    A local Ray is a new one, for this machine alone, since it runs what it is sent.
    """
    if ray.is_initialized():
        return False
    try:
        if cluster.address == LOCAL:
            ray.init(
                LOCAL,
                num_cpus=cluster.workers or _count_own_cpus(),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=STORE_BYTES,
            )
        else:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')  # the error below says it in one line
                ray.init(cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise BadInput(
            f'cluster {cluster.address}: {_shorten(error)}; expected the head of a Ray there, and '
            'its token in this environment (RAY_AUTH_MODE=token, RAY_AUTH_TOKEN)'
        ) from error
    return True


def _count_own_cpus() -> int | None:
    """CPUs that this process may use, which Ray does not ask for; None when those are all."""
    own = len(os.sched_getaffinity(0))
    return own if own < (os.cpu_count() or own) else None


def _plan_workers(cluster: Cluster) -> tuple[int, dict[str, float]]:
    """How many workers there are, and what of the cluster each of them takes."""
    found = ray.cluster_resources()
    kind = 'CPU' if cluster.device == 'cpu' else 'GPU'
    total = int(found.get(kind, 0))
    if not total:
        raise BadInput(f'cluster {cluster.address}: it has no {kind}')
    if kind == 'CPU':
        return cluster.workers or total, {'num_cpus': 1}
    if cluster.workers and cluster.workers > total:  # several share a GPU
        return cluster.workers, {'num_cpus': 1, 'num_gpus': total / cluster.workers}
    return cluster.workers or total, {'num_cpus': 1, 'num_gpus': 1}


def _shorten(error: Exception) -> str:
    """First line of an error's text."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
