"""Whether a predicted trajectory can be believed: named checks, and the choice among samples.

Knows no model, no ROS and no policy: nothing is clipped or held back here, names are returned.
Limits are those of docs/ros-contract.md section 2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .data_types import GRID_NS

ACCEL_BOUNDS_MPS2 = (-9.8, 9.8)
CURVATURE_BOUNDS_PER_M = (-0.33, 0.33)
LATERAL_LIMIT_MPS2 = 9.8
BACKWARD_LIMIT_M, STANDING_MPS, REVERSE_LIMIT_MPS = -0.5, 0.5, -0.5
JUMP_LATERAL_M, JUMP_AHEAD_M, JUMP_BACK_M = 0.5, 1.0, 0.1
JUMP_WAYPOINTS = 10  # the next second: further on, two samples of one scene may well differ


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
    chosen = int(np.argmin(distances.mean(axis=(1, 2))))
    return int(finite[chosen]), float(distances[chosen, :, -1].sum() / (len(finite) - 1))


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


def check_jump(
    path: ArrayLike, t0_ns: int, previous_path: ArrayLike, previous_t0_ns: int
) -> tuple[str, ...]:
    """('jump',) when a plan leaves the previous one within the next second, at equal times.

    Both (64, 3): x, y m and yaw rad in the odometry frame, waypoint k at t0 + (k + 1) * 0.1 s.
    Shifts are measured along and across the heading of the previous plan. Plans that share less
    than a second are not compared.
    """
    now, before = np.asarray(path, np.float64), np.asarray(previous_path, np.float64)
    shift = (t0_ns - previous_t0_ns) / GRID_NS  # in waypoints
    at = shift + np.arange(JUMP_WAYPOINTS)
    if at[0] < 0 or at[-1] > len(before) - 1:
        return ()
    columns = (before[:, 0], before[:, 1], np.unwrap(before[:, 2]))
    x, y, yaw = (np.interp(at, np.arange(len(before)), column) for column in columns)
    dx, dy = now[:JUMP_WAYPOINTS, 0] - x, now[:JUMP_WAYPOINTS, 1] - y
    ahead = dx * np.cos(yaw) + dy * np.sin(yaw)
    lateral = np.abs(dy * np.cos(yaw) - dx * np.sin(yaw))
    jumped = lateral.max() > JUMP_LATERAL_M or _outside(ahead, (-JUMP_BACK_M, JUMP_AHEAD_M))
    return ('jump',) if jumped else ()


def _outside(values: NDArray[np.float64], bounds: tuple[float, float]) -> bool:
    return bool(values.min() < bounds[0] or values.max() > bounds[1])
