"""Predictions to messages: stamps, frames, speeds; with the classes of rosbags."""

import numpy as np
import pytest

from alpamayo_ros.bags.messages import TYPESTORE, message_factory
from alpamayo_ros.data_types import Context, EgoPose, Prediction
from alpamayo_ros.errors import BadInput
from alpamayo_ros.ros.messages import import_interface
from alpamayo_ros.ros.publishing import markers, outputs
from alpamayo_ros.ros.publishing.outputs import OUTPUTS
from alpamayo_ros.ros.publishing.stamped_prediction import StampedPrediction

T0_NS = 1_700_000_000_123_456_789
YAW = np.pi / 2
make = message_factory()


def prediction(samples=2, speed=10.0):
    """Straight ahead; the other samples bend away by a metre per second."""
    t = np.arange(1, 65) * 0.1
    paths = np.zeros((samples, 64, 4), np.float32)
    paths[:, :, 0] = speed * t
    paths[:, :, 1] = np.arange(samples)[:, None] * t
    paths[:, :, 3] = speed
    actions = np.zeros((samples, 64, 2), np.float32)
    actions[:, :, 0], actions[:, :, 1] = 0.5, 0.01
    return Prediction(
        t0_ns=T0_NS,
        seed=1,
        samples=paths,
        actions=actions,
        chosen=0,
        spread_m=6.4,
        v0_mps=speed,
        texts=('Keep the lane.',) * samples,
        partial_texts=('',) * samples,
        end=('marker',) * samples,
        tokens=(5,) * samples,
        navigation='Turn left in 30m',
    )


def plan(**changes):
    """The vehicle at (4.5e5, 5.4e6, 100) m, facing the odometry frame's y axis."""
    pose = EgoPose(
        T0_NS,
        np.array([4.5e5, 5.4e6, 100.0]),
        np.array([0, 0, np.sin(YAW / 2), np.cos(YAW / 2)]),
        10.0,
        'map',
        'rear_axle',
    )
    return StampedPrediction(
        **{'prediction': prediction(), 'odom_from_t0': pose, 'now_ns': T0_NS, **changes}
    )


def context_without_frames(**changes):
    """A context whose pose is that of `plan`."""
    values = {'t0_ns': T0_NS, 'v0_mps': 10.0, 'skew_s': 0.0, 'odom_from_t0': plan().odom_from_t0}
    history = {'history_xyz_m': np.zeros((16, 3)), 'history_rot': np.zeros((16, 3, 3))}
    return Context(**{**values, **history, 'frames': {}, 'camera_indices': (), **changes})


def ns(stamp):
    return stamp.sec * 10**9 + stamp.nanosec


@pytest.mark.parametrize('row', OUTPUTS, ids=lambda row: row.topic)
def test_every_row_builds_a_message_of_its_type_that_serialises(row):
    message = row.build(plan(), make)
    assert message.__msgtype__ == row.type_name
    again = TYPESTORE.deserialize_cdr(
        TYPESTORE.serialize_cdr(message, row.type_name), row.type_name
    )
    assert type(again) is type(message)


def test_path_is_stamped_with_the_data_and_each_pose_with_its_own_time():
    path = outputs.build_path(plan(now_ns=T0_NS + 5_000_000_000), make)
    assert ns(path.header.stamp) == T0_NS
    stamps = [ns(pose.header.stamp) - T0_NS for pose in path.poses]
    assert stamps == [(k + 1) * 100_000_000 for k in range(64)]


def test_path_in_the_odometry_frame_is_anchored_with_the_pose_at_t0():
    path = outputs.build_path(plan(), make)
    assert path.header.frame_id == 'map'
    first, last = path.poses[0].pose, path.poses[-1].pose
    assert (first.position.x, first.position.y) == pytest.approx((4.5e5, 5.4e6 + 1), abs=1e-6)
    assert last.position.y == pytest.approx(5.4e6 + 64, abs=1e-5)
    assert first.position.z == 100.0
    norm = [getattr(first.orientation, c) for c in 'xyzw']
    assert norm == pytest.approx([0, 0, np.sin(YAW / 2), np.cos(YAW / 2)])


