"""Calibrations of cameras that a recording holds: intrinsics of CameraInfo, places of TF.

Only for drawing: the model sees no calibration.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from .. import geometry
from ..rig import DISTORTION_LENGTHS, CameraCalibration, CameraRig
from .reader import Bag

INFO_TYPE, STATIC_TOPIC = 'sensor_msgs/msg/CameraInfo', '/tf_static'
TRANSPORTS = ('compressed', 'ffmpeg', 'video', 'h264', 'foxglove')  # last words of image topics
PINHOLE_MODELS = ('', 'plumb_bob', 'rational_polynomial')


class Place(NamedTuple):
    """Pose of a frame in its parent: parent_from_frame."""

    parent: str
    position_m: geometry.Array
    quaternion_xyzw: geometry.Array


def complete_calibrations(bag: Bag, rig: CameraRig) -> tuple[CameraRig, list[str]]:
    """The rig, with calibrations from the bag for cameras that have none; notes on failures.

    A camera without CameraInfo beside its topic stays as it is, without a note.
    """
    notes: list[str] = []
    cameras, topics = [], find_info_topics(bag, rig)
    for camera in rig.cameras:
        topic = '' if camera.calibration else topics.get(camera.name, '')
        info = _read_first(bag, topic)
        if info is not None:
            try:
                intrinsics = read_intrinsics(info, is_rectified='rect' in camera.topic)
                place = _find_place(bag, _find_base(bag, rig), info.header.frame_id.lstrip('/'))
                calibration = replace(intrinsics, position_m=place[0], quaternion_xyzw=place[1])
                camera = replace(camera, calibration=calibration)
            except ValueError as error:
                notes.append(f'{camera.name}: no calibration from the bag: {error}')
        cameras.append(camera)
    return replace(rig, cameras=tuple(cameras)), notes


def find_info_topics(bag: Bag, rig: CameraRig) -> dict[str, str]:
    """Topics of CameraInfo in the bag by camera; cameras without one are left out.

    It is the sibling of the image's base topic, as image_transport names it, or below it. One
    that is beside several cameras is of none of them.
    """
    found: dict[str, str] = {}
    for camera in rig.cameras:
        base, _, last = camera.topic.rpartition('/')
        image = base if last in TRANSPORTS else camera.topic
        for topic in (f'{image}/camera_info', f'{image.rpartition("/")[0]}/camera_info'):
            if bag.topics.get(topic) == INFO_TYPE:
                found.setdefault(camera.name, topic)
    counts = Counter(found.values())
    return {name: topic for name, topic in found.items() if counts[topic] == 1}


def read_intrinsics(info: Any, is_rectified: bool) -> CameraCalibration:
    """Intrinsics of a CameraInfo, at the origin; ValueError for those that cannot be used.

    is_rectified: the images are those of the matrix P, without distortion.
    """
    k = info.p.reshape(3, 4) if is_rectified else info.k.reshape(3, 3)
    distortion = () if is_rectified else tuple(map(float, info.d))
    if not (k[0, 0] > 0 and k[1, 1] > 0 and info.width and info.height):
        raise ValueError('its CameraInfo is that of a camera without calibration')
    is_pinhole = info.distortion_model in PINHOLE_MODELS and len(distortion) in DISTORTION_LENGTHS
    if distortion and not is_pinhole:
        raise ValueError(
            f'distortion model {info.distortion_model!r} with {len(distortion)} coefficients'
        )
    numbers = float(k[0, 0]), float(k[1, 1]), float(k[0, 2]), float(k[1, 2])
    size = int(info.width), int(info.height)
    return CameraCalibration(*size, *numbers, distortion, (0.0,) * 3, (0.0, 0.0, 0.0, 1.0))


def _find_base(bag: Bag, rig: CameraRig) -> str:
    """Frame of the rear axle, whose pose the odometry brings."""
    if rig.ego.rear_axle:
        return rig.ego.rear_axle.frame
    first = _read_first(bag, rig.odometry_topic)
    return str(getattr(first, 'child_frame_id', rig.ego.child_frame)).lstrip('/')


def _find_place(bag: Bag, base: str, frame: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Position and quaternion of base_from_camera, by the static transforms of the bag.

    Raises ValueError where they lead nowhere.
    """
    places = dict(_read_places(bag))
    (base_root, *base_pose), (root, *pose) = (_climb(places, x) for x in (base, frame))
    if base_root != root or not frame:
        raise ValueError(f'{STATIC_TOPIC} does not lead from {base} to {frame or "its frame"}')
    inverse = geometry.conjugate(base_pose[1])
    offset = geometry.rotation_matrix(inverse) @ (pose[0] - base_pose[0])
    quaternion = geometry.multiply(inverse, pose[1])
    return tuple(map(float, offset)), tuple(map(float, quaternion))


def _climb(places: dict[str, Place], frame: str) -> tuple[str, geometry.Array, geometry.Array]:
    """The root above a frame, and root_from_frame."""
    position, quaternion = np.zeros(3), np.array([0.0, 0.0, 0.0, 1.0])
    for _ in range(len(places)):  # a ring ends too
        if frame not in places:
            break
        place = places[frame]
        turned = geometry.rotation_matrix(place.quaternion_xyzw)
        position = place.position_m + turned @ position
        quaternion = geometry.multiply(place.quaternion_xyzw, quaternion)
        frame = place.parent
    return frame, position, quaternion


def _read_places(bag: Bag) -> Iterator[tuple[str, Place]]:
    for message in _read(bag, STATIC_TOPIC):
        for found in message.transforms:
            at, turn = found.transform.translation, found.transform.rotation
            place = Place(
                found.header.frame_id.lstrip('/'),
                np.array([at.x, at.y, at.z]),
                np.array([turn.x, turn.y, turn.z, turn.w]),
            )
            yield found.child_frame_id.lstrip('/'), place


def _read_first(bag: Bag, topic: str) -> Any:
    return next(_read(bag, topic), None)


def _read(bag: Bag, topic: str) -> Iterator[Any]:
    """Messages of a topic that can be read."""
    for _, _, payload in bag.messages([topic] if topic in bag.topics else []):
        try:
            yield bag.decode(topic, payload)
        except ValueError:
            continue
