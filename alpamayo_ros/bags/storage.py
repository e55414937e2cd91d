"""The interface of a storage file to the bag reader: channels, entries, payloads.

A storage is read as far as it goes: `damage` says in one sentence what of it cannot be read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
import re
import struct
from typing import NamedTuple

from .compression import ERRORS, decompress_bytes, is_compressed

NO_STAMP = -1
LATEST_NS = 2**62  # MCAP has times beyond int64; a log time behind this one is none
HEADER_BYTES = 16  # encapsulation of CDR, the count of an array, the stamp: int32 s, uint32 ns
STAMP_AT = {'tf2_msgs/msg/TFMessage': 8}  # behind the count of its transforms; others: 4
_SEPARATORS = re.compile(r'/|::|\.')


@dataclass(frozen=True)
class Channel:
    """One topic of a storage file. type_name: '' where the file has no schema for it."""

    id: int
    topic: str
    type_name: str
    encoding: str = 'cdr'


class Entry(NamedTuple):
    """Where a message is: its channel, log time ns, stamp of its header ns, place in the file.

    stamp_ns: the first eight bytes behind the encapsulation, read as a stamp; NO_STAMP where the
    payload is too short. It means something for types that begin with a Header, and for TF.
    """

    channel: int
    log_ns: int
    stamp_ns: int
    block: int
    offset: int


class Storage(ABC):
    """An open storage file.

    counts: messages by channel; span_ns: first and last log time; None where the file does not
    state them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.channels: dict[int, Channel] = {}
        self.counts: dict[int, int] | None = None
        self.span_ns: tuple[int, int] | None = None

    def _read_stamp(self, channel: int, payload: bytes) -> int:
        """Stamp ns of the first Header in a payload of a channel; NO_STAMP for a shorter one."""
        return read_stamp(payload, STAMP_AT.get(self.channels[channel].type_name, 4))

    def _add_channel(self, number: int, topic: str, type_name: str, encoding: str) -> None:
        """Note a channel, with topic and type in the spelling of ROS 2."""
        names = normalize_topic(topic), normalize_type(type_name)
        self.channels[number] = Channel(number, *names, encoding)

    @property
    @abstractmethod
    def damage(self) -> str:
        """What of the file cannot be read, as far as is known; '' when nothing is missing."""

    @abstractmethod
    def scan(self, channels: Collection[int]) -> Iterator[Entry]:
        """Entries of some channels in the order of the file."""

    @abstractmethod
    def read(self, entry: Entry) -> bytes:
        """Payload of an entry."""

    @abstractmethod
    def close(self) -> None:
        """Close the file."""


def normalize_type(name: str) -> str:
    """`package/msg/Name` of a type in the spelling of ROS 1, DDS or IDL; others unchanged."""
    words = [word for word in _SEPARATORS.split(name) if word not in ('', 'dds_')]
    if len(words) == 2:
        words.insert(1, 'msg')
    return '/'.join(words).removesuffix('_') if len(words) == 3 else name


def normalize_topic(name: str) -> str:
    """A topic with the leading slash that other writers leave out."""
    return name if name.startswith('/') else f'/{name}'


def read_stamp(payload: bytes, at: int = 4) -> int:
    """Stamp ns of the Header that a CDR payload begins with; NO_STAMP for a shorter one.

    The first HEADER_BYTES are enough, unless the payload is compressed.
    """
    if is_compressed(payload):
        try:
            payload = decompress_bytes(payload)
        except ERRORS:
            return NO_STAMP
    if len(payload) < at + 8:
        return NO_STAMP
    seconds, nanoseconds = struct.unpack_from('<iI' if payload[1] & 1 else '>iI', payload, at)
    return max(seconds * 1_000_000_000 + nanoseconds, NO_STAMP)
