"""Poses of the rear axle from all sources that a rig may name, in node and replay."""

from dataclasses import replace
import math
import random

import numpy as np
import pytest
from small_bag import ODOMETRY, START_NS, drive, header, make, odometry, write, write_rig
from test_pipeline import Bench

from alpamayo_ros.bags.messages import TYPESTORE
from alpamayo_ros.bags.reader import Bag
from alpamayo_ros.errors import BadInput
from alpamayo_ros.replay.driven_path import DrivenPath
from alpamayo_ros.replay.replay import Replay, Schedule, require_topics
from alpamayo_ros.rig import ODOMETRY_TYPES, TWIST_TYPES, EgoSource, RearAxle, load_rig
from alpamayo_ros.ros.inputs import to_pose
from alpamayo_ros.ros.receiving.ego import EgoReader, measure_speed, move_to_axle
from alpamayo_ros.runtime.constant_velocity import ConstantVelocityEngine

TWIST = '/twist'
ODOM, POSE_COVARIANCE, POSE, TF = ODOMETRY_TYPES
TWIST_COVARIANCE, TWIST_STAMPED, REPORT = TWIST_TYPES
TICK, GRID = 20_000_000, 100_000_000
SPEED, CURVATURE = 10.0, 0.02


def pose_message(type_name, message):
    """A message of one type with the pose of an Odometry."""
    pose = message.pose.pose
    if type_name == POSE:
        return make(POSE, header=message.header, pose=pose)
    if type_name == POSE_COVARIANCE:
        return make(POSE_COVARIANCE, header=message.header, pose=message.pose)
    place = make(
        'geometry_msgs/msg/Transform',
        translation=make('geometry_msgs/msg/Vector3', **vars_of(pose.position)),
        rotation=pose.orientation,
    )
    kind = 'geometry_msgs/msg/TransformStamped'
    found = make(kind, header=message.header, child_frame_id='base_link', transform=place)
    other = make(kind, header=header(START_NS, 'map'), child_frame_id='odom')
    other.header.stamp = header(
        stamp_of(message) + GRID, 'map'
    ).stamp  # a localisation looks ahead
    return make(TF, transforms=[other, found])


def stamp_of(message):
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def vars_of(point):
    return {name: getattr(point, name) for name in 'xyz'}


def twist_message(stamp_ns, speed, lateral=0.0, yaw_rate=0.0, type_name=TWIST_STAMPED):
    at = header(stamp_ns, 'base_link')
    if type_name == REPORT:
        return make(
            REPORT,
            header=at,
            longitudinal_velocity=speed,
            lateral_velocity=lateral,
            heading_rate=yaw_rate,
        )
    twist = make(
        'geometry_msgs/msg/Twist',
        linear=make('geometry_msgs/msg/Vector3', x=speed, y=lateral),
        angular=make('geometry_msgs/msg/Vector3', z=yaw_rate),
    )
    if type_name == TWIST_COVARIANCE:
        twist = make('geometry_msgs/msg/TwistWithCovariance', twist=twist)
    return make(type_name, header=at, twist=twist)


def pose_at(tick, type_name=POSE):
    stamp = START_NS + tick * TICK
    return pose_message(type_name, odometry(stamp, (tick * 0.2, 0.0, 0.0), 0.0, math.nan))


def read(reader, messages):
    found = []
    for message in messages:
        is_twist = hasattr(message, 'twist') or hasattr(message, 'heading_rate')
        found += (reader.read_twist if is_twist else reader.read_poses)(message)[1]
    return found


@pytest.mark.parametrize('type_name', TWIST_TYPES)
def test_a_pose_gets_the_twist_of_its_stamp_whatever_comes_first(type_name):
    poses = [pose_at(tick) for tick in range(1, 30)]
    twists = [  # every 30 ms, with a speed that rises
        twist_message(START_NS + k * 30_000_000, k * 0.3, k * 0.03, k * 0.06, type_name)
        for k in range(22)
    ]
    source = EgoSource(POSE, TWIST, type_name)
    late = read(EgoReader(source), [*poses[:3], *twists, *poses[3:]])
    early = read(EgoReader(source), [*twists, *poses])
    turns = [*poses[:10], *twists[:8], *poses[10:20], *twists[8:], *poses[20:]]
    assert [x.stamp_ns for x in late] == [START_NS + k * TICK for k in range(1, 30)]
    for found in (early, read(EgoReader(source), turns)):
        assert [(x.stamp_ns, x.speed_mps) for x in found] == [
            (x.stamp_ns, x.speed_mps) for x in late
        ]
    for pose in late:
        seconds = (pose.stamp_ns - START_NS) / 1e9
        assert pose.speed_mps == pytest.approx(10 * seconds, rel=1e-6)
        assert pose.yaw_rate_radps == pytest.approx(2 * seconds, rel=1e-6)
        assert (pose.frame_id, pose.child_frame_id) == ('odom', 'base_link')


