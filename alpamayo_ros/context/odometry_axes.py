"""Checks of the axes of an odometry: x forward, y left, z up, in a frame whose z is up.

Motion across the x axis of the vehicle, a path that turns another way than the heading, and a
vehicle that is upside down mean that the axes are turned or negated. Knows no streams and no
limits of the user.
"""

from __future__ import annotations

import numpy as np

from .. import geometry
from ..data_types import GRID_NS, NANOSECONDS
from ..geometry import Array

AXES_LIMIT_RAD = np.radians(20.0)
LEVER_M = 4.0  # a point this far before the rear axle moves across the x axis in a bend
MOVING_M, TRAVELLED_M = 0.05, 1.0  # per grid step, and in all
CRAB_CHANGE_RAD = np.radians(15.0)  # between the first and the last third of a motion
CRAB_STEP_M, CRAB_M = 0.2, 1.0  # steps that count, and their sum in each third
UPSIDE_DOWN = -0.5  # cosine between the z axes of vehicle and odometry frame
BACKWARD_LIMIT_MPS = 8.0  # no vehicle reverses this fast for a whole history


def describe_turned_axes(xyz_m: Array, rotations: Array, child_frame_id: str) -> str:
    """Describe a motion across the vehicle's x axis in a whole history; '' without one.

    xyz_m (N, 3) and rotations (N, 3, 3): poses on the 10 Hz grid in the t0 frame.
    """
    if len(xyz_m) < 2 or _moves_forward(xyz_m, rotations):
        return ''
    steps = np.diff(xyz_m, axis=0)
    middle = (rotations[:-1] + rotations[1:]) / 2
    local = np.einsum('nji,nj->ni', middle, steps)
    is_moving = np.linalg.norm(steps, axis=1) > MOVING_M
    travelled_m = float(np.linalg.norm(steps[is_moving], axis=1).sum())
    if travelled_m < TRAVELLED_M:
        return ''
    turned = geometry.wrap_angle(np.diff(geometry.yaw(rotations)))
    across = np.linalg.norm(local[:, 1:], axis=1) - LEVER_M * np.abs(turned)
    across = np.maximum(across, 0.0)
    angles = np.arctan2(across, np.abs(local[:, 0]))[is_moving]
    mean = local[is_moving].mean(axis=0)
    degrees = np.degrees(np.arctan2(np.linalg.norm(mean[1:]), mean[0]))
    is_across = angles.min() > AXES_LIMIT_RAD
    is_backward = mean[0] * NANOSECONDS / GRID_NS < -BACKWARD_LIMIT_MPS
    if is_across or is_backward:
        return (
            f'odometry: {child_frame_id} moves at {degrees:.0f} degrees to its own x axis over '
            f'{travelled_m:.1f} m, expected x forward, y left, z up'
        )
    change_rad = _measure_crab_change(local[is_moving], turned[is_moving])
    if abs(change_rad) <= CRAB_CHANGE_RAD:
        return ''
    return (
        f'odometry: the path of {child_frame_id} turns {np.degrees(abs(change_rad)):.0f} degrees '
        f'away from its x axis over {travelled_m:.1f} m, expected x forward, y left, z up: one '
        'of the axes is negated, or the heading does not turn'
    )


def describe_upside_down(quaternion: Array, frame_id: str, child_frame_id: str) -> str:
    """Describe an attitude (4,) in the odometry frame that no vehicle has; '' for others."""
    upright = 1 - 2 * float(quaternion[0] ** 2 + quaternion[1] ** 2)
    if upright > UPSIDE_DOWN:
        return ''
    degrees = np.degrees(np.arccos(max(upright, -1.0)))
    return (
        f'odometry: {child_frame_id} is upside down: its z axis is {degrees:.0f} degrees off that '
        f'of {frame_id}, expected z up in both, and quaternions in the order x, y, z, w'
    )


def _moves_forward(xyz_m: Array, rotations: Array) -> bool:
    """Whether the first and the last step alone show that the axes are right: a fast screen."""
    for base, first, last in ((-2, -2, -1), (0, 0, 1)):
        x, y, z = rotations[base].T @ (xyz_m[last] - xyz_m[first])
        if x <= MOVING_M or np.hypot(y, z) >= np.tan(CRAB_CHANGE_RAD / 2) * x:
            return False
    return True


def _measure_crab_change(local: Array, turned: Array) -> float:
    """How far the direction of motion turns from the x axis, in rad, from first to last third.

    local (N, 3) m and turned (N,) rad: steps in the vehicle's axes. Zero where a third is shorter
    than CRAB_M. A point up to LEVER_M before or behind the rear axle moves across in a bend; what
    a change of the curvature explains in this way does not count.
    """
    counts = np.linalg.norm(local, axis=1) > CRAB_STEP_M
    local, turned = local[counts], turned[counts]
    sign = np.where(local[:, 0] < 0, -1.0, 1.0)  # a vehicle that reverses has the same axes
    forward, across, turned = np.abs(local[:, 0]), sign * local[:, 1], sign * turned
    third = len(local) // 3
    crabs, curvatures = [], []
    for part in (slice(0, third), slice(len(local) - third, None)):
        length = float(np.hypot(forward[part], across[part]).sum())
        if length < CRAB_M:
            return 0.0
        crabs.append(np.arctan2(across[part].sum(), forward[part].sum()))
        curvatures.append(turned[part].sum() / length)
    explained = abs(np.subtract(*np.arctan(LEVER_M * np.array(curvatures))))
    change = float(crabs[1] - crabs[0])
    return float(np.sign(change)) * max(abs(change) - float(explained), 0.0)
