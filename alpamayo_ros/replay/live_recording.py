"""Turns a recording of the live node into lines of a record.

A prediction is published as several messages, and content joins them: a path has its t0 in the
header, and the path equals one of the samples. A prediction that a lost message makes incomplete
is left out. Knows no ROS.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import geometry, validity
from ..bags.reader import Bag
from ..data_types import GRID_NS, NANOSECONDS, Context, EgoPose, Prediction, derive_seed
from ..json_types import Facts, Line
from ..metrics.displacement import measure_horizons
from ..rig import CameraRig
from ..ros.anchors import FATES
from ..ros.inputs import to_frame
from ..ros.policy import compare_with_previous
from ..runtime.constant_velocity import make_straight_path
from .driven_path import DrivenPath
from .record import ok_line, reason_line

SAME_M = 0.02  # between a path and its sample: t0's pose was interpolated without later poses
NEAR_NS = NANOSECONDS // 2  # messages of one prediction arrive within this time
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

    def near(self, topic: str, log_ns: int) -> list[Any]:
        """Messages of a topic that arrived within NEAR_NS of a time, the nearest first."""
        known = self.all(topic)
        first = bisect_left(known, log_ns - NEAR_NS, key=lambda pair: pair[0])
        last = bisect_left(known, log_ns + NEAR_NS, key=lambda pair: pair[0])
        near = sorted(known[first:last], key=lambda pair: abs(pair[0] - log_ns))
        return [message for _, message in near]

    def values(self, status: str) -> dict[str, str]:
        """Key-value pairs of a status in its last diagnostics."""
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
    messages: LiveMessages, drive: Bag, rig: CameraRig, driven: DrivenPath, seed: int
) -> Iterator[Line]:
    """One line for each prediction that was recorded whole, then one for every other anchor.

    seed: the node's parameter. No topic carries `end`, `tokens` and `skew_ms`.
    """
    missing = _anchor_log_times(drive, rig)
    published = {_stamp_ns(path) for _, path in messages.all('output/path')}
    previous = None
    for log_ns, path in messages.all('debug/path'):
        t0_ns = _stamp_ns(path)
        odom = driven.pose(t0_ns)
        prediction = odom and _prediction(messages, log_ns, path, odom, seed)
        if not (odom and prediction) or t0_ns not in missing:
            continue
        prediction, previous = compare_with_previous(prediction, odom, previous)
        if t0_ns not in published:
            prediction = replace(prediction, checks=(*prediction.checks, HELD_BACK))
        truth = driven.future(odom)
        line = ok_line(
            _context(t0_ns, odom),
            prediction,
            measure_horizons(prediction.samples, prediction.chosen, truth),
            measure_horizons(make_straight_path(prediction.v0_mps)[None], 0, truth),
            _times(messages, log_ns),
        )
        line |= {'end': 'unknown', 'tokens': None, 'skew_ms': None}
        yield {**line, 'log_ns': missing.pop(t0_ns)}
    fates = ', '.join(f'{name} {count}' for name, count in count_fates(messages).items())
    for t0_ns, log_ns in missing.items():
        line = reason_line(t0_ns, 'rejected', 'no_prediction', f'counts of the node: {fates}')
        yield {**line, 'log_ns': log_ns}


def count_fates(messages: LiveMessages) -> dict[str, int]:
    """Number of anchor frames that the node saw, and of each fate, in its last diagnostics."""
    values = messages.values('inference')
    return {name: int(values[name]) for name in ('seen', *FATES) if name in values}


def _prediction(
    messages: LiveMessages, log_ns: int, path: Any, odom: EgoPose, seed: int
) -> Prediction | None:
    """The prediction that a path belongs to; the checks of its trajectory are repeated."""
    samples = _samples(messages, log_ns, path, odom)
    actions = samples and _actions(messages, log_ns, *samples)
    if not (samples and actions):
        return None
    t0_ns, k, chosen = _stamp_ns(path), len(samples[0]), samples[1]
    return Prediction(
        t0_ns=t0_ns,
        seed=derive_seed(seed, t0_ns),
        samples=samples[0],
        actions=actions[0],
        chosen=chosen,
        spread_m=validity.find_medoid(samples[0])[1],
        v0_mps=actions[1],
        texts=(_text(messages, log_ns),) * k,
        partial_texts=('',) * k,
        end=('',) * k,
        tokens=(0,) * k,
        checks=validity.check_trajectory(samples[0][chosen], actions[0][chosen], actions[1]),
    )


def _anchor_log_times(drive: Bag, rig: CameraRig) -> dict[int, int]:
    """Stamp of each anchor frame to its log time in the drive."""
    topic = next(camera.topic for camera in rig.cameras if camera.name == rig.anchor)
    found = {}
    for _, log_ns, payload in drive.messages([topic]):
        try:
            found[to_frame(drive.decode(topic, payload)).stamp_ns] = log_ns
        except ValueError:
            continue  # the node has refused it too
    return found


def _stamp_ns(message: Any) -> int:
    return int(message.header.stamp.sec) * NANOSECONDS + int(message.header.stamp.nanosec)


def _samples(
    messages: LiveMessages, log_ns: int, path: Any, odom: EgoPose
) -> tuple[NDArray[np.float32], int] | None:
    """Samples (K, 64, 4) one of which is the path, and its index."""
    positions = np.array([_xyz(pose.pose.position) for pose in path.poses])
    if path.header.frame_id == odom.frame_id:
        rotation = geometry.rotation_matrix(odom.quaternion_xyzw)
        positions = (positions - odom.position_m) @ rotation
    for message in messages.near('debug/samples', log_ns):
        samples = np.array(message.data, np.float32).reshape([x.size for x in message.layout.dim])
        distance = np.abs(samples[..., :2] - positions[:, :2]).max(axis=(1, 2))
        if distance.min() < SAME_M:
            return samples, int(distance.argmin())
    return None


def _actions(
    messages: LiveMessages, log_ns: int, samples: NDArray[np.float32], chosen: int
) -> tuple[NDArray[np.float32], float] | None:
    """Actions (K, 64, 2), known for the chosen sample and zero for others, and v0.

    The right message is the one whose accelerations give the speeds of the sample.
    """
    speeds, step_s = samples[chosen, :, 3], GRID_NS / NANOSECONDS
    for message in messages.near('debug/actions', log_ns):
        actions = np.array(message.data, np.float32).reshape(-1, 2)
        v0 = float(speeds[0] - actions[0, 0] * step_s)
        if np.allclose(v0 + np.cumsum(actions[:, 0]) * step_s, speeds, atol=0.01):
            every = np.zeros((*samples.shape[:2], 2), np.float32)
            every[chosen] = actions
            return every, v0
    return None


def _text(messages: LiveMessages, log_ns: int) -> str:
    found = messages.near('output/reasoning', log_ns)
    return str(found[0].data) if found else ''


def _times(messages: LiveMessages, log_ns: int) -> Mapping[str, float]:
    """Time of the inference, and age of the path when it was published."""
    topics = {'total': 'debug/processing_time_ms', 'age': 'debug/path_age_ms'}
    found = {name: messages.near(topic, log_ns) for name, topic in topics.items()}
    return {name: float(near[0].data) if near else 0.0 for name, near in found.items()}


def _context(t0_ns: int, odom: EgoPose) -> Context:
    """Context of a line; the recording has no frames."""
    nothing = np.zeros((0, 3), np.float32)
    return Context(t0_ns, {}, (), nothing, nothing, odom, odom.speed_mps, 0.0)


def _xyz(point: Any) -> tuple[float, float, float]:
    return point.x, point.y, point.z