def test_a_pose_whose_twist_never_comes_goes_on_without_one():
    reader = EgoReader(EgoSource(POSE, TWIST))
    found = read(reader, [twist_message(START_NS, 5.0), *(pose_at(k) for k in range(1, 20))])
    assert [x.stamp_ns for x in found] == [START_NS + k * TICK for k in range(1, 9)]
    assert all(math.isnan(x.speed_mps) and math.isnan(x.yaw_rate_radps) for x in found)
    # the rest is between two twists that are too far apart
    found = read(reader, [twist_message(START_NS + 19 * TICK, 5.0)])
    assert len(found) == 11
    assert [math.isnan(x.speed_mps) for x in found] == [True] * 10 + [False]


def test_no_pose_is_lost_or_late_when_the_clock_jumps_back():
    reader = EgoReader(EgoSource(POSE, TWIST))
    twists = [twist_message(START_NS + k * TICK, 5.0) for k in range(100)]
    found = read(reader, [*twists[90:], *(pose_at(k) for k in range(95, 103))])
    assert len(found) == 5
    found = read(reader, [pose_at(3), *twists[:3]])
    assert [x.stamp_ns for x in found] == [START_NS + k * TICK for k in (100, 101, 102)]
    (last,) = read(reader, [twists[5]])
    assert (last.stamp_ns, last.speed_mps) == (START_NS + 3 * TICK, 5.0)


def test_what_is_no_pose_is_refused_and_not_kept_waiting():
    reader = EgoReader(EgoSource(POSE, TWIST))
    bad = pose_message(POSE, odometry(START_NS, (math.nan, 0, 0), 0.0, 0.0))
    with pytest.raises(ValueError, match='position is not finite'):
        reader.read_poses(bad)
    assert read(reader, [twist_message(START_NS + k * TICK, 5.0) for k in range(30)]) == []
    with pytest.raises(ValueError, match='header stamp is zero'):
        reader.read_twist(twist_message(0, 5.0))


def test_a_frame_pair_of_tf_is_found_among_others():
    reader = EgoReader(EgoSource(TF, frame='odom', child_frame='base_link'))
    other = make('geometry_msgs/msg/TransformStamped', child_frame_id='/base_link')
    other.header.frame_id = 'map'
    alone = make(TF, transforms=[other])
    other.header.stamp.sec = 1
    text = 'no transforms lead from base_link to odom: map and odom have no parent'
    with pytest.raises(ValueError, match=text):
        reader.read_poses(alone)
    stamp_ns, (pose,) = reader.read_poses(pose_at(4, TF))
    assert stamp_ns == pose.stamp_ns == START_NS + 4 * TICK
    assert (pose.position_m[0], pose.frame_id, pose.child_frame_id) == (0.8, 'odom', 'base_link')
    assert reader.read_poses(alone) == (None, [])


def circle(tick, lever=(0.0, 0.0), turned=0.0):
    """Odometry of a frame at a lever from the rear axle, which drives a circle; turned in yaw."""
    seconds = tick * TICK / 1e9
    yaw, rate = CURVATURE * SPEED * seconds, CURVATURE * SPEED
    at = np.array([math.sin(yaw), 1 - math.cos(yaw)]) / CURVATURE
    cos, sin = math.cos(yaw), math.sin(yaw)
    at = at + np.array([[cos, -sin], [sin, cos]]) @ lever
    v = np.array([SPEED - rate * lever[1], rate * lever[0]])  # in the axes of the axle
    cos, sin = math.cos(turned), math.sin(turned)
    forward, left = cos * v[0] + sin * v[1], -sin * v[0] + cos * v[1]
    message = odometry(START_NS + tick * TICK, (*at, 0.5), yaw + turned, forward)
    message.twist.twist.linear.y = left
    message.twist.twist.angular.z = rate
    return message


