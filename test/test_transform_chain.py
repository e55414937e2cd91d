"""The motion of the vehicle through TF: chains of moving links, and the rear axle's lever arm."""

import math

import numpy as np
import pytest
from small_bag import ODOMETRY, START_NS, drive, header, make, odometry, write
from test_calibrations import transform
from test_ego import GRID, TF, Keeps, circle, infer_offline, load
from test_pipeline import Bench

from alpamayo_ros import geometry
from alpamayo_ros.errors import BadInput
from alpamayo_ros.rig import EgoSource, RearAxle
from alpamayo_ros.ros.inputs import to_pose
from alpamayo_ros.ros.receiving.ego import EgoReader
from alpamayo_ros.transform_tree import GAP_NS

TICK = 20_000_000
CHAIN = EgoSource(TF, frame='map', child_frame='base_link')
TF_RIG = [f'odometry_type: {TF}', 'frame: map', 'child_frame: base_link']
# the odometry is of the footprint, 1.4 m before the axle and turned by a right angle
TURNED = (0.0, 0.0, math.sin(math.pi / 4), math.cos(math.pi / 4))
ABOVE = (0.0, 0.0, 0.5), TURNED
FOOT = transform('base_footprint', 'base_link', *ABOVE)
FOOT.header.stamp.sec = 0


def links(*found):
    return make(TF, transforms=list(found))


def link(parent, child, stamp_ns, xyz=(0.0, 0.0, 0.0), yaw=0.0):
    found = transform(parent, child, xyz, (0.0, 0.0, math.sin(yaw / 2), math.cos(yaw / 2)))
    found.header = header(stamp_ns, parent)
    return found


def correction(stamp_ns):
    """Pose of odom in map, which moves slowly."""
    seconds = (stamp_ns - START_NS) / 1e9
    return link('map', 'odom', stamp_ns, (100.0 + 0.1 * seconds, -20.0, 0.0), 1.0)


def moved(tick):
    return link('odom', 'base_footprint', START_NS + tick * TICK, (tick * 0.2, 0.0, 0.0), 0.0)


def read(reader, messages):
    """Poses of messages; those before the chain is complete are refused."""
    found = []
    for message in messages:
        try:
            found += reader.read_poses(message)[1]
        except ValueError as error:
            assert 'no transforms lead from base_link to map' in str(error)
    return found


def reader_of(source, *static):
    reader = EgoReader(source)
    reader.add_static(links(*static))
    return reader


def test_a_chain_gives_a_pose_for_each_transform_of_the_vehicle_whatever_comes_first():
    own = [links(moved(tick)) for tick in range(1, 30)]
    above = [links(correction(START_NS + k * 50_000_000)) for k in range(13)]
    early = read(reader_of(CHAIN, FOOT), [*above, *own])
    late = read(reader_of(CHAIN, FOOT), [own[0], *above[:1], *own[:4], *above, *own[4:]])
    mixed = read(reader_of(CHAIN, FOOT), [*above[:2], *own[:12], *above[2:], *own[12:]])
    stamps = [START_NS + k * TICK for k in range(1, 30)]
    assert [pose.stamp_ns for pose in early] == stamps
    for other in (late, mixed):
        assert [pose.stamp_ns for pose in other] == stamps
        for pose, same in zip(early, other, strict=True):
            np.testing.assert_array_equal(pose.position_m, same.position_m)
    for tick, pose in enumerate(early, start=1):
        seconds = tick * TICK / 1e9
        at = np.array([100 + 0.1 * seconds, -20.0])
        at = at + tick * 0.2 * np.array([math.cos(1.0), math.sin(1.0)])
        np.testing.assert_allclose(pose.position_m, [*at, 0.5], atol=1e-9)
        yaw = geometry.yaw(geometry.rotation_matrix(pose.quaternion_xyzw))
        assert yaw == pytest.approx(1.0 + math.pi / 2)
        assert (pose.frame_id, pose.child_frame_id) == ('map', 'base_link')


