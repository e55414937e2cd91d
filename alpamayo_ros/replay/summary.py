"""From the lines of a record to summary.json and results.csv. Knows no bag and no engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
import csv
import io
from typing import Any

import numpy as np

from ..json_types import Line
from ..metrics.displacement import HORIZONS_S

METRICS = ('ade_m', 'fde_m', 'lat_m', 'lon_m', 'heading_rad', 'min_ade_m', 'min_fde_m')
SIGNED = ('lat_m', 'lon_m', 'heading_rad')  # their means are those of the absolute values
BULKY = ('samples', 'actions', 'odom_from_t0', 'horizons', 'baseline', 'ms', 'checks')


def summarise(
    lines: Sequence[Line], run: Mapping[str, Any], thresholds: Mapping[str, float | None]
) -> dict[str, Any]:
    """Counts, means and percentiles, thresholds and provenance as one JSON object.

    thresholds: max_ade_m and max_fde_m (mean of the chosen sample over the longest horizon that
    any truth reaches), max_p90_ms (time of an inference), min_valid (share of the anchors with a
    prediction); None where there is none. `pass` is false when one is missed or nothing is valid.
    """
    anchors = [line for line in lines if 'topic' not in line]
    valid = [line for line in anchors if line['status'] == 'ok']
    status = Counter(line['status'] for line in anchors)
    horizons = {name: _metrics(valid, 'horizons', name) for name in _names()}
    reached = [name for name in _names() if horizons[name]]
    result: dict[str, Any] = {
        'anchors': len(anchors),
        **{name: status[name] for name in ('ok', 'rejected', 'failed')},
        'valid_share': len(valid) / len(anchors) if anchors else 0.0,
        'reasons': dict(Counter(x['reason'] for x in anchors if x['reason']).most_common()),
        'refused_messages': dict(
            Counter(f'{x["topic"]}: {x["reason"]}' for x in lines if 'topic' in x).most_common()
        ),
        'checks': dict(Counter(name for x in valid for name in x['checks']).most_common()),
        'ends': dict(Counter(line['end'] for line in valid).most_common()),
        'longest_horizon_s': float(reached[-1]) if reached else None,
        'horizons': horizons,
        'baseline': {name: _metrics(valid, 'baseline', name) for name in _names()},
        'spread_m': _stats([x['spread_m'] for x in valid if x['spread_m'] is not None]),
        'ms': {stage: _stats([x['ms'][stage] for x in valid]) for stage in _stages(valid)},
    }
    result['thresholds'] = _thresholds(result, thresholds)
    result['pass'] = bool(valid) and all(x['pass'] for x in result['thresholds'].values())
    result['notes'] = _notes(result, run)
    result['provenance'] = dict(run)
    return result


def to_csv(lines: Iterable[Line]) -> str:
    """One row per line of the record without its arrays; times, metrics and checks flattened."""
    rows = []
    for line in lines:
        row = {key: value for key, value in line.items() if key not in BULKY}
        row['checks'] = ' '.join(line.get('checks', ()))
        row |= {f'ms_{stage}': value for stage, value in line.get('ms', {}).items()}
        for source, prefix in (('horizons', ''), ('baseline', 'baseline_')):
            for name, values in (line.get(source) or {}).items():
                row |= {f'{prefix}{key}_{name}s': x for key, x in (values or {}).items()}
        rows.append(row)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval='', lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _names() -> list[str]:
    return [f'{horizon:.1f}' for horizon in HORIZONS_S]


def _stages(lines: Sequence[Line]) -> list[str]:
    return list(dict.fromkeys(stage for line in lines for stage in line['ms']))


def _stats(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    p50, p90 = np.percentile(values, [50, 90])
    numbers = {'mean': np.mean(values), 'p50': p50, 'p90': p90, 'max': np.max(values)}
    return {'n': len(values), **{key: round(float(x), 6) for key, x in numbers.items()}}


def _metrics(lines: Sequence[Line], source: str, horizon: str) -> dict[str, Any] | None:
    found = [line[source][horizon] for line in lines if line[source][horizon]]
    if not found:
        return None
    return {
        key: _stats([abs(x[key]) if key in SIGNED else x[key] for x in found]) for key in METRICS
    }


def _thresholds(
    result: Mapping[str, Any], limits: Mapping[str, float | None]
) -> dict[str, dict[str, Any]]:
    longest = result['longest_horizon_s']
    metrics = {} if longest is None else result['horizons'][f'{longest:.1f}']
    total = result['ms'].get('total')
    values = {
        'max_ade_m': metrics['ade_m']['mean'] if metrics else None,
        'max_fde_m': metrics['fde_m']['mean'] if metrics else None,
        'max_p90_ms': total['p90'] if total else None,
        'min_valid': result['valid_share'],
    }
    found = {}
    for name, limit in limits.items():
        if limit is not None:
            value = values[name]
            better = value is not None and (
                value >= limit if name.startswith('min') else value <= limit
            )
            found[name] = {'limit': limit, 'value': value, 'pass': better}
    return found


def _notes(result: Mapping[str, Any], run: Mapping[str, Any]) -> list[str]:
    notes = []
    if run['engine'].get('untrained'):
        notes.append(
            'The checkpoint is untrained: its weights are random, so the predicted path and its '
            'metrics mean nothing. They show that the chain works.'
        )
    if run['engine'].get('limits'):
        notes.append(f'The card of the checkpoint: {run["engine"]["limits"]}')
    if 'camera_subset' in result['checks']:
        absent = ', '.join(run['rig']['absent'])
        notes.append(
            f'camera_subset: the rig has no {absent}. The model was trained with all four cameras '
            'and its prompt does not name them, so these metrics are not the metrics of the model.'
        )
    if result['ok'] and result['longest_horizon_s'] != HORIZONS_S[-1]:
        longest = result['longest_horizon_s']
        reach = 'at no t0' if longest is None else f'at most {longest:g} s after t0'
        notes.append(f'Truth ends early: it is known {reach}, longer horizons are left empty.')
    return notes
