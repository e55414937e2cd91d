"""The record of many recordings: results.jsonl, items.jsonl with a row per work item, run.json.

The lines of an item are written together, in the order in which items come, and then its row,
which says where they are. So a run goes on after any interruption, and the lines of one item are
read alone. Knows no bag and no engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
import json
from pathlib import Path

from ..cluster.workers import Outcome
from ..errors import BadInput
from ..json_types import ItemRow, Line, Run
from .provenance import EngineFacts, EngineGuard
from .record import ReplayRecord, cut_torn_line
from .recordings import BagItem, BagResult
from .tally import HORIZON_NAMES, Tally, measure_error

ITEMS = 'items.jsonl'


class Dataset(ReplayRecord):
    """The files of one output folder, whose `append` is that of items."""

    def __init__(self, folder: Path, describe: Callable[[EngineFacts], Run]) -> None:
        """describe: the run of an engine, with all else that a resumed run must repeat."""
        super().__init__(folder)
        self.items_path = folder / ITEMS
        self._guard = EngineGuard(self, describe)

    def list_done_items(self) -> set[str]:
        """Names of the items that need no work; cuts off what an interruption has torn.

        Raises BadInput when other parameters or another rig made the record.
        """
        self._guard.resume()
        self.items_path.touch()
        cut_torn_line(self.items_path)
        rows = self._read_rows()
        with self.path.open('r+b') as file:
            file.truncate(max((row['end_byte'] for row in rows), default=0))
        return {row['name'] for row in rows if not row['detail']}

    def take(self, outcome: Outcome[BagItem, BagResult]) -> ItemRow:
        """Write what became of an item; raises BadInput for a worker with another checkpoint."""
        result = outcome.result
        if result is not None:
            self._guard.take(result.engine)
        lines = result.lines if result else []
        begin = self.path.stat().st_size if self.path.exists() else 0
        self.append(*lines)
        end = self.path.stat().st_size if self.path.exists() else 0
        row = make_row(outcome.item, result or BagResult({}, error=outcome.lost), begin, end)
        with self.items_path.open('a', encoding='utf-8') as file:
            file.write(json.dumps(row, allow_nan=False) + '\n')
        return row

    def read_rows(self) -> list[ItemRow]:
        """The last row of each item, by name."""
        return sorted(
            {row['name']: row for row in self._read_rows()}.values(), key=lambda row: row['name']
        )

    def read_lines(self, rows: Iterable[ItemRow]) -> Iterator[Line]:
        """Lines of items, in the order of the rows."""
        with self.path.open('rb') as file:
            for row in rows:
                file.seek(row['begin_byte'])
                while file.tell() < row['end_byte']:
                    yield json.loads(file.readline())

    def has_run(self) -> bool:
        """Whether any item has come, so that there is something to rebuild."""
        return self._guard.has_run()

    def _read_rows(self) -> list[ItemRow]:
        try:
            with self.items_path.open(encoding='utf-8') as file:
                return [json.loads(line) for line in file]
        except ValueError as error:
            raise BadInput(f'{self.items_path}: not the items of a replay: {error}') from error


def make_row(item: BagItem, result: BagResult, begin_byte: int, end_byte: int) -> ItemRow:
    """Row of an item, with the means of its lines."""
    tally = Tally()
    for line in result.lines:
        tally.add(line)
    errors, baseline = tally.describe_errors('horizons'), tally.describe_errors('baseline')
    horizon = next((name for name in reversed(HORIZON_NAMES) if errors[name]), '')
    means = {key: x['mean'] for key, x in (errors.get(horizon) or {}).items()}
    straight = baseline.get(horizon) or {}
    valid = [line for line in result.lines if line['status'] == 'ok']
    worst = max(valid, key=measure_error, default=None)
    has_truth = worst is not None and measure_error(worst) >= 0
    times = tally.describe('ms total')
    return {
        'name': item.name,
        'path': str(item.path),
        'start_ns': item.start_ns,
        'stop_ns': item.stop_ns,
        'detail': result.error,
        'bag': result.bag,
        'notes': result.notes,
        'anchors': tally.counts['status'].total(),
        'ok': len(valid),
        'reasons': tally.count('reason'),
        'checks': tally.count('check'),
        'horizon_s': float(horizon) if horizon else None,
        'ade_m': means.get('ade_m'),
        'fde_m': means.get('fde_m'),
        'min_ade_m': means.get('min_ade_m'),
        'baseline_ade_m': straight['ade_m']['mean'] if straight else None,
        'worst_ade_m': measure_error(worst) if worst is not None and has_truth else None,
        'worst_t0_ns': worst['t0_ns'] if worst is not None and has_truth else None,
        'p90_ms': times['p90'] if times else None,
        'seconds': result.seconds,
        'begin_byte': begin_byte,
        'end_byte': end_byte,
    }