def test_other_transforms_of_a_complete_chain_give_nothing():
    reader = reader_of(CHAIN, FOOT)
    read(reader, [links(moved(0), correction(START_NS))])
    wheel = links(link('base_link', 'wheel', START_NS + 5 * TICK))
    assert reader.read_poses(wheel) == (None, [])
    assert reader.read_poses(links(correction(START_NS + 5 * TICK))) == (None, [])


def test_a_link_that_is_missing_or_ends_is_named():
    reader = reader_of(CHAIN, FOOT)
    with pytest.raises(ValueError, match='from base_link to map: odom and map have no parent'):
        reader.read_poses(links(moved(0)))
    reader.read_poses(links(correction(START_NS)))
    waiting = GAP_NS // TICK
    (first,) = read(reader, [links(moved(tick)) for tick in range(waiting + 2)])
    assert first.stamp_ns == START_NS
    with pytest.raises(ValueError, match='the transforms of odom in map end 0.04 s before'):
        reader.read_poses(links(moved(waiting + 3)))
    # the two corrections are too far apart for what has waited between them
    found = read(reader, [links(correction(START_NS + (waiting + 3) * TICK))])
    assert [pose.stamp_ns for pose in found] == [START_NS + (waiting + 3) * TICK]
    found = read(reader, [links(moved(waiting + 4)), links(correction(START_NS + 300_000_000))])
    assert [pose.stamp_ns for pose in found] == [START_NS + (waiting + 4) * TICK]


def test_static_links_alone_are_no_motion():
    reader = reader_of(EgoSource(TF, frame='base_footprint', child_frame='base_link'), FOOT)
    with pytest.raises(ValueError, match='from base_link to base_footprint are static'):
        reader.read_poses(links(moved(0)))


def test_a_chain_goes_on_after_its_clock_has_jumped_back():
    reader = reader_of(CHAIN, FOOT)
    read(reader, [links(correction(START_NS + 10**10), moved(500)), links(moved(501))])
    back = [links(correction(START_NS)), links(moved(0)), links(correction(START_NS + TICK))]
    assert [pose.stamp_ns for pose in read(reader, back)] == [START_NS]


def test_a_transform_without_a_stamp_is_refused():
    reader = reader_of(CHAIN, FOOT)
    read(reader, [links(correction(START_NS), moved(0))])
    with pytest.raises(ValueError, match='header stamp is zero'):
        reader.read_poses(links(link('odom', 'base_footprint', 0)))


def in_chain(messages):
    """The drive's odometry as a chain of TF; corrections of the map come 30 ms late."""
    found = []
    for log_ns, topic, message in messages:
        if topic != ODOMETRY:
            found.append((log_ns, topic, message))
            continue
        at, turn = message.pose.pose.position, message.pose.pose.orientation
        own = transform('odom', 'base_link', (at.x, at.y, at.z), (0.0, 0.0, turn.z, turn.w))
        own.header = message.header
        found.append((log_ns, '/odometry', links(own)))
        stamp_ns = log_ns - 3_000_000 - 5_000_000
        found.append((log_ns + 30_000_000, '/odometry', links(correction(stamp_ns))))
    return sorted(found, key=lambda message: message[0])


def live(rig, messages, static=()):
    """Contexts that the pipeline has inferred."""
    engine = Keeps()
    bench = Bench(rig, engine)
    if static:
        bench.pipeline.receive_static(links(*static))
    for log_ns, topic, message in messages:
        bench.now_ns = log_ns
        bench.pipeline.receive(topic.split('/')[-2] or topic.split('/')[-1], message)
        while bench.pipeline.worker.pending:
            bench.run_one()
    return engine.seen


def require_equal(live_contexts, recorded):
    """The node has inferred all that the replay has, and the first t0 beside, from equal poses."""
    assert live_contexts.keys() - {START_NS + 15 * GRID} == recorded.keys()
    assert len(recorded) > 10
    for t0_ns, context in recorded.items():
        np.testing.assert_array_equal(live_contexts[t0_ns].history_xyz_m, context.history_xyz_m)


