"""alpamayo_drive: the recorded messages of the synthetic drive, and the folder they are in."""

from collections import defaultdict
from itertools import islice

import cv2
import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.interfaces import QosDurability

from alpamayo_ros.bags import synthetic_drive as drive_bag
from alpamayo_ros.cli.drive import main
from alpamayo_ros.errors import BadInput
from alpamayo_ros.files import create_folder
from alpamayo_ros.rig import load_rig
from alpamayo_ros.world.camera import CAMERAS
from alpamayo_ros.world.scenario import make_scenario

SECONDS = 2.0
IMAGES = {camera.name: drive_bag.image_topic(camera) for camera in CAMERAS}


def stamp_ns(message):
    return message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec


@pytest.fixture(scope='module')
def bag(tmp_path_factory):
    path = tmp_path_factory.mktemp('drive') / 'new' / 'bag'
    assert main([str(path), '--seed', '3', '--seconds', str(SECONDS)]) == 0
    return path


@pytest.fixture(scope='module')
def recorded(bag):
    """Topic to (log time, message) in the order of the file."""
    messages = defaultdict(list)
    with AnyReader([bag]) as reader:
        for connection, log_ns, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype)
            messages[connection.topic].append((log_ns, message))
    return messages


def test_all_topics_are_there_at_their_rates(recorded):
    expected = {'/tf_static': 1, '/tf': 100, '/odometry': 100}
    for camera in CAMERAS:
        expected |= {drive_bag.image_topic(camera): 20, drive_bag.info_topic(camera): 20}
    assert {topic: len(messages) for topic, messages in recorded.items()} == expected
    assert drive_bag.message_count(SECONDS) == sum(expected.values())


def test_cameras_jitter_on_their_own_around_10_hz(recorded):
    stamps = np.array([[stamp_ns(m) for _, m in recorded[t]] for t in IMAGES.values()])
    grid = stamps[0, 0].round(-9) + (np.arange(20) * 100 + 50) * 1_000_000
    jitter_ms = (stamps - grid) / 1e6
    assert 1.5 < np.abs(jitter_ms).max() <= 3.0
    assert np.abs(np.corrcoef(jitter_ms) - np.eye(4)).max() < 0.8


@pytest.mark.parametrize('topic, low_ms, high_ms', [(IMAGES['front_tele'], 20, 40),
                                                    ('/odometry', 2, 5)])  # fmt: skip
def test_messages_arrive_some_time_after_their_stamp(recorded, topic, low_ms, high_ms):
    delay_ms = [(log_ns - stamp_ns(message)) / 1e6 for log_ns, message in recorded[topic]]
    assert low_ms <= min(delay_ms) < max(delay_ms) <= high_ms


def test_messages_are_written_in_the_order_of_arrival():
    arrivals = [message.log_ns for message in drive_bag.drive_messages(0, 1.0)]
    assert arrivals == sorted(arrivals)


def test_odometry_is_the_motion_of_the_scenario_far_from_the_origin(recorded):
    scenario = make_scenario(drive_bag.DRIVE_SPLIT, 3, SECONDS)
    odometry = [message for _, message in recorded['/odometry']]
    place = np.array([[o.pose.pose.position.x, o.pose.pose.position.y] for o in odometry])
    yaw = np.array([2 * np.arctan2(o.pose.pose.orientation.z, o.pose.pose.orientation.w)
                    for o in odometry])  # fmt: skip
    assert (place > (4.3e5, 5.3e6)).all() and abs(yaw[0]) > 0.2
    states = [scenario.ego((stamp_ns(o) - drive_bag.START_NS) / 1e9) for o in odometry]
    driven = np.hypot(*(place[-1] - place[0]))
    assert driven == pytest.approx(
        np.hypot(states[-1].x_m - states[0].x_m, states[-1].y_m - states[0].y_m), abs=1e-6
    )
    assert yaw[-1] - yaw[0] == pytest.approx(states[-1].yaw_rad - states[0].yaw_rad, abs=1e-9)


def test_twist_is_the_derivative_of_the_pose(recorded):
    odometry = [message for _, message in recorded['/odometry']]
    place = np.array([[o.pose.pose.position.x, o.pose.pose.position.y] for o in odometry])
    seconds = np.diff([stamp_ns(o) for o in odometry]) / 1e9
    speed = np.array([o.twist.twist.linear.x for o in odometry])
    measured = np.hypot(*np.diff(place, axis=0).T) / seconds
    assert measured == pytest.approx((speed[1:] + speed[:-1]) / 2, abs=1e-3)
    assert {(o.header.frame_id, o.child_frame_id) for o in odometry} == {('odom', 'base_link')}


