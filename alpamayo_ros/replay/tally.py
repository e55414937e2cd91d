"""Gathers counts and columns line by line, so that a record of any length fits in memory."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np

from ..data_types import NANOSECONDS
from ..json_types import ErrorStats, Line, Stats
from ..metrics.displacement import HORIZONS_S

METRICS = ('ade_m', 'fde_m', 'lat_m', 'lon_m', 'heading_rad', 'min_ade_m', 'min_fde_m')
SIGNED = ('lat_m', 'lon_m', 'heading_rad')  # their means are those of the absolute values
_SOURCES: tuple[Literal['horizons', 'baseline'], ...] = ('horizons', 'baseline')
HORIZON_NAMES = tuple(f'{horizon_s:.1f}' for horizon_s in HORIZONS_S)


class Tally:
    """What a summary needs of all lines: 8 bytes a number.

    counts: by kind ('status', 'reason', 'refused', 'check', 'end', 'without'), how often a name
    occurs. examples: the first sentence of each refusal. expected: t0 with a prediction behind
    which odometry was recorded for 0.5 s, until `recorded_until_ns`.
    """

    def __init__(self, recorded_until_ns: int | None = None) -> None:
        self._last_expected_ns = (recorded_until_ns or 0) - round(HORIZONS_S[0] * NANOSECONDS)
        kinds = ('status', 'reason', 'refused', 'check', 'end', 'without')
        self.counts: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
        self.examples: dict[str, str] = {}
        self.expected = 0
        self._columns: dict[str, array[float]] = {}

    def add(self, line: Line) -> None:
        """Take one line."""
        if 'topic' in line:
            name = f'{line["topic"]}: {line["reason"]}'
            self.counts['refused'][name] += 1
            self.examples.setdefault(name, line['detail'])
            return
        self.counts['status'][line['status']] += 1
        if line['reason']:
            self.counts['reason'][line['reason']] += 1
        if line['status'] != 'ok':
            return
        self.counts['check'].update(line['checks'])
        self.counts['end'][line['end']] += 1
        if line['t0_ns'] <= self._last_expected_ns:
            self.expected += 1
            if not any(line['horizons'].values()):
                self.counts['without'][line.get('truth_reason', 'odometry_gap')] += 1
        if line['spread_m'] is not None:
            self._append('spread_m', line['spread_m'])
        for stage, value in line['ms'].items():
            self._append(f'ms {stage}', value)
        for source in _SOURCES:
            for horizon, values in line[source].items():
                for key, value in (values or {}).items():
                    if key in METRICS:
                        column = f'{source} {horizon} {key}'
                        self._append(column, abs(value) if key in SIGNED else value)

    def count(self, kind: str) -> dict[str, int]:
        """How often each name of a kind occurs, the commonest first."""
        return dict(self.counts[kind].most_common())

    def describe(self, column: str) -> Stats | None:
        """Distribution of a column; None where no line has it."""
        return describe(self._columns.get(column, ()))

    def describe_times(self) -> dict[str, Stats]:
        """Milliseconds of each stage, in the order in which the lines have the stages."""
        names = [x.removeprefix('ms ') for x in self._columns if x.startswith('ms ')]
        found = {stage: self.describe(f'ms {stage}') for stage in names}
        return {stage: stats for stage, stats in found.items() if stats}

    def describe_errors(self, source: Literal['horizons', 'baseline']) -> ErrorStats:
        """Distribution of each metric at each horizon; None where no truth reaches a horizon."""
        errors: ErrorStats = {}
        for horizon in HORIZON_NAMES:
            stats = {key: self.describe(f'{source} {horizon} {key}') for key in METRICS}
            errors[horizon] = {key: x for key, x in stats.items() if x} or None
        return errors

    def _append(self, column: str, value: float) -> None:
        self._columns.setdefault(column, array('d')).append(value)


def describe(values: Sequence[float]) -> Stats | None:
    """Distribution of some numbers; None where there are none."""
    if not len(values):
        return None
    p50, p90 = np.percentile(values, [50, 90])
    return {
        'n': len(values),
        'mean': round(float(np.mean(values)), 6),
        'p50': round(float(p50), 6),
        'p90': round(float(p90), 6),
        'max': round(float(np.max(values)), 6),
    }


def measure_error(line: Line) -> float:
    """ADE m of a prediction over the longest horizon that truth reaches; -1 without truth."""
    reached = [values for values in line['horizons'].values() if values]
    return reached[-1]['ade_m'] if reached else -1.0
