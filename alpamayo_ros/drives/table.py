"""From the parts of an evaluation to its table: means with intervals as JSON and CSV.

A function of the records alone, so equal records give equal files. Knows no planner and no page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
import csv
from dataclasses import asdict
import io
from typing import Any, cast

from ..json_types import Figure, Figures, OpenLoop, Table, TableRow
from ..metrics.bootstrap import Bootstrap, Interval
from ..metrics.evaluation import CLOSED_LOOP_METRICS, DISTANCE_METRICS, OPEN_LOOP_METRICS
from .parts import Part, Record

KINDS = ('reference', 'model', 'ablation', 'baseline', 'expert')  # in the order of the table


def tabulate(parts: Iterable[Part], rounds: int, seed: int) -> Table:
    """The table of all parts: rows by kind, figures as {mean, low, high, n} or None.

    open: `all`, by `cause` and by `weather`; `ratio`: to the reference, on equal moments. closed:
    by latency. The parts fit together: parts.require_fitting.
    """
    found = list(parts)
    opened = {p.made_from['row']: p for p in found if p.made_from['loop']['kind'] == 'open'}
    reference = next(
        (p.records for p in opened.values() if p.made_from['kind'] == 'reference'), None
    )
    rows: list[TableRow] = []
    order = sorted(opened.values(), key=_get_sort_key)
    for part in order:
        name = part.made_from['row']
        draws = Bootstrap(part.drives, rounds, seed)
        closed = [
            p for p in found
            if p.made_from['row'] == name and p.made_from['loop']['kind'] == 'closed'
        ]  # fmt: skip
        rows.append({
            'name': name,
            'kind': part.made_from['kind'],
            'planner': part.made_from['planner'],
            'open': _summarize_open(part.records, reference, draws),
            'closed': {
                f'{p.made_from["loop"]["latency_s"]:g}': _summarize_closed(p, rounds, seed)
                for p in sorted(closed, key=lambda p: float(p.made_from['loop']['latency_s']))
            },
        })  # fmt: skip
    loops = {p.made_from['loop']['kind']: p.made_from['loop'] for p in found}
    loops = {kind: {k: v for k, v in x.items() if k != 'latency_s'} for kind, x in loops.items()}
    return {
        'rows': rows,
        'loops': dict(sorted(loops.items())),
        'bootstrap': {'rounds': rounds, 'seed': seed},
        'world_sha256': found[0].made_from['world'] if found else None,
        'notes': _write_notes(rows),
    }


def to_csv(table: Table) -> str:
    """One line for each figure: row, loop, group, name, metric, mean, low, high, n."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(('row', 'loop', 'group', 'name', 'metric', 'mean', 'low', 'high', 'n'))
    for row in table['rows']:
        groups: list[tuple[str, str, str, Mapping[str, Any]]] = [
            ('open', 'all', '', row['open']['all']),
            ('open', 'ratio', '', row['open']['ratio'] or {}),
        ]
        for group in ('cause', 'weather'):
            groups += [('open', group, name, x) for name, x in row['open'][group].items()]
        groups += [('closed', 'latency_s', name, x) for name, x in row['closed'].items()]
        for loop, group, name, figures in groups:
            for metric, figure in figures.items():
                if isinstance(figure, dict) and 'mean' in figure:
                    values = (figure[x] for x in ('mean', 'low', 'high', 'n'))
                    writer.writerow((row['name'], loop, group, name, metric, *values))
    return text.getvalue()


def _summarize_open(
    records: Sequence[Record], reference: Sequence[Record] | None, draws: Bootstrap
) -> OpenLoop:
    def figures(kept: Sequence[Record]) -> Figures:
        drives = [record['drive'] for record in kept]
        return {
            metric.key: _to_figure(draws.mean([r.get(metric.key) for r in kept], drives))
            for metric in OPEN_LOOP_METRICS
        }

    def by_group(group: str) -> dict[str, Figures]:
        names = _sort_by_frequency(record[group] for record in records)
        return {name: figures([r for r in records if r[group] == name]) for name in names}

    drives = [record['drive'] for record in records]
    ratio: Figures | None = None
    if reference is not None:
        ratio = {
            m.key: _to_figure(
                draws.ratio([r.get(m.key) for r in records], [r.get(m.key) for r in reference],
                            drives)
            )
            for m in DISTANCE_METRICS
        }  # fmt: skip
    return {
        'all': figures(records),
        'ratio': ratio,
        'cause': by_group('cause'),
        'weather': by_group('weather'),
    }


def _summarize_closed(part: Part, rounds: int, seed: int) -> dict[str, Any]:
    draws = Bootstrap(part.drives, rounds, seed)
    records, drives = part.records, [record['drive'] for record in part.records]

    def mean(value: Callable[[Record], float]) -> Figure | None:
        return _to_figure(draws.mean([value(record) for record in records], drives))

    figures: dict[str, Any] = {
        metric.key: mean(lambda record, key=metric.key: record[key])  # type: ignore[misc]
        for metric in CLOSED_LOOP_METRICS
        if metric.key != 'progress'
    }
    distance, expert = ([r[key] for r in records] for key in ('distance_m', 'expert_m'))
    figures['progress'] = _to_figure(draws.ratio(distance, expert, drives))
    held: Counter[str] = Counter()
    for record in records:
        held.update(record['held_back'])
    faults = Counter(f'{r["end"]}: {r["cause"]}' for r in records if r['end'] != 'done')
    return figures | {
        'ended_s': [record['time_s'] for record in records],
        'clean_drives': [record['end'] == 'done' for record in records],
        'plans': sum(record['plans'] for record in records),
        'held_back': dict(sorted(held.items())),
        'faults': dict(faults.most_common()),
    }


def _get_sort_key(part: Part) -> tuple[int, float, str]:
    about = part.made_from
    return KINDS.index(about['kind']), -float(about['planner'].get('bits', 0)), about['row']


def _write_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    notes = []
    if any(row['planner'].get('untrained') for row in rows):
        notes.append(
            'The checkpoint is untrained: its weights are random, so its paths and sentences mean '
            'nothing. They show that the chain works.'
        )
    if not any(row['kind'] == 'reference' for row in rows):
        notes.append(
            'There is no row of 16 bits: the checkpoint is packed and no reference was given, so '
            'nothing is compared with it.'
        )
    return notes


def _sort_by_frequency(names: Iterable[str]) -> list[str]:
    counts = Counter(names)
    return sorted(counts, key=lambda name: (-counts[name], name))


def _to_figure(interval: Interval | None) -> Figure | None:
    return None if interval is None else cast(Figure, asdict(interval))
