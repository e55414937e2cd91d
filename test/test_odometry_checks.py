"""Jumps of the odometry and turned axes: what is refused, and what a vehicle may do."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from alpamayo_ros import geometry
from alpamayo_ros.context.odometry_checks import (
    PoseTrack,
    describe_jump,
    describe_turned_axes,
    describe_unexplained_step,
    describe_upside_down,
    follows_twist,
)
from alpamayo_ros.data_types import EgoPose

S = 10**9


@cache
def drive(
    pose_hz=50, v0_mps=10.0, acceleration_mps2=0.0, curvature_per_m=0.0, seconds=1.8, yaw_rad=0.7
):
    """Poses of a unicycle up to t = 0, the twist exact."""
    count = round(seconds * pose_hz)
    t = np.arange(1 - count, 1) / pose_hz
    fine = np.linspace(t[0], 0, 20_001)
    v = np.maximum(v0_mps + acceleration_mps2 * (fine - fine[0]), 0.0)
    step = fine[1] - fine[0]
    s = np.concatenate([[0], np.cumsum((v[1:] + v[:-1]) / 2 * step)])
    yaw = yaw_rad + s * curvature_per_m
    x, y = (
        np.concatenate([[0], np.cumsum((f(yaw)[1:] + f(yaw)[:-1]) / 2 * np.diff(s))])
        for f in (np.cos, np.sin)
    )
    poses = []
    for k, at in enumerate(np.round((t - fine[0]) / step).astype(int)):
        poses.append(
            EgoPose(
                round(t[k] * S),
                np.array([4e6 + x[at], 5e6 + y[at], 100.0]),
                geometry.yaw_quaternion(yaw[at]),
                v[at],
                yaw_rate_radps=v[at] * curvature_per_m,
            )
        )
    return poses


def move(poses, from_s, meters=(0.0, 0.0, 0.0), yaw_rad=0.0, until_s=1.0):
    """Shift the poses between two times along their own axes, and turn them."""
    changed = []
    for pose in poses:
        if from_s * S <= pose.stamp_ns < until_s * S:
            shift = geometry.rotation_matrix(pose.quaternion_xyzw) @ meters
            turned = geometry.multiply(pose.quaternion_xyzw, geometry.yaw_quaternion(yaw_rad))
            pose = replace(pose, position_m=pose.position_m + shift, quaternion_xyzw=turned)
        changed.append(pose)
    return changed


def without_twist(poses, speed_mps=np.nan):
    return [replace(pose, speed_mps=speed_mps, yaw_rate_radps=speed_mps) for pose in poses]


def jump(poses, uses_twist=True):
    return describe_jump(PoseTrack(poses, 0, uses_twist))


@pytest.mark.parametrize('uses_twist', [True, False])
@pytest.mark.parametrize('pose_hz', [5, 10, 20, 50, 100, 200])
@pytest.mark.parametrize(
    'motion',
    [
        {},
        {'v0_mps': 0.0},
        {'v0_mps': 40.0},
        {'v0_mps': 14.0, 'acceleration_mps2': -8.0},
        {'v0_mps': 0.0, 'acceleration_mps2': 4.0},
        {'v0_mps': 5.0, 'curvature_per_m': 0.2},
        {'v0_mps': -3.0, 'curvature_per_m': -0.2},
        {'v0_mps': 12.0, 'acceleration_mps2': -4.0, 'curvature_per_m': 0.05},
    ],
)
def test_what_a_vehicle_does_is_no_jump(motion, pose_hz, uses_twist):
    assert jump(drive(pose_hz, **motion), uses_twist) == ''


@pytest.mark.parametrize('seed', range(10))
@pytest.mark.parametrize('uses_twist', [True, False])
def test_noise_of_satellite_navigation_is_no_jump(seed, uses_twist):
    """3 cm of position, 0.2 degrees of heading, 3 ms of stamps, at 15 m/s in a bend."""
    rng = np.random.default_rng(seed)
    poses = [
        replace(
            pose,
            stamp_ns=pose.stamp_ns + round(rng.normal(0, 3e6)),
            position_m=pose.position_m + rng.normal(0, 0.03, 3),
            quaternion_xyzw=geometry.multiply(
                pose.quaternion_xyzw, geometry.yaw_quaternion(rng.normal(0, 0.0035))
            ),
            speed_mps=pose.speed_mps + rng.normal(0, 0.3),
        )
        for pose in drive(50, 15.0, curvature_per_m=0.02)
    ]
    assert jump(poses, uses_twist) == ''


@pytest.mark.parametrize('twist', ['exact', 'zero', 'nan', 'ignored'])
@pytest.mark.parametrize('v0_mps', [0.0, 10.0, 30.0])
@pytest.mark.parametrize('pose_hz', [10, 50, 100])
@pytest.mark.parametrize(
    'change',
    [
        {'meters': (0.0, 0.5, 0.0)},
        {'meters': (0.0, -3.0, 0.0)},
        {'meters': (90.0, 0.0, 0.0)},
        {'meters': (-1.0, 0.0, 0.0)},
        {'meters': (0.0, 0.0, 0.6)},
        {'yaw_rad': 0.3},
        {'yaw_rad': -0.06},
    ],
)
def test_jump_is_found_whatever_the_twist_says(change, pose_hz, v0_mps, twist):
    poses = move(drive(pose_hz, v0_mps, curvature_per_m=0.01), -0.75, **change)
    if twist in ('zero', 'nan'):
        poses = without_twist(poses, 0.0 if twist == 'zero' else np.nan)
    assert jump(poses, twist != 'ignored')


@pytest.mark.parametrize('ends', [(-0.01, 1.0), (-2.0, -1.55)])
def test_jump_at_either_end_of_the_history_is_found(ends):
    poses = drive(50, 10.0, seconds=1.62)
    assert jump(move(poses, ends[0], (0.0, 0.5, 0.0), until_s=ends[1]))


def test_single_pose_elsewhere_is_a_jump():
    assert jump(move(drive(), -0.75, (0.0, 0.4, 0.0), until_s=-0.73))


def test_jump_that_a_filter_spreads_over_five_poses_is_found():
    poses = drive(100, 10.0)
    for k in range(5):
        poses = move(poses, -0.75 + 0.01 * k, (0.0, 0.12, 0.0))
    assert jump(poses)
    assert jump(poses, uses_twist=False)


@pytest.mark.parametrize('apart', [(0.0, 1.0, 0.0), (0.6, 0.0, 0.0), (0.0, 0.4, 0.0)])
@pytest.mark.parametrize('pattern', [(0, 1), (0, 0, 1), (0, 0, 1, 1)])
def test_two_senders_are_a_jump(apart, pattern):
    poses = drive(50, 10.0)
    other = move(poses, -9.0, apart)
    pairs = list(zip(poses, other, strict=True))
    mixed = [pair[pattern[i % len(pattern)]] for i, pair in enumerate(pairs)]
    assert jump(mixed)
    assert jump(without_twist(mixed))


def test_step_of_the_clock_forward_is_a_jump_of_a_moving_vehicle():
    poses = drive(50, 10.0)
    stepped = [
        replace(p, stamp_ns=p.stamp_ns - (p.stamp_ns < -S // 2) * S * 3 // 20) for p in poses
    ]
    assert jump(stepped)


def test_jump_is_described_with_time_distance_and_angle():
    text = jump(move(drive(), -0.75, (0.0, 0.5, 0.0)))
    assert text == (
        'odometry: the pose at t0-0.74 s is 0.50 m and 0.0 degrees off the motion around it, '
        'expected a continuous frame and one sender'
    )


@pytest.mark.parametrize('seed', range(100))
def test_screen_lets_nothing_pass_that_the_comparison_refuses(seed):
    rng = np.random.default_rng(seed)
    poses = drive(
        int(rng.choice([10, 20, 50, 100])), rng.uniform(-3, 25), rng.uniform(-3, 3),
        rng.uniform(-0.05, 0.05), yaw_rad=rng.uniform(-np.pi, np.pi),
    )  # fmt: skip
    poses = move(
        poses,
        rng.uniform(-1.8, 0),
        rng.normal(0, 0.25, 3),
        rng.normal(0, 0.03),
        rng.uniform(-1, 1),
    )
    track = PoseTrack(poses, 0, True)
    assert not (follows_twist(track) and describe_unexplained_step(track))


def test_screen_passes_what_follows_its_twist():
    for motion in ({}, {'v0_mps': 5.0, 'curvature_per_m': 0.2}, {'acceleration_mps2': -5.0}):
        assert follows_twist(PoseTrack(drive(100, **motion), 0, True))


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


def test_negated_y_is_found_where_the_path_is_still_along_the_axis():
    poses = drive(10, 10.0, curvature_per_m=0.03, yaw_rad=-0.27)  # heading 0 in the middle
    text = describe_turned_axes(*history(negate_y(poses)), 'imu')
    assert text.startswith('odometry: the path of imu turns 34 degrees away from its x axis')


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
