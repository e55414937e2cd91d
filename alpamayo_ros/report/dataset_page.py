"""report.html of many recordings: the worst cases, then a table of all items to sort and filter.

The markup is templates/dataset.html; table.js in the page draws the table. Knows no bag.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..json_types import ItemRow, Summary
from .items_table import ItemsTable
from .replay_page import LEGEND, METRIC_ROWS, CaseView, describe_provenance
from .templating import fill

COLUMNS = (  # of the table of items: title, digits of a number
    ('item', None),
    ('t0', 0),
    ('served, %', 1),
    ('horizon, s', 1),
    ('ADE, m', 2),
    ('minADE, m', 2),
    ('FDE, m', 2),
    ('worst ADE, m', 2),
    ('constant velocity ADE, m', 2),
    ('p90, ms', 1),
    ('change of ADE, m', 3),
    ('remarks', None),
)
WORST_COLUMN, CHANGE_COLUMN = 7, 10


@dataclass(frozen=True)
class WorstCase:
    """The worst t0 of an item. link: to the item's own report; detail: why there is none."""

    row: ItemRow
    link: str
    case: CaseView | None
    detail: str


def render(
    summary: Summary,
    rows: Sequence[ItemRow],
    worst: Sequence[WorstCase],
    pictures: Mapping[str, bytes],
    changes: Mapping[str, float] | None = None,
) -> str:
    """The page. pictures: caption to PNG; changes: of the ADE against another run, by item."""
    longest = summary['longest_horizon_s']
    found = changes or {}
    links = {case.row['name']: case.link for case in worst if case.link}
    columns = list(COLUMNS)
    cells = [_list_cells(row, found.get(row['name'])) for row in rows]
    if not changes:  # nothing to compare with
        for values in (columns, *cells):
            del values[CHANGE_COLUMN]
    return fill(
        'dataset.html',
        summary=summary,
        samples=summary['provenance']['parameters']['samples'],
        horizon='' if longest is None else f'{longest:.1f}',
        metric_rows=METRIC_ROWS,
        worst=worst,
        pictures=pictures,
        legend=LEGEND,
        table=ItemsTable(
            columns,
            [[links.get(row['name'], ''), *own] for row, own in zip(rows, cells, strict=True)],
            CHANGE_COLUMN if changes else WORST_COLUMN,
        ),
        details={},
        provenance=describe_provenance(summary['provenance']),
    )


def _list_cells(row: ItemRow, change_m: float | None) -> list[Any]:
    """Values of an item in the order of COLUMNS."""
    remarks = [row['detail'], *row['reasons'], *row['checks'], *row['notes']]
    return [
        row['name'],
        row['anchors'],
        100 * row['ok'] / row['anchors'] if row['anchors'] else None,
        row['horizon_s'],
        row['ade_m'],
        row['min_ade_m'],
        row['fde_m'],
        row['worst_ade_m'],
        row['baseline_ade_m'],
        row['p90_ms'],
        change_m,
        ', '.join(filter(None, remarks)),
    ]