@pytest.mark.parametrize('lever', [(1.4, 0.0), (0.3, -0.8)])
@pytest.mark.parametrize('degrees', [0, 90, -30])
def test_a_lever_arm_leads_to_the_rear_axle_with_its_speed(lever, degrees):
    turned = math.radians(degrees)
    # the axle as the other frame sees it
    cos, sin = math.cos(turned), math.sin(turned)
    back = np.array([[cos, sin], [-sin, cos]]) @ (-np.array(lever))
    axle = RearAxle(
        'axle', (*back, -0.5), (0.0, 0.0, math.sin(-turned / 2), math.cos(-turned / 2))
    )
    reader = EgoReader(EgoSource(rear_axle=axle))
    for tick in (0, 17, 40):
        message = circle(tick, lever, turned)
        for form in (message, bytes(TYPESTORE.serialize_cdr(message, ODOM))):
            (pose,) = reader.read_poses(form)[1]
            expected = to_pose(circle(tick))
            np.testing.assert_allclose(pose.position_m[:2], expected.position_m[:2], atol=1e-9)
            assert pose.position_m[2] == pytest.approx(0.0, abs=1e-9)
            dot = abs(pose.quaternion_xyzw @ expected.quaternion_xyzw)
            assert dot == pytest.approx(1.0, abs=1e-12)
            assert pose.speed_mps == pytest.approx(SPEED, abs=1e-9)
            assert (pose.yaw_rate_radps, pose.child_frame_id) == (CURVATURE * SPEED, 'axle')


def test_a_yaw_rate_that_is_not_known_leaves_the_speed_of_a_frame_straight_ahead():
    pose = replace(to_pose(circle(3)), yaw_rate_radps=math.nan)
    assert move_to_axle(pose, 0.0, RearAxle('axle', (-1.4, 0.0, 0.0))).speed_mps == SPEED
    assert math.isnan(move_to_axle(pose, 0.0, RearAxle('axle', (0.0, 1.0, 0.0))).speed_mps)


def test_speed_by_differences_is_that_of_the_circle_and_has_a_sign():
    poses = [to_pose(circle(tick)) for tick in range(3)]
    found = measure_speed(poses[0], poses[1])
    assert found.speed_mps == pytest.approx(SPEED, abs=1e-4)
    assert found.yaw_rate_radps == pytest.approx(CURVATURE * SPEED, abs=1e-9)
    back = measure_speed(replace(poses[2], stamp_ns=START_NS - TICK), poses[0])
    assert back.speed_mps == pytest.approx(-2 * SPEED, abs=1e-3)
    for other in (None, poses[1], replace(poses[0], stamp_ns=START_NS - 10 * TICK)):
        assert measure_speed(other, poses[1]) is poses[1]  # nothing, no time, a gap


RIGS = {
    'pose and twist': [f'odometry_type: {POSE_COVARIANCE}', f'twist_topic: {TWIST}'],
    'pose and report': [
        f'odometry_type: {POSE}',
        f'twist_topic: {TWIST}',
        f'twist_type: {REPORT}',
    ],
    'pose': [f'odometry_type: {POSE}'],
    'tf': [f'odometry_type: {TF}', 'frame: odom', 'child_frame: base_link'],
}


def load(folder, *lines):
    path = write_rig(folder)
    path.write_text('\n'.join([path.read_text(), *lines]))
    return load_rig(path)


def translate(messages, source):
    """The drive with the ego motion in another form; twists arrive up to 50 ms late."""
    found, late = [], random.Random(0)
    for log_ns, topic, message in messages:
        if topic != ODOMETRY:
            found.append((log_ns, topic, message))
            continue
        found.append((log_ns, topic, pose_message(source.type, message)))
        if source.twist_topic:
            speed = message.twist.twist.linear.x
            twist = twist_message(
                stamp_of(message) + 7_000_000, speed, type_name=source.twist_type
            )
            found.append((log_ns + late.randrange(7_000_000, 50_000_000), TWIST, twist))
    return sorted(found, key=lambda message: message[0])


