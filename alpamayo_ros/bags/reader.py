"""Reads a recording without ROS: messages of chosen topics by log time or by stamp.

Reads folders of rosbag2 and single files of any writer: MCAP and SQLite, compressed as a whole or
by message (zstd, lz4). Damaged and unfinished files are read as far as they go; `notes` says what
is missing. A bag that cannot be read at all is BadInput. A payload that is not what its type says
is a ValueError, so that the caller can count it and go on. Knows no rig and no context.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import BadInput
from .folder import METADATA, find_files, open_storages
from .index import TopicIndex, build_index
from .payloads import decode_payload, decompress_payload, find_fitting_types
from .stamp_order import CLOCK_LIMIT_NS, measure_clock_offset, merge_by_stamp, number_passes
from .storage import Channel

GUESSED = 20  # messages that a topic without a schema is guessed from


class StampedMessage(NamedTuple):
    """One message as recorded.

    is_outlier: its stamp is far from those around it in the log; order_ns is then the stamp of one
    of those, else its own.
    """

    topic: str
    log_ns: int
    payload: bytes
    is_outlier: bool
    order_ns: int


class Bag:
    """An open recording; use it as a context manager.

    topics: name to message type, '' where nothing says it. start_ns, end_ns: first and last log
    time. notes: sentences about what cannot be read. Raises BadInput when the bag is not there,
    unreadable or empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.parent if path.name == METADATA else path
        files = find_files(self.path)
        self._stack = ExitStack()
        self._indices: dict[str, TopicIndex] = {}
        self._stated, self._files = files, files.paths
        try:
            opened = self._stack.enter_context(open_storages(files.paths))
            self._storages, self._notes = opened[0], [*files.notes, *opened[1]]
            self._channels: dict[str, list[Channel]] = {}
            for storage in self._storages:
                for channel in storage.channels.values():
                    self._channels.setdefault(channel.topic, []).append(channel)
            self.topics = {
                topic: next((x.type_name for x in found if x.type_name), '')
                or files.types.get(topic, '')
                for topic, found in self._channels.items()
            }
            self.start_ns, self.end_ns = self._find_span()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self._stack.close()

    @property
    def notes(self) -> list[str]:
        """Sentences about what is missing or damaged, as far as it is known by now."""
        damaged = [(x.path.name, x.damage) for x in self._storages if x.damage]
        return [*self._notes, *(f'{name}: {text}' for name, text in damaged)]

    def count(self, topic: str) -> int:
        """Number of messages of a topic, 0 when there is none."""
        if topic in self._indices:
            return len(self._indices[topic])
        total = 0
        for storage in self._storages:
            for channel in storage.channels.values():
                if channel.topic == topic:
                    if storage.counts is None:
                        return len(self._index([topic])[topic])
                    total += storage.counts.get(channel.id, 0)
        return total

    def require(self, wanted: Mapping[str, Collection[str]]) -> None:
        """Raise BadInput unless each topic has messages in CDR of one of its types.

        A topic without a schema gets the type of `wanted` that its messages can be read as.
        """
        for topic, types in wanted.items():
            if topic not in self.topics:
                listed = ', '.join(sorted(self.topics)) or 'no topics'
                raise BadInput(f'{self.path}: no topic {topic}; the bag has {listed}')
            self._require_cdr(topic)
            known = [x.type_name for x in self._channels[topic]] + [self.topics[topic]]
            if fitting := [name for name in known if name in types]:
                self.topics[topic] = fitting[0]
            elif named := sorted(filter(None, known)):
                expected = ' or '.join(types)
                raise BadInput(f'{self.path}: {topic} is {named[0]}, expected {expected}')
        self._index(wanted)
        for topic, types in wanted.items():
            if not self.count(topic):
                stated = self._stated.counts.get(topic, 0)
                hint = f', though metadata.yaml says {stated}' if stated else ''
                lost = f': {self.notes[0]}' if self.notes else ''
                raise BadInput(f'{self.path}: {topic} has no messages{hint}{lost}')
            if not self.topics[topic]:
                self.topics[topic] = self._guess_type(topic, types)
        self._notes += self._describe_clocks(wanted)

    def messages(
        self, topics: Collection[str], start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[tuple[str, int, bytes]]:
        """Topic, log time and payload of messages by log time, start_ns <= log time < stop_ns."""
        indices = self._index(topics)
        names = list(indices)
        sources = [np.full(len(x), k) for k, x in enumerate(indices.values())]
        places = [np.arange(len(x)) for x in indices.values()]
        if not names:
            return
        source, place = np.concatenate(sources), np.concatenate(places)
        logs = np.concatenate([x.log_ns for x in indices.values()])
        wanted = np.ones(len(logs), bool)
        if start_ns is not None:
            wanted &= logs >= start_ns
        if stop_ns is not None:
            wanted &= logs < stop_ns
        chosen = np.flatnonzero(wanted)
        for k in chosen[np.argsort(logs[chosen], kind='stable')]:
            yield self._read(names[source[k]], int(place[k]))[:3]

    def messages_by_stamp(
        self, topics: Collection[str], since_ns: int | None = None
    ) -> Iterator[StampedMessage]:
        """Messages in the order of their stamps, as a vehicle would have sent them.

        A message whose stamp is an outlier keeps its place in the log. Topics must be of types
        that begin with a Header. since_ns: messages with an `order_ns` before it are left out.
        """
        indices = self._index(topics)
        logs = {topic: x.log_ns for topic, x in indices.items()}
        for topic, number in merge_by_stamp(logs, {t: x.ordering_ns for t, x in indices.items()}):
            if since_ns is None or indices[topic].ordering_ns[number] >= since_ns:
                yield self._read(topic, number)

    def messages_to_play(self, topics: Collection[str]) -> Iterator[tuple[str, int, bytes]]:
        """Topic, time ns and payload, for a player with a clock.

        Times are the log times, which hold the delays of the drive; where they are of another
        clock than the stamps, times are the stamps.
        """
        if self.measure_clock_offset(topics) is None:
            yield from self.messages(topics)
            return
        now_ns = 0
        for message in self.messages_by_stamp(topics):
            now_ns = max(now_ns, message.order_ns)
            yield message.topic, now_ns, message.payload

    def measure_clock_offset(self, topics: Collection[str]) -> int | None:
        """Log time minus stamp in ns where the bag has two clocks; None where they agree."""
        indices = self._index(topics).values()
        if not indices:
            return None
        return measure_clock_offset(
            np.concatenate([x.log_ns for x in indices]),
            np.concatenate([x.ordering_ns for x in indices]),
        )

    def has_one_clock(self, topics: Collection[str], longest_ns: int) -> bool:
        """Whether the stamps of topics rise from one end of the bag to the other.

        No stamp is an outlier, none starts a second pass, and no gap is longer than `longest_ns`.
        """
        found = self._index(topics).values()
        merged = np.sort(np.concatenate([x.ordering_ns for x in found]))
        return (
            not any(x.is_outlier.any() or number_passes(x.ordering_ns).any() for x in found)
            and int(np.diff(merged).max(initial=0)) <= longest_ns
        )

    def stamps(self, topic: str) -> tuple[np.ndarray, np.ndarray]:
        """Log times and stamps, (N,) int64 ns, of a topic in the order of the log."""
        index = self._index([topic])[topic]
        return index.log_ns, index.stamps_ns

    def decode(self, topic: str, payload: bytes) -> Any:
        """Message in a payload; ValueError when the bytes do not hold one."""
        return decode_payload(payload, self.topics[topic])

    def fingerprint(self) -> dict[str, int]:
        """Facts that tell this recording from another one, wherever the file lies."""
        files = [self.path] if self.path.is_file() else sorted(self.path.iterdir())
        return {
            'bytes': sum(path.stat().st_size for path in files if path.is_file()),
            'messages': sum(map(self.count, self.topics)),
            'start_ns': self.start_ns,
            'end_ns': self.end_ns,
        }

    def _index(self, topics: Collection[str]) -> dict[str, TopicIndex]:
        """Index of topics, in the order in which they are named; read at the first use."""
        if missing := [x for x in topics if x not in self._indices and x in self.topics]:
            self._indices |= build_index(self._storages, missing)
        return {topic: self._indices[topic] for topic in topics if topic in self._indices}

    def _read(self, topic: str, number: int) -> StampedMessage:
        index = self._indices[topic]
        storage, entry = index.entry(number)
        payload = decompress_payload(self._storages[storage].read(entry))
        is_outlier, order_ns = bool(index.is_outlier[number]), int(index.ordering_ns[number])
        return StampedMessage(topic, entry.log_ns, payload, is_outlier, order_ns)

    def _find_span(self) -> tuple[int, int]:
        """First and last log time; raises BadInput for a bag without messages."""
        spans = [x.span_ns for x in self._storages if x.counts is not None and x.span_ns]
        if any(x.counts is None for x in self._storages):
            indices = [x for x in self._index(self.topics).values() if len(x)]
            spans += [(int(x.log_ns[0]), int(x.log_ns[-1])) for x in indices]
        if not sum(map(self.count, self.topics)) or not spans:
            lost = f': {self.notes[0]}' if self.notes else ''
            raise BadInput(f'{self.path}: the bag is empty{lost}')
        return min(first for first, _ in spans), max(last for _, last in spans)

    def _require_cdr(self, topic: str) -> None:
        for channel in self._channels[topic]:
            if channel.encoding != 'cdr':
                hint = ': convert the recording to ROS 2' if channel.encoding == 'ros1' else ''
                raise BadInput(
                    f'{self.path}: {topic} is encoded as {channel.encoding or "nothing"}, '
                    f'expected cdr{hint}'
                )

    def _describe_clocks(self, topics: Collection[str]) -> Iterator[str]:
        """A sentence for each topic whose stamps are of another clock than the log, or for all."""
        offsets = {t: offset for t in topics if (offset := self.measure_clock_offset([t]))}
        spread_ns = max(offsets.values(), default=0) - min(offsets.values(), default=0)
        is_common = len(offsets) == len(topics) and spread_ns < CLOCK_LIMIT_NS
        for topic, offset_ns in list(offsets.items())[: 1 if is_common else None]:
            seconds, way = abs(offset_ns) / 1e9, 'ahead of' if offset_ns > 0 else 'behind'
            whose = 'its messages' if is_common else topic
            yield (
                f'it has two clocks: its log times are {seconds:.4g} s {way} the stamps of '
                f'{whose}; the stamps decide'
            )

    def _guess_type(self, topic: str, types: Collection[str]) -> str:
        """The one of some types that the first messages can be read as, whole."""
        payloads = [self._read(topic, k).payload for k in range(min(self.count(topic), GUESSED))]
        fitting = find_fitting_types(payloads, types)
        if len(fitting) != 1:
            raise BadInput(
                f'{self.path}: {topic} has no schema and its messages fit no single type, '
                f'expected {" or ".join(types)}: record the topic with its schema'
            )
        self._notes.append(f'{topic} has no schema: read as {fitting[0]}')
        return fitting[0]
