"""Reads a rosbag2 database (.db3) of any schema, even one cut off or left open.

Only the tables `topics` and `messages` are needed; definitions of messages, quality of service and
metadata inside of the file are not read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
import shutil
import tempfile

import apsw

from ..errors import BadInput
from .compression import is_compressed
from .storage import HEADER_BYTES, Entry, Storage

MAGIC = b'SQLite format 3\0'
_SCAN = (
    'SELECT rowid, topic_id, timestamp, substr(data, 1, ?), length(data) FROM messages '
    'WHERE topic_id IN ({}) ORDER BY rowid'
)


class SqliteStorage(Storage):
    """An open database; raises BadInput when it is none of a bag."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._damage = ''
        self._folder = tempfile.TemporaryDirectory() if _has_journal(path) else None
        file = path
        if self._folder:  # what a crash left in the journal is read too; the bag stays as it is
            file = Path(self._folder.name) / path.name
            for ending in ('', '-wal', '-journal'):
                source = path.with_name(path.name + ending)
                if source.exists():
                    shutil.copyfile(source, file.with_name(file.name + ending))
        self._database = _open(file, is_copy=self._folder is not None)
        try:
            self._read_channels()
        except apsw.Error as error:
            self.close()
            raise BadInput(f'{path}: not a database of rosbag2: {error}') from error

    @property
    def damage(self) -> str:
        """The last error of the database; '' when there was none."""
        return self._damage

    def close(self) -> None:
        """Close the file."""
        self._database.close()
        if self._folder:
            self._folder.cleanup()

    def scan(self, channels: Collection[int]) -> Iterator[Entry]:
        """Entries of some channels in the order of the file, up to the first damage."""
        places = ','.join('?' * len(channels))
        try:
            rows = self._database.execute(_SCAN.format(places), (HEADER_BYTES, *channels))
            for row, channel, log_ns, head, length in rows:
                stamp_ns = self._read_stamp(channel, head or b'')
                entry = Entry(channel, int(log_ns), stamp_ns, row, length or 0)
                if is_compressed(head or b''):
                    entry = entry._replace(stamp_ns=self._read_stamp(channel, self.read(entry)))
                yield entry
        except (apsw.Error, TypeError, ValueError) as error:
            self._damage = f'the database is damaged: {error}'

    def read(self, entry: Entry) -> bytes:
        """Payload of an entry; empty when the place of it is damaged."""
        try:
            rows = self._database.execute(
                'SELECT data FROM messages WHERE rowid = ?', (entry.block,)
            )
            (data,) = next(iter(rows), (b'',))
        except apsw.Error as error:
            self._damage = f'the database is damaged: {error}'
            return b''
        return data if isinstance(data, bytes) else b''

    def _read_channels(self) -> None:
        columns = [row[1] for row in self._database.execute('PRAGMA table_info(topics)')]
        known = [row[1] for row in self._database.execute('PRAGMA table_info(messages)')]
        missing = {'id', 'name', 'type'} - set(columns)
        missing |= {'topic_id', 'timestamp', 'data'} - set(known)
        if missing:
            raise BadInput(
                f'{self.path}: not a database of rosbag2: there is no column '
                f'{", ".join(sorted(missing))} in its tables topics and messages'
            )
        encoding = 'serialization_format' if 'serialization_format' in columns else "'cdr'"
        for number, topic, name, form in self._database.execute(
            f'SELECT id, name, type, {encoding} FROM topics ORDER BY id'
        ):
            if isinstance(topic, str):
                kind = name if isinstance(name, str) else ''
                self._add_channel(number, topic, kind, form if isinstance(form, str) else 'cdr')
            else:
                self._damage = (
                    f'the database is damaged: topic {number} has the name {topic!r:.80}, '
                    'expected text'
                )
        try:
            self.counts = dict(
                self._database.execute('SELECT topic_id, count(*) FROM messages GROUP BY topic_id')
            )
            rows = self._database.execute('SELECT min(timestamp), max(timestamp) FROM messages')
            first_ns, last_ns = next(iter(rows))
            if isinstance(first_ns, int) and isinstance(last_ns, int):
                self.span_ns = first_ns, last_ns
        except apsw.Error as error:
            self._damage = f'the database is damaged: {error}'


def _has_journal(path: Path) -> bool:
    """Whether a writer that crashed, or has not ended, has left a journal beside the file."""
    journals = [path.with_name(path.name + ending) for ending in ('-wal', '-journal')]
    return any(journal.exists() and journal.stat().st_size for journal in journals)


def _open(path: Path, is_copy: bool) -> apsw.Connection:
    if path.open('rb').read(len(MAGIC)) != MAGIC:
        raise BadInput(f'{path}: not an SQLite database: it begins with other bytes')
    name = path.resolve().as_uri() + ('' if is_copy else '?immutable=1')
    flags = apsw.SQLITE_OPEN_READWRITE if is_copy else apsw.SQLITE_OPEN_READONLY
    try:
        database = apsw.Connection(name, flags=flags | apsw.SQLITE_OPEN_URI)
        # without it, a file that is shorter than its first page says cannot be read at all
        database.execute('PRAGMA writable_schema = ON')
    except apsw.Error as error:
        raise BadInput(f'{path}: not a database of rosbag2: {error}') from error
    return database
