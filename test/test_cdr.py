"""Bytes of Odometry and Path against rosbags' serializer and the way over message objects."""

from dataclasses import replace

import numpy as np
import pytest
from test_outputs import T0_NS, plan

from alpamayo_ros.bags.messages import TYPESTORE, message_factory
from alpamayo_ros.ros.cdr import read_odometry
from alpamayo_ros.ros.inputs import read_pose, to_pose
from alpamayo_ros.ros.publishing.outputs import OUTPUTS

ODOMETRY = 'nav_msgs/msg/Odometry'
NAMES = ['a', 'ab', 'map', 'odom', 'odoms', 'Straße', 'vehicle', 'map_link', 'base_link']
make = message_factory()


def odometry(frame_id='odom', child_frame_id='base_link'):
    """An Odometry whose numbers all differ."""
    message = make(ODOMETRY, child_frame_id=child_frame_id)
    message.header.frame_id = frame_id
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(T0_NS, 10**9)
    at, turn = message.pose.pose.position, message.pose.pose.orientation
    at.x, at.y, at.z = 4.5e5, 5.4e6 + 1e-4, -3.0
    turn.x, turn.y, turn.z, turn.w = 0.1, -0.2, 0.3, np.sqrt(0.86)
    linear, angular = message.twist.twist.linear, message.twist.twist.angular
    linear.x, linear.y, angular.z = 12.5, -0.5, 0.25
    message.pose.covariance[:] = np.arange(36) + 100.0
    message.twist.covariance[:] = np.arange(36) + 200.0
    return message


@pytest.mark.parametrize('little_endian', [True, False])
@pytest.mark.parametrize('name', NAMES)
def test_odometry_from_bytes_is_that_of_the_message(name, little_endian):
    for frames in ((name, 'base_link'), ('odom', name)):
        message = odometry(*frames)
        data = bytes(TYPESTORE.serialize_cdr(message, ODOMETRY, little_endian=little_endian))
        found, expected = read_pose(data), to_pose(message)
        for field in ('stamp_ns', 'speed_mps', 'yaw_rate_radps', 'frame_id', 'child_frame_id'):
            assert getattr(found, field) == getattr(expected, field)
        assert found.position_m.tobytes() == expected.position_m.tobytes()
        assert found.quaternion_xyzw.tobytes() == expected.quaternion_xyzw.tobytes()


def test_odometry_that_is_cut_off_is_refused_wherever_it_ends():
    data = bytes(TYPESTORE.serialize_cdr(odometry(), ODOMETRY))
    for length in range(4, len(data)):
        with pytest.raises(ValueError, match=f'{length} bytes are too few for an Odometry'):
            read_odometry(data[:length])


@pytest.mark.parametrize('header', [b'', b'\0', b'\0\3\0\0', b'\0\7\0\0', b'\1\0\0\0'])
def test_other_encodings_are_refused(header):
    data = bytes(TYPESTORE.serialize_cdr(odometry(), ODOMETRY))
    with pytest.raises(ValueError, match=f'encapsulation {header[:2].hex()} is not plain CDR'):
        read_odometry(header + data[4:] if len(header) == 4 else header)


def test_a_length_beyond_the_message_and_a_name_of_broken_text_are_refused():
    data = bytes(TYPESTORE.serialize_cdr(odometry(), ODOMETRY))
    for broken in (b'\xff\xff\xff\x7f', b'\xff\xff\xff\xff'):
        with pytest.raises(ValueError, match='too few'):
            read_odometry(data[:12] + broken + data[16:])
    with pytest.raises(ValueError, match='utf-8'):
        read_odometry(data.replace(b'odom', b'od\xffm'))


@pytest.mark.parametrize('row', [o for o in OUTPUTS if o.serialize], ids=lambda row: row.topic)
@pytest.mark.parametrize('name', NAMES)
def test_serialized_rows_are_the_bytes_of_their_messages(row, name):
    pose = replace(plan().odom_from_t0, frame_id=name)
    for first in (0, 1, 40, 63, 64):
        for frame in ('odometry', 'base_link'):
            found = plan(odom_from_t0=pose, first=first, output_frame=frame)
            message = row.build(found, make)
            assert row.serialize(found) == bytes(TYPESTORE.serialize_cdr(message, row.type_name))


def test_both_paths_go_out_as_bytes():
    assert [o.topic for o in OUTPUTS if o.serialize] == ['output/path', 'debug/path']
