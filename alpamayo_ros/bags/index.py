"""Index of a bag: where each message of a topic is, its log time and its stamp.

Takes 40 bytes for each message; payloads stay in the files. Knows no message types but that most
begin with a Header.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Sequence

import numpy as np

from .stamp_order import Stamps, find_outliers, place_outliers
from .storage import Entry, Storage


class TopicIndex:
    """The messages of one topic in the order of their log times.

    log_ns, stamps_ns: (N,) int64. is_outlier: (N,) bool, the stamps that are wrong;
    ordering_ns: (N,) the stamps with the outliers put beside their neighbours.
    """

    def __init__(self, rows: array[int]) -> None:
        table = np.frombuffer(rows, np.int64).reshape(-1, 6)
        self._table = table[np.argsort(table[:, 2], kind='stable')]
        self.log_ns: Stamps = self._table[:, 2]
        self.stamps_ns: Stamps = self._table[:, 3]
        self.is_outlier = find_outliers(self.log_ns, self.stamps_ns)
        self.ordering_ns = place_outliers(self.stamps_ns, self.is_outlier)

    def __len__(self) -> int:
        return len(self._table)

    def entry(self, number: int) -> tuple[int, Entry]:
        """Number of the storage, and where in it a message is."""
        storage, *place = self._table[number].tolist()
        return storage, Entry(*place)


def build_index(storages: Sequence[Storage], topics: Collection[str]) -> dict[str, TopicIndex]:
    """Read the heads of all messages of some topics."""
    rows = {topic: array('q') for topic in topics}
    for number, storage in enumerate(storages):
        targets = {x.id: rows[x.topic] for x in storage.channels.values() if x.topic in rows}
        if targets:
            for entry in storage.scan(targets.keys()):
                targets[entry.channel].extend((number, *entry))
    return {topic: TopicIndex(found) for topic, found in rows.items()}
