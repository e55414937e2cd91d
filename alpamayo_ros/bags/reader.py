"""A rosbag2 recording, read without ROS: messages of chosen topics in the order of the log.

Everything that is wrong with the bag as a whole is BadInput; a single payload that is not what
its type says is a ValueError, so that the caller can count it and go on. Knows no rig and no
context: conversion is the business of `ros/inputs.py`. Reads mcap and sqlite3, also compressed
(whole files or single messages, zstd).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
import struct
import sys
from typing import Any

import apsw
from rosbags.rosbag2 import Reader, ReaderError
from rosbags.serde import SerdeError
from ruamel.yaml.error import YAMLError

from ..errors import BadInput
from .messages import TYPESTORE

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdError
else:
    from backports.zstd import ZstdError

# What rosbags raises on bytes that are not what the format promises.
PAYLOAD_ERRORS = (SerdeError, struct.error, ValueError, IndexError, AssertionError, OverflowError)
FILE_ERRORS = (
    *PAYLOAD_ERRORS,
    *(ReaderError, apsw.Error, YAMLError, ZstdError),
    *(TypeError, KeyError, AttributeError, EOFError, RuntimeError),
)


class Bag:
    """An open recording; use it as a context manager.

    topics: name to message type. start_ns, end_ns: first and last log time. Raises BadInput when
    the bag is not there, unreadable, truncated or empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._readable():
            if not path.exists():
                raise BadInput(f'{path}: no such bag')
            if path.is_dir() and not (path / 'metadata.yaml').exists():
                raise BadInput(f'{path}: not a rosbag2 folder, it has no metadata.yaml')
            self._reader = Reader(path)
            self._reader.open()
        self.topics = {x.topic: x.msgtype for x in self._reader.connections}
        self.start_ns, self.end_ns = self._reader.start_time, self._reader.end_time - 1
        if not self._reader.message_count:
            self.close()
            raise BadInput(f'{path}: the bag is empty')

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self._reader.close()

    def count(self, topic: str) -> int:
        """Number of messages of a topic, 0 when there is none."""
        return sum(x.msgcount for x in self._reader.connections if x.topic == topic)

    def require(self, wanted: Mapping[str, Collection[str]]) -> None:
        """Check that each topic is there, has messages and one of the types; else BadInput."""
        for topic, types in wanted.items():
            if topic not in self.topics:
                listed = ', '.join(sorted(self.topics))
                raise BadInput(f'{self.path}: no topic {topic}; the bag has {listed}')
            found = {x.msgtype for x in self._reader.connections if x.topic == topic}
            if wrong := sorted(found - set(types)):
                expected = ' or '.join(types)
                raise BadInput(f'{self.path}: {topic} is {wrong[0]}, expected {expected}')
            if not self.count(topic):
                raise BadInput(f'{self.path}: {topic} has no messages')

    def messages(
        self, topics: Collection[str], start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[tuple[str, int, bytes]]:
        """Topic, log time and payload of each message with start_ns <= log time < stop_ns."""
        connections = [x for x in self._reader.connections if x.topic in topics]
        found = self._reader.messages(connections, start_ns, stop_ns)
        while True:
            with self._readable():
                item = next(found, None)
            if item is None:
                return
            yield item[0].topic, item[1], item[2]

    def decode(self, topic: str, payload: bytes) -> Any:
        """Message in a payload; ValueError when the bytes do not hold one."""
        try:
            return TYPESTORE.deserialize_cdr(payload, self.topics[topic])
        except PAYLOAD_ERRORS as error:
            raise ValueError(f'the payload is not a {self.topics[topic]}') from error

    def fingerprint(self) -> dict[str, int]:
        """What tells this recording from another one, wherever the file lies."""
        files = [self.path] if self.path.is_file() else sorted(self.path.iterdir())
        return {
            'bytes': sum(path.stat().st_size for path in files if path.is_file()),
            'messages': self._reader.message_count,
            'start_ns': self.start_ns,
            'end_ns': self.end_ns,
        }

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except BadInput:
            raise
        except FILE_ERRORS as error:
            text = str(error) or type(error).__name__
            raise BadInput(f'{self.path}: unreadable or truncated bag: {text}') from error
