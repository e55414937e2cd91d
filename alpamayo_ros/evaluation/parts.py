"""Parts of an evaluation on disk: records of one row in one loop, drive by drive.

A part is a file of JSON lines: what it is made from, then the records of one group of drives a
line. An interrupted evaluation goes on behind the last group, with the same figures as one that
was not. Knows no metric and no planner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
import json
from pathlib import Path
from typing import Any

from ..errors import BadInput
from .record import write_whole

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


def complete(
    folder: Path,
    made_from: Mapping[str, Any],
    group: int,
    measure: Callable[[Sequence[int]], list[Record]],
) -> None:
    """Measure what is missing of a part, `group` drives at a time, and write it down.

    Raises BadInput when the file there is made from something else.
    """
    path = folder / FOLDER / f'{_name(made_from)}.jsonl'
    wanted = json.loads(json.dumps(made_from))
    drives, records = int(wanted['loop']['drives']), []
    if path.exists():
        found = _read(path)
        _compare(path, found.made_from, wanted)
        records = found.records
    done = _done(records)
    if path.exists() and done == drives:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if not done:
        write_whole(path, _line(wanted))
    with path.open('a', encoding='utf-8') as file:
        for start in range(done, drives, group):
            file.write(_line(measure(range(start, min(start + group, drives)))))
            file.flush()


def read_all(folder: Path) -> Iterator[Part]:
    """Every part of a folder that is complete, by name."""
    for path in sorted((folder / FOLDER).glob('*.jsonl')):
        part = _read(path)
        if _done(part.records) == part.drives:
            yield part


def known_drives(folder: Path, made_from: Mapping[str, Any]) -> int:
    """How many drives of a part are on disk."""
    path = folder / FOLDER / f'{_name(made_from)}.jsonl'
    return _done(_read(path).records) if path.exists() else 0


def _read(path: Path) -> Part:
    """A part; a last line without an end was interrupted, and is cut off the file."""
    text = path.read_text(encoding='utf-8')
    if not text.endswith('\n'):
        text = text[: text.rfind('\n') + 1]
        write_whole(path, text)
    try:
        made_from, *groups = map(json.loads, text.splitlines())
        return Part(dict(made_from), [dict(record) for group in groups for record in group])
    except (TypeError, ValueError) as error:
        raise BadInput(f'{path}: not a part of an evaluation: {error}') from None


def _done(records: Sequence[Record]) -> int:
    """How many drives have their records."""
    return int(records[-1]['drive']) + 1 if records else 0


def _compare(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for what in sorted({*found, *wanted}):
        if found.get(what) != wanted.get(what):
            raise BadInput(
                f'{path}: made from {what} {_short(found.get(what))}, not '
                f'{_short(wanted.get(what))}: expected a new folder, or the same settings'
            )


def _name(made_from: Mapping[str, Any]) -> str:
    loop = made_from['loop']
    late = f'-{loop["latency_s"]:g}s' if 'latency_s' in loop else ''
    return f'{made_from["row"].replace(" ", "_").replace(",", "")}-{loop["kind"]}{late}'


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 300 else f'{text[:300]}...'


def _line(content: Mapping[str, Any] | Sequence[Record]) -> str:
    return json.dumps(content) + '\n'
