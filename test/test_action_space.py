"""Unicycle action space: closed forms, round trip, bounds; golden values are in test_verify."""

import math

import pytest
import torch

from alpamayo_ros.geometry import fit_speeds
from alpamayo_ros.model.action_space import (
    UnicycleAccelCurvatureActionSpace,
    rotation_from_yaw,
    unwrap,
)

R1 = {
    'accel_mean': 0.02902694707164455,
    'accel_std': 0.6810426736454882,
    'curvature_mean': 0.0002692167976330542,
    'curvature_std': 0.026148280660833106,
    'curvature_bounds': (-0.33, 0.33),
}


@pytest.fixture
def space() -> UnicycleAccelCurvatureActionSpace:
    return UnicycleAccelCurvatureActionSpace(**R1)


def straight_history(speed_mps: float) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.arange(-15, 1) * speed_mps * 0.1
    xyz = torch.stack([x, torch.zeros_like(x), torch.zeros_like(x)], -1)
    return xyz, torch.eye(3).expand(16, 3, 3)


def circle(speed_mps: float, radius_m: float, steps: torch.Tensor):
    """Poses on a left-hand circle that passes the origin heading along x at step 0."""
    yaw = steps * 0.1 * speed_mps / radius_m
    x, y = radius_m * yaw.sin(), radius_m * (1 - yaw.cos())
    return torch.stack([x, y, torch.zeros_like(x)], -1), rotation_from_yaw(yaw)


def test_v0_of_ten_metres_per_second_is_slightly_small(space):
    v0 = float(space.v0(*straight_history(10.0)))
    assert v0 == pytest.approx(9.999, abs=5e-4)
    assert v0 < 10


def test_v0_equals_the_float64_fit_of_the_context(space):
    xyz, rot = circle(8.0, 25.0, torch.arange(-15, 1, dtype=torch.float64))
    yaw = torch.atan2(rot[:, 1, 0], rot[:, 0, 0])
    want = fit_speeds(xyz[:, :2].numpy(), yaw.numpy())[-1]
    assert float(space.v0(xyz, rot)) == pytest.approx(want, abs=1e-9)


def test_zero_acceleration_and_curvature_drive_straight_on(space):
    action = space.normalise(torch.zeros(64, 2))
    xy, yaw, speed = space.integrate(action, torch.tensor(10.0))
    want = torch.arange(1, 65) * 1.0
    assert torch.allclose(xy[:, 0], want, atol=1e-4)
    assert xy[:, 1].abs().max() < 1e-5
    assert yaw.abs().max() < 1e-6
    assert torch.allclose(speed, torch.full((64,), 10.0), atol=1e-5)


def test_constant_curvature_drives_a_circle(space):
    physical = torch.tensor([0.0, 1 / 30.0]).expand(64, 2)
    xy, yaw, _ = space.integrate(space.normalise(physical), torch.tensor(6.0))
    want, _ = circle(6.0, 30.0, torch.arange(1, 65).float())
    # trapezoid against arc: the chord of 0.6 m on 30 m is 1e-5 short, 64 times
    assert (xy - want[:, :2]).abs().max() < 1e-3
    assert float(yaw[-1]) == pytest.approx(6.4 * 6 / 30, abs=1e-5)


def test_braking_below_zero_reverses_and_is_not_clipped(space):
    physical = torch.tensor([-5.0, 0.0]).expand(64, 2)
    _, _, speed = space.integrate(space.normalise(physical), torch.tensor(2.0))
    assert float(speed[-1]) == pytest.approx(2 - 5 * 6.4, abs=1e-4)


def test_trajectory_to_action_and_back_returns_the_trajectory(space):
    hist = circle(8.0, 40.0, torch.arange(-15, 1).float())
    fut = circle(8.0, 40.0, torch.arange(1, 65).float())
    action, states = space.traj_to_action(*hist, *fut)
    xyz, rot = space.action_to_traj(action, *hist)
    assert (xyz - fut[0]).abs().max() < 0.02
    assert (rot - fut[1]).abs().max() < 1e-3
    assert states[:, 0].sub(8.0).abs().max() < 0.01
    assert space.denormalise(action)[:, 1].sub(1 / 40).abs().max() < 1e-3


@pytest.mark.parametrize(
    ('physical', 'inside'),
    [((9.79, 0.0), True), ((9.81, 0.0), False), ((0.0, -0.329), True), ((0.0, -0.331), False)],
)
def test_one_waypoint_outside_the_bounds_is_enough(space, physical, inside):
    actions = torch.zeros(64, 2)
    actions[40] = torch.tensor(physical)
    assert bool(space.is_within_bounds(space.normalise(actions))) is inside


def test_out_of_bounds_trajectory_is_recognised_from_its_path(space):
    # 60 m/s reached in 3 s from a standstill: 20 m/s^2
    t = torch.arange(1, 65) * 0.1
    x = torch.where(t < 3, 10 * t * t, 90 + 60 * (t - 3))
    fut = torch.stack([x, torch.zeros_like(x), torch.zeros_like(x)], -1)
    action, _ = space.traj_to_action(*straight_history(0.0), fut, torch.eye(3).expand(64, 3, 3))
    assert not bool(space.is_within_bounds(action))
    assert space.denormalise(action)[:, 0].max() > 15


def test_height_is_that_of_the_last_history_pose(space):
    xyz, rot = straight_history(5.0)
    xyz = xyz + torch.tensor([0.0, 0.0, 0.7])
    out, _ = space.action_to_traj(space.normalise(torch.zeros(64, 2)), xyz, rot)
    assert torch.allclose(out[:, 2], torch.full((64,), 0.7))


def test_unwrap_keeps_the_first_angle_and_removes_jumps():
    yaw = torch.tensor([3.0, -3.0, -2.8])
    want = torch.tensor([3.0, 2 * math.pi - 3.0, 2 * math.pi - 2.8])
    assert torch.allclose(unwrap(yaw), want, atol=1e-6)


def test_bf16_release_keeps_its_rounded_statistics(space):
    rounded = space.bfloat16()
    assert float(rounded.accel_mean) == 0.029052734375
    assert float(rounded.accel_std) == 0.6796875
    assert float(rounded.curvature_mean) == 0.0002689361572265625
    assert float(rounded.curvature_std) == 0.026123046875
