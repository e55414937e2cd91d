"""Reads Odometry from CDR bytes and writes Path as such, faster than with objects.

A Path of 64 poses is some 400 Python objects; making them takes ten times as long as filling an
array. An Odometry brings two covariances that nobody reads, up to a hundred times a second. All
other messages are objects. Plain twins: inputs.to_pose and outputs.path.

Plain CDR of XCDR version 1 (OMG DDS-XTypes 1.3, section 7.4.1), as ROS 2 sends: an encapsulation
header of 4 bytes, then the fields in order, each at a multiple of its size from the end of that
header; a string is its length with the final NUL (uint32), then its bytes.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..data_types import NANOSECONDS

HEADER = 4  # bytes of the encapsulation header
BIG_ENDIAN, LITTLE_ENDIAN = b'\0\0', b'\0\1'
COVARIANCE = 36 * 8  # bytes


class Odometry(NamedTuple):
    """The fields of a nav_msgs/Odometry that the node reads: ns, m, x y z w, m/s, rad/s."""

    stamp_ns: int
    position_m: tuple[float, ...]
    quaternion: tuple[float, ...]
    speed_mps: float
    yaw_rate_radps: float
    frame_id: str
    child_frame_id: str
    lateral_mps: float = 0.0


def read_odometry(data: bytes) -> Odometry:
    """Fields of a serialized nav_msgs/Odometry, of either byte order.

    Raises ValueError for bytes that are no plain CDR or too few, and for names that are not UTF-8.
    """
    if data[:2] not in (BIG_ENDIAN, LITTLE_ENDIAN):
        raise ValueError(f'encapsulation {data[:2].hex()} is not plain CDR')
    order = '<' if data[:2] == LITTLE_ENDIAN else '>'
    try:
        sec, nanosec = struct.unpack_from(f'{order}iI', data, HEADER)
        frame_id, at = _read_string(data, HEADER + 8, order)
        child_frame_id, at = _read_string(data, at, order)
        at = _align(at, 8)
        *position_m, qx, qy, qz, qw = struct.unpack_from(f'{order}7d', data, at)
        at += 7 * 8 + COVARIANCE
        speed_mps, lateral_mps, _, _, _, yaw_rate = struct.unpack_from(
            f'{order}6d{COVARIANCE}x', data, at
        )
    except struct.error:
        raise ValueError(f'{len(data)} bytes are too few for an Odometry') from None
    stamp_ns = sec * NANOSECONDS + nanosec
    quaternion = qx, qy, qz, qw
    names = frame_id, child_frame_id
    return Odometry(
        stamp_ns, tuple(position_m), quaternion, speed_mps, yaw_rate, *names, lateral_mps
    )


def write_path(
    t0_ns: int,
    frame_id: str,
    stamps_ns: NDArray[np.int64],
    positions_m: NDArray[np.float64],
    quaternions: NDArray[np.float64],
) -> bytes:
    """A serialized nav_msgs/Path of N poses, all in one frame, little-endian.

    Stamp of the path, stamps (N,), positions (N, 3) and quaternions (N, 4), x y z w.
    """
    count = len(stamps_ns)
    name = frame_id.encode() + b'\0'
    begin = struct.Struct(f'<iII{len(name)}s')

    def pack_header(stamp_ns: int) -> bytes:
        return begin.pack(*divmod(int(stamp_ns), NANOSECONDS), len(name), name)

    start = _pad(pack_header(t0_ns), 4) + struct.pack('<I', count)
    if not count:
        return LITTLE_ENDIAN + b'\0\0' + start
    start = _pad(start + pack_header(stamps_ns[0]), 8)
    # all bytes from the numbers of one pose to those of the next form one record
    record = np.dtype(
        [
            ('position', '<f8', 3),
            ('quaternion', '<f8', 4),
            ('sec', '<i4'),
            ('nanosec', '<u4'),
            ('length', '<u4'),
            ('name', f'S{_align(begin.size, 8, origin=0) - 12}'),
        ]
    )
    records = np.zeros(count, record)
    records['position'], records['quaternion'] = positions_m, quaternions
    records['length'], records['name'] = len(name), name
    records['sec'][:-1], records['nanosec'][:-1] = np.divmod(stamps_ns[1:], NANOSECONDS)
    without_last_header = records.tobytes()[: 7 * 8 - record.itemsize]
    return LITTLE_ENDIAN + b'\0\0' + start + without_last_header


def _read_string(data: bytes, at: int, order: str) -> tuple[str, int]:
    """A string at or behind an offset, and the offset of its end."""
    at = _align(at, 4)
    (length,) = struct.unpack_from(f'{order}I', data, at)
    (text,) = struct.unpack_from(f'{length}s', data, at + 4)
    return text[:-1].decode(), at + 4 + length


def _align(at: int, size: int, origin: int = HEADER) -> int:
    """The next offset that is a multiple of `size` from where the fields begin."""
    return at + -(at - origin) % size


def _pad(fields: bytes, size: int) -> bytes:
    return fields + bytes(-len(fields) % size)
