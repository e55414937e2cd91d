"""Results of an evaluation, rebuilt from its parts: evaluation.json, .csv and .html."""

from __future__ import annotations

import json
from pathlib import Path

from ..files import hold_lock, write_atomically
from ..json_types import Table
from ..report import evaluation_plots as study_plots
from ..report.evaluation_page import render
from .parts import read_parts
from .table import tabulate, to_csv


def rebuild_results(folder: Path, rounds: int, seed: int) -> Table:
    """Write all results of an evaluation beside its parts and return the table."""
    with hold_lock(folder / 'evaluation.lock'):
        table = tabulate(read_parts(folder), rounds, seed)
        write_atomically(folder / 'evaluation.json', json.dumps(table, indent=1))
        write_atomically(folder / 'evaluation.csv', to_csv(table))
        write_atomically(folder / 'evaluation.html', render(table, _draw_plots(table)))
    return table


def _draw_plots(table: Table) -> dict[str, dict[str, bytes]]:
    rows = table['rows']
    shown = [row for row in rows if row['kind'] in ('reference', 'model')]
    beside = [row for row in rows if row['name'] == 'constant turn rate']
    found = {
        'open': {'minADE_1 by horizon': study_plots.plot_errors_by_horizon(rows)},
        'groups': {
            f'minADE_1 by {group}': study_plots.plot_errors_by_group([*shown, *beside], group)
            for group in ('cause', 'weather')
            if rows and rows[0]['open'][group]  # clips have neither
        },
    }
    closed = [row for row in rows if row['closed']]
    if closed:
        found['closed'] = {
            'Score, mean of all drives': study_plots.plot_by_latency(closed, 'score', 'score'),
            'Drives with all multipliers at 1': study_plots.plot_by_latency(
                closed, 'clean', 'clean drives [%]', 100.0
            ),
            'Distance driven': study_plots.plot_by_latency(closed, 'distance_m', 'distance [m]'),
            **{
                f'Drives over time: {row["name"]}': study_plots.plot_still_driving(row)
                for row in closed
                if row['kind'] != 'baseline'
            },
        }
    return found
