"""Summarises the lines of a record: summary.json and results.csv. Knows no bag and no engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import csv
import io
from pathlib import Path
from typing import Any

from ..errors import BadInput
from ..json_types import Change, Line, Run, Summary, Threshold, TruthFacts
from ..metrics.displacement import HORIZONS_S
from ..metrics.paired import PairedChange
from .driven_path import DrivenPath
from .tally import HORIZON_NAMES, Tally

BULKY = ('samples', 'actions', 'odom_from_t0', 'horizons', 'baseline', 'ms', 'checks')


def summarise(
    lines: Iterable[Line],
    run: Run,
    limits: Mapping[str, float | None],
    driven: DrivenPath | None = None,
    bag_notes: Sequence[str] = (),
) -> Summary:
    """Counts, distributions, thresholds and provenance as one JSON object, in one pass.

    limits: max_ade_m and max_fde_m (mean of the chosen sample over the longest horizon that any
    truth reaches), max_p90_ms (time of an inference), min_valid (share of the anchors with a
    prediction); None where there is none. `pass` is false when one is missed, nothing is valid, or
    nothing was measured though odometry goes on behind a t0.
    """
    tally = Tally(None if driven is None else driven.recorded_until_ns)
    for line in lines:
        tally.add(line)
    statuses, anchors = tally.counts['status'], tally.counts['status'].total()
    horizons = tally.describe_errors('horizons')
    reached = [name for name in HORIZON_NAMES if horizons[name]]
    summary: Summary = {
        'anchors': anchors,
        'ok': statuses['ok'],
        'rejected': statuses['rejected'],
        'failed': statuses['failed'],
        'valid_share': statuses['ok'] / anchors if anchors else 0.0,
        'reasons': tally.count('reason'),
        'refused_messages': tally.count('refused'),
        'refused_for_example': tally.examples,
        'bag_notes': list(bag_notes),
        'checks': tally.count('check'),
        'ends': tally.count('end'),
        'longest_horizon_s': float(reached[-1]) if reached else None,
        'horizons': horizons,
        'baseline': tally.describe_errors('baseline'),
        'truth': None
        if driven is None
        else {**driven.facts, 'expected': tally.expected, 'without': tally.count('without')},
        'spread_m': tally.describe('spread_m'),
        'ms': tally.describe_times(),
        'thresholds': {},
        'pass': False,
        'notes': [],
        'provenance': run,
    }
    summary['thresholds'] = _compare(summary, limits)
    is_measured = bool(reached) or not (summary['truth'] and summary['truth']['expected'])
    is_met = all(x['pass'] for x in summary['thresholds'].values())
    summary['pass'] = bool(statuses['ok']) and is_measured and is_met
    summary['notes'] = _write_notes(summary, run)
    return summary


def to_csv(lines: Iterable[Line]) -> str:
    """One row per line of the record without its arrays; times, metrics and checks flattened."""
    rows = [flatten(line) for line in lines]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval='', lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def flatten(line: Line) -> dict[str, Any]:
    """A line without its arrays as one level of numbers and texts by the name of a column."""
    row: dict[str, Any] = {key: value for key, value in line.items() if key not in BULKY}
    row['checks'] = ' '.join(line.get('checks', ()))
    row |= {f'ms_{stage}': value for stage, value in line.get('ms', {}).items()}
    for horizons, prefix in ((line.get('horizons'), ''), (line.get('baseline'), 'baseline_')):
        for name, values in (horizons or {}).items():
            row |= {f'{prefix}{key}_{name}s': x for key, x in (values or {}).items()}
    return row


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


def describe_change(earlier: Path, metric: str, found: PairedChange) -> Change:
    """Mean change against the run in a folder; raises BadInput where the two share nothing."""
    if found.mean is None:
        raise BadInput(f'{earlier}: nothing of this run has a {metric} in both')
    return {
        'folder': earlier.resolve().name,
        'metric': metric,
        'pairs': len(found.changes),
        'worse': sum(x > 0 for x in found.changes.values()),
        'mean_change_m': found.mean.mean,
        'low_m': found.mean.low,
        'high_m': found.mean.high,
    }


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
