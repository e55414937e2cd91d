"""Axes of the odometry: what is refused as turned or negated, and what a vehicle may do."""

from dataclasses import replace

import numpy as np
from odometry_poses import drive, move
import pytest

from alpamayo_ros import geometry
from alpamayo_ros.context.odometry_axes import describe_turned_axes, describe_upside_down


def history(poses):
    """The last 16 poses of 10 Hz in the frame of the last one."""
    return geometry.to_local(
        poses[-1].position_m,
        poses[-1].quaternion_xyzw,
        np.array([pose.position_m for pose in poses[-16:]]),
        np.array([pose.quaternion_xyzw for pose in poses[-16:]]),
    )


def turn_axes(poses, quaternion):
    """The same motion as a sensor mounted in another attitude states it."""
    return [
        replace(pose, quaternion_xyzw=geometry.multiply(pose.quaternion_xyzw, quaternion))
        for pose in poses
    ]


@pytest.mark.parametrize(
    ('quaternion', 'degrees'),
    [
        (geometry.yaw_quaternion(np.pi / 2), 90),
        (geometry.yaw_quaternion(-np.pi / 2), 90),
        (geometry.yaw_quaternion(np.radians(30)), 30),
        (geometry.yaw_quaternion(np.pi), 180),
        (np.array([-0.5, 0.5, -0.5, 0.5]), 90),  # an optical frame: z forward
        (np.array([0, -np.sqrt(0.5), 0, np.sqrt(0.5)]), 90),  # x up
    ],
)
@pytest.mark.parametrize('curvature_per_m', [0.0, 0.03])
def test_turned_axes_are_found_with_their_angle(quaternion, degrees, curvature_per_m):
    poses = turn_axes(drive(10, 10.0, curvature_per_m=curvature_per_m), quaternion)
    text = describe_turned_axes(*history(poses), 'imu')
    assert text.startswith(f'odometry: imu moves at {degrees} degrees to its own x axis over 1')


def test_turned_axes_are_found_when_the_vehicle_starts():
    """Half of the history stands still."""
    poses = drive(10, 0.0, acceleration_mps2=0.0)
    moved = [
        replace(pose, position_m=pose.position_m + [0.0, max(k - 12, 0) * 0.5, 0.0])
        for k, pose in enumerate(poses)
    ]
    assert describe_turned_axes(*history(turn_axes(moved, [0, 0, 0, 1.0])), 'imu')


@pytest.mark.parametrize(
    'motion',
    [
        {},
        {'v0_mps': 0.0},
        {'v0_mps': -5.0},
        {'v0_mps': 4.0, 'curvature_per_m': 0.2},
        {'v0_mps': 10.0, 'acceleration_mps2': -8.0},
    ],
)
@pytest.mark.parametrize('lever_m', [0.0, 1.5, 3.8])
def test_point_before_the_rear_axle_has_no_turned_axes(motion, lever_m):
    poses = move(drive(10, **motion), -9.0, (lever_m, 0.5, 1.0))
    assert describe_turned_axes(*history(poses), 'imu') == ''


def test_noise_of_a_vehicle_that_stands_is_no_motion():
    rng = np.random.default_rng(0)
    for _ in range(50):
        poses = [
            replace(pose, position_m=pose.position_m + rng.normal(0, 0.02, 3))
            for pose in drive(10, 0.0)
        ]
        assert describe_turned_axes(*history(poses), 'imu') == ''


def test_one_step_across_in_a_motion_along_the_axis_is_no_turned_axis():
    poses = drive(10, 10.0)
    shifted = move(
        poses, -0.05, (-1.0, 1.0, 0.0)
    )  # the last step goes 1 m across in place of ahead
    assert describe_turned_axes(*history(shifted), 'imu') == ''


def negate_y(poses):
    """Poses of a sender that negates y and not the heading."""
    return [replace(pose, position_m=pose.position_m * [1.0, -1.0, 1.0]) for pose in poses]


