"""Reads an MCAP file of any writer: finished or cut off, chunked or not, indexed or not.

Follows the specification at mcap.dev/spec. The index of the file is not used: a walk over the
records finds the chunks, so a file without its end is read like a whole one. Channels that are not
CDR and types that are unknown are listed; they stop nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator
from pathlib import Path
import struct
import zlib

import lz4.frame

from ..errors import BadInput
from .compression import ERRORS, decompress_bytes, is_compressed
from .storage import HEADER_BYTES, LATEST_NS, Entry, Storage

MAGIC = b'\x89MCAP0\r\n'
FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, STATISTICS = 0x02, 0x03, 0x04, 0x05, 0x06, 0x0B
CACHE_BYTES = 64 << 20  # of decompressed chunks; one that is larger is kept alone
_RECORD, _MESSAGE, _CHUNK = struct.Struct('<BQ'), struct.Struct('<HIQQ'), struct.Struct('<QQQI')
_HEAD_BYTES = _MESSAGE.size + HEADER_BYTES
# What the bytes of a damaged record raise.
_RECORD_ERRORS = (*ERRORS, struct.error, ValueError, IndexError, KeyError, MemoryError)


class McapStorage(Storage):
    """An open MCAP file; raises BadInput when it is none."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._schemas = {0: ''}
        self._blocks: list[tuple[int, int, int]] = []  # opcode, start and length of the content
        self._cache: OrderedDict[int, bytes] = OrderedDict()
        self._cut = ''
        self._lost: set[int] = set()  # blocks that cannot be read
        self._file = path.open('rb')
        try:
            if self._file.read(len(MAGIC)) != MAGIC:
                raise BadInput(f'{path}: not an MCAP file: it begins with other bytes')
            self._walk(path.stat().st_size)
            if not self.counts or set(self.counts) - set(self.channels):
                self._find_channels()
        except BaseException:
            self.close()
            raise

    @property
    def damage(self) -> str:
        """What of the file cannot be read, as far as is known; '' when nothing is missing."""
        chunks = sum(opcode == CHUNK for opcode, _, _ in self._blocks)
        lost = f'{len(self._lost)} of {chunks} chunks cannot be read' if self._lost else ''
        return '; '.join(filter(None, (self._cut, lost)))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def scan(self, channels: Collection[int]) -> Iterator[Entry]:
        """Entries of some channels in the order of the file; damaged chunks are left out."""
        for block, (opcode, start, length) in enumerate(self._blocks):
            if opcode == MESSAGE:
                head = self._read(start, min(length, _HEAD_BYTES))
                found = [(head, start, length)]
            else:
                records = self._read_chunk(block)
                found = [
                    (records[at : at + min(size, _HEAD_BYTES)], at, size)
                    for opcode, at, size in _list_records(records)
                    if opcode == MESSAGE
                ]
            for head, at, _ in found:
                if len(head) < _MESSAGE.size:
                    continue
                channel, _, log_ns, _ = _MESSAGE.unpack_from(head)
                if channel in channels:
                    log_ns = min(log_ns, LATEST_NS)
                    stamp_ns = self._read_stamp(channel, head[_MESSAGE.size :])
                    entry = Entry(channel, log_ns, stamp_ns, block, at)
                    if is_compressed(head[_MESSAGE.size :]):
                        entry = entry._replace(
                            stamp_ns=self._read_stamp(channel, self.read(entry))
                        )
                    yield entry

    def read(self, entry: Entry) -> bytes:
        """Payload of an entry."""
        opcode, start, length = self._blocks[entry.block]
        if opcode == MESSAGE:
            return self._read(start, length)[_MESSAGE.size :]
        records = self._read_chunk(entry.block)
        _, size = _RECORD.unpack_from(records, entry.offset - _RECORD.size)
        return records[entry.offset + _MESSAGE.size : entry.offset + size]

    def _walk(self, size: int) -> None:
        """Find the blocks with messages, and the channels and counts outside of chunks."""
        at = len(MAGIC)
        while at + _RECORD.size <= size:
            opcode, length = _RECORD.unpack(self._read(at, _RECORD.size))
            start = at + _RECORD.size
            if not opcode or start + length > size:
                break
            if opcode == FOOTER:
                return
            if opcode in (MESSAGE, CHUNK):
                self._blocks.append((opcode, start, length))
            elif opcode in (SCHEMA, CHANNEL, STATISTICS):
                try:
                    self._keep_facts(opcode, self._read(start, length))
                except _RECORD_ERRORS:
                    break
            at = start + length
        self._cut = f'the file has no end: {at} of {size} bytes hold whole records'
        self.counts = self.span_ns = None

    def _find_channels(self) -> None:
        """Read the channels from the chunks, for a file that does not repeat them at its end."""
        for block, (opcode, _, _) in enumerate(self._blocks):
            if opcode == CHUNK:
                records = self._read_chunk(block)
                for kind, at, size in _list_records(records):
                    if kind in (SCHEMA, CHANNEL):
                        try:
                            self._keep_facts(kind, records[at : at + size])
                        except _RECORD_ERRORS:
                            self._lost.add(block)

    def _keep_facts(self, opcode: int, content: bytes) -> None:
        """Keep the facts of a schema, channel or statistics record."""
        if opcode == SCHEMA:
            (number,) = struct.unpack_from('<H', content)
            self._schemas[number], _ = _read_string(content, 2)
        elif opcode == CHANNEL:
            number, schema = struct.unpack_from('<HH', content)
            topic, at = _read_string(content, 4)
            encoding, _ = _read_string(content, at)
            self._add_channel(number, topic, self._schemas.get(schema, ''), encoding)
        else:
            first_ns, last_ns, size = struct.unpack_from('<QQI', content, 26)
            pairs = struct.iter_unpack('<HQ', content[46 : 46 + size])
            self.counts = dict(pairs) or None
            self.span_ns = (first_ns, last_ns)

    def _read_chunk(self, block: int) -> bytes:
        """Records of a chunk; none of a damaged one, which `damage` then counts."""
        if block in self._cache:
            self._cache.move_to_end(block)
            return self._cache[block]
        _, start, length = self._blocks[block]
        try:
            records = _unpack_chunk(self._read(start, length))
        except _RECORD_ERRORS:
            self._lost.add(block)
            records = b''
        self._cache[block] = records
        while len(self._cache) > 1 and sum(map(len, self._cache.values())) > CACHE_BYTES:
            self._cache.popitem(last=False)
        return records

    def _read(self, start: int, length: int) -> bytes:
        self._file.seek(start)
        return self._file.read(length)


