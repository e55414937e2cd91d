"""Messages to records, for messages of rclpy (array.array) and of rosbags (numpy) alike."""

import array
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from alpamayo_ros.images import decode
from alpamayo_ros.ros.inputs import to_image, to_pose

JPEG = cv2.imencode('.jpg', np.full((8, 16, 3), 100, np.uint8))[1].tobytes()
PNG = cv2.imencode('.png', np.full((8, 16, 3), 100, np.uint8))[1].tobytes()


def header(sec=12, nanosec=345, frame_id='odom'):
    return SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec), frame_id=frame_id)


def compressed(text, data):
    return SimpleNamespace(header=header(), format=text, data=data)


def odometry(
    position=(1.0, 2.0, 3.0),
    quaternion=(0.0, 0.0, 0.6, 0.8),
    speed=5.0,
    yaw_rate=0.25,
    stamp=None,
    child='base_link',
):
    names = ('x', 'y', 'z', 'w')
    pose = SimpleNamespace(
        position=SimpleNamespace(**dict(zip(names, position, strict=False))),
        orientation=SimpleNamespace(**dict(zip(names, quaternion, strict=True))),
    )
    twist = SimpleNamespace(
        linear=SimpleNamespace(x=speed, y=0.0), angular=SimpleNamespace(z=yaw_rate)
    )
    return SimpleNamespace(
        header=stamp or header(),
        child_frame_id=child,
        pose=SimpleNamespace(pose=pose),
        twist=SimpleNamespace(twist=twist),
    )


def test_live_and_recorded_message_give_the_same_frame():
    live = to_image(compressed('jpeg', array.array('B', JPEG)))
    recorded = to_image(compressed('jpeg', np.frombuffer(JPEG, np.uint8)))
    assert live.stamp_ns == recorded.stamp_ns == 12_000_000_345
    np.testing.assert_array_equal(live.data, recorded.data)
    np.testing.assert_array_equal(decode(live), decode(recorded))


def test_payload_is_shared_with_the_message():
    data = np.frombuffer(JPEG, np.uint8).copy()
    assert np.shares_memory(to_image(compressed('jpeg', data)).data, data)


def test_compressed_frame_carries_the_size_of_its_header():
    for text, data in (('jpeg', JPEG), ('png', PNG)):
        frame = to_image(compressed(text, data))
        assert (frame.encoding, frame.height, frame.width) == (text, 8, 16)


@pytest.mark.parametrize(
    'text',
    [
        'jpeg',
        'png',
        'rgb8; jpeg compressed bgr8',
        'image/jpeg',
        '.jpg',
        'mjpeg',
        'h264',
        'rgb8',
        '',
    ],
)
def test_bytes_tell_the_codec_whatever_the_format_says(text):
    for codec, data in (('jpeg', JPEG), ('png', PNG)):
        frame = to_image(compressed(text, data))
        assert (frame.encoding, decode(frame)[0, 0, 0]) == (codec, 100)


@pytest.mark.parametrize(
    ('text', 'codec'),
    [
        ('jpeg', 'jpeg'),
        ('JPG', 'jpeg'),
        ('png', 'png'),
        ('bgr8; png compressed bgr8', 'png'),
        ('mono8; jpeg compressed ', 'jpeg'),
        ('bayer_rggb8; jpeg compressed bgr8', 'jpeg'),
    ],
)
def test_format_names_the_codec_of_damaged_bytes(text, codec):
    assert to_image(compressed(text, b'damaged')).encoding == codec


@pytest.mark.parametrize('text', ['', 'rgb8', 'rgb8; tiff compressed', 'bgr8; ', 'nv12'])
def test_unknown_content_is_an_error_that_names_format_and_bytes(text):
    expected = f"format '{text}' is neither jpeg nor png nor a video, .* begins with 00 00 00 01"
    with pytest.raises(ValueError, match=expected):
        to_image(compressed(text, b'\0\0\0\1\x67'))


def test_depth_image_is_refused():
    with pytest.raises(ValueError, match='16UC1; compressedDepth png. holds depths'):
        to_image(compressed('16UC1; compressedDepth png', PNG))


def test_image_whose_header_asks_for_too_much_memory_is_refused():
    data = bytearray(PNG)
    data[16:24] = (60_000).to_bytes(4, 'big') * 2
    with pytest.raises(ValueError, match='png of 60000x60000, expected at most 24 million pixels'):
        to_image(compressed('png', bytes(data)))


