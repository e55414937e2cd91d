"""Messages to records, for messages of rclpy (array.array) and of rosbags (numpy) alike."""

import array
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from alpamayo_ros.images import decode
from alpamayo_ros.ros.inputs import to_frame, to_pose

JPEG = cv2.imencode('.jpg', np.full((8, 16, 3), 100, np.uint8))[1].tobytes()
PNG = cv2.imencode('.png', np.full((8, 16, 3), 100, np.uint8))[1].tobytes()


def header(sec=12, nanosec=345, frame_id='odom'):
    return SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec), frame_id=frame_id)


def compressed(text, data):
    return SimpleNamespace(header=header(), format=text, data=data)


def odometry(position=(1.0, 2.0, 3.0), quaternion=(0.0, 0.0, 0.6, 0.8), speed=5.0, stamp=None):
    names = ('x', 'y', 'z', 'w')
    pose = SimpleNamespace(
        position=SimpleNamespace(**dict(zip(names, position, strict=False))),
        orientation=SimpleNamespace(**dict(zip(names, quaternion, strict=True))),
    )
    twist = SimpleNamespace(linear=SimpleNamespace(x=speed))
    return SimpleNamespace(
        header=stamp or header(),
        child_frame_id='base_link',
        pose=SimpleNamespace(pose=pose),
        twist=SimpleNamespace(twist=twist),
    )


def test_live_and_recorded_message_give_the_same_frame():
    live = to_frame(compressed('jpeg', array.array('B', JPEG)))
    recorded = to_frame(compressed('jpeg', np.frombuffer(JPEG, np.uint8)))
    assert live.stamp_ns == recorded.stamp_ns == 12_000_000_345
    np.testing.assert_array_equal(live.data, recorded.data)
    np.testing.assert_array_equal(decode(live), decode(recorded))


def test_payload_is_shared_with_the_message():
    data = np.frombuffer(JPEG, np.uint8).copy()
    assert np.shares_memory(to_frame(compressed('jpeg', data)).data, data)


def test_compressed_frame_carries_the_size_of_its_header():
    for text, data in (('jpeg', JPEG), ('png', PNG)):
        frame = to_frame(compressed(text, data))
        assert (frame.encoding, frame.height, frame.width) == (text, 8, 16)


@pytest.mark.parametrize(
    ('text', 'codec'),
    [
        ('jpeg', 'jpeg'),
        ('JPEG', 'jpeg'),
        ('jpg', 'jpeg'),
        ('png', 'png'),
        ('rgb8; jpeg compressed bgr8', 'jpeg'),
        ('bgr8; png compressed bgr8', 'png'),
        ('mono8; jpeg compressed ', 'jpeg'),
        ('bgr8;jpeg compressed', 'jpeg'),
        ('bayer_rggb8; jpeg compressed bgr8', 'jpeg'),
    ],
)
def test_format_names_the_codec_in_all_its_variants(text, codec):
    assert to_frame(compressed(text, JPEG)).encoding == codec


@pytest.mark.parametrize(
    'text',
    ['', 'h264', 'rgb8', 'rgb8; tiff compressed', '16UC1; compressedDepth png', 'bgr8; '],
)
def test_unknown_format_is_an_error_that_names_it(text):
    with pytest.raises(ValueError, match=f"format '{text}' is neither jpeg nor png"):
        to_frame(compressed(text, JPEG))


def test_compressed_mosaic_is_refused():
    with pytest.raises(ValueError, match='mosaic'):
        to_frame(compressed('bayer_rggb8; png compressed ', PNG))


def test_raw_image_keeps_its_layout():
    message = SimpleNamespace(
        header=header(),
        encoding='mono8',
        height=2,
        width=3,
        step=4,
        is_bigendian=0,
        data=array.array('B', range(8)),
    )
    frame = to_frame(message)
    assert (frame.encoding, frame.height, frame.width, frame.step) == ('mono8', 2, 3, 4)
    assert decode(frame)[0].tolist() == [[0, 1, 2], [4, 5, 6]]


@pytest.mark.parametrize(('is_bigendian', 'data'), [(0, [1, 2]), (1, [2, 1])])
def test_numbers_of_16_bits_come_in_either_order(is_bigendian, data):
    image = {'height': 1, 'width': 1, 'step': 2, 'is_bigendian': is_bigendian}
    data = array.array('B', data)
    message = SimpleNamespace(header=header(), encoding='mono16', data=data, **image)
    assert decode(to_frame(message))[:, 0, 0].tolist() == [2, 2, 2]  # 0x0201 / 257


def test_image_without_data_is_refused():
    with pytest.raises(ValueError, match='without data'):
        to_frame(compressed('jpeg', b''))


def test_stamp_zero_is_refused():
    message = compressed('jpeg', JPEG)
    message.header = header(0, 0)
    with pytest.raises(ValueError, match='stamp is zero'):
        to_frame(message)
    with pytest.raises(ValueError, match='stamp is zero'):
        to_pose(odometry(stamp=header(0, 0)))


def test_odometry_becomes_a_pose_in_float64():
    pose = to_pose(odometry(position=(4.1e6, 5.2e6 + 1e-4, 3.0)))
    assert pose.stamp_ns == 12_000_000_345
    assert pose.position_m.tolist() == [4.1e6, 5.2e6 + 1e-4, 3.0]
    assert pose.position_m.dtype == pose.quaternion_xyzw.dtype == np.float64
    assert pose.speed_mps == 5.0
    assert (pose.frame_id, pose.child_frame_id) == ('odom', 'base_link')


def test_quaternion_with_rounding_errors_is_normalised():
    pose = to_pose(odometry(quaternion=(0.0, 0.0, 0.7071, 0.7071)))
    assert np.linalg.norm(pose.quaternion_xyzw) == pytest.approx(1.0, abs=1e-15)


@pytest.mark.parametrize(
    ('fields', 'text'),
    [
        ({'position': (np.nan, 0, 0)}, 'position is not finite'),
        ({'position': (0, np.inf, 0)}, 'position is not finite'),
        ({'quaternion': (0, 0, np.nan, 1)}, 'orientation is not finite'),
        ({'speed': np.nan}, 'twist.linear.x is not finite'),
        ({'quaternion': (0, 0, 0, 0)}, 'quaternion has norm 0, expected 1'),
        ({'quaternion': (0, 0, 0, 0.5)}, 'quaternion has norm 0.5, expected 1'),
    ],
)
def test_odometry_that_is_no_pose_is_refused_with_the_reason(fields, text):
    with pytest.raises(ValueError, match=text):
        to_pose(odometry(**fields))
