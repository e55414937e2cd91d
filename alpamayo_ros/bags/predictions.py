"""Writes the predictions of a record as a rosbag2 folder: paths, reasoning and markers.

For `ros2 bag play`, RViz and Foxglove. Messages are those of the live node, built by
`ros/publishing/outputs.py`. The log time is t0 + measured latency: the time at which the live node
would have published.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
import shutil

from rosbags.rosbag2 import StoragePlugin, Writer

from ..ros.publishing.outputs import OUTPUTS
from ..ros.publishing.stamped_prediction import StampedPrediction
from .messages import RELIABLE, TYPESTORE, message_factory

NAMESPACE = '/alpamayo'
TOPICS = ('output/path', 'output/trajectory', 'output/reasoning', 'output/markers')


def write_prediction_bag(folder: Path, plans: Iterable[StampedPrediction]) -> int:
    """Replace `folder` by a bag of all `plans`; returns how many there are.

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
            for plan in plans:
                count += 1
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
