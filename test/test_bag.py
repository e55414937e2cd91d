"""Reading a recording: every format gives the same messages, every broken one a single line."""

import pytest
import small_bag

from alpamayo_ros.bags.reader import Bag
from alpamayo_ros.errors import BadInput
from alpamayo_ros.replay.driven_path import DrivenPath
from alpamayo_ros.rig import load_rig
from alpamayo_ros.ros.inputs import to_pose

ODOMETRY = small_bag.ODOMETRY


@pytest.fixture
def messages():
    return small_bag.drive(seconds=0.5)


def read(path, topic=ODOMETRY):
    with Bag(path) as bag:
        return [(log_ns, to_pose(bag.decode(t, p))) for t, log_ns, p in bag.messages([topic])]


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('compression', ['none', 'file', 'message'])
def test_every_format_gives_the_same_messages(tmp_path, messages, storage, compression):
    found = read(small_bag.write(tmp_path / 'bag', messages, storage, compression))
    assert [log_ns for log_ns, _ in found] == [m[0] for m in messages if m[1] == ODOMETRY]
    assert [pose.position_m[1] for _, pose in found] == [
        m[2].pose.pose.position.y for m in messages if m[1] == ODOMETRY
    ]


@pytest.mark.parametrize(('storage', 'suffix'), [('mcap', '.mcap'), ('sqlite3', '.db3')])
def test_a_single_file_is_a_bag_too(tmp_path, messages, storage, suffix):
    folder = small_bag.write(tmp_path / 'bag', messages, storage)
    (file,) = folder.glob(f'*{suffix}')
    assert len(read(file)) == 26


def test_messages_come_in_the_order_of_the_log(tmp_path, messages):
    with Bag(small_bag.write(tmp_path / 'bag', messages)) as bag:
        times = [log_ns for _, log_ns, _ in bag.messages(list(bag.topics))]
    assert times == sorted(times) and len(times) == len(messages)


def test_a_part_of_the_log_can_be_asked_for(tmp_path, messages):
    start = small_bag.START_NS + 103_000_000
    with Bag(small_bag.write(tmp_path / 'bag', messages)) as bag:
        found = [log_ns for _, log_ns, _ in bag.messages([ODOMETRY], start, start + 20_000_001)]
    assert found == [start, start + 20_000_000]


def error_of(path, wanted=None):
    with pytest.raises(BadInput) as caught, Bag(path) as bag:
        bag.require(wanted or {})
        for topic, _, payload in bag.messages(list(bag.topics)):
            bag.decode(topic, payload)
    text = str(caught.value)
    assert str(path) in text
    return text


def test_a_bag_that_is_not_there(tmp_path):
    assert 'no such bag' in error_of(tmp_path / 'nothing')


def test_a_folder_that_is_no_bag(tmp_path):
    assert 'metadata.yaml' in error_of(tmp_path)


def test_an_empty_bag(tmp_path):
    assert 'empty' in error_of(small_bag.write(tmp_path / 'bag', []))


@pytest.mark.parametrize('name', ['bag.mcap', 'bag.db3'])
def test_a_file_of_something_else(tmp_path, messages, name):
    storage = 'sqlite3' if name.endswith('db3') else 'mcap'
    folder = small_bag.write(tmp_path / 'bag', messages, storage)
    (folder / name).write_bytes(b'{[\x00\xff' * 400)
    assert 'expected MCAP or SQLite' in error_of(folder)


def test_a_missing_topic_lists_what_there_is(tmp_path, messages):
    text = error_of(small_bag.write(tmp_path / 'bag', messages), {'/odom': ['nav_msgs/msg/Path']})
    assert 'no topic /odom' in text
    assert all(topic in text for topic in (ODOMETRY, small_bag.image_topic('front_tele')))


def test_a_wrong_type_names_both(tmp_path, messages):
    path = small_bag.write(tmp_path / 'bag', messages)
    text = error_of(path, {ODOMETRY: ['nav_msgs/msg/Path']})
    assert f'{ODOMETRY} is nav_msgs/msg/Odometry, expected nav_msgs/msg/Path' in text


def test_a_payload_of_something_else_is_no_error_of_the_bag(tmp_path, messages):
    with Bag(small_bag.write(tmp_path / 'bag', messages)) as bag:
        _, _, payload = next(bag.messages([ODOMETRY]))
        for broken in (payload[:40], b'', b'\x00\x01\x00\x00' + b'\xff' * 90):
            with pytest.raises(ValueError, match='payload is not a nav_msgs/msg/Odometry'):
                bag.decode(ODOMETRY, broken)


