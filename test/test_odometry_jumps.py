"""Jumps of the odometry: what is refused, and what a vehicle may do."""

from dataclasses import replace

import numpy as np
from odometry_poses import S, drive, move
import pytest

from alpamayo_ros import geometry
from alpamayo_ros.context.odometry_jumps import (
    PoseTrack,
    describe_jump,
    describe_unexplained_step,
    follows_twist,
)


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