def keep_heading(poses):
    """Poses of a sender that knows no orientation."""
    return [replace(pose, quaternion_xyzw=geometry.yaw_quaternion(0.7)) for pose in poses]


@pytest.mark.parametrize('change', [negate_y, keep_heading])
@pytest.mark.parametrize('curvature_per_m', [0.03, -0.03])
def test_path_that_turns_another_way_than_its_heading_is_found(change, curvature_per_m):
    poses = drive(10, 10.0, curvature_per_m=curvature_per_m, yaw_rad=0.0)
    if change is keep_heading:
        poses = drive(10, 10.0, curvature_per_m=curvature_per_m, yaw_rad=0.7)
    text = describe_turned_axes(*history(change(poses)), 'imu')
    assert 'away from its x axis' in text or 'degrees to its own x axis' in text


@pytest.mark.parametrize('yaw_rad', [-0.27, -0.51])  # heading 0 in the middle, or at the end
def test_negated_y_is_found_where_the_path_is_still_along_the_axis(yaw_rad):
    poses = drive(10, 10.0, curvature_per_m=0.03, yaw_rad=yaw_rad)
    text = describe_turned_axes(*history(negate_y(poses)), 'imu')
    assert text.startswith('odometry: the path of imu turns 34 degrees away from its x axis')


def test_front_of_a_vehicle_that_enters_a_bend_has_no_turned_axes():
    """4 m before the rear axle a path turns 24 degrees more than the heading."""
    curvatures = np.linspace(0.0, 0.12, 16)
    yaws = np.concatenate([[0.0], np.cumsum(0.5 * curvatures[:-1])])
    forward = np.stack([np.cos(yaws), np.sin(yaws), 0 * yaws], -1)
    axle = np.concatenate([np.zeros((1, 3)), np.cumsum(0.5 * forward[:-1], axis=0)])
    quaternions = np.array([geometry.yaw_quaternion(yaw) for yaw in yaws])
    front = geometry.to_local(axle[-1], quaternions[-1], axle + 4 * forward, quaternions)
    assert describe_turned_axes(*front, 'imu') == ''


@pytest.mark.parametrize('seed', range(20))
def test_point_of_a_vehicle_that_manoeuvres_has_no_turned_axes(seed):
    """Up to 4 m before the rear axle, 3 cm of noise, curvature and speed that change."""
    rng = np.random.default_rng(seed)
    motion = {
        'v0_mps': rng.uniform(2, 12),
        'acceleration_mps2': rng.uniform(-4, 3),
        'curvature_per_m': rng.uniform(-0.08, 0.08),
    }
    poses = move(drive(10, **motion), -9.0, (rng.uniform(-1, 4), rng.uniform(-1, 1), 0.0))
    noisy = [replace(p, position_m=p.position_m + rng.normal(0, 0.03, 3)) for p in poses]
    assert describe_turned_axes(*history(noisy), 'imu') == ''


@pytest.mark.parametrize('tilt_rad', [0.0, 0.3, 1.2])
@pytest.mark.parametrize('yaw_rad', [0.0, 2.0])
def test_vehicle_on_its_wheels_is_not_upside_down(yaw_rad, tilt_rad):
    tilt = [np.sin(tilt_rad / 2), 0.0, 0.0, np.cos(tilt_rad / 2)]
    attitude = geometry.multiply(geometry.yaw_quaternion(yaw_rad), np.array(tilt))
    assert describe_upside_down(attitude, 'odom', 'imu') == ''


@pytest.mark.parametrize('yaw_rad', [0.0, 0.6, -0.9])
def test_quaternion_with_w_first_and_z_down_is_upside_down(yaw_rad):
    right = geometry.yaw_quaternion(yaw_rad)
    z_down = geometry.multiply(right, np.array([1.0, 0.0, 0.0, 0.0]))
    for attitude in (np.roll(right, 1), z_down):
        text = describe_upside_down(attitude, 'odom', 'imu')
        assert text.startswith('odometry: imu is upside down: its z axis is 1')
