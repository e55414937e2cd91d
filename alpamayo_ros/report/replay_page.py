"""report.html: one self-contained page from a summary and finished pictures.

The markup is templates/replay.html. Knows no bag, no record and no plotting; colours are those of
`plots.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..json_types import Line, Run, Summary
from . import plots
from .items_table import ItemsTable
from .templating import fill

LEGEND = (
    (plots.CHOSEN, 'chosen sample'),
    (plots.SAMPLE, 'other samples'),
    (plots.DRIVEN, 'driven'),
    (plots.BASELINE, 'constant velocity'),
    (plots.HISTORY, 'history'),
)


@dataclass(frozen=True)
class MetricRow:
    """Rows of the table of errors: title, metric of the chosen sample and of the best one."""

    title: str
    key: str
    best_key: str = ''
    factor: float = 1.0
    digits: int = 2


METRIC_ROWS = (
    MetricRow('ADE [m]', 'ade_m', 'min_ade_m'),
    MetricRow('FDE [m]', 'fde_m', 'min_fde_m'),
    MetricRow('lateral error at the horizon, absolute [m]', 'lat_m'),
    MetricRow('longitudinal error at the horizon, absolute [m]', 'lon_m'),
    MetricRow('heading error at the horizon, absolute [°]', 'heading_rad', '', 57.29578, 1),
)


@dataclass(frozen=True)
class CaseView:
    """One t0 of the report: its line, what its front image shows and its two plots (PNG)."""

    line: Line
    seconds: float
    image_jpeg: bytes | None
    image_note: str
    above_png: bytes
    dynamics_png: bytes

    @property
    def horizon(self) -> str:
        """The longest horizon that truth reaches, as a key of the metrics; '' without truth."""
        return next((name for name, x in reversed(self.line['horizons'].items()) if x), '')


def render(
    summary: Summary,
    overview: Mapping[str, bytes],
    cases: Sequence[CaseView],
    details: Mapping[str, str],
    table: ItemsTable | None = None,
) -> str:
    """The page. overview: caption to PNG; details: one example sentence per reason.

    table: of all clips, for a record of clips.
    """
    run, longest = summary['provenance'], summary['longest_horizon_s']
    return fill(
        'replay.html',
        summary=summary,
        samples=run['parameters']['samples'],
        horizon='' if longest is None else f'{longest:.1f}',
        others=_describe_others(summary),
        metric_rows=METRIC_ROWS,
        overview=overview,
        cases=cases,
        legend=LEGEND,
        details=details,
        table=table,
        stage_times=[
            (stage, *(f'{x:.4g}' for x in (s['mean'], s['p50'], s['p90'], s['max'])))
            for stage, s in summary['ms'].items()
        ],
        provenance=describe_provenance(run),
    )


def _describe_others(summary: Summary) -> str:
    """Fates of the anchors that were not served; a live node has counted them itself."""
    counts: Mapping[str, Any] = summary['provenance'].get('anchors', summary)
    names = ('dropped', 'rejected', 'discarded', 'failed')
    return ', '.join(f'{counts[name]} {name}' for name in names if name in counts)


def describe_provenance(run: Run) -> list[tuple[str, Any]]:
    """Names and values of a run, for a table."""
    return list(_provenance(run))


def _provenance(run: Run) -> Iterator[tuple[str, Any]]:
    for part, values in run.items():
        for key, value in (values if isinstance(values, dict) else {'': values}).items():
            text = ', '.join(map(str, value)) if isinstance(value, list) else value
            yield f'{part}: {key}', text
