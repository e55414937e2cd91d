"""Measures every row of an evaluation in every loop, in this process or on a cluster.

Several evaluations may share a folder: its table then has the rows of all.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
import functools
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from ..cluster.workers import Workers, start_workers
from ..errors import BadInput
from ..ros.publishing.policy import Policies
from . import closed_loop, counterfactual, open_loop, parts
from .closed_loop import ClosedLoop
from .counterfactual import Counterfactuals
from .open_loop import OpenLoop
from .parts import Record
from .planners import BaselinePlanner, CheckpointPlanner
from .rows import EvaluationRow, make_rows
from .settings import EvaluationSettings, make_cluster

if TYPE_CHECKING:
    from .clips.clip_loop import ClipLoop

Advance = Callable[[float], object]
Progress = Callable[[str, float, float], Advance]
Loop = Union[OpenLoop, ClosedLoop, Counterfactuals, 'ClipLoop']
_PACKAGE = Path(__file__).parents[1]
# Code that figures depend on beside the world: planners, loops, metrics, and the node's policies.
_MEASURING = ('drives', 'metrics', 'ros/publishing', 'runtime')
_MEASURING_FILES = ('validity.py', 'geometry.py', 'data_types.py', 'context/route_text.py')


@dataclass(frozen=True)
class Group:
    """A work item: drives that a row plans together in a loop."""

    row: str
    loop: Loop
    drives: range


def measure_rows(
    settings: EvaluationSettings, rows: list[EvaluationRow], progress: Progress
) -> None:
    """Measure every part of the rows that the folder `out` does not have yet.

    progress: called with the name of a part, its amount of work and how much of it is done; it
    returns a function that is called with the work done since. Raises BadInput if `out` has parts
    of other settings, and if workers are lost again and again.
    """
    folder, wanted = Path(settings.out), list(_list_parts(settings, rows))
    parts.require_same_settings(folder, [made_from for _, _, made_from in wanted])
    cluster = make_cluster(settings)
    advance: Advance = _ignore
    if cluster.address:
        begin = functools.partial(_begin_on_cluster, settings)
    else:  # progress within a group is known
        begin = functools.partial(_begin, rows, lambda amount: advance(amount))
    with start_workers(begin, cluster) as workers:
        for row, loop, made_from in wanted:
            name, size, each = _describe_work(settings, row, loop)
            known = parts.count_known_drives(folder, made_from)
            advance = progress(name, each * loop.drives, each * known)
            finish = functools.partial(_advance_by_group, advance, each)
            measure = functools.partial(
                _measure_in_order, workers, row.name, loop, finish if cluster.address else _ignore
            )
            parts.complete_part(folder, made_from, size, measure)


def _describe_work(
    settings: EvaluationSettings, row: EvaluationRow, loop: Loop
) -> tuple[str, int, float]:
    """Name of a part, drives that are measured together, and the work of one drive."""
    if isinstance(loop, OpenLoop):
        group, work = max(settings.batch // settings.moments, 1), float(settings.moments)
        return f'{row.name}, open loop', group, work
    if isinstance(loop, Counterfactuals):
        return f'{row.name}, edited pictures', settings.batch, 1.0
    if not isinstance(loop, ClosedLoop):
        return f'{row.name}, clips', settings.batch, 1.0
    return f'{row.name}, {loop.latency_s:g} s late', settings.batch, loop.seconds


def _begin(rows: Iterable[EvaluationRow], advance: Advance) -> Callable[[Group], list[Record]]:
    """Function that measures a group of drives; rows load their checkpoints at the first plan."""
    by_name = {row.name: row for row in rows}

    def measure(group: Group) -> list[Record]:
        row, loop = by_name[group.row], group.loop
        if isinstance(loop, OpenLoop):
            records = open_loop.measure(row.planner, loop, group.drives, row.size)
            advance(len(records))
        elif isinstance(loop, Counterfactuals):
            records = counterfactual.measure(row.planner, loop, group.drives, row.size)
            advance(len(group.drives))
        elif isinstance(loop, ClosedLoop):
            assert row.closed is not None
            records = closed_loop.measure(row.closed, loop, group.drives, row.size, advance)
        else:
            from .clips.clip_loop import measure as measure_clips  # an extra

            assert isinstance(row.planner, BaselinePlanner | CheckpointPlanner)
            records = measure_clips(row.planner, loop, group.drives)
            advance(len(group.drives))
        return records

    return measure


def _begin_on_cluster(settings: EvaluationSettings) -> Callable[[Group], list[Record]]:
    import torch

    torch.set_num_threads(max((os.cpu_count() or 1) // (settings.workers or 1), 1))
    return _begin(make_rows(settings), _ignore)


def _measure_in_order(
    workers: Workers[Group, list[Record]],
    row: str,
    loop: Loop,
    finish: Callable[[range], object],
    groups: list[range],
) -> Iterator[list[Record]]:
    """Records of groups of drives in their order, though workers finish in any."""
    found: dict[range, list[Record]] = {}
    waiting = iter(groups)
    wanted = next(waiting, None)
    for outcome in workers.run([Group(row, loop, drives) for drives in groups]):
        drives = outcome.item.drives
        if outcome.result is None:
            raise BadInput(f'{row}, drives {drives.start} to {drives.stop - 1}: {outcome.lost}')
        found[drives] = outcome.result
        finish(drives)
        while wanted in found:
            yield found.pop(wanted)
            wanted = next(waiting, None)


def _advance_by_group(advance: Advance, each: float, drives: range) -> None:
    advance(each * len(drives))


def _ignore(_: object) -> None:
    pass


def _list_parts(
    settings: EvaluationSettings, rows: list[EvaluationRow]
) -> Iterator[tuple[EvaluationRow, Loop, dict[str, Any]]]:
    """Each row in each of its loops, and what the part is made from."""
    code = {'world': hash_world(), 'code': hash_measuring_code()}
    if settings.clips:
        yield from _list_clip_parts(settings, rows, code)
        return
    drives = settings.closed_drives or settings.drives
    which = settings.split, settings.drives, settings.seconds
    opened = OpenLoop(*which, settings.moments, settings.seed)
    edited = Counterfactuals(*which, settings.seed)
    policies = Policies(
        on_invalid=settings.on_invalid,
        expired_path=settings.expired_path,
        retime=settings.retime,
        on_too_fast=settings.on_too_fast,
        trusted_distance_m=settings.trusted_distance_m,
    )
    closed = [
        ClosedLoop(
            settings.split,
            drives,
            settings.seconds,
            latency_s,
            policies,
            settings.seed,
            settings.displaced_m,
        )
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


def _list_clip_parts(
    settings: EvaluationSettings, rows: list[EvaluationRow], code: Mapping[str, str]
) -> Iterator[tuple[EvaluationRow, Loop, dict[str, Any]]]:
    """Each row that needs no world, in the open loop over clips."""
    try:
        from .clips.clip_loop import choose_clips
    except ImportError as error:
        raise BadInput(
            f"clips: {error.name} is not installed: pip install 'alpamayo_ros[clips]'"
        ) from None
    clip_list = Path(settings.clip_list) if settings.clip_list else None
    loop = choose_clips(Path(settings.clips), clip_list, settings.seed)
    made_from = {'kind': 'open', **loop.describe(), 'samples': settings.samples}
    for row in rows:
        about = {'row': row.name, 'kind': row.kind, 'planner': row.about, **code}
        yield row, loop, about | {'loop': made_from}


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