def _unpack_chunk(content: bytes) -> bytes:
    """Records of a chunk; raises one of _RECORD_ERRORS when they are damaged."""
    _, _, size, crc = _CHUNK.unpack_from(content)
    compression, at = _read_string(content, _CHUNK.size)
    (length,) = struct.unpack_from('<Q', content, at)
    packed = content[at + 8 : at + 8 + length]
    if compression in ('', 'none'):
        records = packed
    elif compression == 'zstd':
        records = decompress_bytes(packed)
    elif compression == 'lz4':
        records = bytes(lz4.frame.decompress(packed))
    else:
        raise ValueError(f'compression {compression}')
    if len(records) != size or (crc and zlib.crc32(records) != crc):
        raise ValueError('wrong size or checksum')
    return records


def _list_records(records: bytes) -> Iterator[tuple[int, int, int]]:
    """Opcode, start and length of the content of each record of a chunk."""
    at = 0
    while at + _RECORD.size <= len(records):
        opcode, length = _RECORD.unpack_from(records, at)
        at += _RECORD.size
        if at + length > len(records):
            return
        yield opcode, at, length
        at += length


def _read_string(content: bytes, at: int) -> tuple[str, int]:
    """A string with its length in front, and the place behind it."""
    (length,) = struct.unpack_from('<I', content, at)
    text = content[at + 4 : at + 4 + length]
    if len(text) < length:
        raise ValueError('a string is cut off')
    return text.decode('utf-8', errors='replace'), at + 4 + length
