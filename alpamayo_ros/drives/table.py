"""The table of an evaluation: figures with intervals from the records of its parts, and as CSV.

The table is a function of the records alone, so that equal records give equal files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
import csv
import io
from typing import Any

from ..json_types import Facts, Figure, Figures, OpenLoopFigures, Table, TableRow
from ..metrics.bootstrap import Bootstrap, Interval
from ..metrics.driving_score import MULTIPLIERS
from ..metrics.evaluation import (
    CLOSED_LOOP_METRICS,
    COUNTERFACTUAL_METRICS,
    DEMANDS,
    DISTANCE_METRICS,
    OCCASIONS,
    OPEN_LOOP_METRICS,
    SCORE,
    Metric,
)
from .parts import Part, Record

KINDS = ('reference', 'model', 'ablation', 'baseline', 'expert')  # in the order of the table


def tabulate(parts: Iterable[Part], rounds: int, seed: int) -> Table:
    """The table of all parts: rows by kind, figures as {mean, low, high, n} or None.

    open: `all`, by `cause` and by `weather`; `ratio`: to the reference, on equal moments. closed:
    by latency. counterfactual: by edit. The parts fit together: parts.require_same_settings.
    """
    found = list(parts)
    by_kind = {
        kind: [part for part in found if part.made_from['loop']['kind'] == kind]
        for kind in ('open', 'closed', 'counterfactual')
    }
    opened = {part.made_from['row']: part for part in by_kind['open']}
    reference = next(
        (part.records for part in opened.values() if part.made_from['kind'] == 'reference'), None
    )
    rows: list[TableRow] = []
    for part in sorted(opened.values(), key=_get_sort_key):
        name = part.made_from['row']
        draws = Bootstrap(part.drives, rounds, seed)
        closed = [x for x in by_kind['closed'] if x.made_from['row'] == name]
        edited = [x for x in by_kind['counterfactual'] if x.made_from['row'] == name]
        rows.append({
            'name': name,
            'kind': part.made_from['kind'],
            'planner': part.made_from['planner'],
            'k': _get_k(part.records) or 0,
            'open': _summarize_open(part.records, reference, draws),
            'closed': {
                f'{_get_latency(x):g}': _summarize_closed(x, rounds, seed)
                for x in sorted(closed, key=_get_latency)
            },
            'counterfactual': _summarize_edits(edited[0], draws) if edited else {},
        })  # fmt: skip
    loops = {part.made_from['loop']['kind']: part.made_from['loop'] for part in found}
    loops = {
        kind: {key: value for key, value in loop.items() if key not in ('kind', 'latency_s')}
        for kind, loop in loops.items()
    }
    return {
        'rows': rows,
        'loops': dict(sorted(loops.items())),
        'bootstrap': {'rounds': rounds, 'seed': seed},
        'world_sha256': found[0].made_from['world'] if found else None,
        'notes': _write_notes(rows),
    }


def to_csv(table: Table) -> str:
    """One line per figure: row, loop, group, name, metric, mean, low, high, n."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(('row', 'loop', 'group', 'name', 'metric', 'mean', 'low', 'high', 'n'))
    for row in table['rows']:
        groups: list[tuple[str, str, str, Mapping[str, Any]]] = [
            ('open', 'all', '', row['open']['all']),
            ('open', 'ratio', '', row['open']['ratio'] or {}),
            *(('open', 'cause', name, x) for name, x in row['open']['cause'].items()),
            *(('open', 'weather', name, x) for name, x in row['open']['weather'].items()),
            *(('closed', 'latency_s', name, x) for name, x in row['closed'].items()),
            *(('counterfactual', 'edit', name, x) for name, x in row['counterfactual'].items()),
        ]
        for loop, group, name, figures in groups:
            for metric, figure in figures.items():
                if isinstance(figure, dict) and 'mean' in figure:
                    values = (figure[x] for x in ('mean', 'low', 'high', 'n'))
                    writer.writerow((row['name'], loop, group, name, metric, *values))
    return text.getvalue()


def _summarize(
    records: Sequence[Record], metrics: Sequence[Metric], draws: Bootstrap
) -> dict[str, Figure | None]:
    """Figures of some records: proportions with Wilson's interval, others by the bootstrap."""
    drives = [record['drive'] for record in records]
    found = {}
    for metric in metrics:
        values = [record.get(metric.key) for record in records]
        measure = draws.proportion if metric.percent else draws.mean
        found[metric.key] = _to_figure(measure(values, drives))
    return found


def _summarize_open(
    records: Sequence[Record], reference: Sequence[Record] | None, draws: Bootstrap
) -> OpenLoopFigures:
    return {
        'all': _hide_single(_summarize(records, OPEN_LOOP_METRICS, draws), records),
        'ratio': None if reference is None else _compare(records, reference, draws),
        'cause': _summarize_groups(records, 'cause', draws),
        'weather': _summarize_groups(records, 'weather', draws),
    }


