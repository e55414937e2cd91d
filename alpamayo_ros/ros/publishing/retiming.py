"""Re-times a late path: the geometry stays, the speed starts with the vehicle's, up to a limit.

Knows no message and no policy.
"""

from __future__ import annotations

from dataclasses import replace
import math

import numpy as np
from numpy.typing import NDArray

from ... import geometry
from ...data_types import GRID_NS, NANOSECONDS, WAYPOINTS, EgoPose, Prediction

TIME_CONSTANT_S = 1.0  # in which the gap between the vehicle's speed and the plan's closes
SLOWING_MPS2 = 2.0  # with which a vehicle comes down to the limit
STEP_S = GRID_NS / NANOSECONDS
TIMES_S = STEP_S * np.arange(WAYPOINTS + 1)  # of t0 and every waypoint

Array = NDArray[np.float64]


def retime(
    prediction: Prediction,
    odom_from_t0: EgoPose,
    vehicle: EgoPose | None,
    limit_mps: float = math.inf,
) -> Prediction:
    """Return the prediction with the chosen sample re-timed from the vehicle's pose on.

    The vehicle starts from its place on the path, and its speed approaches the plan's speed of the
    same time with TIME_CONSTANT_S. The plan's speed is at most limit_mps; a faster vehicle comes
    down to it with SLOWING_MPS2. Waypoints up to the stamp of `vehicle`, the newest pose of the
    odometry, stay. A path that is over, not finite or goes backward stays as it is.
    """
    k = prediction.chosen
    start = [[0.0, 0.0, 0.0, prediction.v0_mps]]
    plan = np.concatenate([start, np.asarray(prediction.samples[k], np.float64)])  # (65, 4)
    after_s = (vehicle.stamp_ns - prediction.t0_ns) / NANOSECONDS if vehicle else -1.0
    later = after_s < TIMES_S  # (65,)
    usable = np.isfinite(plan).all() and plan[:, 3].min() >= 0 and later.any() and after_s >= 0
    if vehicle is None or not usable or not np.isfinite(vehicle.speed_mps):
        return prediction
    lengths_m = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(plan[:, :2], axis=0).T))])
    passed_s = np.concatenate([[0.0], TIMES_S[later] - after_s])
    planned = np.concatenate([[np.interp(after_s, TIMES_S, plan[:, 3])], plan[later, 3]])
    allowed = np.maximum(vehicle.speed_mps - SLOWING_MPS2 * passed_s, limit_mps)
    wanted = np.minimum(planned, allowed)
    gap_mps = vehicle.speed_mps - wanted[0]
    decay = np.exp(-passed_s[1:] / TIME_CONSTANT_S)
    driven_m = lengths_m[later] - np.interp(after_s, TIMES_S, lengths_m)
    slower = planned - wanted
    driven_m -= np.cumsum((slower[1:] + slower[:-1]) / 2 * np.diff(passed_s))
    driven_m = np.maximum(driven_m + gap_mps * TIME_CONSTANT_S * (1 - decay), 0.0)
    place_m = _project(plan[:, :2], lengths_m, _find_place(odom_from_t0, vehicle))
    places_m = place_m + np.maximum.accumulate(driven_m)
    samples, actions = prediction.samples.copy(), prediction.actions.copy()
    speeds = np.maximum(wanted[1:] + gap_mps * decay, 0.0)
    samples[k, later[1:]] = np.column_stack([_sample_path(plan, lengths_m, places_m), speeds])
    limited = np.where(allowed > limit_mps, -SLOWING_MPS2, 0.0)  # of the allowed speed
    accelerations = np.where(slower > 0.0, limited, np.append(0.0, actions[k, later[1:], 0]))
    actions[k, later[1:], 0] = accelerations[1:] - gap_mps / TIME_CONSTANT_S * decay
    curvature = np.asarray(prediction.actions[k, :, 1], np.float64)
    actions[k, later[1:], 1] = np.interp(places_m, lengths_m[1:], curvature)
    return replace(prediction, samples=samples, actions=actions)


def _find_place(odom_from_t0: EgoPose, vehicle: EgoPose) -> Array:
    """x, y (2,) of the vehicle in the t0 frame."""
    pose = odom_from_t0.position_m, odom_from_t0.quaternion_xyzw
    xyz, _ = geometry.to_local(*pose, vehicle.position_m[None], vehicle.quaternion_xyzw[None])
    return np.asarray(xyz[0, :2])


def _project(xy: Array, lengths_m: Array, place: Array) -> float:
    """Arc length of the point of a polyline (N, 2) that is nearest to a place (2,)."""
    steps = np.diff(xy, axis=0)
    squares = np.maximum((steps**2).sum(axis=1), 1e-12)
    shares = np.clip(((place - xy[:-1]) * steps).sum(axis=1) / squares, 0.0, 1.0)
    nearest = int(np.hypot(*(xy[:-1] + shares[:, None] * steps - place).T).argmin())
    return float(lengths_m[nearest] + shares[nearest] * np.diff(lengths_m)[nearest])


def _sample_path(plan: Array, lengths_m: Array, places_m: Array) -> Array:
    """x, y, yaw (M, 3) of a path at arc lengths; straight on behind its end."""
    yaws = np.unwrap(plan[:, 2])
    columns = [np.interp(places_m, lengths_m, column) for column in (*plan[:, :2].T, yaws)]
    beyond_m = np.maximum(places_m - lengths_m[-1], 0.0)
    columns[0] += beyond_m * np.cos(yaws[-1])
    columns[1] += beyond_m * np.sin(yaws[-1])
    return np.column_stack(columns)
