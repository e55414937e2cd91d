"""Writes messages to a new rosbag2 folder as they arrive, as CDR bytes. Knows no node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rosbags.rosbag2 import StoragePlugin, Writer

from .messages import RELIABLE, TYPESTORE


class BagWriter:
    """Writes messages to a new rosbag2 folder; a context manager."""

    def __init__(self, folder: Path) -> None:
        self._writer = Writer(folder, version=8, storage_plugin=StoragePlugin.MCAP)
        self._connections: dict[str, Any] = {}

    def __enter__(self) -> BagWriter:
        self._writer.open()
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def write(self, topic: str, type_name: str, stamp_ns: int, payload: bytes) -> None:
        """Append one message of CDR bytes."""
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic, type_name, typestore=TYPESTORE, offered_qos_profiles=[RELIABLE]
            )
        self._writer.write(self._connections[topic], stamp_ns, payload)
