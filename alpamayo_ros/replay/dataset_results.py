"""Rebuilds from the record of many recordings: summary, tables, and a report with the worst first.

The worst items get a folder of their own below items/, with what a replay of the bag alone writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
import csv
import io
import json
from pathlib import Path
import shutil
from typing import Any

import pyarrow
from pyarrow import parquet

from ..bags.reader import Bag
from ..errors import BadInput
from ..files import write_atomically
from ..json_types import Change, ItemRow, Line, Run, Summary
from ..metrics.paired import compare_pairs
from ..report.dataset_page import WorstCase, render
from ..report.distributions import plot_item_errors, plot_shares
from ..rig import CameraRig
from .dataset import Dataset
from .driven_path import DrivenPath
from .rebuild import draw_case, rebuild
from .record import ReplayRecord, read_run
from .replay import require_topics
from .summary import describe_change, flatten, summarise

REPORTS = 'items'
MAX_REPORTS = 12  # of the worst items; a second or more and up to 3 MB each
BATCH = 5_000  # rows of the parquet file that are in memory
_TYPES = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}


def rebuild_dataset(
    dataset: Dataset,
    rig: CameraRig,
    limits: Mapping[str, float | None],
    earlier: Dataset | None = None,
) -> Summary:
    """Write all results of a dataset beside its record and return the summary.

    Raises BadInput when there is nothing to compare with in an `earlier` run.

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
    worst = [_report_item(dataset, row, run, rig) for row in ranked[:MAX_REPORTS]]
    pictures = {}
    if ranked:
        pictures['ADE of the items'] = plot_item_errors(ranked)
    pictures['t0 with a prediction'] = plot_shares(rows)
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


def _report_item(dataset: Dataset, row: ItemRow, run: Run, rig: CameraRig) -> WorstCase:
    """Write the folder of an item, and draw its worst t0; says why when its bag is gone."""
    folder = Path(REPORTS) / row['name']
    record = ReplayRecord(dataset.folder / folder)
    try:
        with Bag(Path(row['path'])) as bag:
            require_topics(bag, rig)
            driven = DrivenPath(bag, rig)
            record.claim(resume=False)
            record.begin({**run, 'bag': {'name': row['name'], **row['bag']}})
            record.append(*dataset.read_lines([row]))
            rebuild(record, bag, rig, driven, {})
            worst = next(
                line
                for line in dataset.read_lines([row])
                if line['status'] == 'ok' and line['t0_ns'] == row['worst_t0_ns']
            )
            case = draw_case(worst, bag, rig, driven)
    except BadInput as error:
        return WorstCase(row, '', None, str(error))
    return WorstCase(row, (folder / 'report.html').as_posix(), case, '')
