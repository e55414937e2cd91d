"""Calibrations of cameras and static transforms that a recording holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ..rig import CameraRig
from ..ros.input_topics import STATIC_TOPIC
from ..ros.inputs import to_links
from ..ros.receiving.calibrations import INFO_TYPE, list_info_topics, read_calibration
from ..transform_tree import TransformTree
from .reader import Bag


def complete_calibrations(bag: Bag, rig: CameraRig) -> tuple[CameraRig, list[str]]:
    """The rig, with calibrations from the bag for cameras that have none; notes on failures.

    A camera without CameraInfo beside its topic stays as it is, without a note.
    """
    notes: list[str] = []
    cameras, tree, base = [], _read_tree(bag), _find_base(bag, rig)
    topics = list_info_topics({camera.name: camera.topic for camera in rig.cameras})
    for camera in rig.cameras:
        found = [x for x in topics[camera.name] if bag.topics.get(x) == INFO_TYPE]
        info = _read_first(bag, found[0]) if found and not camera.calibration else None
        if info is not None:
            try:
                calibration = read_calibration(info, camera.topic, tree, base)
                camera = replace(camera, calibration=calibration)
            except ValueError as error:
                notes.append(f'{camera.name}: no calibration from the bag: {error}')
        cameras.append(camera)
    return replace(rig, cameras=tuple(cameras)), notes


def read_static_transforms(bag: Bag) -> Iterator[Any]:
    """Messages of /tf_static, which hold for the whole bag."""
    return _read(bag, STATIC_TOPIC)


def _read_tree(bag: Bag) -> TransformTree:
    tree = TransformTree()
    for message in read_static_transforms(bag):
        for link in to_links(message, is_static=True):
            tree.add(link)
    return tree


def _find_base(bag: Bag, rig: CameraRig) -> str:
    """Frame of the rear axle, whose pose the odometry brings."""
    if rig.ego.rear_axle:
        return rig.ego.rear_axle.frame
    first = _read_first(bag, rig.odometry_topic)
    return str(getattr(first, 'child_frame_id', rig.ego.child_frame)).lstrip('/')


def _read_first(bag: Bag, topic: str) -> Any:
    return next(_read(bag, topic), None)


def _read(bag: Bag, topic: str) -> Iterator[Any]:
    """Messages of a topic that can be read."""
    for _, _, payload in bag.messages([topic] if topic in bag.topics else []):
        try:
            yield bag.decode(topic, payload)
        except ValueError:
            continue