def _summarize_groups(
    records: Sequence[Record], group: str, draws: Bootstrap
) -> dict[str, Figures]:
    return {
        name: _hide_single(
            _summarize([r for r in records if r[group] == name], OPEN_LOOP_METRICS, draws), records
        )
        for name in _sort_by_frequency(x[group] for x in records if group in x)
    }


def _hide_single(figures: Figures, records: Sequence[Record]) -> Figures:
    """Leave out the best of K where a planner has one sample: it is not the best of anything."""
    if _get_k(records) != 1:
        return figures
    best = [x.key for x in DISTANCE_METRICS if x.key.startswith(('min_ade_m', 'min_fde', 'whole'))]
    return {key: None if key in best else figure for key, figure in figures.items()}


def _compare(records: Sequence[Record], reference: Sequence[Record], draws: Bootstrap) -> Figures:
    """Ratios to the reference; those that depend on K are None where K differs."""
    drives = [record['drive'] for record in records]
    is_comparable = _get_k(records) == _get_k(reference)
    return {
        metric.key: _to_figure(
            draws.ratio(
                [r.get(metric.key) for r in records],
                [r.get(metric.key) for r in reference],
                drives,
            )
        )
        if is_comparable or not metric.of_k
        else None
        for metric in DISTANCE_METRICS
    }


def _summarize_closed(part: Part, rounds: int, seed: int) -> Facts:
    draws, records = Bootstrap(part.drives, rounds, seed), part.records
    figures: Facts = dict(_summarize(records, CLOSED_LOOP_METRICS, draws))
    for demand in DEMANDS:
        demanding = [record for record in records if demand in record['demands']]
        figures[f'score_{demand}'] = _summarize(demanding, (SCORE,), draws)['score']
    for met, broken, _ in OCCASIONS:
        figures[broken] = _count_occasions(records, met, broken, draws)
    held: Counter[str] = Counter()
    for record in records:
        held.update(record['held_back'])
    faults = Counter(f'{name}: {record["cause"]}' for record in records
                     if (name := _name_fault(record)))  # fmt: skip
    return figures | {
        'lowest_score': _find_lowest_score(figures),
        'ended_s': [record['time_s'] for record in records],
        'clean_drives': [bool(record['clean']) for record in records],
        'scores': {str(record['drive']): record['score'] for record in records},
        'plans': sum(record['plans'] for record in records),
        'held_back': dict(sorted(held.items())),
        'faults': dict(faults.most_common()),
        'failures': _list_failures(records),
    }


def _find_lowest_score(figures: Mapping[str, Any]) -> Facts | None:
    """The lowest mean score among all drives and those of each demand, with the demand's name.

    A planner that ignores one rule does well wherever that rule does not matter; here it cannot.
    """
    groups = {'all drives': figures['score']}
    groups |= {name: figures[f'score_{name}'] for name in DEMANDS}
    known = {name: figure for name, figure in groups.items() if figure}
    if not known:
        return None
    lowest = min(known, key=lambda name: float(known[name]['mean']))
    return {'demand': lowest, **known[lowest]}


def _count_occasions(
    records: Sequence[Record], met: str, broken: str, draws: Bootstrap
) -> Figure | None:
    """Proportion of the occasions of a rule on which it was broken."""
    values, drives = [], []
    for record in records:
        values += [1.0] * record[broken] + [0.0] * (record[met] - record[broken])
        drives += [record['drive']] * record[met]
    return _to_figure(draws.proportion(values, drives))


def _name_fault(record: Record) -> str:
    """The first multiplier below 1 of a drive, '' for none."""
    return next((f'not {name}' for name in MULTIPLIERS if record[name] < 1.0), '')


def _list_failures(records: Sequence[Record]) -> list[Facts]:
    """Drives with a multiplier below 1: what broke, where it ended; the lowest scores first."""
    failed = [record for record in records if record['clean'] < 1.0]
    return [
        {
            'drive': record['drive'],
            'score': round(record['score'], 1),
            'broken': [name for name in MULTIPLIERS if record[name] < 1.0],
            'time_s': record['time_s'],
            'cause': record['cause'],
        }
        for record in sorted(failed, key=lambda x: (x['score'], x['time_s'], x['drive']))
    ]


def _summarize_edits(part: Part, draws: Bootstrap) -> dict[str, Figures]:
    edits = _sort_by_frequency(record['edit'] for record in part.records)
    groups = {edit: [r for r in part.records if r['edit'] == edit] for edit in edits}
    return {
        name: _summarize(records, COUNTERFACTUAL_METRICS, draws)
        for name, records in ({'all edits': part.records} | groups).items()
    }


def _get_k(records: Sequence[Record]) -> int | None:
    return records[0].get('k') if records else None


def _get_latency(part: Part) -> float:
    return float(part.made_from['loop']['latency_s'])


def _get_sort_key(part: Part) -> tuple[int, float, str]:
    about = part.made_from
    return KINDS.index(about['kind']), -float(about['planner'].get('bits', 0)), about['row']


def _write_notes(rows: Sequence[TableRow]) -> list[str]:
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
    if interval is None:
        return None
    return {'mean': interval.mean, 'low': interval.low, 'high': interval.high, 'n': interval.n}
