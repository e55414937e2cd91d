"""Messages to records: Image and CompressedImage to Frame, Odometry to EgoPose.

Knows neither rclpy nor rosbags: fields are read by attribute, so a message of either converts to
equal values, and so does an Odometry that is still bytes. What cannot be used raises ValueError
with the reason; the caller names the topic.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..data_types import NANOSECONDS, EgoPose, Frame
from ..images import read_header_size
from .cdr import Odometry, read_odometry

CODECS = {'jpeg': 'jpeg', 'jpg': 'jpeg', 'png': 'png'}


def to_frame(message: Any) -> Frame:
    """sensor_msgs/Image or CompressedImage to a Frame that shares the message's bytes.

    Raises ValueError for a zero stamp, an empty image and an unknown compression; an unknown raw
    encoding is only found when the frame is decoded.
    """
    stamp_ns = _checked(_nanoseconds(message.header.stamp))
    if not len(message.data):
        raise ValueError('image without data')
    data = np.frombuffer(message.data, np.uint8)
    if hasattr(message, 'format'):
        codec = _codec(message.format)
        height, width = read_header_size(codec, data)
        return Frame(stamp_ns, codec, data, height, width)
    if message.is_bigendian and message.encoding.endswith('16') and data.size % 2 == 0:
        data = data.view(np.uint16).byteswap().view(np.uint8)
    return Frame(stamp_ns, message.encoding, data, message.height, message.width, message.step)


def to_pose(message: Any) -> EgoPose:
    """nav_msgs/Odometry to an EgoPose in float64 with a quaternion of unit norm.

    Raises ValueError for a zero stamp, values that are not finite, and a quaternion whose norm is
    not 1 within a percent (all zero, as senders leave it when they know no orientation).
    """
    position, orientation = message.pose.pose.position, message.pose.pose.orientation
    return _pose(
        Odometry(
            _nanoseconds(message.header.stamp),
            (position.x, position.y, position.z),
            (orientation.x, orientation.y, orientation.z, orientation.w),
            float(message.twist.twist.linear.x),
            message.header.frame_id,
            message.child_frame_id,
        )
    )


def read_pose(data: bytes) -> EgoPose:
    """As to_pose, from the CDR bytes of an Odometry; what is none raises ValueError too."""
    return _pose(read_odometry(data))


def _pose(odometry: Odometry) -> EgoPose:
    stamp_ns = _checked(odometry.stamp_ns)
    for name, values in (
        ('position', odometry.position_m),
        ('orientation', odometry.quaternion),
        ('twist.linear.x', (odometry.speed_mps,)),
    ):
        if not all(map(math.isfinite, values)):  # a tenth of numpy's time for so few
            raise ValueError(f'{name} is not finite: {np.array(values)}')
    norm = math.hypot(*odometry.quaternion)
    if abs(norm - 1) > 0.01:
        raise ValueError(f'quaternion has norm {norm:.3g}, expected 1')
    return EgoPose(
        stamp_ns,
        np.array(odometry.position_m, np.float64),
        np.array(odometry.quaternion, np.float64) / norm,
        odometry.speed_mps,
        odometry.frame_id,
        odometry.child_frame_id,
    )


def _nanoseconds(stamp: Any) -> int:
    return int(stamp.sec * NANOSECONDS + stamp.nanosec)


def _checked(stamp_ns: int) -> int:
    if stamp_ns <= 0:
        raise ValueError('header stamp is zero')
    return stamp_ns


def _codec(text: str) -> str:
    """Codec of CompressedImage.format: 'jpeg', 'rgb8; jpeg compressed bgr8', ..."""
    source, _, compression = text.lower().rpartition(';')
    words = compression.split()
    if not words or words[0] not in CODECS:
        raise ValueError(f"CompressedImage format '{text}' is neither jpeg nor png")
    if source.strip().startswith('bayer') and words[-1] == 'compressed':
        raise ValueError(f"CompressedImage format '{text}': a compressed mosaic has no colours")
    return CODECS[words[0]]
