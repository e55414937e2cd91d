"""Rebuilds from the record of many recordings: summary, tables, and a report with the worst first.

The worst items get a folder of their own below items/, with what a replay of the bag alone writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import csv
import io
import json
from pathlib import Path
import shutil
from typing import Any

import pyarrow
from pyarrow import parquet

from ..cluster.workers import Outcome
from ..files import write_atomically
from ..json_types import Change, ItemRow, Line, Run, Summary
from ..metrics.paired import compare_pairs
from ..report.dataset_page import WorstCase, render
from ..report.distributions import plot_changes, plot_item_errors, plot_shares
from ..rig import CameraRig
from .dataset import Dataset
from .item_report import ItemReport, ReportItem, make_report
from .record import read_run
from .summary import describe_change, flatten, summarise

REPORTS = 'items'
MAX_REPORTS = 12  # of the worst items; a second or more and up to 3 MB each
BATCH = 5_000  # rows of the parquet file that are in memory
MakeReports = Callable[[Iterable[ReportItem]], Iterable[Outcome[ReportItem, ItemReport]]]
_TYPES = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}


def rebuild_dataset(
    dataset: Dataset,
    rig: CameraRig,
    limits: Mapping[str, float | None],
    earlier: Dataset | None = None,
    make_reports: MakeReports | None = None,
) -> Summary:
    """Write all results of a dataset beside its record and return the summary.

    make_reports: makes those of the worst items, in any order; by default one after the other, in
    this process. Raises BadInput when there is nothing to compare with in an `earlier` run.

    Figures do not depend on the order in which the items came: items are read by name.
    """
    run, rows = read_run(dataset.folder), dataset.read_rows()
    columns: dict[str, type] = {}
    summary = summarise(_note_columns(dataset.read_lines(rows), columns), run, limits)
    failed = sum(bool(row['detail']) for row in rows)
    summary['items'] = {'items': len(rows), 'replayed': len(rows) - failed, 'failed': failed}
    changes = None
    if earlier is not None:
        summary['against'], changes = _compare(rows, earlier)
    write_atomically(dataset.folder / 'summary.json', json.dumps(summary, indent=2))
    write_atomically(dataset.folder / 'items.csv', _to_csv(rows))
    _write_parquet(dataset, rows, columns)
    shutil.rmtree(dataset.folder / REPORTS, ignore_errors=True)
    ranked = sorted(
        (row for row in rows if row['worst_ade_m'] is not None),
        key=lambda row: row['worst_ade_m'] or 0.0,
        reverse=True,
    )
    make = make_reports or (lambda items: (Outcome(x, make_report(x, rig)) for x in items))
    worst = _make_reports(dataset, ranked[:MAX_REPORTS], run, make)
    pictures = {}
    if ranked:
        pictures['ADE of the items'] = plot_item_errors(ranked)
    pictures['t0 with a prediction'] = plot_shares(rows)
    if changes:
        pictures['Change of ADE'] = plot_changes(changes.values())
    page = render(summary, rows, worst, pictures, changes)
    write_atomically(dataset.folder / 'report.html', page)
    return summary


def _compare(rows: Sequence[ItemRow], earlier: Dataset) -> tuple[Change, dict[str, float]]:
    """Change of the mean ADE of the items against another run, in sum and by name."""
    old = {row['name']: row for row in earlier.read_rows()}
    same = [x for x in rows if x['name'] in old and x['horizon_s'] == old[x['name']]['horizon_s']]
    found = compare_pairs(
        {row['name']: row['ade_m'] for row in same},
        {name: row['ade_m'] for name, row in old.items()},
    )
    return describe_change(earlier.folder, 'ade_m', found), found.changes


def _note_columns(lines: Iterable[Line], columns: dict[str, type]) -> Iterator[Line]:
    """The lines; notes the columns that they have when flattened, and the type of each."""
    for line in lines:
        for key, value in flatten(line).items():
            if value is not None and columns.get(key) is not float:
                columns[key] = type(value)
        yield line


def _write_parquet(dataset: Dataset, rows: Sequence[ItemRow], columns: Mapping[str, type]) -> None:
    """results.parquet: the lines of all items by name, without arrays, `item` in front."""
    schema = pyarrow.schema(
        [('item', pyarrow.string()), *((key, _TYPES[kind]) for key, kind in columns.items())]
    )
    path = dataset.folder / 'results.parquet'
    with parquet.ParquetWriter(path.with_name(f'.{path.name}.partial'), schema) as writer:
        batch: list[dict[str, Any]] = []
        for row in rows:
            batch += [{'item': row['name'], **flatten(line)} for line in dataset.read_lines([row])]
            if len(batch) >= BATCH or row is rows[-1]:
                writer.write_table(pyarrow.Table.from_pylist(batch, schema))
                batch.clear()
    path.with_name(f'.{path.name}.partial').replace(path)


def _to_csv(rows: Sequence[ItemRow]) -> str:
    """A line per item; counts by name become text, places in files are left out."""
    text = io.StringIO()
    names = [x for x in ItemRow.__annotations__ if not x.endswith('_byte') and x != 'bag']
    writer = csv.DictWriter(text, names, extrasaction='ignore', lineterminator='\n')
    writer.writeheader()
    for row in rows:
        joined = {x: ' '.join(row[x]) for x in ('reasons', 'checks')}
        writer.writerow({**row, **joined, 'notes': '; '.join(row['notes'])})
    return text.getvalue()


def _make_reports(
    dataset: Dataset, rows: Sequence[ItemRow], run: Run, make: MakeReports
) -> list[WorstCase]:
    """Have the reports of items made, and write each into a folder of its own."""
    found: dict[str, WorstCase] = {}
    for outcome in make(ReportItem(row, run, list(dataset.read_lines([row]))) for row in rows):
        row, folder = outcome.item.row, Path(REPORTS) / outcome.item.row['name']
        report = outcome.result or ItemReport(detail=outcome.lost)
        for name, data in report.files.items():
            path = dataset.folder / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        link = (folder / 'report.html').as_posix() if report.case else ''
        found[row['name']] = WorstCase(row, link, report.case, report.detail)
    return [found[row['name']] for row in rows]