def test_compressed_mosaic_is_refused():
    with pytest.raises(ValueError, match='mosaic'):
        to_image(compressed('bayer_rggb8; png compressed ', PNG))


@pytest.mark.parametrize('encoding', ['8UC3', '16UC1', 'BGR8'])
def test_unknown_raw_encoding_is_refused_before_it_waits_for_an_engine(encoding):
    message = SimpleNamespace(
        header=header(), encoding=encoding, data=bytes(12), height=2, width=2, step=6
    )
    with pytest.raises(ValueError, match=f"image encoding '{encoding}' (does not|is not one)"):
        to_image(message)


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
    frame = to_image(message)
    assert (frame.encoding, frame.height, frame.width, frame.step) == ('mono8', 2, 3, 4)
    assert decode(frame)[0].tolist() == [[0, 1, 2], [4, 5, 6]]


@pytest.mark.parametrize(('is_bigendian', 'data'), [(0, [1, 2]), (1, [2, 1])])
def test_numbers_of_16_bits_come_in_either_order(is_bigendian, data):
    image = {'height': 1, 'width': 1, 'step': 2, 'is_bigendian': is_bigendian}
    data = array.array('B', data)
    message = SimpleNamespace(header=header(), encoding='mono16', data=data, **image)
    assert decode(to_image(message))[:, 0, 0].tolist() == [2, 2, 2]  # 0x0201 / 257


def test_image_without_data_is_refused():
    with pytest.raises(ValueError, match='without data'):
        to_image(compressed('jpeg', b''))


def test_stamp_zero_is_refused():
    message = compressed('jpeg', JPEG)
    message.header = header(0, 0)
    with pytest.raises(ValueError, match='stamp is zero'):
        to_image(message)
    with pytest.raises(ValueError, match='stamp is zero'):
        to_pose(odometry(stamp=header(0, 0)))


def test_odometry_becomes_a_pose_in_float64():
    pose = to_pose(odometry(position=(4.1e6, 5.2e6 + 1e-4, 3.0)))
    assert pose.stamp_ns == 12_000_000_345
    assert pose.position_m.tolist() == [4.1e6, 5.2e6 + 1e-4, 3.0]
    assert pose.position_m.dtype == pose.quaternion_xyzw.dtype == np.float64
    assert (pose.speed_mps, pose.yaw_rate_radps, pose.checks) == (5.0, 0.25, ())
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
        ({'position': (0, 1e308, 0)}, 'is more than 1e.08 m away'),
        ({'position': (0, 0, -1.1e8)}, 'is more than 1e.08 m away'),
        ({'child': ''}, "child_frame_id is '', expected the name of a frame"),
        ({'child': '/'}, "child_frame_id is '/', expected the name of a frame"),
        ({'stamp': header(frame_id='')}, "^frame_id is '', expected the name of a frame"),
        ({'stamp': header(frame_id=' ')}, "^frame_id is ' ', expected the name of a frame"),
        ({'quaternion': (0, 0, 0, 0)}, 'quaternion has norm 0, expected 1'),
        ({'quaternion': (0, 0, 0, 0.5)}, 'quaternion has norm 0.5, expected 1'),
    ],
)
def test_odometry_that_is_no_pose_is_refused_with_the_reason(fields, text):
    with pytest.raises(ValueError, match=text):
        to_pose(odometry(**fields))


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_twist_that_is_not_finite_is_one_that_is_not_stated(value):
    pose = to_pose(odometry(speed=value, yaw_rate=value))
    assert np.isnan([pose.speed_mps, pose.yaw_rate_radps]).all()


@pytest.mark.parametrize(
    ('frame_id', 'child'),
    [('/odom', 'base_link'), ('odom', '/base_link'), ('//odom', '/base_link')],
)
def test_leading_slash_of_a_frame_name_is_taken_off_with_a_check(frame_id, child):
    pose = to_pose(odometry(stamp=header(frame_id=frame_id), child=child))
    assert (pose.frame_id, pose.child_frame_id) == ('odom', 'base_link')
    assert pose.checks == ('frame_id_slash',)


def test_slash_inside_a_frame_name_stays():
    pose = to_pose(odometry(stamp=header(frame_id='robot/odom')))
    assert (pose.frame_id, pose.checks) == ('robot/odom', ())
