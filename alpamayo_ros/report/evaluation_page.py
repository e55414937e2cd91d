"""evaluation.html: one self-contained page from a table and finished plots.

The markup is templates/evaluation.html.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..json_types import Table
from ..metrics.bootstrap import FEWEST_DRIVES, LEVEL
from ..metrics.evaluation import (
    CLOSED_LOOP_METRICS,
    COUNTERFACTUAL_METRICS,
    DEMANDS,
    DISTANCE_METRICS,
    LONGEST_HORIZON,
    OCCASIONS,
    OPEN_LOOP_METRICS,
    Metric,
)
from .templating import fill

BEST_ERROR = f'min_ade_m_{LONGEST_HORIZON}s'
SECTIONS = ('open', 'groups', 'closed')


def render(table: Table, plots: Mapping[str, Mapping[str, bytes]]) -> str:
    """The page. plots: section ('open', 'groups' or 'closed') to caption to PNG."""
    rows = table['rows']
    return fill(
        'evaluation.html',
        table=table,
        plots={section: plots.get(section, {}) for section in SECTIONS},
        best_error=BEST_ERROR,
        longest=LONGEST_HORIZON,
        level=LEVEL,
        compared=[x for x in rows if x['open']['ratio'] and x['kind'] != 'reference'],
        closed_rows=[x for x in rows if x['closed']],
        open_metrics=[
            x for x in OPEN_LOOP_METRICS if any(row['open']['all'][x.key] for row in rows)
        ],
        ratio_metrics=[Metric(x.key, x.title, '', 3) for x in DISTANCE_METRICS],
        group_metrics=[x for x in OPEN_LOOP_METRICS if x.key in (BEST_ERROR, 'off_lane', 'text')],
        closed_metrics=CLOSED_LOOP_METRICS,
        demand_metrics=[
            Metric(f'score_{x}', f'score, drives with: {x.replace("_", " ")}', '', 1)
            for x in DEMANDS
        ],
        occasion_metrics=[Metric(x, title, '%', 1, percent=True) for _, x, title in OCCASIONS],
        edited_rows=[x for x in rows if x['counterfactual']],
        edit_metrics=COUNTERFACTUAL_METRICS,
        fewest=FEWEST_DRIVES,
        provenance=list(_write_provenance(table)),
    )


def _write_provenance(table: Table) -> Iterator[tuple[str, Any]]:
    for row in table['rows']:
        for key, value in row['planner'].items():
            yield f'{row["name"]}: {key}', value
    for kind, loop in table['loops'].items():
        for key, value in loop.items():
            yield f'{kind} loop: {key}', value
    yield 'bootstrap', f'{table["bootstrap"]["rounds"]} rounds'
    yield 'world_sha256', table['world_sha256']
