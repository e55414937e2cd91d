"""Re-timed paths: the geometry stays, the speed starts with the vehicle's."""

from dataclasses import replace

import numpy as np
import pytest
from test_outputs import T0_NS, plan, prediction
from test_policy import vehicle

from alpamayo_ros.ros.publishing.retiming import TIMES_S, retime

POSE = plan().odom_from_t0
LATE_S = 1.25  # between two waypoints
LATER = TIMES_S[1:] > LATE_S


def turning(curvature_per_m=0.02, speed_mps=10.0):
    """Prediction of one sample on a circle to the left."""
    length_m = speed_mps * TIMES_S[1:]
    turned = curvature_per_m * length_m
    x, y = np.sin(turned) / curvature_per_m, (1 - np.cos(turned)) / curvature_per_m
    samples = np.stack([x, y, turned, np.full(64, speed_mps)], axis=-1)[None]
    actions = np.stack([np.zeros(64), np.full(64, curvature_per_m)], axis=-1)[None]
    return replace(
        prediction(samples=1),
        samples=samples.astype(np.float32),
        actions=actions.astype(np.float32),
    )


def test_a_vehicle_that_is_where_the_plan_says_changes_nothing():
    found = retime(prediction(), POSE, vehicle(LATE_S))
    assert np.allclose(found.samples, prediction().samples, atol=1e-4)
    assert np.allclose(found.actions, prediction().actions, atol=1e-6)


@pytest.mark.parametrize('gap_mps', [-3.0, 2.0])
def test_the_gap_to_the_plans_speed_closes_with_a_time_constant_of_a_second(gap_mps):
    here = replace(vehicle(LATE_S, ahead_m=-1.5), speed_mps=10.0 + gap_mps)
    found = retime(prediction(), POSE, here).samples[0]
    passed_s = TIMES_S[1:][LATER] - LATE_S
    speed = 10 + gap_mps * np.exp(-passed_s)
    place = 10 * LATE_S - 1.5 + 10 * passed_s + gap_mps * (1 - np.exp(-passed_s))
    assert np.allclose(found[LATER, 3], speed, atol=1e-4)
    assert np.allclose(found[LATER, 0], place, atol=1e-3)
    assert np.array_equal(found[~LATER], prediction().samples[0][~LATER])


def test_acceleration_follows_the_speed_and_other_samples_stay():
    here = replace(vehicle(LATE_S), speed_mps=8.0)
    found = retime(prediction(), POSE, here)
    passed_s = TIMES_S[1:][LATER] - LATE_S
    assert np.allclose(found.actions[0, LATER, 0], 0.5 + 2 * np.exp(-passed_s), atol=1e-5)
    assert np.array_equal(found.samples[1], prediction().samples[1])
    assert np.array_equal(found.actions[1], prediction().actions[1])


def test_the_geometry_of_a_bend_stays():
    """The vehicle is 3 m behind and 0.4 m beside the path, and slower."""
    turned = 0.02 * 10 * LATE_S
    at = np.array([np.sin(turned), 1 - np.cos(turned)]) / 0.02
    ahead, left = np.array([np.cos(turned), np.sin(turned)]), [-np.sin(turned), np.cos(turned)]
    x, y = at - 3.0 * ahead + 0.4 * np.array(left)
    here = replace(
        POSE,
        stamp_ns=T0_NS + round(LATE_S * 1e9),
        position_m=POSE.position_m + [-y, x, 0.0],  # the odometry's y axis is ahead
        speed_mps=7.0,
    )
    found = retime(turning(), POSE, here)
    xy = found.samples[0, LATER, :2].astype(np.float64)
    on_path = xy[:-10]  # the last ones may lie behind its end
    assert np.abs(np.hypot(on_path[:, 0], on_path[:, 1] - 50.0) - 50.0).max() < 0.01
    assert np.allclose(
        found.samples[0, LATER, 2][:-10], np.arctan2(on_path[:, 0], 50 - on_path[:, 1]), atol=0.01
    )
    assert np.allclose(found.actions[0, :, 1], 0.02, atol=1e-6)


def test_a_stopped_vehicle_never_drives_backward():
    slowing = prediction().samples.copy()
    slowing[:, :, 3] = np.maximum(4.0 - 4.0 * TIMES_S[1:], 0.0)
    slowing[:, :, 0] = np.cumsum(slowing[:, :, 3], axis=1) * 0.1
    here = replace(vehicle(LATE_S), position_m=POSE.position_m, speed_mps=0.0)
    found = retime(replace(prediction(), samples=slowing), POSE, here).samples[0, LATER]
    assert found[:, 3].min() == 0.0
    assert np.diff(found[:, 0]).min() >= 0.0


@pytest.mark.parametrize(
    'found, here',
    [
        (prediction(), None),
        (prediction(), vehicle(6.5)),
        (prediction(), vehicle(-0.1)),
        (prediction(), replace(vehicle(1.0), speed_mps=np.nan)),
        (prediction(speed=-1.0), vehicle(1.0)),
    ],
    ids=['no pose', 'over', 'not begun', 'no speed', 'backward'],
)
def test_what_cannot_be_retimed_stays(found, here):
    assert retime(found, POSE, here) is found


def test_a_vehicle_slower_than_a_plan_that_stops_never_drives_backward():
    braking = prediction(samples=1).samples.copy()
    speeds = np.maximum(10.0 - 6.0 * TIMES_S[1:], 0.0)
    braking[0, :, 3] = speeds
    braking[0, :, 0] = np.cumsum(speeds) * 0.1
    stops = replace(prediction(samples=1), samples=braking, chosen=0)
    slow = replace(vehicle(LATE_S), speed_mps=0.5)
    found = retime(stops, POSE, slow).samples[0, LATER]
    assert found[:, 3].min() == 0.0
    assert np.diff(found[:, 0]).min() >= 0.0


def test_a_vehicle_above_the_limit_comes_down_to_it_on_the_same_path():
    here = replace(vehicle(LATE_S), speed_mps=10.0)
    found = retime(turning(), POSE, here, 7.0)
    path, passed_s = found.samples[0, LATER].astype(float), TIMES_S[1:][LATER] - LATE_S
    wanted = np.maximum(10.0 - 2.0 * passed_s, 7.0)
    assert np.allclose(path[:, 3], wanted, atol=1e-4)
    radius_m = np.hypot(path[:, 0], path[:, 1] - 50.0)
    assert np.allclose(radius_m, 50.0, atol=0.02)
    way_m = 10.0 * 1.5 - 1.5**2 + 7.0 * (passed_s[-1] - 1.5)
    start_rad = np.arctan(10.0 * LATE_S / 50.0)  # the vehicle is straight ahead of t0
    assert 50.0 * (path[-1, 2] - start_rad) == pytest.approx(way_m, abs=0.05)
    assert np.allclose(found.actions[0, LATER, 0], np.where(passed_s < 1.5, -2.0, 0.0), atol=1e-5)


def test_a_limit_above_the_plans_speed_changes_nothing():
    here = replace(vehicle(LATE_S), speed_mps=8.0)
    plain, limited = (retime(turning(), POSE, here, limit) for limit in (np.inf, 10.5))
    assert np.array_equal(plain.samples, limited.samples)
    assert np.array_equal(plain.actions, limited.actions)
