"""What a replay was made from and with, as the JSON object that run.json and the summary hold."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
import hashlib
from importlib import metadata
import platform
from typing import Any, Protocol

from ..bags.reader import Bag
from ..rig import CameraRig

PACKAGES = ('alpamayo_ros', 'torch', 'transformers', 'numpy', 'rosbags', 'opencv-python-headless')


class Source(Protocol):
    """What made the predictions: an engine, or a node that had one."""

    def provenance(self) -> dict[str, Any]:
        """What a result depends on besides the inputs."""


def describe_run(
    bag: Bag, rig: CameraRig, engine: Source, parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """Bag, rig, parameters and engine, which a resumed run must repeat, and the versions.

    The rig is told by its content, so that an edited file is another rig.
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