def test_path_in_base_link_is_local_and_every_pose_has_the_stamp_t0():
    local = plan(output_frame='base_link')
    path = outputs.build_path(local, make)
    assert path.header.frame_id == 'rear_axle'
    assert {ns(path.header.stamp), *(ns(pose.header.stamp) for pose in path.poses)} == {T0_NS}
    assert path.poses[9].pose.position.x == pytest.approx(10.0, abs=1e-5)
    last = outputs.build_trajectory(local, make).points[-1].time_from_start
    assert last.sec * 10**9 + last.nanosec == 6_400_000_000


def test_trimmed_path_keeps_the_times_of_its_poses():
    path = outputs.build_path(plan(first=20), make)
    assert len(path.poses) == 44
    assert ns(path.poses[0].header.stamp) == T0_NS + 2_100_000_000
    assert path.poses[0].pose.position.y == pytest.approx(5.4e6 + 21, abs=1e-5)


def test_trajectory_carries_speed_yaw_rate_and_acceleration_of_the_action_space():
    trajectory = outputs.build_trajectory(plan(), make)
    point = trajectory.points[0]
    assert point.velocities[0].linear.x == 10.0
    assert point.velocities[0].angular.z == pytest.approx(0.1)  # curvature * speed
    assert point.accelerations[0].linear.x == 0.5
    first = point.time_from_start
    assert first.sec * 10**9 + first.nanosec == 100_000_000
    assert len(trajectory.points) == 64


def test_reverse_keeps_the_sign_of_the_speed():
    backward = plan(prediction=prediction(speed=-1.0))
    assert outputs.build_trajectory(backward, make).points[5].velocities[0].linear.x == -1.0


def test_markers_are_in_the_frame_of_the_vehicle_at_t0_and_end_with_the_path():
    late = plan(now_ns=T0_NS + 2_000_000_000)
    for marker in markers.build_markers(late, make).markers:
        assert marker.frame_locked is False
        assert ns(marker.header.stamp) == T0_NS
        assert marker.header.frame_id == 'rear_axle'
        assert marker.lifetime.sec * 10**9 + marker.lifetime.nanosec == 4_400_000_000


def test_markers_show_path_samples_footprint_and_text():
    shown = markers.build_markers(plan(), make).markers
    assert {marker.ns for marker in shown} == {'path', 'samples', 'footprint', 'text'}
    assert 'Turn left in 30m\nKeep the lane.' in [marker.text for marker in shown]
    line = next(marker for marker in shown if marker.ns == 'path')
    assert len(line.points) == len(line.colors) == 64
    assert (line.points[-1].x, line.points[-1].y, line.points[-1].z) == (64.0, 0.0, 0.02)


def test_reset_deletes_all_markers():
    (marker,) = markers.build_marker_deletion(make, T0_NS, 'map').markers
    assert marker.action == 3


def test_samples_are_a_cloud_with_the_stamp_t0_in_the_frame_of_the_vehicle():
    message = outputs.build_samples(plan(), make)
    assert (ns(message.header.stamp), message.header.frame_id) == (T0_NS, 'rear_axle')
    assert (message.height, message.width, message.point_step) == (2, 64, 28)
    assert [field.name for field in message.fields[:3]] == ['x', 'y', 'z']
    samples, actions = outputs.read_samples(message)
    assert np.array_equal(samples, prediction().samples)
    assert np.array_equal(actions, prediction().actions)


def test_slow_and_fast_have_different_colours():
    assert markers.color_speed(0.0) != markers.color_speed(25.0)
    assert markers.color_speed(40.0) == markers.color_speed(25.0)


def test_a_message_of_a_package_that_is_not_installed_is_bad_input():
    with pytest.raises(BadInput, match='the package autoware_none_msgs is not installed'):
        import_interface('autoware_none_msgs/msg/Trajectory')
