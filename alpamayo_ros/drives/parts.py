"""Parts of an evaluation on disk: records of one row in one loop, drive by drive.

A part is a file of JSON lines: what it is made from, then the records of one group of drives a
line. An interrupted evaluation goes on behind the last group, with the same figures as one that
was not. Knows no metric and no planner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
import json
from pathlib import Path
from typing import Any

from ..errors import BadInput
from ..files import write_atomically

FOLDER = 'parts'
Record = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """A row in a loop: what it is made from (`row`, `planner`, `loop`, `world`), its records."""

    made_from: dict[str, Any]
    records: list[Record]

    @property
    def drives(self) -> int:
        """How many drives it shall have."""
        return int(self.made_from['loop']['drives'])


def complete_part(
    folder: Path,
    made_from: Mapping[str, Any],
    group: int,
    measure: Callable[[list[range]], Iterable[list[Record]]],
) -> None:
    """Measure what is missing of a part and write it down, `group` drives at a time.

    measure: groups of drives to their records, in this order.
    """
    path, drives = _locate_part(folder, made_from), int(made_from['loop']['drives'])
    done = count_known_drives(folder, made_from)
    if done == drives:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if not done:
        write_atomically(path, _to_line(made_from))
    groups = [range(start, min(start + group, drives)) for start in range(done, drives, group)]
    with path.open('a', encoding='utf-8') as file:
        for records in measure(groups):
            file.write(_to_line(records))
            file.flush()


def read_parts(folder: Path) -> Iterator[Part]:
    """Every part of a folder that is complete, by name."""
    for path in sorted((folder / FOLDER).glob('*.jsonl')):
        part = _read_part(path)
        if _count_drives(part.records) == part.drives:
            yield part


def count_known_drives(folder: Path, made_from: Mapping[str, Any]) -> int:
    """How many drives of a part are on disk."""
    path = _locate_part(folder, made_from)
    return _count_drives(_read_part(path).records) if path.exists() else 0


def require_same_settings(folder: Path, wanted: Sequence[Mapping[str, Any]]) -> None:
    """Raise BadInput unless the parts in a folder and the wanted ones belong into one table.

    A row is made from one thing, and all rows of a loop are of the same drives of one world.
    """
    known: dict[str, tuple[str, Any]] = {}
    paths = sorted((folder / FOLDER).glob('*.jsonl'))
    found = [(str(path), _read_part(path).made_from) for path in paths]
    for where, made_from in [*found, *(('wanted', _to_plain_json(own)) for own in wanted)]:
        loop = {**made_from['loop'], 'latency_s': None}
        for what, value in (
            ('world', made_from['world']),
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
    """A part; a last line without an end was interrupted, and is cut off the file."""
    text = path.read_text(encoding='utf-8')
    if not text.endswith('\n'):
        text = text[: text.rfind('\n') + 1]
        write_atomically(path, text)
    try:
        made_from, *groups = map(json.loads, text.splitlines())
        return Part(dict(made_from), [dict(record) for group in groups for record in group])
    except (TypeError, ValueError) as error:
        raise BadInput(f'{path}: not a part of an evaluation: {error}') from None


def _count_drives(records: Sequence[Record]) -> int:
    """How many drives have their records."""
    return int(records[-1]['drive']) + 1 if records else 0


def _describe_difference(first: Any, other: Any) -> str:
    """What two descriptions do not share, as the first and the other have it."""
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
    """What it is when it is read again."""
    return dict(json.loads(_to_line(made_from)))


def _to_line(content: Mapping[str, Any] | Sequence[Record]) -> str:
    return json.dumps(content) + '\n'