class Keeps(ConstantVelocityEngine):
    """Keeps the history of every context."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def infer(self, context, seed):
        """Predict."""
        self.seen[context.t0_ns] = context
        return super().infer(context, seed)


def infer_offline(path, rig):
    engine = Keeps()
    with Bag(path) as bag:
        require_topics(bag, rig)
        lines = list(Replay(bag, rig, engine, Schedule(period_ns=0)).lines())
        path = DrivenPath(bag, rig)
    refused = [line for line in lines if 'topic' in line]
    return engine.seen, refused, path


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    """A drive, and what a replay of its odometry infers from."""
    folder = tmp_path_factory.mktemp('plain')
    messages = drive(seconds=3.0, curvature=0.02)
    return messages, infer_offline(write(folder / 'bag', messages), load(folder))[0]


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('name', list(RIGS))
def test_node_and_replay_get_the_history_of_the_odometry_from_every_source(
    plain, tmp_path, name, storage
):
    messages, expected = plain
    rig = load(tmp_path, *RIGS[name])
    messages = translate(messages, rig.ego)
    seen, refused, path = infer_offline(write(tmp_path / 'bag', messages, storage), rig)
    assert not refused
    assert path.facts['used'] >= 140
    assert len(seen) == len(expected) > 10
    for t0_ns, context in expected.items():
        np.testing.assert_array_equal(seen[t0_ns].history_xyz_m, context.history_xyz_m)
        assert seen[t0_ns].checks == context.checks == ()
        assert seen[t0_ns].odom_from_t0.speed_mps == pytest.approx(SPEED, abs=0.01)
    if storage == 'mcap':
        live = feed(rig, messages)
        assert live.keys() - {START_NS + 15 * 10**8} == seen.keys()
        for t0_ns, context in seen.items():
            found = live[t0_ns]
            np.testing.assert_array_equal(found.history_xyz_m, context.history_xyz_m)
            assert found.odom_from_t0.speed_mps == context.odom_from_t0.speed_mps


def feed(rig, messages):
    """Contexts that the pipeline has inferred from messages in the order of their log times."""
    engine = Keeps()
    bench = Bench(rig, engine)
    for log_ns, topic, message in messages:
        bench.now_ns = log_ns
        name = topic.split('/')[-2] or topic.split('/')[-1]
        bench.pipeline.receive(name, message)
        while bench.pipeline.worker.pending:
            bench.run_one()
    for name in ('odometry', 'twist') if rig.ego.twist_topic else ('odometry',):
        monitor = bench.pipeline.monitors[name]
        assert (monitor.received, monitor.refused) == (151, 0)
        assert monitor.newest_ns >= START_NS + 3 * 10**9
    return engine.seen


def test_speeds_by_differences_explain_no_jump(tmp_path):
    """They are made of the poses that jump, so they are not compared with them."""
    rig = load(tmp_path, *RIGS['tf'])
    assert not rig.uses_twist
    messages = drive(seconds=3.0)
    for _, topic, message in messages:
        if topic == ODOMETRY and message.header.stamp.sec > START_NS // 10**9 + 1:
            message.pose.pose.position.x += 3.0
    seen, _, _ = infer_offline(write(tmp_path / 'bag', translate(messages, rig.ego)), rig)
    assert max(seen) < START_NS + 21 * 10**8


def test_a_rig_without_more_is_one_of_odometry(tmp_path):
    assert load(tmp_path).ego == EgoSource(ODOM)


def test_a_rear_axle_is_read_with_its_frame(tmp_path):
    lines = ['rear_axle: {frame: /rear, position_m: [-1.4, 0, -0.5]}']
    axle = load(tmp_path, *lines).ego.rear_axle
    assert axle == RearAxle('rear', (-1.4, 0.0, -0.5), (0.0, 0.0, 0.0, 1.0))
    assert load(tmp_path, 'rear_axle: {frame: rear}').ego.rear_axle == RearAxle('rear')


@pytest.mark.parametrize(
    ('lines', 'text'),
    [
        (
            ['odometry_type: std_msgs/msg/String'],
            "odometry_type: 'std_msgs/msg/String' is not one",
        ),
        ([f'twist_topic: {TWIST}'], 'twist_topic: unknown key'),
        (
            [*RIGS['pose'], 'twist_topic: /odometry'],
            'twist_topic: /odometry is also odometry_topic',
        ),
        ([*RIGS['pose'], 'twist_topic: 5'], 'twist_topic: expected a topic'),
        ([*RIGS['pose'], 'frame: odom'], 'frame: unknown key'),
        ([f'odometry_type: {TF}', 'frame: /'], "frame: expected the name of a frame, got '/'"),
        (['rear_axle: {position_m: [0, 0, 0]}'], 'rear_axle.frame: missing'),
        (['rear_axle: {frame: a, position_m: [0, 0]}'], 'expected 3 finite numbers'),
        (
            ['rear_axle: {frame: a, quaternion_xyzw: [0, 0, 0, 1]}'],
            'rear_axle.quaternion_xyzw: unknown key',
        ),
        (
            ['rear_axle: {frame: a, position_m: [0, 0, 0], quaternion_xyzw: [0, 0, 0, 2]}'],
            'rear_axle.quaternion_xyzw: expected a norm of 1',
        ),
    ],
)
def test_mistakes_in_what_a_rig_says_of_its_motion_are_named(tmp_path, lines, text):
    with pytest.raises(BadInput, match=text):
        load(tmp_path, *lines)
