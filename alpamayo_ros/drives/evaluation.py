"""Running an evaluation: measures every row in every loop, in one process or shared by workers.

Several evaluations may share a folder: its table then has the rows of all.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
import functools
import hashlib
import multiprocessing
import os
from pathlib import Path
from typing import Any

from ..ros.publishing.policy import Policies
from . import closed_loop, counterfactual, open_loop, parts
from .closed_loop import ClosedLoop
from .counterfactual import Counterfactuals
from .open_loop import OpenLoop
from .parts import Record
from .rows import EvaluationRow, make_rows
from .settings import EvaluationSettings

Progress = Callable[[str, float, float], Callable[[float], object]]
Loop = OpenLoop | ClosedLoop | Counterfactuals
_PACKAGE = Path(__file__).parents[1]
# Code that figures depend on beside the world: planners, loops, metrics, and the node's policies.
_MEASURING = ('drives', 'metrics', 'ros/publishing', 'runtime')
_MEASURING_FILES = ('validity.py', 'geometry.py', 'data_types.py')


def measure_rows(
    settings: EvaluationSettings, rows: list[EvaluationRow], progress: Progress
) -> None:
    """Measure every part of the rows that the folder `out` does not have yet.

    progress: called with the name of a part, its amount of work and how much of it is done; it
    returns a function that is called with the work done since. Raises BadInput if `out` has parts
    of other settings.
    """
    folder, wanted = Path(settings.out), list(_list_parts(settings, rows))
    parts.require_same_settings(folder, [made_from for _, _, made_from in wanted])
    with _start_workers(settings) as pool:
        for row, loop, made_from in wanted:
            name, group, each = _describe_work(settings, row, loop)
            known = parts.count_known_drives(folder, made_from)
            advance = progress(name, each * loop.drives, each * known)
            measure = (
                _measure if pool is None else functools.partial(_measure_with_workers, pool, each)
            )
            parts.complete_part(
                folder, made_from, group, functools.partial(measure, row, loop, advance)
            )


def _describe_work(
    settings: EvaluationSettings, row: EvaluationRow, loop: Loop
) -> tuple[str, int, float]:
    """Name of a part, drives that are measured together, and the work of one drive."""
    if isinstance(loop, OpenLoop):
        group, work = max(settings.batch // settings.moments, 1), float(settings.moments)
        return f'{row.name}, open loop', group, work
    if isinstance(loop, Counterfactuals):
        return f'{row.name}, edited pictures', settings.batch, 1.0
    return f'{row.name}, {loop.latency_s:g} s late', settings.batch, loop.seconds


def _measure(
    row: EvaluationRow,
    loop: Loop,
    advance: Callable[[float], object],
    groups: Iterable[Sequence[int]],
) -> Iterator[list[Record]]:
    for drives in groups:
        if isinstance(loop, OpenLoop):
            yield open_loop.measure(row.planner, loop, drives, row.size, advance)
        elif isinstance(loop, Counterfactuals):
            yield counterfactual.measure(row.planner, loop, drives, row.size, advance)
        else:
            assert row.closed is not None
            yield closed_loop.measure(row.closed, loop, drives, row.size, advance)


def _start_workers(
    settings: EvaluationSettings,
) -> AbstractContextManager[ProcessPoolExecutor | None]:
    """Processes that measure groups of drives, or None for this process alone."""
    if settings.workers == 1:
        return nullcontext()
    # torch's threads do not survive a fork
    context = multiprocessing.get_context('spawn')
    return ProcessPoolExecutor(settings.workers, context, _begin_worker, (settings,))


_rows_of_worker: dict[str, EvaluationRow] = {}


def _begin_worker(settings: EvaluationSettings) -> None:
    import torch

    torch.set_num_threads(max((os.cpu_count() or 1) // settings.workers, 1))
    _rows_of_worker.update({row.name: row for row in make_rows(settings)})


def _measure_group(name: str, loop: Loop, drives: Sequence[int]) -> list[Record]:
    return next(_measure(_rows_of_worker[name], loop, lambda amount: None, [drives]))


def _measure_with_workers(
    pool: ProcessPoolExecutor,
    each: float,
    row: EvaluationRow,
    loop: Loop,
    advance: Callable[[float], object],
    groups: list[range],
) -> Iterator[list[Record]]:
    """As _measure, shared by workers; each: the work of a drive."""
    coming = [pool.submit(_measure_group, row.name, loop, drives) for drives in groups]
    try:
        for drives, found in zip(groups, coming, strict=True):
            yield found.result()
            advance(each * len(drives))
    finally:
        for future in coming:
            future.cancel()


def _list_parts(
    settings: EvaluationSettings, rows: list[EvaluationRow]
) -> Iterator[tuple[EvaluationRow, Loop, dict[str, Any]]]:
    """Each row in each of its loops, and what the part is made from."""
    code = {'world': hash_world(), 'code': hash_measuring_code()}
    drives = settings.closed_drives or settings.drives
    which = settings.split, settings.drives, settings.seconds
    opened = OpenLoop(*which, settings.moments, settings.seed)
    edited = Counterfactuals(*which, settings.seed)
    policies = Policies(
        on_invalid=settings.on_invalid,
        expired_path=settings.expired_path,
        retime=settings.retime,
    )
    closed = [
        ClosedLoop(settings.split, drives, settings.seconds, latency_s, policies, settings.seed)
        for latency_s in settings.latencies_s
    ]
    samples = {'samples': settings.samples}
    for row in rows:
        about = {'row': row.name, 'kind': row.kind, 'planner': row.about, **code}
        yield row, opened, about | {'loop': {'kind': 'open'} | asdict(opened) | samples}
        if row.is_edited and settings.counterfactuals:
            loop = {'kind': 'counterfactual'} | asdict(edited) | samples
            yield row, edited, about | {'loop': loop}
        for late in closed if row.closed is not None else ():
            loop = {'kind': 'closed'} | asdict(late) | {'samples': settings.closed_samples}
            yield row, late, about | {'loop': loop}


def hash_world() -> str:
    """Hash of the code that makes the drives: with other code they are other drives."""
    return _hash_code((_PACKAGE / 'world').rglob('*.py'))


def hash_measuring_code() -> str:
    """Hash of the code that plans, drives and measures beside the world and the model."""
    files = [_PACKAGE / name for name in _MEASURING_FILES]
    for folder in _MEASURING:
        files += (_PACKAGE / folder).rglob('*.py')
    return _hash_code(files)


def _hash_code(files: Iterable[Path]) -> str:
    """Hash of what files do: comments, docstrings and layout do not count."""
    digest = hashlib.sha256()
    for file in sorted(files):
        tree = ast.parse(file.read_bytes())
        for node in ast.walk(tree):
            documented = ast.Module | ast.ClassDef | ast.FunctionDef
            if isinstance(node, documented) and ast.get_docstring(node) is not None:
                del node.body[0]
        digest.update(file.relative_to(_PACKAGE).as_posix().encode() + ast.dump(tree).encode())
    return digest.hexdigest()