@pytest.fixture
def rig(tmp_path):
    return load_rig(small_bag.write_rig(tmp_path))


def truth_of(path, rig, pose):
    with Bag(path) as bag:
        return DrivenPath(bag, rig).truth(to_pose(pose))


def test_the_driven_path_of_a_circle(tmp_path, rig):
    # 10 m/s at 0.05 1/m: after 2 s an angle of 1 rad on a radius of 20 m
    messages = small_bag.drive(seconds=3, curvature=0.05)
    with Bag(small_bag.write(tmp_path / 'bag', messages)) as bag:
        driven = DrivenPath(bag, rig)
        t0 = next(to_pose(m) for _, topic, m in messages if topic == ODOMETRY)
    future = driven.truth(t0).path
    assert len(future) == 30
    assert future[19] == pytest.approx([16.829, 9.194, 1.0], abs=1e-3)


@pytest.mark.parametrize(('dropped', 'known'), [(range(60, 66), 64), (range(60, 80), 11)])
def test_truth_ends_at_a_gap(tmp_path, rig, dropped, known):
    messages = small_bag.drive(seconds=7)
    poses = [m for m in messages if m[1] == ODOMETRY]
    kept = [m for i, m in enumerate(poses) if i not in dropped]
    with Bag(small_bag.write(tmp_path / 'bag', kept)) as bag:
        assert len(DrivenPath(bag, rig).truth(to_pose(poses[0][2])).path) == known


def test_history_is_the_path_behind(tmp_path, rig):
    messages = small_bag.drive(seconds=3)
    poses = [to_pose(m) for _, topic, m in messages if topic == ODOMETRY]
    with Bag(small_bag.write(tmp_path / 'bag', messages)) as bag:
        driven = DrivenPath(bag, rig)
    assert driven.history(poses[100])[:, 0] == pytest.approx([-1.0 * k for k in range(15, -1, -1)])
    assert len(driven.history(poses[30])) == 7  # 0.6 s after the start


def changed_poses(seconds, change):
    """Odometry of a drive with `change(number, message)` applied."""
    poses = [m for m in small_bag.drive(seconds) if m[1] == ODOMETRY]
    for number, (_, _, message) in enumerate(poses):
        change(number, message)
    return poses


def test_an_outlier_and_poses_in_a_rarer_frame_are_left_out_and_counted(tmp_path, rig):
    def change(number, message):
        message.header.stamp.sec += 3600 * (number == 40)
        message.header.frame_id = 'map' if number >= 5 else 'odom'
        message.pose.pose.position.z = float('nan') if number == 60 else 100.0

    poses = changed_poses(8, change)
    with Bag(small_bag.write(tmp_path / 'bag', poses)) as bag:
        driven = DrivenPath(bag, rig)
        assert len(driven.truth(to_pose(poses[10][2])).path) == 64
        assert driven.truth(to_pose(poses[0][2])).reason == 'other_frame'
    assert driven.facts == {
        'recorded': 401,
        'used': 394,
        'left_out': {'other_frame': 5, 'bad_message': 1, 'stamp_outlier': 1},
    }


def test_a_truth_over_a_jump_is_left_out_and_one_behind_it_is_not(tmp_path, rig):
    def change(number, message):
        message.pose.pose.position.y += 1.5 * (number >= 100)

    poses = changed_poses(10, change)
    path = small_bag.write(tmp_path / 'bag', poses)
    assert truth_of(path, rig, poses[50][2]).reason == 'odometry_jump'
    behind = truth_of(path, rig, poses[101][2])
    assert (behind.reason, len(behind.path)) == ('', 64)


def test_a_path_along_the_own_z_axis_is_not_flattened(tmp_path, rig):
    def change(number, message):
        orientation = message.pose.pose.orientation
        orientation.x, orientation.y, orientation.z, orientation.w = 0.0, 2**-0.5, 0.0, 2**-0.5
        message.twist.twist.linear.x = 0.0

    poses = changed_poses(8, change)
    assert (
        truth_of(small_bag.write(tmp_path / 'bag', poses), rig, poses[0][2]).reason == 'off_plane'
    )
