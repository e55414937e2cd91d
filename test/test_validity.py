"""Checks on a predicted trajectory: one passing and one failing path each, and the medoid."""

import numpy as np
import pytest

from alpamayo_ros.validity import (
    average_near,
    check_jump,
    check_trajectory,
    find_medoid,
    measure_spread,
)

SECONDS = np.arange(1, 65) * 0.1


def straight(v0_mps, accel_mps2=0.0, curvature=0.0):
    """Path (64, 4) at constant acceleration and the constant actions (64, 2) that go with it."""
    path = np.zeros((64, 4))
    path[:, 0] = v0_mps * SECONDS + accel_mps2 * SECONDS**2 / 2
    path[:, 3] = v0_mps + accel_mps2 * SECONDS
    return path, np.tile([accel_mps2, curvature], (64, 1))


def plan(v_mps=10.0, start_m=0.0, lateral_m=0.0, yaw_rad=0.0):
    """Path (64, 3) in the odometry frame, far from its origin, heading `yaw_rad`."""
    along = start_m + v_mps * SECONDS
    x = 4e6 + along * np.cos(yaw_rad) - lateral_m * np.sin(yaw_rad)
    y = 5e6 + along * np.sin(yaw_rad) + lateral_m * np.cos(yaw_rad)
    return np.stack([x, y, np.full(64, yaw_rad)], -1)


def test_plain_driving_passes():
    assert check_trajectory(*straight(10.0, 0.5, 0.01), v0_mps=10.0) == ()


@pytest.mark.parametrize('where', ['sample', 'actions', 'v0'])
@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_values_that_are_not_finite(where, value):
    path, actions = straight(10.0)
    v0_mps = 10.0
    if where == 'sample':
        path[63, 1] = value
    elif where == 'actions':
        actions[5, 0] = value
    else:
        v0_mps = value
    assert check_trajectory(path, actions, v0_mps) == ('non_finite',)


@pytest.mark.parametrize(('column', 'value'), [(0, 9.9), (0, -9.9), (1, 0.34), (1, -0.34)])
def test_one_action_outside_its_bounds(column, value):
    path, actions = straight(0.0)
    actions[40, column] = value
    assert check_trajectory(path, actions, 0.0) == ('action_bounds',)


def test_actions_at_the_bounds_pass():
    path, actions = straight(0.0)
    actions[40] = [9.8, -0.33]
    assert check_trajectory(path, actions, 0.0) == ()


def test_bounds_of_the_checkpoint_replace_the_usual_ones():
    path, actions = straight(10.0, 3.0)
    narrow = check_trajectory(path, actions, 10.0, accel_bounds_mps2=(-2.0, 2.0))
    assert narrow == ('action_bounds',)
    tight = check_trajectory(*straight(5.0, 0.0, 0.1), 5.0, curvature_bounds_per_m=(-0.05, 0.05))
    assert tight == ('action_bounds',)


def test_lateral_acceleration_is_speed_squared_times_curvature():
    assert check_trajectory(*straight(10.0, 0.0, 0.097), 10.0) == ()
    assert check_trajectory(*straight(10.0, 0.0, -0.099), 10.0) == ('lateral_acceleration',)


def test_first_interval_counts_with_the_speed_it_starts_at():
    path, actions = straight(8.0)
    actions[0, 1] = 0.11  # 7.0 m/s^2 at 8 m/s, 11 at 10
    assert check_trajectory(path, actions, 8.0) == ()
    assert check_trajectory(path, actions, 10.0) == ('lateral_acceleration',)


def test_standing_start_that_goes_backward():
    path, actions = straight(0.0)
    path[:, 0] = -np.linspace(0, 0.6, 64)
    assert check_trajectory(path, actions, 0.4) == ('backward',)
    assert check_trajectory(path, actions, 0.6) == ()  # was moving: a turn may end behind
    path[:, 0] = -np.linspace(0, 0.4, 64)
    assert check_trajectory(path, actions, 0.4) == ()


def test_reverse_speed_is_backward_at_any_start():
    path, actions = straight(10.0)
    path[63, 3] = -0.51
    assert check_trajectory(path, actions, 10.0) == ('backward',)
    path[63, 3] = -0.49
    assert check_trajectory(path, actions, 10.0) == ()


def test_several_failures_are_all_named():
    path, actions = straight(10.0, 0.0, 0.4)
    path[60, 3] = -2.0
    names = ('action_bounds', 'lateral_acceleration', 'backward')
    assert check_trajectory(path, actions, 10.0) == names


