"""Describes what a replay was made from and with: the object in run.json and the summary."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timezone
import hashlib
from importlib import metadata
from pathlib import Path
import platform
from typing import Any, Protocol

from ..json_types import Facts, Run
from ..rig import CameraRig
from .record import ReplayRecord, read_run

PACKAGES = ('alpamayo_ros', 'torch', 'transformers', 'numpy', 'rosbags', 'opencv-python-headless')


class Recording(Protocol):
    """What is replayed: a bag, or a folder of clips."""

    @property
    def path(self) -> Path:
        """Where it lies."""

    def fingerprint(self) -> Facts:
        """Facts that a resumed run must find again."""


class Source(Protocol):
    """The maker of the predictions: an engine, or a node that had one."""

    def provenance(self) -> Facts:
        """Facts on which a result depends besides the inputs."""


def describe_run(
    bag: Recording, rig: CameraRig, engine: Source, parameters: Mapping[str, Any]
) -> Run:
    """Bag, rig, parameters and engine, which a resumed run must repeat, and the versions.

    The rig is identified by its content, so an edited file is another rig.
    """
    return {
        'bag': {'name': bag.path.resolve().name, **bag.fingerprint()},
        'rig': {
            'name': rig.name,
            'absent': list(rig.absent),
            'sha256': hashlib.sha256(repr(rig).encode()).hexdigest(),
        },
        'parameters': dict(parameters),
        'engine': engine.provenance(),
        'versions': {'python': platform.python_version(), **{x: _version(x) for x in PACKAGES}},
        'machine': platform.machine(),
        'started': datetime.now(timezone.utc).isoformat(timespec='seconds'),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None  # constant velocity needs no torch


class EngineFacts:
    """An engine that a worker has described."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    def provenance(self) -> Facts:
        """What the worker described."""
        return self._facts


class EngineGuard:
    """Begins a record with the engine of the first result, and refuses results of another one."""

    def __init__(self, record: ReplayRecord, describe: Callable[[EngineFacts], Run]) -> None:
        """describe: the run of an engine, with all else that a resumed run must repeat."""
        self._record, self._describe = record, describe
        self._facts: Facts | None = None

    def resume(self) -> None:
        """Expect the engine that made the record; raises BadInput when all else is another."""
        self._facts = read_run(self._record.folder)['engine']
        self._record.require_same(self._describe(EngineFacts(self._facts)))

    def take(self, facts: Facts) -> None:
        """Take the engine of a result; raises BadInput for another one than before."""
        if self._facts is None:
            self._record.begin(self._describe(EngineFacts(facts)))
            self._facts = facts
        elif facts != self._facts:
            self._record.require_same(self._describe(EngineFacts(facts)))

    def has_run(self) -> bool:
        """Whether a result has come, so that there is something to rebuild."""
        return self._facts is not None
