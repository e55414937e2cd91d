"""Checks of a predicted trajectory by name, and the choice among sampled trajectories.

The functions return names and change nothing. Knows no model, no ROS and no policy.
Limits are those of docs/ros-contract.md section 2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .data_types import GRID_NS, NANOSECONDS

ACCEL_BOUNDS_MPS2 = (-9.8, 9.8)
CURVATURE_BOUNDS_PER_M = (-0.33, 0.33)
LATERAL_LIMIT_MPS2 = 9.8
BACKWARD_LIMIT_M, STANDING_MPS, REVERSE_LIMIT_MPS = -0.5, 0.5, -0.5
JUMP_ACROSS_M, JUMP_ALONG_M = 1.0, 4.0  # of the vehicle from its place on the path
NEAR_M = 2.0  # mean distance from the medoid of the samples that a mean is made of


def find_medoid(samples: ArrayLike) -> tuple[int, float]:
    """Index of the sample with the smallest mean distance to the others, and the spread in m.

    samples (K, 64, >= 2), x and y first. The distance of two samples is the mean over all
    waypoints; the spread is the chosen one's mean distance to the others at the last waypoint
    (6.4 s), 0.0 without others. Samples that are not finite count as absent.
    """
    xy = np.asarray(samples, np.float64)[..., :2]
    finite = np.flatnonzero(np.isfinite(xy).all(axis=(1, 2)))
    if len(finite) < 2:
        return (int(finite[0]) if len(finite) else 0), 0.0
    xy = xy[finite]
    distances = np.linalg.norm(xy[:, None] - xy[None], axis=-1)  # (K, K, 64)
    chosen = int(finite[np.argmin(distances.mean(axis=(1, 2)))])
    return chosen, measure_spread(samples, chosen)


def average_near(
    samples: NDArray[np.float32], actions: NDArray[np.float32], chosen: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Copies of samples (K, 64, 4) and actions (K, 64, 2), a mean in the place of the chosen one.

    The mean is that of the samples whose mean distance from the chosen one over all waypoints is
    at most NEAR_M, so that it never lies between two ways. A chosen sample that is not finite
    stays.
    """
    away = np.linalg.norm(samples[..., :2] - samples[chosen, :, :2], axis=-1).mean(axis=-1)
    is_near = (away <= NEAR_M) & np.isfinite(actions).all(axis=(1, 2))  # never where not finite
    samples, actions = samples.copy(), actions.copy()
    if is_near.any():
        samples[chosen] = samples[is_near].mean(axis=0)
        actions[chosen] = actions[is_near].mean(axis=0)
    return samples, actions


def measure_spread(samples: ArrayLike, chosen: int) -> float:
    """Mean distance m of a sample (K, 64, >= 2) to the other finite ones at 6.4 s; 0 without."""
    xy = np.asarray(samples, np.float64)[..., :2]
    others: NDArray[np.bool_] = np.asarray(np.isfinite(xy).all(axis=(1, 2)))
    if not others[chosen] or others.sum() < 2:
        return 0.0
    others[chosen] = False
    return float(np.linalg.norm(xy[others, -1] - xy[chosen, -1], axis=-1).mean())


def check_trajectory(
    sample: ArrayLike,
    actions: ArrayLike,
    v0_mps: float,
    accel_bounds_mps2: tuple[float, float] = ACCEL_BOUNDS_MPS2,
    curvature_bounds_per_m: tuple[float, float] = CURVATURE_BOUNDS_PER_M,
) -> tuple[str, ...]:
    """Names of the checks that one trajectory fails.

    sample (64, 4): x, y m, yaw rad, speed m/s in the t0 frame; actions (64, 2): acceleration
    m/s^2 and curvature 1/m. A curvature acts from one waypoint to the next, so the larger speed of
    the two makes the lateral acceleration.
    """
    path, action = np.asarray(sample, np.float64), np.asarray(actions, np.float64)
    if not (np.isfinite(path).all() and np.isfinite(action).all() and np.isfinite(v0_mps)):
        return ('non_finite',)
    accel, curvature = action.T
    speed = np.concatenate([[v0_mps], path[:, 3]])
    lateral = np.maximum(speed[:-1] ** 2, speed[1:] ** 2) * np.abs(curvature)
    starts_backward = v0_mps < STANDING_MPS and path[:, 0].min() < BACKWARD_LIMIT_M
    failed = {
        'action_bounds': _outside(accel, accel_bounds_mps2)
        or _outside(curvature, curvature_bounds_per_m),
        'lateral_acceleration': lateral.max() >= LATERAL_LIMIT_MPS2,
        'backward': starts_backward or path[:, 3].min() < REVERSE_LIMIT_MPS,
    }
    return tuple(name for name, found in failed.items() if found)


def check_jump(path: ArrayLike, vehicle_m: ArrayLike, after_s: float) -> tuple[str, ...]:
    """('jump',) when a path is not where the vehicle is at the moment when it takes over.

    path (N, 3): x, y m and yaw rad in the odometry frame, at t0, t0 + 0.1 s and so on. vehicle_m
    (2,): x, y of the vehicle in that frame, `after_s` after t0. The shift is measured along and
    across the heading of the path. A path that is over by then, or begins later, is not judged.
    """
    waypoints, step_s = np.asarray(path, np.float64), GRID_NS / NANOSECONDS
    if not 0 <= after_s <= (len(waypoints) - 1) * step_s:
        return ()
    columns = (waypoints[:, 0], waypoints[:, 1], np.unwrap(waypoints[:, 2]))
    x, y, yaw = (np.interp(after_s / step_s, range(len(waypoints)), column) for column in columns)
    dx, dy = np.asarray(vehicle_m, np.float64) - (x, y)
    along, across = dx * np.cos(yaw) + dy * np.sin(yaw), dy * np.cos(yaw) - dx * np.sin(yaw)
    return ('jump',) if abs(across) > JUMP_ACROSS_M or abs(along) > JUMP_ALONG_M else ()


def _outside(values: NDArray[np.float64], bounds: tuple[float, float]) -> bool:
    return bool(values.min() < bounds[0] or values.max() > bounds[1])
