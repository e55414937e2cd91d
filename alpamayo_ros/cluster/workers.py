"""Performs work items one after the other in this process, or hands them to a Ray cluster.

Both ways call the same functions, so a result depends on its item alone: not on the worker, the
order or the number of workers. Ray is an extra, which nothing imports before a cluster is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from ..errors import BadInput

LOCAL, REMOTE = 'local', 'ray://'
Item = TypeVar('Item')
Result = TypeVar('Result')
Perform = Callable[[Item], Result]
Begin = Callable[[], Perform[Item, Result]]  # what is slow, such as a checkpoint, once a worker


@dataclass(frozen=True)
class Cluster:
    """Where workers run.

    address: '' for this process, 'local' for Ray on this machine, or ray://HOST[:PORT]. workers:
    how many; None for one per GPU, or per CPU for the device cpu. Raises BadInput for another
    address, and for a GPU by number, since Ray gives each worker its own.
    """

    address: str = ''
    workers: int | None = None
    device: str = 'cpu'

    def __post_init__(self) -> None:
        if self.address not in ('', LOCAL) and not self.address.startswith(REMOTE):
            raise BadInput(f'cluster {self.address}: expected {LOCAL} or {REMOTE}HOST')
        if self.address and self.device.startswith('cuda:'):
            raise BadInput(f'device {self.device}: expected cuda: Ray gives each worker its GPU')


@dataclass(frozen=True)
class Outcome(Generic[Item, Result]):
    """What became of an item: its result, or None and in `lost` why workers died of it."""

    item: Item
    result: Result | None
    lost: str = ''


class Workers(Protocol[Item, Result]):
    """Workers that have begun, or begin with the first item."""

    def run(self, items: Iterable[Item]) -> Iterator[Outcome[Item, Result]]:
        """Perform all items and yield each outcome as it comes, in any order.

        What `begin` or `perform` raise comes out of here.
        """


@contextmanager
def start_workers(begin: Begin[Item, Result], cluster: Cluster) -> Iterator[Workers[Item, Result]]:
    """Workers in which `begin` is called once; they end with the context.

    On a cluster, `begin`, items and results are pickled. Raises BadInput without Ray and when the
    cluster cannot be reached or lacks what a worker needs.
    """
    if not cluster.address:
        yield _ThisProcess(begin)
        return
    try:
        from .ray_workers import RayWorkers  # which sets what Ray reads when it is imported
    except ImportError:
        raise BadInput(
            "cluster: Ray is not installed: pip install 'alpamayo_ros[cluster]'"
        ) from None
    workers: Any = RayWorkers(begin, cluster)
    try:
        yield workers
    finally:
        workers.stop()


class _ThisProcess(Generic[Item, Result]):
    """One worker: this process."""

    def __init__(self, begin: Begin[Item, Result]) -> None:
        self._begin = begin
        self._perform: Perform[Item, Result] | None = None

    def run(self, items: Iterable[Item]) -> Iterator[Outcome[Item, Result]]:
        for item in items:
            if self._perform is None:
                self._perform = self._begin()
            yield Outcome(item, self._perform(item))
