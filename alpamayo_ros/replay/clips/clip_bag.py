"""Converts a clip of the makers' data set to a rosbag2 folder for the rig `r1`.

Stamps are those of the clip after START_NS, since the node refuses stamp zero. The bag has every
pose and every frame of the four cameras; frames become JPEG.
"""

from __future__ import annotations

from collections.abc import Iterator
import heapq
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...bags.messages import message_factory
from ...bags.synthetic_drive import START_NS, RecordedMessage, write_bag
from ...clips.clip import NS_PER_US, EgoMotion, iterate_frames, read_egomotion
from ...clips.dataset import ClipFolder
from ...data_types import NANOSECONDS, Frame
from ...files import create_folder
from ...rig import R1_CAMERAS

IMAGE_TYPE, ODOMETRY_TYPE = 'sensor_msgs/msg/CompressedImage', 'nav_msgs/msg/Odometry'
JPEG_QUALITY = 90
_make = message_factory()


def write_clip_bag(folder: ClipFolder, clip_id: str, out: Path) -> int:
    """Write a clip to a new folder `out`; returns the number of messages.

    Raises ClipError for a clip that cannot be read and BadInput when `out` exists; neither leaves
    anything behind.
    """
    motion = read_egomotion(folder, clip_id)
    sources = [_convert_poses(motion)]
    sources += [_convert_frames(folder, clip_id, camera) for camera in R1_CAMERAS]
    with create_folder(out) as place:
        counts = write_bag(place, heapq.merge(*sources, key=lambda message: message.log_ns))
    return sum(counts.values())


def _convert_poses(motion: EgoMotion) -> Iterator[RecordedMessage]:
    """Odometry with the speed along the heading, by central differences of the positions."""
    seconds = (motion.stamps_us - motion.stamps_us[0]) * 1e-6
    velocity = np.gradient(motion.positions_m, seconds, axis=0)
    x, y, z, w = motion.quaternions.T
    heading = np.stack(
        [1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)], axis=-1
    )
    speeds = (velocity * heading).sum(axis=-1)
    yaw_rates = np.gradient(np.unwrap(np.arctan2(heading[:, 1], heading[:, 0])), seconds)
    rows = zip(
        motion.stamps_us.tolist(), motion.positions_m, motion.quaternions, speeds, yaw_rates,
        strict=True,
    )  # fmt: skip
    for stamp_us, position, quaternion, speed_mps, yaw_rate in rows:
        stamp_ns = START_NS + stamp_us * NS_PER_US
        message = _make(
            ODOMETRY_TYPE, header=_make_header(stamp_ns, 'odom'), child_frame_id='base_link'
        )
        pose, twist = message.pose.pose, message.twist.twist
        pose.position.x, pose.position.y, pose.position.z = map(float, position)
        for name, value in zip('xyzw', quaternion, strict=True):
            setattr(pose.orientation, name, float(value))
        twist.linear.x, twist.angular.z = float(speed_mps), float(yaw_rate)
        yield RecordedMessage(stamp_ns, '/odometry', ODOMETRY_TYPE, message)


def _convert_frames(folder: ClipFolder, clip_id: str, camera: str) -> Iterator[RecordedMessage]:
    topic = f'/camera/{camera}/image_raw/compressed'
    for frame in iterate_frames(folder, clip_id, camera):
        stamp_ns = START_NS + frame.stamp_ns
        message = _make(
            IMAGE_TYPE,
            header=_make_header(stamp_ns, f'camera_{camera}_optical_frame'),
            format='jpeg',
            data=_encode_jpeg(frame),
        )
        yield RecordedMessage(stamp_ns, topic, IMAGE_TYPE, message)


def _encode_jpeg(frame: Frame) -> Any:
    picture = cv2.cvtColor(frame.data.reshape(frame.height, frame.width, 3), cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return data.ravel()


def _make_header(stamp_ns: int, frame_id: str) -> Any:
    sec, nanosec = divmod(stamp_ns, NANOSECONDS)
    stamp = _make('builtin_interfaces/msg/Time', sec=sec, nanosec=nanosec)
    return _make('std_msgs/msg/Header', stamp=stamp, frame_id=frame_id)
