"""Poses of a vehicle that drives as a unicycle, for the tests of the odometry's checks."""

from dataclasses import replace
from functools import cache

import numpy as np

from alpamayo_ros import geometry
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