def arc(turns_per_m=0.02):
    """Path (65, 3) at 10 m/s on a circle that begins in direction 2 rad, and its centre."""
    turned = 2.0 + np.arange(65) * turns_per_m
    radius = 1 / turns_per_m
    centre = np.array([100.0, -50.0])
    return np.column_stack(
        [
            centre[0] + radius * np.sin(turned),
            centre[1] - radius * np.cos(turned),
            turned,
        ]
    ), centre


@pytest.mark.parametrize(
    ('across_m', 'along_m', 'expected'),
    [
        (0.0, 0.0, ()),
        (0.95, 0.0, ()),
        (-0.95, 0.0, ()),
        (1.05, 0.0, ('jump',)),
        (-1.05, 0.0, ('jump',)),
        (0.0, 3.9, ()),
        (0.0, -3.9, ()),
        (0.0, 4.1, ('jump',)),
        (0.0, -4.1, ('jump',)),
    ],
)
@pytest.mark.parametrize('after_s', [0.0, 1.25, 6.4])
def test_a_path_jumps_when_the_vehicle_is_beside_or_far_along_it(
    across_m, along_m, expected, after_s
):
    path, centre = arc()
    turned = 2.0 + after_s * 10 * 0.02
    place = centre + 50.0 * np.array([np.sin(turned), -np.cos(turned)])
    ahead = np.array([np.cos(turned), np.sin(turned)])
    left = np.array([-np.sin(turned), np.cos(turned)])
    assert check_jump(path, place + across_m * left + along_m * ahead, after_s) == expected


@pytest.mark.parametrize('after_s', [-0.01, 6.41])
def test_a_path_that_is_over_or_not_begun_is_not_judged(after_s):
    path, centre = arc()
    assert check_jump(path, centre, after_s) == ()


def lanes(*offsets):
    """Straight samples (K, 64, 4) side by side at the given lateral offsets."""
    samples = np.stack([straight(10.0)[0] for _ in offsets])
    samples[..., 1] = np.array(offsets)[:, None]
    return samples


def test_medoid_is_the_sample_nearest_to_the_others():
    expected = (1.2 + 3.8 + 0.2 + 0.3) / 4
    assert find_medoid(lanes(0.0, 5.0, 1.0, 1.2, 1.5)) == (3, pytest.approx(expected))


def test_medoid_averages_over_all_waypoints_and_the_spread_is_at_the_last():
    samples = lanes(0.0, 0.0, 0.0)
    samples[0, :, 1] = 1.0  # always a metre away
    samples[1, -1, 1] = 20.0  # far away, but only at the end
    chosen, spread_m = find_medoid(samples)
    assert chosen == 2
    assert spread_m == pytest.approx((1.0 + 20.0) / 2)


def test_the_mean_is_of_those_near_the_medoid_and_takes_its_place():
    samples = lanes(0.0, 1.0, 2.9, 3.1).astype(np.float32)  # 1.9 m from the second is near
    actions = np.arange(4 * 64 * 2, dtype=np.float32).reshape(4, 64, 2)
    found, driven = average_near(samples, actions, 1)
    assert found[1, :, 1] == pytest.approx(1.3)
    assert np.array_equal(found[[0, 2, 3]], samples[[0, 2, 3]])
    assert driven[1] == pytest.approx(actions[:3].mean(axis=0))
    assert np.array_equal(driven[[0, 2, 3]], actions[[0, 2, 3]]) and samples[1, 0, 1] == 1.0


def test_a_mean_leaves_out_what_is_not_finite():
    samples = lanes(0.0, 0.5, 1.0, 1.5).astype(np.float32)
    actions = np.zeros((4, 64, 2), np.float32)
    samples[0, 5, 0], actions[3, 2, 1] = np.nan, np.inf
    found, driven = average_near(samples, actions, 1)
    assert found[1, :, 1] == pytest.approx(0.75) and np.isfinite(driven[1]).all()
    found, _ = average_near(samples, actions, 0)
    assert np.array_equal(found, samples, equal_nan=True)


def test_the_spread_of_any_sample_is_at_the_last_waypoint():
    samples = lanes(0.0, 1.0, 4.0, 9.0)
    samples[3, 0, 0] = np.nan
    assert measure_spread(samples, 0) == pytest.approx(2.5)
    assert measure_spread(samples, 3) == measure_spread(samples[:1], 0) == 0.0


def test_one_sample_is_its_own_medoid_without_spread():
    assert find_medoid(lanes(3.0)) == (0, 0.0)


def test_samples_that_are_not_finite_are_never_chosen():
    samples = lanes(9.0, 0.0, 1.0, 1.5)
    samples[0, 3, 0], samples[2, 0, 1] = np.nan, np.inf
    assert find_medoid(samples) == (1, pytest.approx(1.5))
    samples[1:, 0, 0] = np.nan
    assert find_medoid(samples) == (0, 0.0)
