"""Converts messages to records: images to Frame or VideoPacket, Odometry to EgoPose.

The converters read fields by attribute and know neither rclpy nor rosbags: a live message, a
message of a bag and the bytes of an Odometry convert to equal values. They raise ValueError with
the reason for a message that cannot be used; the caller names the topic.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data_types import NANOSECONDS, EgoPose, Frame, VideoPacket
from ..images import MAX_PIXELS, detect_codec, read_header_size, require_encoding
from ..transform_tree import Link
from .cdr import Odometry, read_odometry

CODECS = {'jpeg': 'jpeg', 'jpg': 'jpeg', 'png': 'png'}
VIDEO_CODECS = {'h264': 'h264', 'h265': 'hevc', 'hevc': 'hevc'}
MAX_POSITION_M = 1e8  # fifteen times the earth's radius; float64 still resolves 0.02 um there


def to_image(message: Any) -> Frame | VideoPacket:
    """A camera's message of any type in rig.IMAGE_TYPES; shares the message's bytes.

    The bytes of a CompressedImage tell its codec; its format counts where they do not. Raises
    ValueError for a zero stamp, an empty or huge image, an unknown compression and an unknown raw
    encoding.
    """
    stamp_ns = _require_stamp(find_nanoseconds(find_stamp(message)))
    if not len(message.data):
        raise ValueError('image without data')
    data = np.frombuffer(message.data, np.uint8)
    frame_id = message.header.frame_id if hasattr(message, 'header') else message.frame_id
    codec = _choose_codec(message, data)
    if codec in VIDEO_CODECS.values():
        return VideoPacket(stamp_ns, codec, data, frame_id)
    if codec:
        return make_compressed_frame(stamp_ns, data, codec, frame_id)
    require_encoding(message.encoding)
    if message.is_bigendian and message.encoding.endswith('16') and data.size % 2 == 0:
        data = data.view(np.uint16).byteswap().view(np.uint8)
    return Frame(
        stamp_ns, message.encoding, data, message.height, message.width, message.step, frame_id
    )


to_frame = to_image  # its name before it knew videos, which scripts outside the package call


def make_compressed_frame(
    stamp_ns: int, data: NDArray[np.uint8], text: str = '', frame_id: str = ''
) -> Frame:
    """A Frame of JPEG or PNG bytes; text: the format of a CompressedImage.

    Raises ValueError for another compression and for a header that states a huge image.
    """
    codec = _choose_picture_codec(text, data)
    height, width = read_header_size(codec, data)
    if height * width > MAX_PIXELS:
        most = f'{MAX_PIXELS / 1e6:g} million pixels'
        raise ValueError(f'{codec} of {width}x{height}, expected at most {most}')
    return Frame(stamp_ns, codec, data, height, width, frame_id=frame_id)


def find_stamp(message: Any) -> Any:
    """The first stamp of a message: CompressedVideo and TFMessage have no header of their own."""
    if hasattr(message, 'timestamp'):
        return message.timestamp
    if hasattr(message, 'transforms'):
        if not message.transforms:
            raise ValueError('TFMessage without transforms')
        return message.transforms[0].header.stamp
    return message.header.stamp


def to_pose(message: Any) -> EgoPose:
    """nav_msgs/Odometry to an EgoPose in float64 with a quaternion of unit norm.

    A twist that is not finite becomes NaN. Leading slashes of frame names are taken off, with the
    check frame_id_slash. Raises ValueError for a zero stamp, an empty frame name, a pose that is
    not finite or further than MAX_POSITION_M away, and a quaternion whose norm is not 1 within a
    percent (all zero, as senders leave it when they know no orientation).
    """
    return convert_odometry(read_odometry_message(message))


def read_odometry_message(message: Any) -> Odometry:
    """The fields of a nav_msgs/Odometry that are used."""
    position, orientation = message.pose.pose.position, message.pose.pose.orientation
    linear = message.twist.twist.linear
    return Odometry(
        find_nanoseconds(message.header.stamp),
        (position.x, position.y, position.z),
        (orientation.x, orientation.y, orientation.z, orientation.w),
        float(linear.x),
        float(message.twist.twist.angular.z),
        message.header.frame_id,
        message.child_frame_id,
        float(linear.y),
    )


def to_links(message: Any, is_static: bool = False) -> list[Link]:
    """The transforms of a tf2_msgs/TFMessage; leading slashes of frame names are taken off."""
    links = []
    for found in message.transforms:
        at, turn = found.transform.translation, found.transform.rotation
        links.append(
            Link(
                found.header.frame_id.lstrip('/'),
                found.child_frame_id.lstrip('/'),
                find_nanoseconds(found.header.stamp),
                (at.x, at.y, at.z),
                (turn.x, turn.y, turn.z, turn.w),
                is_static,
            )
        )
    return links


def to_route(message: Any) -> tuple[list[tuple[float, float]], str]:
    """nav_msgs/Path to points x, y in m and the name of their frame; ValueError without one."""
    if not message.header.frame_id:
        raise ValueError('route without a frame_id')
    places = (stamped.pose.position for stamped in message.poses)
    return [(place.x, place.y) for place in places], message.header.frame_id


def to_lanelets(message: Any) -> tuple[list[int], str]:
    """autoware_planning_msgs/LaneletRoute to its preferred lanelets and the frame of their map."""
    if not message.header.frame_id:
        raise ValueError('route without a frame_id')
    return [part.preferred_primitive.id for part in message.segments], message.header.frame_id


def read_pose(data: bytes) -> EgoPose:
    """As to_pose, from the CDR bytes of an Odometry; other bytes raise ValueError too."""
    return convert_odometry(read_odometry(data))


def convert_odometry(odometry: Odometry) -> EgoPose:
    """As to_pose, from the fields of an Odometry."""
    stamp_ns = _require_stamp(odometry.stamp_ns)
    for name, values in (
        ('position', odometry.position_m),
        ('orientation', odometry.quaternion),
    ):
        if not all(map(math.isfinite, values)):  # a tenth of numpy's time for so few
            raise ValueError(f'{name} is not finite: {np.array(values)}')
    if max(map(abs, odometry.position_m)) > MAX_POSITION_M:
        raise ValueError(
            f'position {np.array(odometry.position_m)} is more than {MAX_POSITION_M:g} m away'
        )
    norm = math.hypot(*odometry.quaternion)
    if abs(norm - 1) > 0.01:
        raise ValueError(f'quaternion has norm {norm:.3g}, expected 1')
    frame_id = _strip_slashes('frame_id', odometry.frame_id)
    child_frame_id = _strip_slashes('child_frame_id', odometry.child_frame_id)
    has_slash = (frame_id, child_frame_id) != (odometry.frame_id, odometry.child_frame_id)
    return EgoPose(
        stamp_ns,
        np.array(odometry.position_m, np.float64),
        np.array(odometry.quaternion, np.float64) / norm,
        _to_nan_unless_finite(odometry.speed_mps),
        frame_id,
        child_frame_id,
        _to_nan_unless_finite(odometry.yaw_rate_radps),
        ('frame_id_slash',) if has_slash else (),
    )


def find_nanoseconds(stamp: Any) -> int:
    """A builtin_interfaces/Time in ns."""
    return int(stamp.sec * NANOSECONDS + stamp.nanosec)


def _require_stamp(stamp_ns: int) -> int:
    if stamp_ns <= 0:
        raise ValueError('header stamp is zero')
    return stamp_ns


def _strip_slashes(field: str, name: str) -> str:
    """A frame name as tf2 takes it: without leading slashes, and not empty."""
    stripped = name.lstrip('/')
    if not stripped.strip():
        raise ValueError(f"{field} is '{name}', expected the name of a frame")
    return stripped


def _to_nan_unless_finite(value: float) -> float:
    return value if math.isfinite(value) else math.nan


def _choose_codec(message: Any, data: NDArray[np.uint8]) -> str:
    """Codec of an image; '' for raw pixels."""
    if hasattr(message, 'pts'):  # an FFMPEGPacket
        return _require_video('FFMPEGPacket encoding', message.encoding)
    if not hasattr(message, 'format'):
        return ''
    if not hasattr(message, 'header'):
        return _require_video('CompressedVideo format', message.format)
    return _choose_picture_codec(message.format, data)


def _require_video(field: str, text: str) -> str:
    codec = VIDEO_CODECS.get(text.lower().partition(';')[0].strip())
    if codec is None:
        raise ValueError(f"{field} '{text}' is not one of {', '.join(VIDEO_CODECS)}")
    return codec


def _choose_picture_codec(text: str, data: NDArray[np.uint8]) -> str:
    """Codec of a CompressedImage by its bytes, else by its format: 'rgb8; jpeg compressed bgr8'.

    A format may also be 'image/jpeg', '.jpg', 'mjpeg', 'h264' or empty.
    """
    source, _, compression = text.lower().rpartition(';')
    words = compression.split() or ['']
    if source.strip().startswith('bayer') and words[-1] == 'compressed':
        raise ValueError(f"CompressedImage format '{text}': a compressed mosaic has no colours")
    if words[0] == 'compresseddepth':
        raise ValueError(f"CompressedImage format '{text}' holds depths, expected a camera image")
    codec = detect_codec(data) or (CODECS | VIDEO_CODECS).get(words[0], '')
    if not codec:
        raise ValueError(
            f"CompressedImage format '{text}' is neither jpeg nor png nor a video, and its data "
            f'begins with {data[:4].tobytes().hex(" ")}'
        )
    return codec
