"""Describes what a replay was made from and with: the object in run.json and the summary."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
import hashlib
from importlib import metadata
from pathlib import Path
import platform
from typing import Any, Protocol

from ..json_types import Facts, Run
from ..rig import CameraRig

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