def test_tf_repeats_the_odometry(recorded):
    for (_, odometry), (_, tf) in zip(recorded['/odometry'], recorded['/tf'], strict=True):
        transform = tf.transforms[0]
        assert stamp_ns(transform) == stamp_ns(odometry)
        assert transform.transform.translation.y == odometry.pose.pose.position.y
        assert transform.transform.rotation == odometry.pose.pose.orientation


def test_every_image_is_a_jpeg_of_640_by_360(recorded):
    for topic in IMAGES.values():
        for _, message in recorded[topic]:
            assert message.format == 'jpeg'
            assert cv2.imdecode(message.data, cv2.IMREAD_COLOR).shape == (360, 640, 3)


def test_rig_file_names_the_topics_and_calibrations_of_the_drive(recorded):
    rig = load_rig('synthetic')
    assert rig.odometry_topic in recorded and rig.anchor == 'front_wide' and rig.absent == ()
    mounted = {t.child_frame_id: t.transform for t in recorded['/tf_static'][0][1].transforms}
    for ours, camera in zip(rig.cameras, CAMERAS, strict=True):
        assert (ours.name, ours.index) == (camera.name, camera.index)
        assert ours.topic == drive_bag.image_topic(camera) and ours.topic in recorded
        info = recorded[drive_bag.info_topic(camera)][0][1]
        calibration = ours.calibration
        intrinsics = [
            calibration.fx,
            0,
            calibration.cx,
            0,
            calibration.fy,
            calibration.cy,
            0,
            0,
            1,
        ]
        assert info.k.tolist() == pytest.approx(intrinsics, abs=1e-6)
        assert (info.width, info.height) == (calibration.width, calibration.height)
        pose = mounted[info.header.frame_id]
        place, turn = pose.translation, pose.rotation
        assert (place.x, place.y, place.z) == pytest.approx(calibration.position_m)
        assert (turn.x, turn.y, turn.z, turn.w) == pytest.approx(
            calibration.quaternion_xyzw, abs=1e-9
        )


def test_static_transforms_are_latched(bag):
    with AnyReader([bag]) as reader:
        profiles = {c.topic: c.ext.offered_qos_profiles[0] for c in reader.connections}
    latched = [t for t, q in profiles.items() if q.durability == QosDurability.TRANSIENT_LOCAL]
    assert latched == ['/tf_static']


def test_equal_seeds_give_equal_bytes(tmp_path):
    def contents(name, seed):
        assert main([str(tmp_path / name), '--seed', seed, '--seconds', '1']) == 0
        with AnyReader([tmp_path / name]) as reader:
            return [(c.topic, log_ns, bytes(data)) for c, log_ns, data in reader.messages()]

    first = contents('a', '7')
    assert contents('b', '7') == first
    assert contents('c', '8') != first


def test_an_existing_folder_is_refused_and_left_alone(bag, capsys):
    before = (bag / 'metadata.yaml').read_bytes()
    assert main([str(bag)]) == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and str(bag) in error
    assert (bag / 'metadata.yaml').read_bytes() == before


@pytest.mark.parametrize(
    'option', [['--seconds', 'nan'], ['--seconds', '0.5'], ['--seconds', '1e9'], ['--seed', '-1']]
)
def test_numbers_out_of_range_are_refused(tmp_path, capsys, option):
    assert main([str(tmp_path / 'bag'), *option]) == 2
    assert option[0] in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('stop', [KeyboardInterrupt(), OSError(28, 'No space left on device')])
def test_an_interrupted_write_leaves_nothing_behind(tmp_path, stop):
    def messages():
        yield from islice(drive_bag.drive_messages(0, 1.0), 3)
        raise stop

    with pytest.raises(type(stop)), create_folder(tmp_path / 'bag') as folder:
        drive_bag.write_bag(folder, messages())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('taken', ['file', 'dangling link'])
def test_a_path_that_is_taken_is_refused_before_anything_is_made(tmp_path, taken):
    path = tmp_path / 'bag'
    path.write_text('mine') if taken == 'file' else path.symlink_to(tmp_path / 'nowhere')
    with pytest.raises(BadInput, match='exists already'), create_folder(path):
        pytest.fail('made something')
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_to_write_is_an_error(capsys):
    assert main([]) == 2
    assert 'OUT_BAG' in capsys.readouterr().err


def test_a_taken_checkpoint_is_refused_before_the_drive_is_drawn(tmp_path, capsys):
    (tmp_path / 'taken').mkdir()
    assert main([str(tmp_path / 'bag'), '--checkpoint', str(tmp_path / 'taken')]) == 2
    assert 'taken: exists already' in capsys.readouterr().err
    assert not (tmp_path / 'bag').exists()
