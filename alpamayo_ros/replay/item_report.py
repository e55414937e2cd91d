"""The report of one item of many recordings: any worker makes it, the dataset keeps it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
import tempfile
from typing import Any

from ..bags.calibrations import complete_calibrations
from ..bags.reader import Bag
from ..errors import BadInput
from ..json_types import ItemRow, Line, Run
from ..report.replay_page import CaseView
from ..rig import CameraRig
from .driven_path import DrivenPath
from .rebuild import draw_case, rebuild
from .record import ReplayRecord
from .recordings import BagItem, BagResult
from .replay import require_topics


@dataclass(frozen=True)
class ReportItem:
    """A work item: the report of an item that was replayed, with the lines of it."""

    row: ItemRow
    run: Run
    lines: list[Line]


@dataclass(frozen=True)
class ItemReport:
    """What a replay of the bag alone writes, by name, and the worst t0; detail: why neither is."""

    files: dict[str, bytes] = field(default_factory=dict)
    case: CaseView | None = None
    detail: str = ''


def begin_with_reports(
    begin: Callable[[], Callable[[BagItem], BagResult]], rig: CameraRig
) -> Callable[[Any], Any]:
    """Begin a worker that gives a BagResult for a BagItem, an ItemReport for a ReportItem."""
    replay = begin()

    def perform(item: BagItem | ReportItem) -> BagResult | ItemReport:
        return make_report(item, rig) if isinstance(item, ReportItem) else replay(item)

    return perform


def make_report(item: ReportItem, rig: CameraRig) -> ItemReport:
    """Make the report of an item; the bag may be gone, which the report then says."""
    row = item.row
    try:
        with tempfile.TemporaryDirectory() as place, Bag(Path(row['path'])) as bag:
            require_topics(bag, rig)
            driven = DrivenPath(bag, rig)
            record = ReplayRecord(Path(place) / 'report')
            record.claim(resume=False)
            record.begin({**item.run, 'bag': {'name': row['name'], **row['bag']}})
            record.append(*item.lines)
            rebuild(record, bag, rig, driven, {})
            rig, _ = complete_calibrations(bag, rig)
            files = [path for path in sorted(record.folder.rglob('*')) if path.is_file()]
            worst = next(
                line
                for line in item.lines
                if line['status'] == 'ok' and line['t0_ns'] == row['worst_t0_ns']
            )
            return ItemReport(
                {path.relative_to(record.folder).as_posix(): path.read_bytes() for path in files},
                draw_case(worst, bag, rig, driven),
            )
    except BadInput as error:
        return ItemReport(detail=str(error))
