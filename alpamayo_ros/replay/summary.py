"""Summarises the lines of a record: summary.json and results.csv. Knows no bag and no engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
import csv
import io
from typing import Any, Literal

import numpy as np

from ..data_types import NANOSECONDS
from ..json_types import ErrorStats, Line, Run, Stats, Summary, Threshold, TruthFacts
from ..metrics.displacement import HORIZONS_S
from .driven_path import DrivenPath

METRICS = ('ade_m', 'fde_m', 'lat_m', 'lon_m', 'heading_rad', 'min_ade_m', 'min_fde_m')
SIGNED = ('lat_m', 'lon_m', 'heading_rad')  # their means are those of the absolute values
BULKY = ('samples', 'actions', 'odom_from_t0', 'horizons', 'baseline', 'ms', 'checks')
HORIZON_NAMES = tuple(f'{horizon_s:.1f}' for horizon_s in HORIZONS_S)


def summarise(
    lines: Sequence[Line],
    run: Run,
    limits: Mapping[str, float | None],
    driven: DrivenPath | None = None,
    bag_notes: Sequence[str] = (),
) -> Summary:
    """Counts, distributions, thresholds and provenance as one JSON object.

    limits: max_ade_m and max_fde_m (mean of the chosen sample over the longest horizon that any
    truth reaches), max_p90_ms (time of an inference), min_valid (share of the anchors with a
    prediction); None where there is none. `pass` is false when one is missed, nothing is valid, or
    nothing was measured though odometry goes on behind a t0.
    """
    anchors = [line for line in lines if 'topic' not in line]
    valid = [line for line in anchors if line['status'] == 'ok']
    statuses = Counter(line['status'] for line in anchors)
    horizons = _summarise_errors(valid, 'horizons')
    reached = [name for name in HORIZON_NAMES if horizons[name]]
    summary: Summary = {
        'anchors': len(anchors),
        'ok': statuses['ok'],
        'rejected': statuses['rejected'],
        'failed': statuses['failed'],
        'valid_share': len(valid) / len(anchors) if anchors else 0.0,
        'reasons': _count(line['reason'] for line in anchors if line['reason']),
        'refused_messages': _count(
            f'{line["topic"]}: {line["reason"]}' for line in lines if 'topic' in line
        ),
        'refused_for_example': {
            f'{line["topic"]}: {line["reason"]}': line['detail']
            for line in reversed(lines)
            if 'topic' in line
        },
        'bag_notes': list(bag_notes),
        'checks': _count(name for line in valid for name in line['checks']),
        'ends': _count(line['end'] for line in valid),
        'longest_horizon_s': float(reached[-1]) if reached else None,
        'horizons': horizons,
        'baseline': _summarise_errors(valid, 'baseline'),
        'truth': None if driven is None else _summarise_truth(valid, driven),
        'spread_m': describe([x['spread_m'] for x in valid if x['spread_m'] is not None]),
        'ms': _summarise_times(valid),
        'thresholds': {},
        'pass': False,
        'notes': [],
        'provenance': run,
    }
    summary['thresholds'] = _compare(summary, limits)
    is_measured = bool(reached) or not (summary['truth'] and summary['truth']['expected'])
    is_met = all(x['pass'] for x in summary['thresholds'].values())
    summary['pass'] = bool(valid) and is_measured and is_met
    summary['notes'] = _write_notes(summary, run)
    return summary


def to_csv(lines: Iterable[Line]) -> str:
    """One row per line of the record without its arrays; times, metrics and checks flattened."""
    rows = []
    for line in lines:
        row: dict[str, Any] = {key: value for key, value in line.items() if key not in BULKY}
        row['checks'] = ' '.join(line.get('checks', ()))
        row |= {f'ms_{stage}': value for stage, value in line.get('ms', {}).items()}
        for horizons, prefix in ((line.get('horizons'), ''), (line.get('baseline'), 'baseline_')):
            for name, values in (horizons or {}).items():
                row |= {f'{prefix}{key}_{name}s': x for key, x in (values or {}).items()}
        rows.append(row)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval='', lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _summarise_truth(valid: Sequence[Line], driven: DrivenPath) -> TruthFacts:
    shortest_ns = round(HORIZONS_S[0] * NANOSECONDS)
    expected = [x for x in valid if x['t0_ns'] + shortest_ns <= driven.recorded_until_ns]
    without = [
        line.get('truth_reason', 'odometry_gap')
        for line in expected
        if not any(line['horizons'].values())
    ]
    return {**driven.facts, 'expected': len(expected), 'without': _count(without)}


def _count(names: Iterable[str]) -> dict[str, int]:
    """How often each name occurs, the commonest first."""
    return dict(Counter(names).most_common())


def describe(values: Sequence[float]) -> Stats | None:
    """Distribution of some numbers; None where there are none."""
    if not values:
        return None
    p50, p90 = np.percentile(values, [50, 90])
    return {
        'n': len(values),
        'mean': round(float(np.mean(values)), 6),
        'p50': round(float(p50), 6),
        'p90': round(float(p90), 6),
        'max': round(float(np.max(values)), 6),
    }


def _summarise_times(lines: Sequence[Line]) -> dict[str, Stats]:
    """Milliseconds of each stage, in the order in which the lines have the stages."""
    stages = dict.fromkeys(stage for line in lines for stage in line['ms'])
    found = {stage: describe([line['ms'][stage] for line in lines]) for stage in stages}
    return {stage: stats for stage, stats in found.items() if stats}


def _summarise_errors(
    lines: Sequence[Line], source: Literal['horizons', 'baseline']
) -> ErrorStats:
    """Distribution of each metric at each horizon; None for a horizon that no truth reaches."""
    errors: ErrorStats = {}
    for name in HORIZON_NAMES:
        found = [values for line in lines if (values := line[source][name])]
        stats = {
            key: describe([abs(x[key]) if key in SIGNED else x[key] for x in found])
            for key in METRICS
        }
        errors[name] = {key: x for key, x in stats.items() if x} or None
    return errors


def _compare(summary: Summary, limits: Mapping[str, float | None]) -> dict[str, Threshold]:
    """Each limit that was given beside the value that it bounds."""
    longest_s = summary['longest_horizon_s']
    errors = None if longest_s is None else summary['horizons'][f'{longest_s:.1f}']
    total = summary['ms'].get('total')
    values = {
        'max_ade_m': errors['ade_m']['mean'] if errors else None,
        'max_fde_m': errors['fde_m']['mean'] if errors else None,
        'max_p90_ms': total['p90'] if total else None,
        'min_valid': summary['valid_share'],
    }
    thresholds: dict[str, Threshold] = {}
    for name, limit in limits.items():
        if limit is not None:
            value = values[name]
            is_met = value is not None and (
                value >= limit if name.startswith('min') else value <= limit
            )
            thresholds[name] = {'limit': limit, 'value': value, 'pass': is_met}
    return thresholds


def _write_notes(summary: Summary, run: Run) -> list[str]:
    """Sentences that a reader of the figures must know."""
    notes = []
    if run['engine'].get('untrained'):
        notes.append(
            'The checkpoint is untrained: its weights are random, so the predicted path and its '
            'metrics mean nothing. They show that the chain works.'
        )
    if run['engine'].get('limits'):
        notes.append(f'The card of the checkpoint: {run["engine"]["limits"]}')
    if 'camera_subset' in summary['checks']:
        absent = ', '.join(run['rig']['absent'])
        named = run['engine'].get('model_type') == 'alpamayo1_5'
        text = (
            'Alpamayo 1.5 was trained for that, but it sees less.'
            if named
            else 'The model was trained with all four cameras and its prompt does not name them, '
            'so these metrics are not the metrics of the model.'
        )
        notes.append(f'camera_subset: the rig has no {absent}. {text}')
    if summary['ok'] and summary['longest_horizon_s'] != HORIZONS_S[-1]:
        longest_s = summary['longest_horizon_s']
        reach = 'at no t0' if longest_s is None else f'at most {longest_s:g} s after t0'
        notes.append(f'Truth ends early: it is known {reach}, longer horizons are left empty.')
    if (truth := summary['truth']) and (truth['left_out'] or truth['without']):
        notes.append(f'Truth: {describe_truth(truth)}.')
    return [*notes, *(f'The bag: {note}.' for note in summary['bag_notes'])]


def describe_truth(truth: TruthFacts) -> str:
    """Sentence: how many poses make the driven path, how many t0 have no truth, and why."""
    text = f'{truth["used"]} of {truth["recorded"]} recorded poses make the driven path'
    if truth['left_out']:
        text += f' (left out: {_join_counts(truth["left_out"])})'
    if truth['without']:
        count = sum(truth['without'].values())
        text += f'; {count} of {truth["expected"]} t0 are left out of the metrics: '
        text += _join_counts(truth['without'])
    return text


def find_commonest_refusals(summary: Summary) -> dict[str, tuple[str, int]]:
    """Topic to its commonest refusal and the number of it."""
    commonest: dict[str, tuple[str, int]] = {}
    for name, count in summary['refused_messages'].items():  # the commonest comes first
        topic, _, reason = name.rpartition(': ')
        commonest.setdefault(topic, (reason, count))
    return commonest


def _join_counts(counts: Mapping[str, int]) -> str:
    return ', '.join(f'{name} {count}' for name, count in counts.items())