def test_node_and_replay_follow_a_chain_alike(tmp_path):
    rig = load(tmp_path, *TF_RIG)
    messages = in_chain(drive(seconds=3.0, curvature=0.02))
    seen, _, _ = infer_offline(write(tmp_path / 'bag', messages), rig)
    require_equal(live(rig, messages), seen)
    for context in seen.values():
        assert context.v0_mps == pytest.approx(10.0, abs=0.1)
        assert context.odom_from_t0.frame_id == 'map'


# the odometry is of an antenna: 1.4 m before the axle, 0.3 m to the left, and turned
ANTENNA = [
    transform('base_link', 'roof', (1.0, 0.0, 1.5), (0.0, 0.0, 0.0, 1.0)),
    transform('roof', 'antenna', (0.4, 0.3, 0.0), TURNED),
]
LEVER = (1.4, 0.3)


def antenna(tick):
    message = circle(tick, LEVER, math.pi / 2)
    message.pose.pose.position.z = 1.5
    message.child_frame_id = 'antenna'
    return message


def test_the_lever_arm_comes_from_static_transforms():
    reader = EgoReader(EgoSource(rear_axle=RearAxle('base_link')))
    text = 'rear_axle by /tf_static: no transforms lead from base_link to antenna: base_link and'
    with pytest.raises(ValueError, match=text):
        reader.read_poses(antenna(0))
    reader.add_static(links(ANTENNA[0]))
    with pytest.raises(ValueError, match='base_link and antenna have no parent'):
        reader.read_poses(antenna(0))
    reader.add_static(links(ANTENNA[1]))
    for tick in (1, 40):
        (pose,) = reader.read_poses(antenna(tick))[1]
        expected = to_pose(circle(tick))
        np.testing.assert_allclose(pose.position_m[:2], expected.position_m[:2], atol=1e-9)
        assert abs(pose.quaternion_xyzw @ expected.quaternion_xyzw) == pytest.approx(1.0)
        assert pose.speed_mps == pytest.approx(10.0, abs=1e-9)
        assert pose.child_frame_id == 'base_link'
    # measured again
    reader.add_static(links(transform('base_link', 'roof', (2.0, 0.0, 1.5), (0, 0, 0, 1))))
    (pose,) = reader.read_poses(antenna(1))[1]
    moved_m = np.linalg.norm((pose.position_m - to_pose(circle(1)).position_m)[:2])
    assert moved_m == pytest.approx(1.0, abs=1e-9)


def test_odometry_of_the_axle_needs_no_transform():
    reader = EgoReader(EgoSource(rear_axle=RearAxle('base_link')))
    (pose,) = reader.read_poses(circle(3))[1]
    np.testing.assert_array_equal(pose.position_m, to_pose(circle(3)).position_m)


def test_the_lever_arm_of_the_rig_goes_before_that_of_transforms():
    axle = RearAxle('base_link', (-1.0, 0.0, 0.0))
    reader = reader_of(EgoSource(rear_axle=axle), *ANTENNA)
    at = odometry(START_NS, (5.0, 0.0, 0.0), 0.0, 10.0)
    at.child_frame_id = 'antenna'
    assert reader.read_poses(at)[1][0].position_m.tolist() == [4.0, 0.0, 0.0]


def test_node_and_replay_move_the_odometry_to_the_axle_alike(tmp_path):
    rig = load(tmp_path, 'rear_axle: {frame: base_link}')
    messages = [
        (log_ns, topic, antenna(round((log_ns - START_NS) / TICK)) if topic == ODOMETRY else x)
        for log_ns, topic, x in drive(seconds=3.0)
    ]
    bag = write(tmp_path / 'bag', messages)
    with pytest.raises(BadInput, match='/tf_static'):
        infer_offline(bag, rig)
    static = (START_NS, '/tf_static', links(*ANTENNA))
    seen, refused, driven = infer_offline(write(tmp_path / 'whole', [static, *messages]), rig)
    assert not refused and driven.facts['used'] >= 140
    require_equal(live(rig, messages, ANTENNA), seen)
    for context in seen.values():
        assert context.v0_mps == pytest.approx(10.0, abs=0.01)
