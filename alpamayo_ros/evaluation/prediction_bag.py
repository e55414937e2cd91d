"""The record as a rosbag2 folder: paths, reasoning and markers at their stamps.

For `ros2 bag play`, RViz and Foxglove. Messages are those of the live node, built by
`ros/outputs.py`; the log time is t0 + measured latency, when the live node would have published.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
import shutil
from typing import Any

import numpy as np
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer

from ..data_types import EgoPose, Prediction
from ..ros.outputs import OUTPUTS, Plan
from .messages import TYPESTORE, message_factory
from .record import Line

NAMESPACE = '/alpamayo'
TOPICS = ('output/path', 'output/trajectory', 'output/reasoning', 'output/markers')
UNSPECIFIED = QosTime(0, 0)
RELIABLE = Qos(  # what the live node offers: reliable, depth 1
    history=QosHistory.KEEP_LAST,
    depth=1,
    reliability=QosReliability.RELIABLE,
    durability=QosDurability.VOLATILE,
    deadline=UNSPECIFIED,
    lifespan=UNSPECIFIED,
    liveliness=QosLiveliness.AUTOMATIC,
    liveliness_lease_duration=UNSPECIFIED,
    avoid_ros_namespace_conventions=False,
)


def write_prediction_bag(folder: Path, lines: Iterable[Line]) -> int:
    """Replace `folder` by a bag of all predictions in `lines`; returns how many there are.

    The old folder stays until the new one is complete.
    """
    partial = folder.parent / '.partial' / folder.name
    shutil.rmtree(partial.parent, ignore_errors=True)
    make = message_factory()
    outputs = [output for output in OUTPUTS if output.topic in TOPICS]
    count = 0
    try:
        with Writer(partial, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
            connections = {
                output: writer.add_connection(
                    f'{NAMESPACE}/{output.topic}',
                    output.type_name,
                    typestore=TYPESTORE,
                    offered_qos_profiles=[RELIABLE],
                )
                for output in outputs
            }
            for line in lines:
                if line['status'] == 'ok':
                    count += 1
                    plan = to_plan(line)
                    for output, connection in connections.items():
                        message = output.build(plan, make)
                        payload = TYPESTORE.serialize_cdr(message, output.type_name)
                        writer.write(connection, plan.now_ns, payload)
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial.parent, ignore_errors=True)
    return count


def to_plan(line: Line) -> Plan:
    """What the messages of one recorded prediction are made from, published when it was ready."""
    prediction, t0_ns = to_prediction(line), line['t0_ns']
    return Plan(prediction, to_pose(line), now_ns=t0_ns + round(line['ms']['total'] * 1e6))


def to_pose(line: Line) -> EgoPose:
    """odom_from_t0 of a line."""
    pose: Mapping[str, Any] = line['odom_from_t0']
    return EgoPose(
        line['t0_ns'],
        np.array(pose['position_m']),
        np.array(pose['quaternion_xyzw']),
        line['twist_mps'],
        pose['frame_id'],
        pose['child_frame_id'],
    )


def to_prediction(line: Line) -> Prediction:
    """Return the prediction of a line; what only the chosen sample has is empty for the others."""
    count, chosen = line['k'], line['chosen']

    def only_chosen(value: Any, other: Any) -> tuple[Any, ...]:
        return tuple(value if k == chosen else other for k in range(count))

    return Prediction(
        t0_ns=line['t0_ns'],
        seed=line['seed'],
        samples=np.array(line['samples'], np.float32),
        actions=np.array(line['actions'], np.float32),
        chosen=chosen,
        spread_m=line['spread_m'],
        v0_mps=line['v0_mps'],
        texts=only_chosen(line['text'], ''),
        partial_texts=only_chosen(line['partial_text'], ''),
        end=only_chosen(line['end'], ''),
        tokens=only_chosen(line['tokens'], 0),
        checks=tuple(line['checks']),
        timing_ms=line['ms'],
    )
