"""Turns a recording of the live node into lines of a record.

Every message of a prediction has the stamp t0: ~/debug/samples has the trajectories, and
~/output/status everything else. Knows no ROS.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..bags.reader import Bag
from ..data_types import NANOSECONDS, Context, EgoPose, Prediction
from ..json_types import Facts, Line
from ..rig import CameraRig
from ..ros.anchors import FATES
from ..ros.diagnostics.t0_status import TOPIC as STATUS_TOPIC
from ..ros.inputs import to_image
from ..ros.publishing.outputs import read_samples
from .driven_path import DrivenPath
from .record import reason_line
from .replay import measure_line

HELD_BACK = 'held_back'  # check of a path that a policy has kept from ~/output/path


class LiveMessages:
    """The messages of a recording by topic below the node's name, with the times of arrival."""

    def __init__(self, bag: Bag, node_name: str) -> None:
        self._messages: dict[str, list[tuple[int, Any]]] = {}
        for topic, log_ns, payload in bag.messages(bag.topics):
            message = bag.decode(topic, payload)
            self._messages.setdefault(topic.removeprefix(f'{node_name}/'), []).append(
                (log_ns, message)
            )

    def all(self, topic: str) -> list[tuple[int, Any]]:
        """Time of arrival in ns and message of a topic, in order."""
        return self._messages.get(topic, [])

    def by_stamp(self, topic: str) -> dict[int, Any]:
        """Messages of a topic by header stamp in ns; heartbeats, with stamp zero, are left out."""
        stamped = {_stamp_ns(message): message for _, message in self.all(topic)}
        return {stamp_ns: message for stamp_ns, message in stamped.items() if stamp_ns}

    def values(self, status: str) -> dict[str, str]:
        """Key-value pairs of a status in the last diagnostics."""
        for _, message in reversed(self.all('/diagnostics')):
            for found in message.status:
                if found.name.endswith(f': {status}'):
                    return {pair.key: pair.value for pair in found.values}
        return {}


class RecordedNode:
    """The live node as the source of a record: the model in its last diagnostics."""

    def __init__(self, messages: LiveMessages) -> None:
        self._values = messages.values('model')

    def provenance(self) -> Facts:
        """Strings as the node published them; `untrained` is a bool again."""
        return {**self._values, 'untrained': self._values.get('untrained') == 'True'}


def make_lines(
    messages: LiveMessages, drive: Bag, rig: CameraRig, driven: DrivenPath
) -> Iterator[Line]:
    """One line for each anchor frame of the drive, those with a prediction first."""
    missing = _anchor_log_times(drive, rig)
    statuses = messages.by_stamp(STATUS_TOPIC)
    for t0_ns, message in messages.by_stamp('debug/samples').items():
        status, odom = statuses.get(t0_ns), driven.pose(t0_ns)
        if status is None or odom is None or t0_ns not in missing:
            continue
        values = _read_values(status)
        prediction = _read_prediction(message, values, t0_ns)
        line = measure_line(
            _make_context(t0_ns, odom, values),
            prediction,
            driven.truth(odom),
            {'total': float(values['inference ms']), 'age': float(values['age ms'])},
        )
        yield {**line, 'log_ns': missing.pop(t0_ns)}
    for t0_ns, log_ns in missing.items():
        values = _read_values(statuses[t0_ns]) if t0_ns in statuses else {}
        status = 'failed' if values.get('fate') == 'failed' else 'rejected'
        reason = values.get('reason', 'no_prediction')
        detail = values.get('detail') or values.get('fate', 'no status of this frame was recorded')
        yield {**reason_line(t0_ns, status, reason, detail), 'log_ns': log_ns}


def count_fates(messages: LiveMessages) -> dict[str, int]:
    """Number of anchor frames that the node saw, and of each fate, in its last diagnostics."""
    values = messages.values('inference')
    return {name: int(values[name]) for name in ('seen', *FATES) if name in values}


def _read_values(message: Any) -> dict[str, str]:
    """Key-value pairs of a message of ~/output/status."""
    return {pair.key: pair.value for status in message.status for pair in status.values}


def _read_prediction(message: Any, values: Mapping[str, str], t0_ns: int) -> Prediction:
    """The prediction of a message of ~/debug/samples; texts are those of the chosen sample."""
    samples, actions = read_samples(message)
    count = len(samples)
    checks = tuple(filter(None, values['checks'].split(', ')))
    if values['decision'] != 'publish':
        checks = (*checks, HELD_BACK)
    return Prediction(
        t0_ns=t0_ns,
        seed=int(values['seed']),
        samples=samples,
        actions=actions,
        chosen=int(values['chosen']),
        spread_m=float(values['spread m']),
        v0_mps=float(values['v0 m/s']),
        texts=(values['text'],) * count,
        partial_texts=(values.get('partial text', ''),) * count,
        end=(values['end'],) * count,
        tokens=(int(values['tokens']),) * count,
        checks=checks,
        navigation=values.get('navigation', ''),
    )


def _anchor_log_times(drive: Bag, rig: CameraRig) -> dict[int, int]:
    """Stamp of each anchor frame to its log time in the drive."""
    topic = next(camera.topic for camera in rig.cameras if camera.name == rig.anchor)
    found = {}
    for _, log_ns, payload in drive.messages([topic]):
        try:
            found[to_image(drive.decode(topic, payload)).stamp_ns] = log_ns
        except ValueError:
            continue  # the node has refused it too
    return found


def _stamp_ns(message: Any) -> int:
    return int(message.header.stamp.sec) * NANOSECONDS + int(message.header.stamp.nanosec)


def _make_context(t0_ns: int, odom: EgoPose, values: Mapping[str, str]) -> Context:
    """Context of a line; the recording has no frames."""
    nothing = np.zeros((0, 3), np.float32)
    v0_mps, skew_s = float(values['v0 m/s']), float(values['skew ms']) / 1e3
    return Context(t0_ns, {}, (), nothing, nothing, odom, v0_mps, skew_s)
