"""Parts of an evaluation on disk: the records of one row in one loop, group by group of drives.

A part is a file of JSON lines: what it is made from, then one line per group of drives, with their
records. An interrupted evaluation goes on after the last group, with the figures of one that was
not interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
import json
import os
from pathlib import Path
from typing import Any, TextIO

from ..errors import BadInput
from ..files import hold_lock, write_atomically

FOLDER = 'parts'
Record = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """A row in a loop: what it is made from (`row`, `planner`, `loop`, `world`, `code`), records.

    measured: how many drives have been measured; a drive may have no record.
    """

    made_from: dict[str, Any]
    records: list[Record]
    measured: int = 0

    @property
    def drives(self) -> int:
        """How many drives the whole part has."""
        return int(self.made_from['loop']['drives'])


def complete_part(
    folder: Path,
    made_from: Mapping[str, Any],
    group: int,
    measure: Callable[[list[range]], Iterable[list[Record]]],
) -> None:
    """Measure the missing drives of a part and append them, `group` drives at a time.

    Several evaluations may complete the parts of one folder at the same time. measure: takes
    groups of drives and yields their records, in this order.
    """
    path, drives = _locate_part(folder, made_from), int(made_from['loop']['drives'])
    if count_known_drives(folder, made_from) == drives:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with hold_lock(path.with_suffix('.lock')):
        done = count_known_drives(folder, made_from)
        if not done:
            write_atomically(path, _to_line(made_from))
        groups = [range(start, min(start + group, drives)) for start in range(done, drives, group)]
        with _open_behind_complete_lines(path) as file:
            for drives_of_group, records in zip(groups, measure(groups), strict=True):
                file.write(_to_line({'measured': drives_of_group.stop, 'records': records}))
                file.flush()


def read_parts(folder: Path) -> Iterator[Part]:
    """Read every complete part of a folder, by name."""
    for path in sorted((folder / FOLDER).glob('*.jsonl')):
        part = _read_part(path)
        if part.measured == part.drives:
            yield part


def count_known_drives(folder: Path, made_from: Mapping[str, Any]) -> int:
    """How many drives of a part have been measured."""
    path = _locate_part(folder, made_from)
    return _read_part(path).measured if path.exists() else 0


def require_same_settings(folder: Path, wanted: Sequence[Mapping[str, Any]]) -> None:
    """Raise BadInput unless the parts in a folder and the wanted ones fit into one table.

    A row has one planner, and all rows of a loop have the same drives, world and code.
    """
    known: dict[str, tuple[str, Any]] = {}
    paths = sorted((folder / FOLDER).glob('*.jsonl'))
    found = [(str(path), _read_part(path).made_from) for path in paths]
    for where, made_from in [*found, *(('wanted', _to_plain_json(own)) for own in wanted)]:
        loop = {**made_from['loop'], 'latency_s': None}
        for what, value in (
            ('world', made_from['world']),
            ('code', made_from.get('code')),
            (f'{loop["kind"]} loop', loop),
            (f'row {made_from["row"]!r}', made_from['planner']),
        ):
            there, first = known.setdefault(what, (where, value))
            if value != first:
                difference = _describe_difference(first, value)
                raise BadInput(
                    f'{there}: made from {what} with {difference}: expected a new folder, or the '
                    f'same settings'
                )


def _read_part(path: Path) -> Part:
    """Read the complete lines of a part; another process may be writing the last one."""
    text = path.read_text(encoding='utf-8')
    try:
        made_from, *groups = map(json.loads, text[: text.rfind('\n') + 1].splitlines())
        records = [dict(record) for group in groups for record in group['records']]
        return Part(dict(made_from), records, groups[-1]['measured'] if groups else 0)
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f'{path}: not a part of an evaluation: {error}') from None


def _open_behind_complete_lines(path: Path) -> TextIO:
    """Open a part to append to it; a last line that an interruption has torn is cut off."""
    file = path.open('r+', encoding='utf-8')
    file.truncate(path.read_bytes().rfind(b'\n') + 1)
    file.seek(0, os.SEEK_END)
    return file


def _describe_difference(first: Any, other: Any) -> str:
    """Values in which two descriptions differ, of the first and of the other."""
    if not (isinstance(first, dict) and isinstance(other, dict)):
        return f'{first}, not {other}'
    keys = [key for key in {**first, **other} if first.get(key) != other.get(key)]
    return ', '.join(f'{key}={first.get(key)}, not {other.get(key)}' for key in keys)


def _locate_part(folder: Path, made_from: Mapping[str, Any]) -> Path:
    loop = made_from['loop']
    late = f'-{loop["latency_s"]:g}s' if 'latency_s' in loop else ''
    row = made_from['row'].replace(' ', '_').replace(',', '')
    return folder / FOLDER / f'{row}-{loop["kind"]}{late}.jsonl'


def _to_plain_json(made_from: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description as JSON gives it back."""
    return dict(json.loads(_to_line(made_from)))


def _to_line(content: Mapping[str, Any]) -> str:
    return json.dumps(content) + '\n'
